"""Isolation: how a transaction begins, and how a nested block becomes read-only.

psycopg 3 sends level, read-only and deferrable with its BEGIN, at no further round trip. psycopg2
and connections of Django's pool need a SET TRANSACTION right after it. SQLite gives every level by
having one writer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import psycopg_connection
from dbpatterns.transactions.options import Options

__all__ = ["prepare_driver", "read_only_block", "refuse_unsupported", "set_transaction"]


def refuse_unsupported(connection: BaseDatabaseWrapper, options: Options) -> None:
    """Refuse what the database of a connection does not know; no SQL.

    Raises: UsageError.
    """
    if connection.vendor == "sqlite":
        wrong = [each for each in ("deferrable", "statement_timeout") if getattr(options, each)]
    elif connection.vendor != "postgresql":
        names = ("isolation", "read_only", "deferrable", "lock_timeout", "statement_timeout")
        wrong = [each for each in (*names, "resolve_commit") if getattr(options, each)]
    else:
        return
    if wrong:
        raise UsageError(
            f"atomic({wrong[0]}=…): {connection.display_name}, the database of "
            f"{connection.alias!r}, has no such thing here. Leave it out."
        )


def prepare_driver(connection: BaseDatabaseWrapper, options: Options) -> Callable[[], None] | None:
    """Have psycopg 3 begin its next transaction as asked for; return what undoes that.

    None when nothing had to be set, or `set_transaction` does it. Sends nothing, but connects.
    """
    if not (options.isolation or options.read_only) or connection.vendor != "postgresql":
        return None
    driver = psycopg_connection(connection)
    if driver is None:
        return None  # psycopg2, or a pool
    from psycopg import IsolationLevel

    before = driver.isolation_level, driver.read_only, driver.deferrable
    if options.isolation:
        driver.isolation_level = IsolationLevel[options.isolation.name]
    driver.read_only = options.read_only or before[1]
    driver.deferrable = options.deferrable or before[2]

    def restore() -> None:
        if connection.connection is driver and not driver.closed:
            driver.isolation_level, driver.read_only, driver.deferrable = before

    return restore


def set_transaction(connection: BaseDatabaseWrapper, options: Options) -> None:
    """Give a transaction that has just begun its characteristics, unless the driver did."""
    parts = [f"ISOLATION LEVEL {options.isolation}"] if options.isolation else []
    parts += ["READ ONLY"] if options.read_only else []
    parts += ["DEFERRABLE"] if options.deferrable else []
    if not parts or connection.vendor != "postgresql" or psycopg_connection(connection):
        return
    with connection.cursor() as cursor:
        cursor.execute(f"SET TRANSACTION {' '.join(parts)}")


@contextmanager
def read_only_block(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Refuse writes from here to the end of the savepoint, or of SQLite's block.

    PostgreSQL forgets it with the savepoint, released or rolled back; SQLite is told, also when
    Django would refuse the statement since the block is to be rolled back.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        yield
        return
    driver = connection.connection
    (before,) = driver.execute("PRAGMA query_only").fetchone()  # on, within another such block
    driver.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        if not connection.closed_in_transaction:
            driver.execute(f"PRAGMA query_only = {before:d}")
