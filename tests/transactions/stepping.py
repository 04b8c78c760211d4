"""Transactions that take one step at a time, each in a thread of its own, as a test says."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from django.db import connection

from dbpatterns.transactions import Isolation, atomic
from dbpatterns.transactions.sqlstates import sqlstate_of
from tests.transactions.support import PATIENCE_SECONDS, Threads, until, waiting_sessions


class Abort(Exception):
    pass


class Stepped:
    """One transaction; it ends with `commit` or `abort`, or with its first error."""

    def __init__(self, pool: Threads, isolation: Isolation) -> None:
        self._steps: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._end = pool.start(self._run, isolation)

    def _run(self, isolation: Isolation) -> None:
        with atomic(isolation=isolation):
            while (step := self._steps.get()) is not None:
                function, future = step
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)
                    raise

    def start(self, sql: str, *params: object) -> "Future[Any]":
        """Send a statement, and do not wait for its rows."""

        def execute() -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute(sql, params)
                return [row[0] for row in cursor.fetchall()] if cursor.description else []

        future: Future[Any] = Future()
        self._steps.put((execute, future))
        return future

    def do(self, sql: str, *params: object) -> Any:
        """Send a statement and return its first column."""
        return self.start(sql, *params).result(PATIENCE_SECONDS)

    def blocked(self, sql: str, *params: object) -> "Future[Any]":
        """Send a statement that must wait for another transaction, and see it wait."""
        future = self.start(sql, *params)
        until(waiting_sessions)
        return future

    def read(self, pk: int) -> int:
        return int(self.do("SELECT balance FROM testapp_purse WHERE id = %s", pk)[0])

    def write(self, pk: int, value: int) -> None:
        self.do("UPDATE testapp_purse SET balance = %s WHERE id = %s", value, pk)

    def write_blocked(self, pk: int, value: int) -> "Future[Any]":
        return self.blocked("UPDATE testapp_purse SET balance = %s WHERE id = %s", value, pk)

    def thirds(self) -> list[int]:
        """Read by a condition: the values that can be divided by three."""
        return sorted(self.do("SELECT balance FROM testapp_purse WHERE balance %% 3 = 0"))

    def insert(self, pk: int, value: int) -> None:
        self.do("INSERT INTO testapp_purse (id, balance) VALUES (%s, %s)", pk, value)

    def commit(self) -> str:
        """End the transaction; return "" when it has committed, else the SQLSTATE."""
        self._steps.put(None)
        error = self._end.exception(PATIENCE_SECONDS)
        return (sqlstate_of(error) or repr(error)) if error else ""

    def abort(self) -> None:
        def fail() -> None:
            raise Abort

        self._steps.put((fail, Future()))
        assert isinstance(self._end.exception(PATIENCE_SECONDS), Abort)
