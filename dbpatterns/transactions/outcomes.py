"""The outcome of a COMMIT whose answer never came: the connection was lost, or a signal came first.

PostgreSQL remembers what became of a transaction, so a transaction that noted its id can ask on
the connection that Django opens next.
"""

import sys
import time
from collections.abc import MutableSequence
from dataclasses import dataclass

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.transactions._compat import (
    Hook,
    commit_hooks,
    driver_error,
    is_in_command,
    run_hooks,
)
from dbpatterns.transactions.errors import CommitOutcomeUnknown
from dbpatterns.transactions.hooks import Committed
from dbpatterns.transactions.records import Record
from dbpatterns.transactions.sqlstates import is_connection_loss, sqlstate_of

__all__ = ["Pledge", "settle"]

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


@dataclass(slots=True)
class Pledge:
    """What is kept of a transaction right before its COMMIT, to know what to do afterwards."""

    committed: Committed
    hooks: MutableSequence[Hook]
    """Held here too: Django drops its own when it has lost the connection."""
    may_ask: bool = False
    xid: str | None = None
    """To ask by; None when it has written nothing, so that its outcome does not matter."""
    handled: BaseException | None = None
    """What the code around was handling at the time, which is no error of the COMMIT."""

    @classmethod
    def take(
        cls, connection: BaseDatabaseWrapper, committed: Committed, *, may_ask: bool
    ) -> "Pledge":
        """Note the transaction's hooks and, by one statement, its id if the server may be asked."""
        xid = None
        if may_ask:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_current_xact_id_if_assigned()::text")
                (xid,) = cursor.fetchone()
        return cls(committed, [*commit_hooks(connection)], may_ask, xid, sys.exception())


def settle(
    connection: BaseDatabaseWrapper, pledge: Pledge, record: Record, error: BaseException
) -> None:
    """Find out what became of a transaction whose COMMIT raised an error, and note it.

    Returns when it was committed, after its hooks have run; waits up to ten seconds for a server
    that is away or still at it, but not after a signal, whose connection is closed.
    Raises: the error itself: it was rolled back. CommitOutcomeUnknown: nobody can tell. What a
        signal raised: nor can anybody then.
    """
    record.outcome, pledge.committed.is_unknown = "unknown", True
    if interruption := _interruption(connection, pledge, error):
        connection.close()  # it may still wait for its answer, and has hooks that are nobody's
        raise interruption
    status: str | None = "aborted"
    if is_connection_loss(sqlstate_of(error)):
        status = _status(connection, pledge.xid) if pledge.may_ask else None
    if status == "committed":
        record.outcome = "committed"
        run_hooks(connection, pledge.hooks)
        return
    if status == "aborted":
        record.outcome, pledge.committed.is_unknown = "rolled_back", False
        pledge.hooks.clear()  # at once, though a traceback may keep this frame: `after_rollback`
        raise error
    raise CommitOutcomeUnknown(
        f"The connection to {connection.alias!r} was lost while transaction {record.label!r} was "
        "committing: everything it wrote is there, or nothing. It was not tried again. Look "
        + (
            f"up pg_xact_status('{pledge.xid}') once the server is back."
            if pledge.xid
            else "for what it wrote, or pass resolve_commit=True to have the server asked."
        ),
        database=connection.alias,
        label=record.label,
        xid=pledge.xid,
    ) from error


def _interruption(
    connection: BaseDatabaseWrapper, pledge: Pledge, error: BaseException
) -> BaseException | None:
    """Return what a signal raised while COMMIT was under way; None if it was the database.

    psycopg may be left waiting for the answer, or have closed the connection. Django's clean-up
    then fails with an error of the driver's, and the signal's is behind that one.
    """
    of_database = Error, driver_error(connection)
    is_waiting = is_in_command(connection)
    each: BaseException | None = error
    while each is not None and each is not pledge.handled:
        is_of_signal = each is error or is_waiting or not isinstance(each, Exception)
        if is_of_signal and not isinstance(each, of_database):
            return each
        each = each.__context__
    return None


def _status(connection: BaseDatabaseWrapper, xid: str | None) -> str | None:
    if xid is None:
        return "committed"
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        status: str | None = None
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_xact_status(%s::xid8)", [xid])
                (status,) = cursor.fetchone()
        except Error:
            connection.close()  # the server is not back yet
        if status in ("committed", "aborted") or time.monotonic() > deadline:
            return status
        time.sleep(_PAUSE_SECONDS)
