"""What happened to customers' accounts, as events: one INSERT, in the transaction of the booking.

Each account is a stream. Whoever appends to it has just booked on it, and so holds the lock of
the ledger's account until the transaction ends: the stream has the ledger's order, and the
version of an event is the number of the ledger's entry. The bank's own accounts have no stream.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from dbpatterns.eventstore.batches import NewEvent
from dbpatterns.eventstore.streams import append_many

if TYPE_CHECKING:
    from demo.banking.models import Account, Transfer

__all__ = ["BALANCE_SET", "MONEY_MOVED", "STREAM", "Movement", "number_of", "record", "stream_of"]

MONEY_MOVED = "MoneyMoved"
"""To or from an account: amount (minor units, signed), kind, counterparty, memo, at."""
BALANCE_SET = "balance_set"
"""A kind beside those of a transfer: the bank made the balance what it wanted."""
STREAM = "account:"
"""The beginning of each stream's name; the rest is the account's number."""


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that was booked from one account to another."""

    payer: "Account"
    payee: "Account"
    amount: int
    """Minor units."""
    kind: str
    memo: str
    at: datetime

    @classmethod
    def of(cls, transfer: "Transfer") -> "Movement":
        """Return a transfer's; no query, if its accounts are loaded."""
        return cls(
            transfer.payer,
            transfer.payee,
            transfer.amount,
            transfer.kind,
            transfer.memo,
            transfer.created_at,
        )


def stream_of(number: str) -> str:
    """Return the name of an account's stream."""
    return f"{STREAM}{number}"


def number_of(stream: str) -> str:
    """Return the number of the account that a stream is about."""
    return stream.removeprefix(STREAM)


def record(movements: Iterable[Movement], *, using: str) -> None:
    """Append what was booked to the streams of the customers' accounts; one INSERT, or none.

    In the transaction that booked it, and in the order of the booking.
    """
    append_many((each for movement in movements for each in _sides(movement)), using=using)


def _sides(moved: Movement) -> Iterator[tuple[str, NewEvent]]:
    for account, other, amount in (
        (moved.payer, moved.payee, -moved.amount),
        (moved.payee, moved.payer, moved.amount),
    ):
        if account.kind == account.Kind.CUSTOMER:
            data = {
                "amount": amount,
                "kind": moved.kind,
                "counterparty": other.number,
                "memo": moved.memo,
                "at": moved.at.isoformat(),
            }
            yield stream_of(account.number), NewEvent(MONEY_MOVED, data)
