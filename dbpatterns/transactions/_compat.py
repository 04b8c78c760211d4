"""What this package reads of Django's private transaction state; each says when it can go."""

import sys
from collections.abc import Callable, MutableSequence
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model, QuerySet

__all__ = ["TransactionMark", "commit_hooks", "connection_of", "driver_error", "has_testcase"]
__all__ += ["is_aborted", "is_in_command", "is_in_testcase", "is_in_transaction"]
__all__ += ["open_savepoints", "psycopg_connection", "put_first", "run_hooks", "savepoints_made"]
__all__ += ["without_limits", "write_alias"]

M = TypeVar("M", bound=Model)

Hook = tuple[set[str], Callable[[], object], bool]


def connection_of(using: str | None) -> BaseDatabaseWrapper:
    """Return this thread's connection to a database; the default one for None."""
    return connections[using or DEFAULT_DB_ALIAS]


def commit_hooks(connection: BaseDatabaseWrapper) -> MutableSequence[Hook]:
    """Return the list that `on_commit` fills: savepoints, function, robust.

    `BaseDatabaseWrapper.run_on_commit` (5.2 to 6.1): Django rebuilds it at a rollback to a
    savepoint and empties it at a rollback. Can go when Django has an `on_rollback`.
    """
    hooks: MutableSequence[Hook] = connection.run_on_commit  # type: ignore[assignment]
    return hooks


def put_first(connection: BaseDatabaseWrapper, hook: Callable[[], object]) -> None:
    """Register a hook that runs before all others, even those registered earlier.

    Inserts at the front of `run_on_commit` (5.2 to 6.1), since a hook that raises keeps those
    behind it from ever running. Can go with `commit_hooks`.
    """
    commit_hooks(connection).insert(0, (set(), hook, False))


def run_hooks(connection: BaseDatabaseWrapper, hooks: MutableSequence[Hook]) -> None:
    """Run hooks as Django does after a commit, which it has taken for a failed one.

    Calls `run_and_clear_commit_hooks` (5.2 to 6.1). Can go with `commit_hooks`.
    """
    connection.run_on_commit[:] = hooks  # type: ignore[assignment]
    connection.run_and_clear_commit_hooks()


def psycopg_connection(connection: BaseDatabaseWrapper) -> Any:
    """Return the driver's connection, opened if need be; None unless psycopg 3 without a pool.

    psycopg sends what is set on it with its BEGIN. In a pool it outlives Django's `close()`, and
    what is set would reach the next borrower. Reads `Database` (5.2 to 6.1), the driver's
    module. Has `CONN_HEALTH_CHECKS` look now: Django's BEGIN would look later, and open another
    connection, on which nothing is set. Can go when Django's `atomic` takes an isolation level.
    """
    is_psycopg = getattr(connection, "Database", None) is sys.modules.get("psycopg")
    if not is_psycopg or connection.settings_dict["OPTIONS"].get("pool"):
        return None
    if not connection.in_atomic_block:
        connection.close_if_health_check_failed()
    connection.ensure_connection()
    return connection.connection


def is_aborted(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether PostgreSQL has given the transaction up after an error; no query.

    Its answer to COMMIT is then a rollback, and no error. Reads the driver's
    `info.transaction_status`, which is 3 then in psycopg and psycopg2.
    """
    return _transaction_status(connection) == 3


def driver_error(connection: BaseDatabaseWrapper) -> type[Exception]:
    """Return the class of all errors of the driver; reads `Database` (5.2 to 6.1), its module."""
    error: type[Exception] = connection.Database.Error  # type: ignore[attr-defined]
    return error


def is_in_command(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the driver still waits for a statement's answer: it is 1 then; no query."""
    return _transaction_status(connection) == 1


def _transaction_status(connection: BaseDatabaseWrapper) -> int | None:
    info = getattr(connection.connection, "info", None)
    return getattr(info, "transaction_status", None)


def write_alias(queryset: "QuerySet[Any]") -> str:
    """Return the database that a queryset would write to, and so takes its locks on.

    Sets `QuerySet._for_write` (5.2 to 6.1) on a copy, as `select_for_update` does.
    """
    queryset = queryset.all()
    queryset._for_write = True  # type: ignore[attr-defined]
    return queryset.db


def open_savepoints(connection: BaseDatabaseWrapper) -> set[str]:
    """Return the ids of the savepoints that are open, as `on_commit` keeps them with a hook.

    Reads `savepoint_ids` (5.2 to 6.1). Can go with `commit_hooks`.
    """
    return set(connection.savepoint_ids)


def savepoints_made(connection: BaseDatabaseWrapper) -> int:
    """Return how many savepoints this connection has made so far, whoever asked for them.

    Reads `savepoint_state` (5.2 to 6.1), the counter behind savepoint names: Django's own
    `atomic` counts too, without a look at each statement. Can go when Django tells.
    """
    return connection.savepoint_state


def is_in_testcase(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether nothing but the blocks of a TestCase is open.

    Reads `atomic_blocks` and `Atomic._from_testcase` (5.2 to 6.1), as `atomic(durable=True)` does.
    Can go when Django tells a test's transaction from the code's.
    """
    blocks: list[Any] = [*connection.atomic_blocks]
    return bool(blocks) and all(block._from_testcase for block in blocks)


def has_testcase(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the outermost block is a TestCase's, so that nothing will ever commit."""
    blocks: list[Any] = [*connection.atomic_blocks]
    return bool(blocks) and bool(blocks[0]._from_testcase)


class TransactionMark:
    """What tells one transaction of the code's own from the next, at no query; for one connection.

    A hook that does nothing: Django forgets it with the transaction, and not with a savepoint.
    Under a TestCase, where nothing ends, the savepoint of the outermost block (5.2 to 6.1).
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._hook: Callable[[], object] = lambda: None
        self._savepoint: str | None = None

    def put(self) -> None:
        """Mark the transaction that runs."""
        if has_testcase(self._connection):
            self._savepoint = self._outermost_savepoint()
        else:
            commit_hooks(self._connection).append((set(), self._hook, False))

    def is_missing(self) -> bool:
        """Tell whether a transaction runs that is not marked."""
        connection = self._connection
        if not connection.in_atomic_block or is_in_testcase(connection):
            return False
        if has_testcase(connection):
            savepoint = self._outermost_savepoint()
            return savepoint is None or savepoint != self._savepoint
        return all(hook is not self._hook for _, hook, _ in commit_hooks(connection))

    def _outermost_savepoint(self) -> str | None:
        blocks: list[Any] = [*self._connection.atomic_blocks]
        ours = next(place for place, block in enumerate(blocks) if not block._from_testcase)
        savepoints: list[Any] = [*self._connection.savepoint_ids]
        savepoint: str | None = savepoints[ours - 1]
        return savepoint


def is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the code has opened a transaction; a TestCase's own does not count.

    True with autocommit off, also by AUTOCOMMIT in DATABASES: somebody else decides when to commit.
    """
    if connection.in_atomic_block:
        return not is_in_testcase(connection)
    if connection.connection is None:  # which must not be opened for this
        return not connection.settings_dict["AUTOCOMMIT"]
    return not connection.get_autocommit()


def without_limits(queryset: "QuerySet[M]") -> "QuerySet[M]":
    """Return the queryset without its slice, which Django would not let us filter.

    Calls `Query.clear_limits` (5.2 to 6.1). Can go when a sliced queryset can be filtered.
    """
    unlimited = queryset.all()
    unlimited.query.clear_limits()
    return unlimited
