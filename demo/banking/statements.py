"""What a customer sees of their money; every query goes to the customer's own shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dbpatterns.eventstore.projections import catch_up
from dbpatterns.eventstore.streams import read_many
from demo.banking.events import BALANCE_SET, stream_of
from demo.banking.models import (
    Account,
    Customer,
    StandingOrder,
    StandingOrderExecution,
    StatementLine,
    Transfer,
)
from demo.banking.projections import Statements, lines
from demo.banking.repositories import Shard, Shards

__all__ = ["Line", "OrderLine", "Statement", "StatementService"]

LINES = 20


@dataclass(frozen=True, slots=True)
class Line:
    """A movement as the customer sees it; a transfer between two of their accounts is two lines."""

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
        """Read accounts, the latest lines on them, and standing orders; five queries.

        Two more, and those of `catch_up` for a page, when a line is not on the statement yet.
        """
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
    """Return the latest lines of the accounts, also what the projection has not come to yet.

    # Note [One's own transfer]
    A projection sees no event while an older transaction is open, anywhere on the server, so it
    alone may not show what was paid a moment ago. The ledger's account tells how many lines there
    are to be. If some are missing, the reader feeds the projection, by one page, so that no page
    waits for a whole import; what is missing then is read from the accounts' own streams.
    """
    by_number = {each.number: each for each in accounts}
    kept = shard.lines.latest(by_number, LINES)
    if _behind(accounts, kept):
        catch_up(Statements(), using=shard.alias, must_stop=lambda events: True)
        kept = shard.lines.latest(by_number, LINES)
        if behind := _behind(accounts, kept):
            last = {(each.account, each.version): each.balance for each in kept}
            after = {stream_of(number): version for number, version in behind.items()}
            kept += lines(read_many(after, using=shard.alias), last, generation=0)
            kept.sort(key=lambda each: each.position, reverse=True)
    return [_line(each, by_number[each.account]) for each in kept[:LINES]]


def _behind(accounts: Sequence[Account], kept: Sequence[StatementLine]) -> dict[str, int]:
    """Return the last line's version of each account that should have more, by its number."""
    last: dict[str, int] = {}
    for each in kept:
        last[each.account] = max(each.version, last.get(each.account, 0))
    return {
        each.number: last.get(each.number, 0)
        for each in accounts
        if last.get(each.number, 0) < each.ledger.version
    }


def _line(line: StatementLine, account: Account) -> Line:
    title, memo = _title(line)
    return Line(
        at=line.at,
        title=title,
        memo=memo,
        account=line.account,
        change=line.amount,
        balance=line.balance,
        currency=account.currency,
    )


def _title(line: StatementLine) -> tuple[str, str]:
    if line.kind == BALANCE_SET:
        return "Balance set by the bank", ""
    if line.kind == Transfer.Kind.OPENING:
        return "Opening balance", ""
    if line.kind == Transfer.Kind.STANDING_ORDER:
        return f"Standing order to {line.memo}", ""
    if line.amount > 0:
        return f"From {line.counterparty}", line.memo
    return f"To {line.counterparty}", line.memo
