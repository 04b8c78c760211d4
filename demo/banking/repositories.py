"""Where the bank's rows come from: a repository for each table, and those of one shard together.

A repository keeps to one shard, `Shard("shard_0").accounts`; a service asks for all, `Shards`.
"""

import datetime
from collections.abc import Collection, Iterator, Mapping
from uuid import UUID

from django.db.models import Case, Count, Exists, F, OuterRef, Q, Subquery, Sum, When
from django.db.models.functions import Coalesce

from dbpatterns.repositories import Repository, Spec
from dbpatterns.sharding.router import shard_for, shards
from demo.banking.models import (
    Account,
    Customer,
    Entry,
    StandingOrder,
    StandingOrderExecution,
    Transfer,
)

__all__ = [
    "AccountRepository",
    "CustomerRepository",
    "EntryRepository",
    "ExecutionRepository",
    "Shard",
    "Shards",
    "StandingOrderRepository",
    "TransferRepository",
    "active",
    "of_customers",
]

of_customers = Spec[Account]("of customers", kind=Account.Kind.CUSTOMER)
"""Accounts that are not the bank's own."""
active = Spec[StandingOrder]("active", is_active=True)
"""Standing orders that nobody has ended."""


class CustomerRepository(Repository[Customer]):
    """Customers, by their number."""


class AccountRepository(Repository[Account, UUID]):
    """Accounts, the bank's own too: finders of customers' accounts start from `of_customers`."""

    def clearing(self, bank_code: str, currency: str) -> Account | None:
        """Return the account that stands for another bank, if we pay it; one query."""
        return self.find_one_by(kind=Account.Kind.CLEARING, bank_code=bank_code, currency=currency)

    def lock(self, accounts: Collection[Account]) -> dict[UUID, Account]:
        """Read accounts again, by key, locked until the transaction ends; one query.

        Locks in the order of keys, so that two transfers never wait for each other.
        """
        rows = self._queryset().select_for_update(no_key=True).order_by("pk")
        return rows.in_bulk([account.pk for account in accounts])

    def add_to_balances(self, changes: Mapping[Account, int]) -> None:
        """Add minor units to stored balances, whatever they are by now; one statement."""
        change = Case(*(When(pk=account.pk, then=each) for account, each in changes.items()))
        rows = self._queryset().filter(pk__in=[account.pk for account in changes])
        rows.update(balance=F("balance") + change)

    def wrong(self, limit: int) -> list[tuple[Account, int]]:
        """Return accounts whose balance is not the sum of their entries, with that sum.

        One query that reads every entry.
        """
        summed = self._queryset().annotate(total=Coalesce(Sum("entries__amount"), 0))
        return [(each, each.total) for each in summed.exclude(balance=F("total"))[:limit]]


class TransferRepository(Repository[Transfer, UUID]):
    """Transfers, written once and never changed."""

    def keyed(self, customer_id: int, idempotency_key: str) -> Transfer | None:
        """Return the transfer that this customer's key has made; one query."""
        return self.find_one_by(customer_id=customer_id, idempotency_key=idempotency_key)

    def torn(self, limit: int) -> list[tuple[Transfer, int, int, int]]:
        """Return transfers without two entries that mirror them: count, paid and received.

        One query that reads every entry.
        """
        rows = self._queryset().annotate(
            sides=Count("entries"),
            paid=Coalesce(Sum("entries__amount", filter=Q(entries__account=F("payer"))), 0),
            received=Coalesce(Sum("entries__amount", filter=Q(entries__account=F("payee"))), 0),
        )
        torn = rows.exclude(sides=2, paid=-F("amount"), received=F("amount"))[:limit]
        return [(each, each.sides, each.paid, each.received) for each in torn]


class EntryRepository(Repository[Entry]):
    """The two sides of each transfer."""

    def write(self, transfer: Transfer, changes: Mapping[Account, int]) -> None:
        """Write a transfer's entries, minor units by account; one statement."""
        self._queryset().bulk_create(
            Entry(transfer=transfer, account=account, amount=change)
            for account, change in changes.items()
        )


class StandingOrderRepository(Repository[StandingOrder, UUID]):
    """Standing orders, ended ones too."""

    def due(self, due_on: datetime.date) -> Spec[StandingOrder]:
        """Return the condition for active orders not yet executed for the date."""
        done = StandingOrderExecution.objects.filter(order=OuterRef("pk"), due_on=due_on)
        return active & ~Q(Exists(done))

    def due_keys(self, due_on: datetime.date) -> list[UUID]:
        """Return the keys of what is due, oldest order first; one query."""
        rows = self._queryset().filter(self.due(due_on).to_q()).order_by("pk")
        return list(rows.values_list("pk", flat=True))

    def lock(self, pk: UUID) -> StandingOrder | None:
        """Return an active order with its account, its own row locked; one query."""
        rows = self._queryset().select_for_update(of=("self",), no_key=True)
        return rows.select_related("account").filter(active.to_q(), pk=pk).first()

    def with_last_execution(
        self, customer_id: int
    ) -> list[tuple[StandingOrder, StandingOrderExecution | None]]:
        """Return a customer's orders with their accounts and what became of each last.

        Two queries.
        """
        executions = StandingOrderExecution.objects.using(self._queryset().db)
        last = executions.filter(order=OuterRef("pk")).order_by("-due_on").values("pk")[:1]
        orders = list(
            self._queryset()
            .filter(customer_id=customer_id)
            .select_related("account")
            .annotate(last_execution=Subquery(last))
        )
        found = executions.in_bulk([each.last_execution for each in orders if each.last_execution])
        return [(each, found.get(each.last_execution)) for each in orders]


class ExecutionRepository(Repository[StandingOrderExecution]):
    """What became of an order on a date."""


class Shard:
    """The repositories of one shard; cheap to make, no query."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.customers = CustomerRepository(using=alias)
        self.accounts = AccountRepository(using=alias)
        self.transfers = TransferRepository(using=alias)
        self.entries = EntryRepository(using=alias)
        self.orders = StandingOrderRepository(using=alias)
        self.executions = ExecutionRepository(using=alias)


class Shards:
    """All shards of the bank, in the router's order."""

    def __iter__(self) -> Iterator[Shard]:
        return (Shard(alias) for alias in shards())

    def of(self, customer_id: int) -> Shard:
        """Return the shard that has all of this customer's rows."""
        return Shard(shard_for(customer_id))
