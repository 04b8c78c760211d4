"""Reading a stream, and reading all streams in one order that never gains a hole behind you.

    for event in read_all(after=checkpoint, limit=500):
        ...
        checkpoint = event.checkpoint

# Note [The order of all events]

A position is given out when a row is written, and seen when its transaction commits: 8 may be
seen before 7. A reader that remembers "8" never sees 7. Nor is it enough to wait until all
transactions under a horizon are over, if the cursor is the position: a transaction that got its
id early, by writing elsewhere, may append late, and one with a later id may have committed a
higher position that was hidden then and is passed by now, or the other way round.

So the order here is (transaction id, position), and a reader sees only what is below
`pg_snapshot_xmin`, the oldest transaction still running: whoever is to come has a higher id. The
price: a transaction that stays open or prepared, anywhere on the server, holds all readers; see
`horizon`.
SQLite has one writer at a time, so there the position alone is the order.

Source: PostgreSQL documentation, "System Information Functions", pg_snapshot_xmin.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections, router

from dbpatterns.errors import UsageError
from dbpatterns.eventstore.epochs import epoch_of
from dbpatterns.eventstore.errors import EpochChanged
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.upcasting import upcast

__all__ = ["Checkpoint", "RecordedEvent", "read", "read_all", "recorded"]

_PAGE = 1_000


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """A place in the order of all events, of one life of one store. Keep all three values."""

    epoch: uuid.UUID
    xid: int
    position: int


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as today's code knows it: upcast."""

    stream: str
    version: int
    type: str
    data: dict[str, Any]
    metadata: dict[str, Any]
    event_id: uuid.UUID
    position: int
    created_at: datetime
    checkpoint: Checkpoint | None
    """Where to read on after this event; only `read_all` knows it."""


def read(
    stream: str, *, from_version: int = 1, using: str | None = None
) -> Iterator[RecordedEvent]:
    """Yield a stream's events, the oldest first; one query for each thousand.

    Also those that this transaction has appended.
    """
    alias = using or router.db_for_read(StoredEvent)
    rows = StoredEvent.objects.using(alias).filter(stream=stream).order_by("version")
    while True:
        page = list(rows.filter(version__gte=from_version)[:_PAGE])
        for row in page:
            yield recorded(row)
        if len(page) < _PAGE:
            return
        from_version = page[-1].version + 1


def read_all(
    *, after: Checkpoint | None = None, limit: int = 500, using: str | None = None
) -> list[RecordedEvent]:
    """Return the next events of all streams; none skipped, none twice, each in its place for good.

    Two queries by index. An empty list means that there is nothing to see now: keep your checkpoint
    and ask again. Of one stream the events come in the order of their versions. Read from the
    primary, not from a replica.

    Args:
        after: the checkpoint of the last event handled; None for the beginning.
    Raises: EpochChanged: the checkpoint is of before a restore, or the restore is not declared.
    """
    if limit < 1:
        raise UsageError(f"A page has at least 1 event, not {limit}.")
    alias = using or router.db_for_write(StoredEvent)
    epoch = epoch_of(alias)
    if after is not None and after.epoch != epoch:
        raise EpochChanged(
            f"The checkpoint is of epoch {after.epoch}, and the store in {alias!r} is in epoch "
            f"{epoch}: begin again, or rebuild the projection."
        )
    xid, position = (after.xid, after.position) if after else (0, 0)
    connection = connections[alias]
    table = connection.ops.quote_name(StoredEvent._meta.db_table)
    if connection.vendor == "postgresql":
        sql = (
            f"SELECT * FROM {table} WHERE (xid, position) > (%s::text::xid8, %s) "
            "AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, position LIMIT %s"
        )
        values: Sequence[object] = (str(xid), position, limit)
    else:
        sql = f"SELECT * FROM {table} WHERE position > %s ORDER BY position LIMIT %s"
        values = (position, limit)
    rows = StoredEvent.objects.using(alias).raw(sql, values)
    return [recorded(row, epoch) for row in rows]


def recorded(row: StoredEvent, epoch: uuid.UUID | None = None) -> RecordedEvent:
    """Return a stored event as today's code knows it; no query."""
    return RecordedEvent(
        stream=row.stream,
        version=row.version,
        type=row.type,
        data=upcast(row.type, row.type_version, row.data),
        metadata=row.metadata,
        event_id=row.event_id,
        position=row.position,
        created_at=row.created_at,
        checkpoint=Checkpoint(epoch, row.xid, row.position) if epoch else None,
    )
