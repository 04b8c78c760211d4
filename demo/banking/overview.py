"""What the bank's staff see, and the front page: every shard with its figures and its books."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Q

from dbpatterns.sharding import shard_for
from demo.banking import reports
from demo.banking.books import Proof, prove_shard
from demo.banking.models import Account
from demo.banking.reports import DistrictMoney
from demo.banking.repositories import Shard, Shards, active

__all__ = ["OverviewService", "ShardFigures", "ShardOverview"]

FOUND = 50
"""Accounts shown per shard."""


@dataclass(frozen=True, slots=True)
class ShardFigures:
    """What is on one shard."""

    customers: int
    accounts: int
    """The customers' only."""
    transfers: int
    entries_total: int
    balances_total: int

    @property
    def is_balanced(self) -> bool:
        """Tell whether no money was made or lost: both totals are zero."""
        return self.entries_total == self.balances_total == 0


@dataclass(frozen=True, slots=True)
class ShardOverview:
    """One shard as staff see it."""

    customers: int
    accounts: int
    """The customers' only."""
    money: Mapping[str, int]
    """The customers', in minor units by currency."""
    orders: int
    """Standing orders that are active."""
    proof: Proof


class OverviewService:
    """Looks at whole shards: for staff, save the figures."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def figures(self, alias: str) -> ShardFigures:
        """Count what is on one shard and add up its books; four queries on that shard."""
        shard, balances = Shard(alias), reports.balances(alias)
        return ShardFigures(
            customers=shard.customers.count(),
            accounts=balances.accounts,
            transfers=shard.transfers.count(),
            entries_total=reports.entries(alias).total or 0,
            balances_total=balances.total or 0,
        )

    def every_shard(self) -> dict[str, ShardOverview]:
        """Look at every shard and prove its books, by alias; sixteen queries a shard.

        Reads every entry of every shard: a page for staff, never for everyone.
        """
        return {shard.alias: self._overview(shard) for shard in self._shards}

    def find_accounts(self, text: str) -> Sequence[Account]:
        """Return the account with this number and the accounts of the customer with this number.

        One query a shard; `text` is read as a customer number on that customer's shard only.
        """
        if not text or not text.isprintable():
            return []
        customer = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
        home = None if customer is None else shard_for(customer)
        found: list[Account] = []
        for shard in self._shards:
            is_home = shard.alias == home
            wanted = Q(number=text) | Q(customer_id=customer) if is_home else Q(number=text)
            found += shard.accounts.find_by(wanted, load=["customer", "ledger"], limit=FOUND)
        return found

    def districts(self) -> list[DistrictMoney]:
        """Add up the customers' money by district and currency, most first; one query a shard."""
        found: dict[tuple[str, str], list[DistrictMoney]] = defaultdict(list)
        for shard in self._shards:
            for each in reports.money_by_district(shard.alias):
                found[each.district, each.currency].append(each)
        totals = [
            DistrictMoney(
                district,
                currency,
                customers=sum(each.customers for each in parts),
                money=sum(each.money for each in parts),
            )
            for (district, currency), parts in sorted(found.items())
        ]
        return sorted(totals, key=lambda each: (each.currency, -each.money))

    def _overview(self, shard: Shard) -> ShardOverview:
        held = reports.held(shard.alias)
        return ShardOverview(
            customers=shard.customers.count(),
            accounts=sum(each.accounts for each in held),
            money={each.currency: each.money for each in held},
            orders=shard.orders.count(active),
            proof=prove_shard(shard.alias),
        )
