"""Appending to a stream: one INSERT that says which version it expects, and no lock.

    append("account:7", [NewEvent("MoneyMoved", {"amount": 500})], expected_version=3)

Two writers who expect the same version meet on the unique index of (stream, version): one wins,
and the other is told. Nothing is read first, so nothing can have changed since.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from operator import itemgetter
from typing import Any

from django.db import IntegrityError, connections, router, transaction
from django.db.models import Max, TextField
from django.db.models.functions import Cast

from dbpatterns.errors import UsageError
from dbpatterns.eventstore.batches import MAX_BYTES, MAX_EVENTS, Batch, NewEvent
from dbpatterns.eventstore.errors import EventConflict, InvalidEvents, WrongExpectedVersion
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.transactions import advisory_key

__all__ = ["MAX_BYTES", "MAX_EVENTS", "AppendResult", "Expected", "NewEvent", "append"]

_TRIES = 500
"""Of an append that expects nothing in particular; each lost one is another writer's success."""


class Expected(StrEnum):
    """What a stream is expected to be, where it is no number."""

    ANY = "any version"
    NO_STREAM = "no stream"
    EXISTS = "an existing stream"


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Where the events are."""

    version: int
    """The stream's, with the last of the events."""
    positions: tuple[int, ...]
    """One for each event, rising; across streams no order to read by: see `read_all`."""
    is_replay: bool = False
    """They were stored by an earlier append of the same ids."""


def append(
    stream: str,
    events: Sequence[NewEvent],
    *,
    expected_version: Expected | int,
    using: str | None = None,
) -> AppendResult:
    """Append events to one stream, all or none, or refuse because somebody was faster.

    One statement; inside a transaction a savepoint too, which leaves it usable when refused.
    Waits only for a transaction that appends to the same stream.

    Args:
        events: 1 to 1,000, the oldest first, at most 1 MB of JSON together.
        expected_version: the version last read, 0 for a new stream; or an `Expected`.
    Returns: the earlier result when just these events are in the stream: by their ids, their types
        and their data, which is not compared if other code wrote another version of the type.
        Metadata may differ.
    Raises: WrongExpectedVersion: read again and decide. InvalidEvents: over a limit or no JSON.
        EventConflict: ids that are stored, though not as this batch. UsageError: a version that
        is none.
    """
    is_number = type(expected_version) is int and expected_version >= 0
    if not is_number and not isinstance(expected_version, Expected):
        raise UsageError(f"A stream's version is 0 or more, not {expected_version!r}.")
    alias = using or router.db_for_write(StoredEvent)
    batch = _within_limits(stream, events)
    is_open = expected_version in (Expected.ANY, Expected.EXISTS)
    for lost in range(_TRIES if is_open else 1):
        if lost > 1:
            _queue(alias, stream)
        refused: IntegrityError | None = None
        rows: list[tuple[int, int]] = []
        try:
            rows = _insert(alias, batch, expected_version)
        except IntegrityError as error:
            refused = error
        if rows:
            return AppendResult(rows[-1][1], tuple(position for position, _ in rows))
        if earlier := _earlier(alias, batch):
            return earlier
        if refused is None:
            break
    actual = StoredEvent.objects.using(alias).filter(stream=stream).aggregate(Max("version"))
    raise WrongExpectedVersion(
        stream=stream,
        expected_version=expected_version,
        actual_version=actual["version__max"] or 0,
    ) from refused


def _within_limits(stream: str, events: Sequence[NewEvent]) -> Batch:
    if not 1 <= len(events) <= MAX_EVENTS:
        raise InvalidEvents(
            f"An append takes 1 to {MAX_EVENTS:,} events, not {len(events):,}: split it.",
            stream=stream,
            actual=len(events),
            limit=MAX_EVENTS,
        )
    batch = Batch.of([stream] * len(events), events)
    batch.require_at_most(MAX_BYTES, stream=stream)
    return batch


# Note [A stream in its own order]
# All streams are read by (xid, position). A transaction may have got its id, by writing elsewhere,
# before the one that wrote the version it appends to. So an event takes the id of the version
# before it where that is the higher one: what is read cannot have passed it, since a reader sees
# nothing from the lowest running transaction on, which is at most the one that appends.
_POSTGRESQL = """
INSERT INTO {table} (stream, version, type, type_version, data, metadata, event_id, xid)
SELECT value ->> 0, last.version + n, value ->> 1, (value -> 2)::smallint, value -> 3, value -> 4,
    (value ->> 5)::uuid, greatest(last.xid, pg_current_xact_id())
FROM ({last}) AS last, jsonb_array_elements(%s) WITH ORDINALITY AS e(value, n)
ORDER BY n
RETURNING position, version
"""

_SQLITE = """
INSERT INTO {table} (stream, version, type, type_version, data, metadata, event_id)
SELECT json_extract(e.value, '$[0]'), last.version + e.key + 1, json_extract(e.value, '$[1]'),
    json_extract(e.value, '$[2]'), json_extract(e.value, '$[3]'), json_extract(e.value, '$[4]'),
    json_extract(e.value, '$[5]')
FROM ({last}) AS last, json_each(%s) AS e
WHERE true
ORDER BY e.key
RETURNING position, version
"""


def _insert(alias: str, batch: Batch, expected: Expected | int) -> list[tuple[int, int]]:
    """Insert all events, or none: no rows when the stream is not at the version."""
    connection = connections[alias]
    is_postgresql = connection.vendor == "postgresql"
    table = connection.ops.quote_name(StoredEvent._meta.db_table)
    zero = "'0'::xid8" if is_postgresql else "0"
    nothing = f"SELECT 0 AS version, {zero} AS xid"
    newest = f"SELECT version, xid FROM {table} WHERE stream = %s ORDER BY version DESC LIMIT 1"
    last, before = nothing, list[str | int]()
    stream = batch.streams[0]
    if expected is Expected.ANY:
        last = f"SELECT * FROM ({newest}) AS newest UNION ALL {nothing} ORDER BY 1 DESC LIMIT 1"
        before = [stream]
    elif expected is Expected.EXISTS:
        last, before = newest, [stream]
    elif isinstance(expected, int) and expected > 0:
        last = f"SELECT version, xid FROM {table} WHERE stream = %s AND version = %s"
        before = [stream, expected]
    sql = _POSTGRESQL if is_postgresql else _SQLITE
    # In autocommit the statement is the transaction; atomic() would make it three round trips.
    guard = transaction.atomic(using=alias) if connection.in_atomic_block else nullcontext()
    with guard, connection.cursor() as cursor:
        cursor.execute(sql.format(table=table, last=last), [*before, batch.as_json()])
        return sorted(cursor.fetchall(), key=itemgetter(1))


def _queue(alias: str, stream: str) -> None:
    """Wait for the others who have lost twice; a transaction holds the stream until it commits."""
    connection = connections[alias]
    if connection.vendor == "postgresql" and connection.in_atomic_block:
        key = advisory_key("dbpatterns.eventstore", stream)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [key])


def _earlier(alias: str, batch: Batch) -> AppendResult | None:
    """Return where these very events are; None when none of their ids is stored."""
    stored = StoredEvent.objects.using(alias).filter(event_id__in=batch.event_ids)
    facts = ("event_id", "stream", "type", "type_version", Cast("data", TextField()))
    found = list(stored.order_by("version").values_list("position", "version", *facts))
    if not found:
        return None
    asked = zip(
        *(batch.event_ids, batch.streams, batch.types, batch.type_versions, batch.data), strict=True
    )
    if len(found) != len(batch.event_ids) or not all(
        _is_same(event[2:], new) for event, new in zip(found, asked, strict=True)
    ):
        raise EventConflict(
            stream=batch.streams[0],
            event_ids=[each[2] for each in found],
            events=len(batch.event_ids),
        )
    return AppendResult(found[-1][1], tuple(position for position, *_ in found), True)


def _is_same(stored: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    """Compare id, stream, type, version of the type, and the data if that version is the same.

    Numbers as they are written: PostgreSQL gives 1.5e300 back as an integer of 301 digits.
    """
    *facts, version, data = stored
    *new_facts, new_version, new_data = new
    return facts == new_facts and (version != new_version or _exact(data) == _exact(new_data))


def _exact(text: str) -> Any:
    return json.loads(text, parse_float=_number, parse_int=_number)


def _number(text: str) -> tuple[str, Decimal]:
    return "number", Decimal(text)  # for Python 1 is True
