"""The statements of accounts, made from what happened to them; thrown away and made again by
`manage.py rebuild_projection statements --database SHARD`."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from django.db import DatabaseError
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Substr

from dbpatterns.errors import DBPatternsError
from dbpatterns.eventstore.errors import EpochChanged
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.projections import Projection, catch_up
from dbpatterns.eventstore.reading import RecordedEvent
from demo.banking.events import MONEY_MOVED, STREAM, number_of
from demo.banking.models import StatementLine

__all__ = ["LineMissing", "Statements", "feed", "lines"]

logger = logging.getLogger(__name__)


class LineMissing(DBPatternsError):
    """A line cannot be made, because the one before it was thrown away."""


class Statements(Projection):
    """A line for each movement on a customer's account, with what was there then."""

    name = "statements"
    model = StatementLine

    def apply_page(self, events: Sequence[RecordedEvent], *, generation: int, using: str) -> None:
        """Write the lines of a page; one INSERT, and a query if an account had lines before.

        Raises: LineMissing.
        """
        moved = [each for each in events if each.type == MONEY_MOVED]
        first = {number_of(each.stream): each for each in reversed(moved)}
        before = {number: 0 for number, each in first.items() if each.version == 1}
        if len(before) < len(first):
            before |= _balances_before(first.values(), generation, using)
        StatementLine.objects.using(using).bulk_create(lines(moved, before, generation))


def feed(alias: str, *, must_stop: Callable[[int], bool]) -> None:
    """Make the lines of a shard that are not made yet; the queries of `catch_up`.

    What cannot be made is logged, and found by the proof of the books: nobody's page fails for it.
    """
    try:
        catch_up(Statements(), using=alias, must_stop=must_stop)
    except (LineMissing, EpochChanged, DatabaseError) as error:
        logger.error("The statements on %s are not fed: %s", alias, error)


def lines(
    moved: Iterable[RecordedEvent], before: Mapping[str, int], generation: int
) -> list[StatementLine]:
    """Return the lines of events, each account's in the order of its stream; no query.

    Args:
        before: what was on each account then, by its number.
    """
    balances = {**before}
    made = []
    for event in moved:
        account, data = number_of(event.stream), event.data
        balances[account] += data["amount"]
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
                balance=balances[account],
            )
        )
    return made


def _balances_before(
    first: Iterable[RecordedEvent], generation: int, using: str
) -> Mapping[str, int]:
    """Return what the line before each event says, by account; one query, one row for each."""
    line_before = StatementLine.objects.using(using).filter(
        generation=generation,
        account=Substr(OuterRef("stream"), len(STREAM) + 1),
        version=OuterRef("version") - 1,
    )
    rows = StoredEvent.objects.using(using).filter(
        version__gt=1, position__in=[each.position for each in first]
    )
    before = {}
    for stream, version, balance in rows.values_list(
        "stream", "version", Subquery(line_before.values("balance"))
    ):
        if balance is None:
            raise LineMissing(
                f"Line {version - 1} of the statement of account {number_of(stream)} is missing, "
                "so the next cannot be made. Make all of them again: manage.py rebuild_projection "
                f"{Statements.name} --database {using}"
            )
        before[number_of(stream)] = balance
    return before
