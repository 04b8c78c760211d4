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

from django.db import connections, router, transaction
from django.db.models import CharField, Value
from django.db.models.expressions import RawSQL

from dbpatterns.errors import UsageError
from dbpatterns.eventstore.errors import EpochChanged
from dbpatterns.eventstore.models import EventStoreEpoch, StoredEvent
from dbpatterns.eventstore.upcasting import upcast

__all__ = ["Checkpoint", "Horizon", "RecordedEvent", "horizon", "new_epoch", "read", "read_all"]

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


@dataclass(frozen=True, slots=True)
class Horizon:
    """What readers of all streams wait for."""

    hidden_events: int
    """Committed or not, not shown yet."""
    holder_pid: int | None
    """The server process of the oldest transaction that has written; None if none has."""
    holder_seconds: float
    """How long that one has been open, or prepared."""
    holder_gid: str | None = None
    """Its name, if it was prepared for a commit in two phases and has no process any more."""


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


def horizon(*, using: str | None = None) -> Horizon:
    """Tell what readers of all streams wait for; two queries, none on SQLite, where they never do.

    A transaction that was prepared for a commit in two phases, and forgotten, holds them for ever,
    after a restart of the server too: end it by COMMIT PREPARED or ROLLBACK PREPARED, with its
    `holder_gid`, in the database of `pg_prepared_xacts`.
    Others' processes need the rights of `pg_read_all_stats` to be timed.
    """
    alias = using or router.db_for_write(StoredEvent)
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return Horizon(0, None, 0.0)
    table = connection.ops.quote_name(StoredEvent._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {table} WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())"
        )
        hidden = cursor.fetchone()[0]
        cursor.execute(
            "SELECT pid, coalesce(extract(epoch FROM clock_timestamp() - since), 0)::float, gid "
            "FROM (SELECT pid, xact_start, NULL, backend_xid FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() UNION ALL "
            "SELECT NULL, prepared, gid, transaction FROM pg_prepared_xacts) "
            "AS open (pid, since, gid, xid) WHERE xid IS NOT NULL ORDER BY age(xid) DESC LIMIT 1"
        )
        pid, seconds, gid = cursor.fetchone() or (None, 0.0, None)
    return Horizon(hidden, pid, seconds, gid)


def new_epoch(*, using: str | None = None) -> uuid.UUID:
    """Declare that the events were restored from a dump, and return the new epoch.

    Their transaction ids are the old server's, so they are set to 0: their order is that of their
    positions from now on, and checkpoints of before are refused: rebuild the projections.
    Rewrites the table under a lock that keeps out all who append.
    """
    alias = using or router.db_for_write(StoredEvent)
    connection = connections[alias]
    epoch = uuid.uuid4()
    with transaction.atomic(using=alias):
        if connection.vendor == "postgresql":
            table = connection.ops.quote_name(StoredEvent._meta.db_table)
            with connection.cursor() as cursor:
                cursor.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                cursor.execute(f"UPDATE {table} SET xid = '0' WHERE xid <> '0'")
        EventStoreEpoch.objects.using(alias).update_or_create(
            defaults={"epoch": epoch, "server": _server(alias)}, id=1
        )
    return epoch


def epoch_of(alias: str) -> uuid.UUID:
    """Return the store's epoch, made when first asked for; one query."""
    rows = EventStoreEpoch.objects.using(alias).annotate(here=_server(alias))
    row = rows.first()
    if row is None:
        first = EventStoreEpoch(epoch=uuid.uuid4(), server=_server(alias))
        made = EventStoreEpoch.objects.using(alias)
        made.bulk_create([first], ignore_conflicts=True)  # of two readers, one makes it
        row = rows.get()
    if row.server != row.here:
        raise EpochChanged(
            f"The events in {alias!r} were written on another server ({row.server}, here is "
            f"{row.here}): their transaction ids mean nothing here. After a restore or an upgrade "
            "by dump, call new_epoch() once."
        )
    epoch: uuid.UUID = row.epoch
    return epoch


def _server(alias: str) -> Any:
    """Return what a server that was restored from a dump does not share with the old one."""
    if connections[alias].vendor != "postgresql":
        return Value("", output_field=CharField())
    identity = "SELECT system_identifier::text FROM pg_control_system()"
    return RawSQL(identity, (), output_field=CharField())


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
