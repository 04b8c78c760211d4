"""Moving money: the ledger books it once per key, in one transaction with what the bank keeps.

The key and the stored answer, the booking and the bank's row commit together on the payer's
shard. A key is remembered for a day with its answer, and for ever by the ledger with its money.
"""

from collections.abc import Mapping
from enum import StrEnum

from dbpatterns.idempotency.errors import IdempotencyConflict
from dbpatterns.idempotency.keys import run_once
from dbpatterns.ledger import errors
from dbpatterns.ledger.transfers import transfer as book
from dbpatterns.sharding import shards
from demo.banking.events import Movement, record
from demo.banking.models import Account, Transfer
from demo.banking.money import format_amount
from demo.banking.repositories import AccountRepository, Shard

__all__ = [
    "Refusal",
    "TransferRefused",
    "find_account",
    "refused",
    "transfer",
    "transfer_by_staff",
]


class Refusal(StrEnum):
    """Why money did not move; the API's problem types end in these."""

    UNKNOWN_ACCOUNT = "unknown-account"
    SAME_ACCOUNT = "same-account"
    CLOSED_ACCOUNT = "closed-account"
    OTHER_CURRENCY = "other-currency"
    INSUFFICIENT_FUNDS = "insufficient-funds"
    CROSS_SHARD = "cross-shard"
    KEY_REUSED = "idempotency-key-reused"
    NOT_A_CUSTOMER_ACCOUNT = "not-a-customer-account"


class TransferRefused(Exception):
    """No money moved; `refusal` says why to a program and the message to a person."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


def find_account(number: str, *, near: str | None = None) -> Account:
    """Return the account with this number, its shard in `_state.db`; the queries of `by_number`.

    Raises: TransferRefused: UNKNOWN_ACCOUNT.
    """
    found = AccountRepository().by_number(number, near=near)
    if found is None:
        raise TransferRefused(Refusal.UNKNOWN_ACCOUNT, f"There is no account {number}.")
    return found


def transfer(
    payer: Account, payee: Account, *, amount: int, idempotency_key: str, memo: str = ""
) -> tuple[Transfer, bool]:
    """Move `amount` minor units once per key; return the transfer and whether it is new.

    The key is the payer's customer's, and two of them may have the same; who sends it while the
    first is under way waits for that one. A refusal leaves no trace, so its key may be tried again.
    Cost: one transaction of seven statements on PostgreSQL, four if the key came before; locks the
    key's row, then both accounts in the order of the ledger's ids.
    Raises: TransferRefused. InvalidAmount: the ledger's, for what no caller should send.
    """
    if payer.customer_id is None:
        raise TransferRefused(
            Refusal.NOT_A_CUSTOMER_ACCOUNT, f"Account {payer.number} belongs to no customer."
        )
    if payer._state.db != payee._state.db:
        raise TransferRefused(
            Refusal.CROSS_SHARD,
            f"Accounts {payer.number} and {payee.number} live on two shards, and no transaction "
            "spans them yet: no money moved.",
        )
    shard, owner, is_new = Shard(str(payer._state.db)), payer.customer_id, False

    def work() -> Mapping[str, str]:
        nonlocal is_new
        booking = book(
            payer.ledger_id,
            payee.ledger_id,
            amount,
            currency=payer.currency,
            idempotency_key=f"{owner}:{idempotency_key}",
            reference=memo,
            using=shard.alias,
        )
        if booking.is_replay:  # its answer is forgotten, its money is not
            return shard.transfers.answer(shard.transfers.booked(booking.pk))
        is_new = True
        made = Transfer(
            customer_id=owner,
            idempotency_key=idempotency_key,
            payer=payer,
            payee=payee,
            amount=amount,
            currency=payer.currency,
            memo=memo,
            booking=booking,
        )
        answer = shard.transfers.answer(shard.transfers.save(made))
        record([Movement.of(made)], using=shard.alias)
        return answer

    try:
        outcome = run_once(
            f"customer:{owner}",
            idempotency_key,
            [str(payer.pk), str(payee.pk), amount, memo],
            work,
            using=shard.alias,
        )
    except IdempotencyConflict as error:
        raise _key_reused(idempotency_key) from error
    except errors.IdempotencyConflict as error:
        raise _key_reused(idempotency_key) from error
    except errors.TransferError as error:
        raise refused(error, payer, payee) from error
    return shard.transfers.answered(outcome.value), is_new


def transfer_by_staff(
    staff: int, payer: Account, payee: Account, *, amount: int, idempotency_key: str, memo: str = ""
) -> tuple[Transfer, bool]:
    """Do as `transfer`, with a key that is one user's: for another payer it is refused too.

    It is claimed for all payers on the first shard, in a transaction around the transfer's own:
    three statements more. Who is killed between the two commits leaves a key that is the payer's
    customer's alone: sent again for the same payer it still moves nothing.
    Raises: TransferRefused. InvalidAmount.
    """
    made: list[tuple[Transfer, bool]] = []

    def move() -> None:
        made.append(
            transfer(payer, payee, amount=amount, idempotency_key=idempotency_key, memo=memo)
        )

    try:
        run_once(
            f"staff:{staff}",
            idempotency_key,
            [str(payer.pk), str(payee.pk), amount, memo],
            move,
            using=shards()[0],
        )
    except IdempotencyConflict as error:
        raise _key_reused(idempotency_key) from error
    if not made:  # it was done before, and gives its answer again
        move()
    return made[0]


def refused(error: errors.TransferError, payer: Account, payee: Account) -> TransferRefused:
    """Return a refusal of the ledger in the bank's words; no query.

    Raises: the error itself, if it is none that a customer can cause.
    """
    match error:
        case errors.SameAccount():
            return TransferRefused(
                Refusal.SAME_ACCOUNT,
                f"Account {payer.number} cannot pay itself: name two accounts.",
            )
        case errors.AccountClosed():
            closed = payer if error.account == payer.ledger_id else payee
            return TransferRefused(
                Refusal.CLOSED_ACCOUNT, f"Account {closed.number} is closed: no bookings."
            )
        case errors.CurrencyMismatch():
            return TransferRefused(
                Refusal.OTHER_CURRENCY,
                f"Account {payer.number} is in {payer.currency}, "
                f"{payee.number} in {payee.currency}.",
            )
        case errors.InsufficientFunds():
            return TransferRefused(
                Refusal.INSUFFICIENT_FUNDS,
                f"Account {payer.number} has {format_amount(error.available)} {payer.currency}, "
                f"not {format_amount(error.amount)}.",
            )
    raise error


def _key_reused(key: str) -> TransferRefused:
    return TransferRefused(
        Refusal.KEY_REUSED,
        f"Idempotency key {key!r} was used for another transfer: send a new key.",
    )
