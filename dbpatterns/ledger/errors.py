"""Why money did not move. Nothing was written, and the caller's transaction stays usable.

A refusal is an answer of the ledger, not a failure of the database: `transfer` raises it before
anything is written, so an outer `atomic` block may catch it and go on. Facts are attributes.
"""

from enum import StrEnum
from typing import Any, ClassVar

from dbpatterns.errors import DBPatternsError

__all__ = [
    "AccountClosed",
    "AccountNotFound",
    "AlreadyReversed",
    "AmountFault",
    "BatchAborted",
    "BatcherStopped",
    "CurrencyMismatch",
    "IdempotencyConflict",
    "InsufficientFunds",
    "InvalidAmount",
    "LimitExceeded",
    "LinkedRefused",
    "NotPending",
    "NotPosted",
    "PendingExpired",
    "SameAccount",
    "TransferError",
    "TransferNotFound",
    "refusal",
]


class TransferError(DBPatternsError):
    """Any refusal of the ledger: the one name to catch. `facts` are attributes too."""

    code: ClassVar[str] = "refused"
    """What a program compares: the same word in a batch's results and from PostgreSQL."""
    sentence: ClassVar[str] = "The ledger refused."

    def __init__(self, **facts: Any) -> None:
        super().__init__(self._told(facts))
        self.facts = facts

    def _told(self, facts: dict[str, Any]) -> str:
        return self.sentence.format(**facts)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no fact {name!r}.") from None


class AmountFault(StrEnum):
    """What is wrong with an amount."""

    NEGATIVE = "negative"
    ZERO = "zero"
    OVER_PRECISE = "over-precise"
    TOO_LARGE = "too large"
    NO_INTEGER = "no integer"


class InvalidAmount(TransferError):
    """The amount is no whole number of minor units in range. Facts: amount, fault, limit."""

    code = "invalid-amount"
    sentence = (
        "{amount!r} is {fault}: an amount is a whole number of minor units from 1 to {limit}."
    )


class SameAccount(TransferError):
    """Source and destination are one. Facts: account."""

    code = "same-account"
    sentence = "Account {account} cannot pay itself: name two accounts."


class AccountNotFound(TransferError):
    """There is no such account in this database. Facts: account."""

    code = "account-not-found"
    sentence = "There is no account {account} in this database: check the id and `using`."


class AccountClosed(TransferError):
    """The account takes no more transfers. Facts: account."""

    code = "account-closed"
    sentence = "Account {account} is closed: no money moves from or to it."


class CurrencyMismatch(TransferError):
    """The account is in another currency. Facts: account, currency, wanted."""

    code = "currency-mismatch"
    sentence = "Account {account} is in {currency}, not {wanted}: exchange is two transfers."


class InsufficientFunds(TransferError):
    """The source would fall under its `min_balance`. Facts: account, available, amount."""

    code = "insufficient-funds"
    sentence = "Account {account} has {available} available, not {amount}."


class LimitExceeded(TransferError):
    """The destination would rise over its `max_balance`. Facts: account, room, amount."""

    code = "limit-exceeded"
    sentence = "Account {account} has room for {room}, not {amount}."


class IdempotencyConflict(TransferError):
    """The key belongs to another transfer. Facts: key; transfer, None if of the same batch."""

    code = "idempotency-conflict"
    sentence = "Key {key!r} was used for another transfer, {transfer}: send a new key."

    def _told(self, facts: dict[str, Any]) -> str:
        if facts["transfer"] is not None:
            return super()._told(facts)
        return f"Key {facts['key']!r} is that of another payment of this batch: send a new key."


class TransferNotFound(TransferError):
    """There is no such transfer in this database. Facts: transfer."""

    code = "transfer-not-found"
    sentence = "There is no transfer {transfer} in this database: check the id and `using`."


class NotPending(TransferError):
    """The transfer was posted, voided or expired before. Facts: transfer, status."""

    code = "not-pending"
    sentence = "Transfer {transfer} is {status}, no longer pending."


class PendingExpired(TransferError):
    """The pending transfer is past its time; what it holds is free again after
    `expire_transfers`. Facts: transfer, expires_at."""

    code = "pending-expired"
    sentence = "Transfer {transfer} was to be posted before {expires_at}: make a new one."


class NotPosted(TransferError):
    """Only a posted transfer can be reversed. Facts: transfer, status."""

    code = "not-posted"
    sentence = "Transfer {transfer} is {status}: only a posted transfer can be reversed."


class AlreadyReversed(TransferError):
    """The transfer was reversed before. Facts: transfer, reversal."""

    code = "already-reversed"
    sentence = "Transfer {transfer} was reversed by {reversal}: once is enough."


class LinkedRefused(TransferError):
    """Another payment of the same group was refused. Facts: group, position."""

    code = "linked-refused"
    sentence = "Group {group!r} stands or falls together, and payment {position} of it fell."


class BatchAborted(TransferError):
    """A payment was refused, so the batch wrote nothing. Facts: position, result."""

    code = "batch-aborted"
    sentence = "Payment {position} was refused, so none of the batch was made; see `result`."


class BatcherStopped(TransferError):
    """The batcher is closed, or its worker died before it took the payment.

    Nothing was written. Facts: reason."""

    code = "batcher-stopped"
    sentence = "The batcher takes no payments: {reason}. This one was not made."


_BY_CODE = {each.code: each for each in TransferError.__subclasses__()}


def refusal(code: str, facts: dict[str, Any]) -> TransferError:
    """Return the error for a code of PostgreSQL's function."""
    return _BY_CODE[code](**facts)
