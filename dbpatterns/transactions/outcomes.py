"""The outcome of a COMMIT whose answer never came.

PostgreSQL remembers what became of a transaction, so a transaction that noted its id can ask on
the connection that Django opens next.
"""

import time
from collections.abc import MutableSequence
from dataclasses import dataclass

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.transactions._compat import Hook, commit_hooks, run_hooks
from dbpatterns.transactions.errors import CommitOutcomeUnknown

__all__ = ["Pledge", "settle"]

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


@dataclass(slots=True)
class Pledge:
    """What is kept of a transaction right before its COMMIT, to be able to ask afterwards."""

    xid: str | None
    """None when it has written nothing, so that its outcome does not matter."""
    hooks: MutableSequence[Hook]

    @classmethod
    def take(cls, connection: BaseDatabaseWrapper) -> "Pledge":
        """Note the transaction's id and hooks; one statement."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id_if_assigned()::text")
            (xid,) = cursor.fetchone()
        return cls(xid, [*commit_hooks(connection)])


def settle(
    connection: BaseDatabaseWrapper, pledge: Pledge | None, label: str, error: Error
) -> None:
    """Find out what became of a transaction whose COMMIT went unanswered.

    Returns when it was committed, after its hooks have run; waits up to ten seconds for a server
    that is away or still at it.
    Raises: the error itself: it was rolled back. CommitOutcomeUnknown: nobody can tell.
    """
    status = _status(connection, pledge.xid) if pledge else None
    if pledge and status == "committed":
        run_hooks(connection, pledge.hooks)
        return
    if pledge:
        pledge.hooks.clear()  # at once, though a traceback may keep this frame: `after_rollback`
    if status != "aborted":
        xid = pledge.xid if pledge else None
        raise CommitOutcomeUnknown(
            f"The connection to {connection.alias!r} was lost while transaction {label!r} was "
            "committing: everything it wrote is there, or nothing. It was not tried again. Look "
            + (
                f"up pg_xact_status('{xid}') once the server is back."
                if xid
                else "for what it wrote, or pass resolve_commit=True to have the server asked."
            ),
            database=connection.alias,
            label=label,
            xid=xid,
        ) from error
    raise error


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
