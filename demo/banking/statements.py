"""What a customer sees of their money; every query goes to the customer's own shard.

The bank's tables know it by the customer; events and lines, which have no key, are told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dbpatterns.eventstore.streams import read_many
from dbpatterns.sharding import shard_for
from demo.banking.events import BALANCE_SET, number_of, stream_of
from demo.banking.models import (
    Account,
    Customer,
    StandingOrder,
    StandingOrderExecution,
    StatementLine,
    Transfer,
)
from demo.banking.projections import feed, lines
from demo.banking.repositories import (
    AccountRepository,
    CustomerRepository,
    Shard,
    StandingOrderRepository,
)

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
    is_whole: bool = True
    """Whether every movement on the accounts is among the lines, but for those too old."""


class StatementService:
    """Reads customers' statements."""

    def __init__(
        self,
        accounts: AccountRepository,
        customers: CustomerRepository,
        orders: StandingOrderRepository,
    ) -> None:
        self._accounts, self._customers, self._orders = accounts, customers, orders

    def read(self, customer_id: int) -> Statement:
        """Read accounts, the latest lines on them, and standing orders; five queries.

        One more, and those of `feed` for a page, when a line is not on the statement yet.
        """
        shard = Shard(shard_for(customer_id))
        accounts = self._accounts.find_by(customer_id=customer_id, load=["ledger"])
        by_number = {each.number: each for each in accounts}
        found = _lines(shard, accounts)
        found.sort(key=lambda line: line.position, reverse=True)
        return Statement(
            shard=shard.alias,
            customer=self._customers.find_by_id(customer_id),
            accounts=accounts,
            lines=[_line(each, by_number[each.account]) for each in found[:LINES]],
            is_whole=_is_whole(accounts, found),
            orders=[OrderLine(*each) for each in self._orders.with_last_execution(customer_id)],
        )


def _lines(shard: Shard, accounts: Sequence[Account]) -> list[StatementLine]:
    """Return the last lines of each account, also what the projection has not come to yet.

    # Note [One's own transfer]
    A projection sees no event while an older transaction is open, anywhere on the server, so it
    alone may not show what was paid a moment ago. The ledger's account, read before, tells which
    lines there are to be, and the balance on the last. If they are not there, the reader feeds the
    projection for the next one, by one page, so that nobody waits for a whole import, and makes
    its own lines from the accounts' streams, as it does while the projection is thrown away.
    """
    last = {each.number: each.ledger.version for each in accounts}
    kept = shard.lines.last(last, LINES)
    if _is_whole(accounts, kept):
        return kept
    feed(shard.alias, must_stop=lambda events: True)
    return _from_streams(shard, accounts)


def _is_whole(accounts: Sequence[Account], lines: Sequence[StatementLine]) -> bool:
    """Tell whether the lines go up to what the ledger says of the accounts, without a gap."""
    balances = {(each.account, each.version): each.balance for each in lines}
    return len(balances) == sum(min(LINES, each.ledger.version) for each in accounts) and all(
        balances.get((each.number, each.ledger.version), 0) == each.balance for each in accounts
    )


def _from_streams(shard: Shard, accounts: Sequence[Account]) -> list[StatementLine]:
    """Return the last lines as the events have them, counted back from the balance; one query."""
    last = {stream_of(each.number): each.ledger.version for each in accounts}
    after = {stream: version - LINES for stream, version in last.items()}
    events = read_many(after, using=shard.alias)
    events = [each for each in events if each.version <= last[each.stream]]
    before = {each.number: each.balance for each in accounts}
    for event in events:
        before[number_of(event.stream)] -= event.data["amount"]
    return lines(events, before, generation=0)


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
