"""What a customer sees of their money; every query goes to the customer's own shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from demo.banking.models import (
    Account,
    Customer,
    StandingOrder,
    StandingOrderExecution,
    Transfer,
)
from demo.banking.repositories import Shard, Shards

__all__ = ["Line", "OrderLine", "Statement", "StatementService"]

LINES = 20


@dataclass(frozen=True, slots=True)
class Line:
    """A transfer as the customer sees it."""

    at: datetime
    title: str
    memo: str
    account: str
    """The customer's account it went out of or into."""
    change: int
    """Minor units, signed; unsigned between two accounts of the customer."""
    currency: str
    direction: str
    """`in`, `out` or `inside`."""


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
        """Read accounts, the latest transfers both ways, and standing orders; five queries."""
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
    own = {each.pk for each in accounts}
    latest = shard.transfers.find_by(
        Q(payer__in=own) | Q(payee__in=own),
        load=["payer", "payee"],
        order_by=["-pk"],
        limit=LINES,
    )
    return [_line(each, out=each.payer_id in own, into=each.payee_id in own) for each in latest]


def _line(transfer: Transfer, *, out: bool, into: bool) -> Line:
    payer, payee, amount = transfer.payer.number, transfer.payee.number, transfer.amount
    memo = transfer.memo
    if out and into:
        title, account, change, direction = f"{payer} to {payee}", payer, amount, "inside"
    elif into:
        title, account, change, direction = f"From {payer}", payee, amount, "in"
    else:
        title, account, change, direction = f"To {payee}", payer, -amount, "out"
    if transfer.kind == Transfer.Kind.OPENING:
        title, memo = "Opening balance", ""
    elif transfer.kind == Transfer.Kind.STANDING_ORDER:
        title, memo = f"Standing order to {memo}", ""
    return Line(transfer.created_at, title, memo, account, change, transfer.currency, direction)
