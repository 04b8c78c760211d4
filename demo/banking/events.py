"""What happened to customers' accounts, as events: one INSERT, in the transaction of the booking.

Each account is a stream. Whoever appends to it has just booked on it, and so holds the lock of
the ledger's account until the transaction ends: the stream has the ledger's order, and the
version of an event is the number of the ledger's entry. The bank's own accounts have no stream.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from dbpatterns.eventstore.batches import NewEvent
from dbpatterns.eventstore.streams import append_many

if TYPE_CHECKING:
    from demo.banking.models import Account, Transfer

__all__ = ["BALANCE_SET", "MONEY_MOVED", "STREAM", "Movement", "record", "stream_of"]

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


def record(movements: Iterable[Movement], *, using: str) -> None:
    """Append what was booked to the streams of the customers' accounts; one INSERT, or none.

    In the transaction that booked it, and in the order of the booking.
    """
    streams: dict[str, list[NewEvent]] = defaultdict(list)
    for each in movements:
        for account, other, amount in (
            (each.payer, each.payee, -each.amount),
            (each.payee, each.payer, each.amount),
        ):
            if account.kind == account.Kind.CUSTOMER:
                streams[stream_of(account.number)].append(
                    NewEvent(
                        MONEY_MOVED,
                        {
                            "amount": amount,
                            "kind": each.kind,
                            "counterparty": other.number,
                            "memo": each.memo,
                            "at": each.at.isoformat(),
                        },
                    )
                )
    append_many(streams, using=using)
