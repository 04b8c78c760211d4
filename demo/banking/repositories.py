"""Where the bank's rows come from: a repository for each table, and those of one shard together.

A customer's rows are found wherever they are, `AccountRepository().find_by(customer_id=7)`. Who
works on one shard as a whole takes that one's, `Shard("shard_0").accounts`; who asks all, `Shards`.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, TypeAlias, TypeVar, cast
from uuid import UUID

from django.db import connections
from django.db.models import Exists, F, Model, OuterRef, Q, QuerySet, Subquery

from dbpatterns.repositories import Repository, Spec
from dbpatterns.sharding import shards
from dbpatterns.sharding.fanout import FanOut
from demo.banking.models import (
    Account,
    Customer,
    StandingOrder,
    StandingOrderExecution,
    StatementLine,
    Transfer,
)
from demo.banking.money import format_amount
from demo.banking.projections import Statements

__all__ = [
    "AccountRepository",
    "CustomerRepository",
    "ExecutionRepository",
    "Listing",
    "Shard",
    "Shards",
    "StandingOrderRepository",
    "StatementLineRepository",
    "TransferRepository",
    "active",
    "of_customers",
]

of_customers = Spec[Account]("of customers", kind=Account.Kind.CUSTOMER)
"""Accounts that are not the bank's own."""
active = Spec[StandingOrder]("active", is_active=True)
"""Standing orders that nobody has ended."""
_COLUMNS: Sequence[Any] = Transfer._meta.concrete_fields
_UNLIKE = """
WITH state AS (
    SELECT generation, xid, position FROM dbpatterns_eventstore_projection
    WHERE name = %s AND is_live
), line AS (
    SELECT line.* FROM banking_statementline AS line JOIN state USING (generation)
), entry AS (
    SELECT account.number, entry.account_version, entry.amount, entry.balance_after
    FROM dbpatterns_ledger_entry AS entry
    JOIN banking_account AS account ON account.ledger_id = entry.account_id
    WHERE account.kind = 'customer'
)
SELECT number, account_version, entry.amount, balance_after, line.amount, balance, event.version
FROM entry
LEFT JOIN line ON line.account = number AND line.version = account_version
LEFT JOIN dbpatterns_eventstore_event AS event
    ON event.stream = 'account:' || number AND event.version = account_version
LEFT JOIN state ON true
WHERE event.version IS NULL OR line.amount <> entry.amount OR balance <> balance_after
    OR line.version IS NULL AND (event.xid, event.position) <= ({xid}, state.position)
UNION ALL
SELECT line.account, line.version, NULL, NULL, line.amount, balance, line.version
FROM line LEFT JOIN entry ON line.account = number AND line.version = account_version
WHERE account_version IS NULL
ORDER BY 1, 2 LIMIT %s
"""


_M = TypeVar("_M", bound=Model)

Listing: TypeAlias = "QuerySet[_M] | FanOut"
"""Rows of one shard or of all: filtered, ordered and sliced alike, and asked when they are read."""


class CustomerRepository(Repository[Customer]):
    """Customers, by their number."""


class AccountRepository(Repository[Account, UUID]):
    """Accounts, the bank's own too: finders of customers' accounts start from `of_customers`."""

    def listed(self, condition: Q) -> "Listing[Account]":
        """Return accounts, with their money; of all shards if it keeps to none."""
        return _listed(self._queryset(), self.using, condition, "ledger")

    def by_number(self, number: str, *, near: str | None = None) -> Account | None:
        """Return the account with this number, with its money, whoever's it is.

        One indexed query a shard until found, `near` first: the number does not tell its customer.
        """
        for alias in sorted(shards(), key=lambda each: each != near):
            if found := type(self)(using=alias).find_one_by(number=number, load=["ledger"]):
                return found
        return None

    def clearing(self, bank_code: str, currency: str) -> Account | None:
        """Return the account that stands for another bank, if we pay it; one query."""
        return self.find_one_by(kind=Account.Kind.CLEARING, bank_code=bank_code, currency=currency)

    def clearings(self) -> dict[tuple[str, str], Account]:
        """Return the accounts of all banks that we pay, by bank and currency; one query."""
        found = self.find_by(kind=Account.Kind.CLEARING)
        return {(each.bank_code, each.currency): each for each in found}


class TransferRepository(Repository[Transfer, UUID]):
    """Transfers, written once and never changed."""

    def listed(self, condition: Q) -> "Listing[Transfer]":
        """Return transfers, with their accounts; of all shards if it keeps to none."""
        return _listed(self._queryset(), self.using, condition, "payer", "payee")

    def write(self, transfers: Iterable[Transfer]) -> None:
        """Write new transfers, inside the transaction that books them; one statement."""
        self._queryset().bulk_create(transfers)

    def booked(self, booking: int) -> Transfer:
        """Return the transfer that the ledger knows by this number; one query."""
        return self._queryset().get(booking=booking)

    def answer(self, transfer: Transfer) -> dict[str, str]:
        """Return a transfer as texts, to be kept with its key; no query."""
        return {each.attname: each.value_to_string(transfer) for each in _COLUMNS}

    def answered(self, kept: Mapping[str, str]) -> Transfer:
        """Return the transfer that an answer kept; no query."""
        values = [each.to_python(kept[each.attname]) for each in _COLUMNS]
        return Transfer.from_db(self.using, [each.attname for each in _COLUMNS], values)

    def unlike_their_bookings(self, limit: int) -> list[Transfer]:
        """Return transfers that are not what the ledger booked for them, or not booked at all.

        One query that reads every transfer.
        """
        rows = self._queryset().exclude(
            booking__posted_amount=F("amount"),
            booking__source=F("payer__ledger"),
            booking__destination=F("payee__ledger"),
        )
        return list(rows.select_related("booking")[:limit])


def _told(amount: int | None, balance: int | None) -> str:
    if amount is None or balance is None:
        return "nothing"
    return f"{format_amount(amount)}, then {format_amount(balance)}"


class StatementLineRepository(Repository[StatementLine]):
    """The lines of accounts' statements, of the generation in use."""

    def last(self, versions: Mapping[str, int], limit: int) -> list[StatementLine]:
        """Return the last lines of each account up to a version of its own, in no order.

        One query, so that all are of one generation; reads no more rows than it returns.
        """
        wanted = (
            Q(account=number, version__gt=version - limit, version__lte=version)
            for number, version in versions.items()
        )
        return list(Statements.rows(self.using).filter(reduce(or_, wanted, Q(pk__in=[]))))

    def unlike_the_ledger(self, limit: int) -> list[str]:
        """Say of which entries the line is missing or another one, or the event is missing.

        One query that reads every entry. A line is missing once the projection has read its event.
        """
        assert self.using is not None, "a repository of a shard"
        connection = connections[self.using]
        xid = "state.xid::text::xid8" if connection.vendor == "postgresql" else "state.xid"
        with connection.cursor() as cursor:
            cursor.execute(_UNLIKE.format(xid=xid), [Statements.name, limit])
            rows = cursor.fetchall()
        return [
            f"account {account} has {_told(line, balance)} as line {version} of its statement, and "
            f"{_told(entry, after)} in the ledger" + ("" if event else "; the event is missing")
            for account, version, entry, after, line, balance, event in rows
        ]


class StandingOrderRepository(Repository[StandingOrder, UUID]):
    """Standing orders, ended ones too."""

    def listed(self, condition: Q) -> "Listing[StandingOrder]":
        """Return orders, with their accounts; of all shards if it keeps to none."""
        return _listed(self._queryset(), self.using, condition, "account")

    def due(self, due_on: datetime.date) -> Spec[StandingOrder]:
        """Return the condition for active orders not yet executed for the date."""
        done = StandingOrderExecution.objects.filter(order=OuterRef("pk"), due_on=due_on)
        return active & ~Q(Exists(done))

    def due_keys(self, due_on: datetime.date) -> list[UUID]:
        """Return the keys of what is due, oldest order first; one query."""
        rows = self._queryset().filter(self.due(due_on).to_q()).order_by("pk")
        return list(rows.values_list("pk", flat=True))

    def lock(self, pks: Sequence[UUID]) -> list[StandingOrder]:
        """Return active orders with their accounts, their own rows locked; one query."""
        rows = self._queryset().select_for_update(of=("self",), no_key=True)
        return list(rows.select_related("account").filter(active.to_q(), pk__in=pks).order_by("pk"))

    def with_last_execution(
        self, customer_id: int
    ) -> list[tuple[StandingOrder, StandingOrderExecution | None]]:
        """Return a customer's orders with their accounts and what became of each last.

        Two queries.
        """
        executions = StandingOrderExecution.objects
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

    def write(self, executions: Iterable[StandingOrderExecution]) -> None:
        """Write new executions, inside the transaction that pays them; one statement."""
        self._queryset().bulk_create(executions)

    def of(self, orders: Sequence[StandingOrder], due_on: datetime.date) -> set[UUID]:
        """Return the keys of those orders that were executed for the date; one query."""
        rows = self._queryset().filter(order__in=orders, due_on=due_on)
        return set(rows.values_list("order_id", flat=True))


def _listed(rows: QuerySet[_M], using: str | None, condition: Q, *shown_with: str) -> "Listing[_M]":
    asked: Listing[_M] = rows if using else cast("Any", rows).fanout()
    return asked.filter(condition).select_related(*shown_with)


class Shard:
    """The repositories of one shard; cheap to make, no query."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.customers = CustomerRepository(using=alias)
        self.accounts = AccountRepository(using=alias)
        self.transfers = TransferRepository(using=alias)
        self.lines = StatementLineRepository(using=alias)
        self.orders = StandingOrderRepository(using=alias)
        self.executions = ExecutionRepository(using=alias)


class Shards:
    """All shards of the bank, in the router's order."""

    def __iter__(self) -> Iterator[Shard]:
        return (Shard(alias) for alias in shards())
