"""Timeouts of a block: how long its statements may run, and wait for a lock.

PostgreSQL gets them as settings of the transaction, in one statement. SQLite only waits before
its transaction begins, so only the outermost block's `lock_timeout` matters there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["local_timeouts", "set_busy_timeout"]


@contextmanager
def local_timeouts(
    connection: BaseDatabaseWrapper,
    *,
    lock: float | None,
    statement: float | None = None,
    restore: bool,
) -> Iterator[None]:
    """Set the timeouts of the running transaction for a block, in seconds; None is left alone.

    One statement, and with `restore` one more at the end: releasing a savepoint would keep them.
    An error that leaves the block undoes them with its savepoint.
    """
    wanted = {"lock_timeout": lock, "statement_timeout": statement}
    settings = {name: _ms(value) for name, value in wanted.items() if value is not None}
    if not settings or connection.vendor != "postgresql":
        yield
        return
    reads = ", ".join(f"current_setting('{name}')" for name in settings)
    sets = ", ".join(f"set_config('{name}', %s, true)" for name in settings)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {reads}, {sets}", [*settings.values()])
        before = cursor.fetchone()[: len(settings)]
    yield
    if restore and not connection.needs_rollback:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {sets}", before)


def set_busy_timeout(connection: BaseDatabaseWrapper, seconds: float) -> Callable[[], None]:
    """Set how long SQLite's BEGIN waits for the writer before; return what undoes that."""
    with connection.cursor() as cursor:
        (before,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        cursor.execute(f"PRAGMA busy_timeout = {round(seconds * 1000):d}")

    def restore() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {before:d}")

    return restore


def _ms(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
