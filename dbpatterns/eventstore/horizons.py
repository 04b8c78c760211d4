"""What holds the readers of all streams: see Note [The order of all events] in `reading`."""

from dataclasses import dataclass

from django.db import connections, router

from dbpatterns.eventstore.models import StoredEvent

__all__ = ["Horizon", "horizon"]


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
