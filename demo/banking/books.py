"""The proof of the books: what double entry promises, asked of every shard."""

from collections.abc import Mapping
from dataclasses import dataclass

from dbpatterns.sharding.router import shards
from demo.banking import reports
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
    """Prove every shard's books, by alias; five queries a shard, no locks."""
    return {alias: prove_shard(alias) for alias in shards()}


def prove_shard(alias: str) -> Proof:
    """Check that entries sum to zero, transfers have two of them, and balances are their sums.

    Right while money moves: each rule is one statement, and a statement sees one moment.
    """
    shard, entries = Shard(alias), reports.entries(alias)
    faults = [
        *(
            [f"{alias}: all entries sum to {format_amount(entries.total)}, not to 0."]
            if entries.total
            else []
        ),
        *(
            f"{alias}: transfer {each.pk} of {format_amount(each.amount)} has {sides} "
            f"entries: {format_amount(paid)} and {format_amount(received)}."
            for each, sides, paid, received in shard.transfers.torn(SHOWN)
        ),
        *(
            f"{alias}: account {each.number} says {format_amount(each.balance)}, "
            f"its entries {format_amount(total)}."
            for each, total in shard.accounts.wrong(SHOWN)
        ),
    ]
    return Proof(shard.transfers.count(), entries.rows, shard.accounts.count(), tuple(faults))
