"""Figures of one shard, each a report of one query."""

from dataclasses import dataclass

from django.db.models import Count, Sum

from dbpatterns.ledger.models import Entry
from dbpatterns.repositories.reports import Report
from demo.banking.models import Account
from demo.banking.repositories import of_customers

__all__ = ["Balances", "Booked", "DistrictMoney", "Held", "balances", "entries", "held"]
__all__ += ["money_by_district"]


@dataclass(frozen=True, slots=True)
class Balances:
    """All accounts together."""

    accounts: int
    """The customers' only."""
    total: int | None
    """Minor units, None without any account."""


@dataclass(frozen=True, slots=True)
class Booked:
    """All entries together."""

    rows: int
    total: int | None
    """Minor units, None without any entry."""


@dataclass(frozen=True, slots=True)
class Held:
    """What customers hold in one currency."""

    currency: str
    accounts: int
    money: int
    """Minor units."""


@dataclass(frozen=True, slots=True)
class DistrictMoney:
    """What the customers of one district hold in one currency."""

    district: str
    currency: str
    customers: int
    money: int
    """Minor units."""


def balances(alias: str) -> Balances:
    """Count the customers' accounts and add up all balances; one query."""
    (found,) = (
        Report(Account, using=alias)
        .join("ledger")
        .select(
            accounts=Count("pk", filter=of_customers.to_q()),
            total=Sum("ledger__balance"),
        )
        .rows(into=Balances)
    )
    return found


def entries(alias: str) -> Booked:
    """Count and add up all entries; one query."""
    (found,) = (
        Report(Entry, using=alias).select(rows=Count("pk"), total=Sum("amount")).rows(into=Booked)
    )
    return found


def held(alias: str) -> list[Held]:
    """Add up the customers' money by currency; one query."""
    return (
        Report(Account, using=alias)
        .join("ledger")
        .where(of_customers)
        .select("currency", accounts=Count("pk"), money=Sum("ledger__balance"))
        .order("currency")
        .rows(into=Held)
    )


def money_by_district(alias: str) -> list[DistrictMoney]:
    """Add up the customers' money by district and currency; one query."""
    return (
        Report(Account, using=alias)
        .join("customer", "ledger")
        .where(of_customers)
        .select(
            "currency",
            district="customer__district",
            customers=Count("customer", distinct=True),
            money=Sum("ledger__balance"),
        )
        .order("district", "currency")
        .rows(into=DistrictMoney)
    )
