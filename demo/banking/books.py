"""The proof of the books, on every shard: the ledger's own, that it booked what the bank says, and
that the statements say what it booked."""

from collections.abc import Mapping
from dataclasses import dataclass

from dbpatterns.ledger.verification import verify_ledger
from dbpatterns.sharding import shards
from demo.banking.models import Transfer
from demo.banking.money import format_amount
from demo.banking.repositories import Shard

__all__ = ["Proof", "prove_books", "prove_shard"]

SHOWN = 20
"""Faults listed per rule and shard; mend these and prove again."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was looked at, and what is wrong with it: nothing, if the books are right."""

    transfers: int
    entries: int
    accounts: int
    faults: tuple[str, ...]


def prove_books() -> Mapping[str, Proof]:
    """Prove every shard's books, by alias; no locks, the cost is `prove_shard`'s."""
    return {alias: prove_shard(alias) for alias in shards()}


def prove_shard(alias: str) -> Proof:
    """Have the ledger proven, and transfers and statements compared with what it booked.

    The queries of `verify_ledger`, which read the whole ledger, and two. Of a statement those lines
    are compared that the projection has come to, and of each entry that it has its event. Right
    while money moves: each rule is one statement, and a statement sees one moment.
    """
    books = verify_ledger(using=alias, limit=SHOWN)
    shard = Shard(alias)
    unlike = shard.transfers.unlike_their_bookings(SHOWN)
    faults = [
        *(f"{alias}: {each}." for each in books.findings),
        *(f"{alias}: transfer {each.pk} {_fault(each)}." for each in unlike),
        *(f"{alias}: {each}." for each in shard.lines.unlike_the_ledger(SHOWN)),
    ]
    return Proof(books.transfers, books.entries, books.accounts, tuple(faults))


def _fault(transfer: Transfer) -> str:
    if transfer.booking is None:
        return f"of {format_amount(transfer.amount)} is not in the ledger"
    return (
        f"of {format_amount(transfer.amount)} is booked as transfer {transfer.booking_id} of "
        f"{format_amount(transfer.booking.posted_amount)}, between other accounts or not the same"
    )
