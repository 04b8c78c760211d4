"""What several tests need: threads with connections of their own, and waiting for a lock."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import connection, connections

from tests.processes import PATIENCE_SECONDS, until

__all__ = [
    "PATIENCE_SECONDS",
    "Threads",
    "fetch",
    "options",
    "threads",
    "until",
    "waiting_sessions",
]
R = TypeVar("R")


class Threads:
    """Runs functions in threads that close their connections."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def start(self, function: Callable[..., R], *args: Any) -> "Future[R]":
        def run() -> R:
            try:
                return function(*args)
            finally:
                connections.close_all()

        return self._pool.submit(run)

    def together(self, *functions: Callable[[], R]) -> list[R]:
        started = [self.start(each) for each in functions]
        return [each.result(timeout=PATIENCE_SECONDS) for each in started]


@contextmanager
def threads(number: int = 16) -> Iterator[Threads]:
    with ThreadPoolExecutor(number) as pool:
        yield Threads(pool)


@contextmanager
def options(**options: Any) -> Iterator[None]:
    """Connect with more OPTIONS for a block."""
    connection.close()
    before = connection.settings_dict["OPTIONS"]
    connection.settings_dict["OPTIONS"] = {**before, **options}
    try:
        yield
    finally:
        connection.close()
        getattr(connection, "close_pool", lambda: None)()
        connection.settings_dict["OPTIONS"] = before


def waiting_sessions() -> int:
    """Count the sessions of this database that wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        return int(cursor.fetchone()[0])


def fetch(sql: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()[0]
