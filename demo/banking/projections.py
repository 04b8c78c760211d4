"""The statements of accounts, made from what happened to them; thrown away and made again by
`manage.py rebuild_projection statements --database SHARD`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from dbpatterns.eventstore.projections import Projection
from dbpatterns.eventstore.reading import RecordedEvent
from demo.banking.events import MONEY_MOVED, STREAM
from demo.banking.models import StatementLine

__all__ = ["Statements", "lines"]


class Statements(Projection):
    """A line for each movement on a customer's account, with what was there then."""

    name = "statements"
    model = StatementLine

    def apply_page(self, events: Sequence[RecordedEvent], *, generation: int, using: str) -> None:
        """Write the lines of a page; one query for the balances before it, and one INSERT."""
        moved = [each for each in events if each.type == MONEY_MOVED]
        rows = StatementLine.objects.using(using).filter(
            generation=generation,
            account__in={_number(each) for each in moved},
            version__in={each.version - 1 for each in moved},
        )
        before = {(each.account, each.version): each.balance for each in rows}
        StatementLine.objects.using(using).bulk_create(lines(moved, before, generation))


def lines(
    moved: Iterable[RecordedEvent], before: Mapping[tuple[str, int], int], generation: int
) -> list[StatementLine]:
    """Return the lines of events, each account's in the order of its stream; no query.

    Args:
        before: the balance of the line before each account's first, by account and version.
    """
    balances = {**before}
    made = []
    for event in moved:
        account, data = _number(event), event.data
        balance = balances[account, event.version - 1] if event.version > 1 else 0
        balances[account, event.version] = balance = balance + data["amount"]
        made.append(
            StatementLine(
                generation=generation,
                account=account,
                version=event.version,
                position=event.position,
                at=datetime.fromisoformat(data["at"]),
                kind=data["kind"],
                counterparty=data["counterparty"],
                memo=data["memo"],
                amount=data["amount"],
                balance=balance,
            )
        )
    return made


def _number(event: RecordedEvent) -> str:
    return event.stream.removeprefix(STREAM)
