"""Failures on demand: what a server answers under load, without the load.

with inject_failures("40001", times=3):
    pay(invoice)                    # its first three attempts fail
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import TransactionMark, is_aborted

__all__ = ["inject_failures"]

_CONTROL = re.compile(r"\s*(?:RELEASE|ROLLBACK|SET|PRAGMA)\b", re.I)
_SAVEPOINT = re.compile(r"\s*SAVEPOINT\b", re.I)
_AT_STATEMENT = "DO $$ BEGIN RAISE EXCEPTION 'injected failure' USING ERRCODE = '{0}'; END $$"
_AT_COMMIT = """
    CREATE FUNCTION pg_temp.dbpatterns_fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'injected failure' USING ERRCODE = '{0}'; END $$;
    CREATE TEMP TABLE dbpatterns_failure (id int);
    CREATE CONSTRAINT TRIGGER dbpatterns_failure AFTER INSERT ON dbpatterns_failure
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.dbpatterns_fail();
    INSERT INTO dbpatterns_failure VALUES (1)
"""


@contextmanager
def inject_failures(
    sqlstate: str,
    *,
    times: int = 1,
    at: Literal["statement", "commit"] = "statement",
    using: str = DEFAULT_DB_ALIAS,
) -> Iterator[None]:
    """Have this thread's next `times` transactions fail as the server would fail them.

    Each fails once, whatever it does after that. On PostgreSQL the server itself raises the error,
    within the transaction's first statement or at its COMMIT, so that all of its consequences are
    real. On SQLite, `SQLITE_BUSY` and other names are raised as the driver does, at a statement
    only. What runs outside a transaction of the code's own is left alone.
    Raises: UsageError: no such SQLSTATE, or no COMMIT to fail; in a transaction that was begun
        read-only, from its first statement.
    """
    connection = connections[using]
    if at == "commit":
        _require_commit(connection)
    statement = (_AT_STATEMENT if at == "statement" else _AT_COMMIT).format(_checked(sqlstate))
    left = times
    mark = TransactionMark(connection)

    def fail(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        nonlocal left
        is_early = _CONTROL.match(sql) or (at == "statement" and _SAVEPOINT.match(sql))
        if not left or is_early or not mark.is_missing() or is_aborted(connection):
            return execute(sql, params, many, context)
        if at == "commit":
            _require_writes(connection)
        mark.put()
        left -= 1
        with connection.wrap_database_errors:
            if connection.vendor == "sqlite":
                raise _sqlite_error(sqlstate)
            with connection.connection.cursor() as cursor:  # the driver's: no wrapper sees it
                cursor.execute(statement)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fail):
        yield


def _require_commit(connection: BaseDatabaseWrapper) -> None:
    if connection.vendor != "postgresql":
        raise UsageError(
            f'inject_failures(at="commit"): {connection.display_name} takes its lock at BEGIN, so '
            "its COMMIT does not fail. Inject at a statement."
        )
    if connection.in_atomic_block:
        raise UsageError(
            'inject_failures(at="commit") within a transaction, such as a TestCase\'s: nothing '
            "would be committed. Use a TransactionTestCase."
        )


def _require_writes(connection: BaseDatabaseWrapper) -> None:
    with connection.connection.cursor() as cursor:
        if cursor.execute("SHOW transaction_read_only").fetchone()[0] == "on":
            raise UsageError(
                'inject_failures(at="commit"): the transaction is read-only, so nothing can be put '
                "in the way of its COMMIT. Inject at a statement."
            )


def _checked(sqlstate: str) -> str:
    is_name = sqlstate.startswith("SQLITE_") and hasattr(sqlite3, sqlstate)
    if not is_name and not re.fullmatch(r"[0-9A-Z]{5}", sqlstate):
        raise UsageError(f"inject_failures({sqlstate!r}): a SQLSTATE has five of 0-9 and A-Z.")
    return sqlstate


def _sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("injected failure: database is locked")
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name, 1)
    return error
