"""What a customer sees of their money; every query goes to the customer's own shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from demo.banking.models import (
    Account,
    Customer,
    Entry,
    StandingOrder,
    StandingOrderExecution,
    Transfer,
)
from demo.banking.repositories import Shard, Shards

__all__ = ["Line", "OrderLine", "Statement", "StatementService"]

LINES = 20


@dataclass(frozen=True, slots=True)
class Line:
    """An entry as the customer sees it; a transfer between two of their accounts is two lines."""

    at: datetime
    title: str
    memo: str
    account: str
    """The customer's account it went out of or into."""
    change: int
    """Minor units, signed."""
    balance: int
    """What was on the account then, in minor units."""
    currency: str


@dataclass(frozen=True, slots=True)
class OrderLine:
    """A standing order and what became of it last; None before its first day."""

    order: StandingOrder
    last: StandingOrderExecution | None


@dataclass(frozen=True, slots=True)
class Statement:
    """One customer's money."""

    shard: str
    customer: Customer | None
    """None when the login names a customer whom the bank does not have."""
    accounts: Sequence[Account]
    lines: Sequence[Line]
    orders: Sequence[OrderLine]


class StatementService:
    """Reads customers' statements."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def read(self, customer_id: int) -> Statement:
        """Read accounts, the latest entries on them, and standing orders; five queries."""
        shard = self._shards.of(customer_id)
        accounts = shard.accounts.find_by(customer_id=customer_id, load=["ledger"])
        return Statement(
            shard=shard.alias,
            customer=shard.customers.find_by_id(customer_id),
            accounts=accounts,
            lines=_lines(shard, accounts),
            orders=[OrderLine(*each) for each in shard.orders.with_last_execution(customer_id)],
        )


def _lines(shard: Shard, accounts: Sequence[Account]) -> list[Line]:
    latest = shard.entries.find_by(
        account__in=list(accounts),
        load=["account", "transfer__payer", "transfer__payee"],
        order_by=["-pk"],
        limit=LINES,
    )
    return [_line(each) for each in latest]


def _line(entry: Entry) -> Line:
    title, memo = _title(entry)
    account = entry.account
    return Line(
        at=entry.created_at,
        title=title,
        memo=memo,
        account=account.number,
        change=entry.amount,
        balance=entry.balance_after,
        currency=account.currency,
    )


def _title(entry: Entry) -> tuple[str, str]:
    transfer = entry.transfer
    if transfer is None:
        return "Balance set by the bank", ""
    if transfer.kind == Transfer.Kind.OPENING:
        return "Opening balance", ""
    if transfer.kind == Transfer.Kind.STANDING_ORDER:
        return f"Standing order to {transfer.memo}", ""
    if entry.amount > 0:
        return f"From {transfer.payer.number}", transfer.memo
    return f"To {transfer.payee.number}", transfer.memo
