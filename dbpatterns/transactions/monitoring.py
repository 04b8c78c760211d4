"""Seeing transactions: who is long, idle, blocked and by whom, in doubt, or over its savepoints.

Reads PostgreSQL's own views, for the database of an alias; four short queries, no locks. A role
without `pg_read_all_stats` sees no sessions but its own, and is told how many there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db import connections

from dbpatterns.transactions.conf import TransactionsSettings
from dbpatterns.transactions.running import KEPT_IN_MEMORY

__all__ = ["InDoubt", "Session", "Sighting", "as_facts", "observe"]

_SESSIONS = """
    SELECT pid, usename, application_name, state,
           extract(epoch FROM clock_timestamp() - xact_start)::float8,
           extract(epoch FROM clock_timestamp() - state_change)::float8,
           coalesce(wait_event_type, ''), left(query, 200), pg_blocking_pids(pid)
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
      AND backend_type = 'client backend'
    ORDER BY xact_start
"""
_HIDDEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
      AND query = '<insufficient privilege>'
"""
_IN_DOUBT = """
    SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)::float8
    FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""
_SUBTRANSACTIONS = """
    SELECT pg_stat_get_backend_pid(id),
           coalesce((pg_stat_get_backend_subxact(id)).subxact_count, 0)
    FROM pg_stat_get_backend_idset() AS id
"""
_HAS_SUBTRANSACTIONS = 160000


@dataclass(frozen=True, slots=True)
class Session:
    """A session with an open transaction."""

    pid: int
    user: str
    application: str
    state: str
    """PostgreSQL's: `active`, `idle in transaction`, `idle in transaction (aborted)`."""
    transaction_seconds: float
    state_seconds: float
    wait: str
    """What it waits for: `Lock`, `Client` or another of PostgreSQL's kinds of event."""
    query: str
    """The running statement, or the last; its first 200 characters."""
    blocked_by: tuple[int, ...]
    """The pids it waits for; 0 is a prepared transaction, which has none."""
    subtransactions: int = 0
    """PostgreSQL 16 and later; with more than 64 the rest is no longer in memory."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A prepared transaction: it holds its locks until somebody decides."""

    gid: str
    owner: str
    prepared_seconds: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """The open transactions of one database, the oldest first."""

    database: str
    sessions: Sequence[Session]
    in_doubt: Sequence[InDoubt]
    hidden: int = 0
    """Sessions of other roles that this one may not see, with a transaction open or without."""

    def long(self, seconds: float) -> list[Session]:
        """Return those that began so long ago."""
        return [each for each in self.sessions if each.transaction_seconds >= seconds]

    def idle(self, seconds: float) -> list[Session]:
        """Return those whose client has sent nothing for so long."""
        return [
            each
            for each in self.sessions
            if each.state.startswith("idle in") and each.state_seconds >= seconds
        ]

    def blocked(self) -> list[Session]:
        """Return those that wait for another's lock."""
        return [each for each in self.sessions if each.blocked_by]

    def crowded(self) -> list[Session]:
        """Return those with as many savepoints as are warned of, or more."""
        limit = min(TransactionsSettings.load().warn_savepoints, KEPT_IN_MEMORY)
        return [each for each in self.sessions if each.subtransactions >= limit]


def observe(using: str) -> Sighting | None:
    """Look at the open transactions of a database; None where there is nothing to look at."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        subtransactions: Mapping[int, int] = {}
        version = connection.connection.info.server_version
        if version >= _HAS_SUBTRANSACTIONS:  # pragma: no branch - 14 and 15 are not in every run
            cursor.execute(_SUBTRANSACTIONS)
            subtransactions = dict(cursor.fetchall())
        cursor.execute(_SESSIONS)
        sessions = [_session(row, subtransactions) for row in cursor.fetchall()]
        cursor.execute(_IN_DOUBT)
        in_doubt = [InDoubt(*row) for row in cursor.fetchall()]
        cursor.execute(_HIDDEN)
        (hidden,) = cursor.fetchone()
    return Sighting(using, sessions, in_doubt, hidden)


def _session(row: Sequence[Any], subtransactions: Mapping[int, int]) -> Session:
    pid, user, application, state, age, state_age, wait, query, blocked_by = row
    return Session(
        pid=pid,
        user=user,
        application=application,
        state=state,
        transaction_seconds=age,
        state_seconds=state_age,
        wait=wait,
        query=query,
        blocked_by=tuple(blocked_by),
        subtransactions=subtransactions.get(pid, 0),
    )


def as_facts(sighting: Sighting, *, long_seconds: float, idle_seconds: float) -> dict[str, Any]:
    """Return what is worth a look, as `transaction_report` prints it."""
    found: dict[str, Sequence[Session | InDoubt]] = {
        "long": sighting.long(long_seconds),
        "idle_in_transaction": sighting.idle(idle_seconds),
        "blocked": sighting.blocked(),
        "in_doubt": sighting.in_doubt,
        "many_savepoints": sighting.crowded(),
    }
    facts = {name: [asdict(each) for each in those] for name, those in found.items()}
    facts["hidden"] = [{"sessions": sighting.hidden}] if sighting.hidden else []
    return {
        name: [{"database": sighting.database, **each} for each in those]
        for name, those in facts.items()
    }
