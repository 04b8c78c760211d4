"""Where a shard and its replicas are in the log, and which replica may answer now.

A replica repeats its primary's log. Where it is tells all that it has: it may answer who has seen
no more, and while it is not further behind than the settings allow. No clock of another machine
counts for that: this process notes where the primary is and when it asked, and a replica that has
come so far is as new as that moment.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace

from django.db import Error, InterfaceError, OperationalError, connections

from dbpatterns import telemetry
from dbpatterns.sharding.conf import ShardingSettings

__all__ = ["LOST", "forget", "is_asking", "leave", "lose", "may_answer", "position_of"]

logger = logging.getLogger("dbpatterns.sharding")

CHECK_SECONDS = 1.0
"""How long a process believes what a replica said of itself: where it is only grows."""
LOST, BEHIND, ALONE, FINE = "does not answer", "is too far behind", "follows nobody", "answers"

_PRIMARY = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
_REPLICA = """
SELECT CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint END
"""
_never = float("-inf")


@dataclass(frozen=True, slots=True)
class _Known:
    """What this process knows of a replica; replaced whole, so that threads need no lock."""

    replayed: int = -1
    """Where it is; -1 while that is not known."""
    asked_at: float = _never
    current_at: float = _never
    """A moment of which it has everything."""
    mark: tuple[int, float] | None = None
    """Where the primary was, and when: what the replica is to reach next."""
    state: str = FINE
    """What was last said of it."""


_known: dict[str, _Known] = {}
_is_asking: ContextVar[bool] = ContextVar("dbpatterns_asking_position", default=False)


def is_asking() -> bool:
    """Tell whether a statement is one of this module's own."""
    return _is_asking.get()


def position_of(primary: str) -> int | None:
    """Return where a primary is, all that was committed before included; None if it cannot say."""
    try:
        return _ask(primary, _PRIMARY)
    except (OperationalError, InterfaceError):
        return None


def may_answer(replica: str, primary: str, least: int) -> bool:
    """Tell whether a replica is there, has come to `least` and is new enough.

    A statement on it and one on the primary once a second, and one on it at each call while it
    has not come to `least`. One that was lost is tried again once a second.
    """
    now = time.monotonic()
    known = _known.get(replica, _Known())
    is_due = now - known.asked_at >= CHECK_SECONDS
    if known.state in (LOST, ALONE) and not is_due:
        return False
    if known.state == LOST:
        _known[replica] = replace(known, asked_at=now)  # the other threads go on meanwhile
    try:
        connection = connections[replica]
        connection.close_if_health_check_failed()  # as `cursor()` does, at a tenth of its cost
        connection.ensure_connection()  # a new one makes `forget` of what was known
        known = _known.get(replica, _Known())
        is_due = now - known.asked_at >= CHECK_SECONDS
        if is_due or known.replayed < least:  # -1 is less than any
            known = _asked(replica, primary, known, now)
    except (OperationalError, InterfaceError) as error:
        lose(replica, primary, error)
        return False
    is_new = now - known.current_at <= ShardingSettings.load().replica_max_lag_seconds
    state = ALONE if known.replayed < 0 else FINE if is_new else BEHIND
    if state != known.state:
        _tell(replica, primary, state)
        known = replace(known, state=state)
    _known[replica] = known
    return state == FINE and known.replayed >= least


def lose(replica: str, primary: str, error: Error) -> None:
    """Ask no more of a replica for a second, and then on a new connection."""
    _give_up(replica, primary, LOST, error)
    with suppress(Error):
        connections[replica].close()


def leave(replica: str, primary: str) -> None:
    """Ask no more of a server that follows nobody for a second."""
    _give_up(replica, primary, ALONE)


def forget(replica: str) -> None:
    """Ask a replica anew: a server that was started again may be further behind than before."""
    if replica in _known:
        _known[replica] = replace(_known[replica], replayed=-1)


def _give_up(replica: str, primary: str, state: str, error: Error | None = None) -> None:
    if _known.get(replica, _Known()).state != state:
        _tell(replica, primary, state, error)
    _known[replica] = _Known(asked_at=time.monotonic(), state=state)


def _asked(replica: str, primary: str, known: _Known, now: float) -> _Known:
    """Return what a replica says of itself, beside where its primary was."""
    mark = known.mark
    if mark is None and (position := position_of(primary)) is not None:
        mark = (position, now)
    replayed = _ask(replica, _REPLICA)
    if replayed is None:
        return replace(known, replayed=-1, asked_at=now)
    if mark is not None and replayed >= mark[0]:
        return replace(known, replayed=replayed, asked_at=now, current_at=mark[1], mark=None)
    return replace(known, replayed=replayed, asked_at=now, mark=mark)


def _ask(alias: str, sql: str) -> int | None:
    with _asking(), connections[alias].cursor() as cursor:
        cursor.execute(sql)
        found: int | None = cursor.fetchone()[0]
    return found


@contextmanager
def _asking() -> Iterator[None]:
    token = _is_asking.set(True)
    try:
        yield
    finally:
        _is_asking.reset(token)


def _tell(replica: str, primary: str, state: str, error: Error | None = None) -> None:
    """Say what a replica has come to; once, until it is something else."""
    level = logging.INFO if state == FINE else logging.WARNING
    says = "" if error is None else f" ({' '.join(str(error).split())})"
    then = "reads go there again" if state == FINE else "its reads go elsewhere"
    facts = {"primary": primary, "state": state}
    message = "Replica %r of %r %s%s: %s."
    logger.log(level, message, replica, primary, state, says, then, extra=facts)
    if telemetry.is_heard():
        telemetry.emit(telemetry.Event("sharding.replica", database=replica, facts=facts))
