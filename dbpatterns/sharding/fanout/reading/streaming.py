"""Streaming from many shards at once: a part of each shard's rows in memory, the rest there.

On PostgreSQL a cursor is declared on every shard, and its first part fetched, in one sending; each
further part is a round trip to its shard when its rows have run out. The cursors are closed with
the stream, since the collector would close them in a block that has ended, or amid another query.
"""

from collections.abc import Generator, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count
from typing import Any

from django.db import Error

from dbpatterns.sharding.fanout.reading.connecting import connect
from dbpatterns.sharding.fanout.reading.failures import Failures
from dbpatterns.sharding.fanout.reading.gathering import can_pipeline, gather
from dbpatterns.sharding.fanout.statements import Statement

__all__ = ["streams"]

Rows = list[Any]
Parts = Generator[Rows, None, None]
_numbers = count(1)


@contextmanager
def streams(
    statements: Sequence[Statement],
    chunk_size: int,
    *,
    timeout: float | None = None,
    missing: MutableMapping[str, str] | None = None,
) -> Iterator[tuple[list[Parts], Failures]]:
    """Yield each shard's rows in parts of `chunk_size`; `timeout` and `missing` as `read` has them.

    The deadline is that of each part. A shard that is lost on the way, here or by the reader, who
    gets the failures for that, gives no more rows.
    """
    with Failures(timeout, missing, asked=len(statements)) as failures, ExitStack() as stack:
        connect([each.connection for each in statements], timeout, failures)
        cursors = {
            each.alias: _Cursor(each, chunk_size, failures)
            for each in statements
            if can_pipeline(each.connection)
        }
        ahead = [each for each in statements if each.alias in cursors]
        first = gather(ahead, lambda each: cursors[each.alias].declared(), failures)
        for alias in first:
            stack.callback(cursors[alias].close)
        failures.settle()
        parts = [
            stack.enter_context(
                closing(
                    cursors[each.alias].parts(first.get(each.alias, []))
                    if each.alias in cursors
                    else _in_turn(each, chunk_size, failures)
                )
            )
            for each in statements
        ]
        yield parts, failures


class _Cursor:
    """A server's cursor, where a statement's rows wait; they come at once if settings forbid it."""

    def __init__(self, statement: Statement, size: int, failures: Failures) -> None:
        self._statement, self._size = statement, size
        self._failures = failures
        self._connection = statement.connection
        self._name = f"dbpatterns_{next(_numbers)}"
        self._more = f"FETCH FORWARD {size} FROM {self._name}"
        self._is_forbidden = self._connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")

    @contextmanager
    def declared(self) -> Iterator[Any]:
        """Declare it, and yield what has its first rows."""
        if self._is_forbidden:
            with self._statement.send() as cursor:
                yield cursor
            return
        hold = "" if self._connection.in_atomic_block else " WITH HOLD"
        with self._connection.cursor() as cursor, self._connection.cursor() as rows:
            cursor.execute(
                f"DECLARE {self._name} NO SCROLL CURSOR{hold} FOR {self._statement.sql}",
                self._statement.params,
            )
            rows.cursor.execute(self._more)  # the driver's, for it is part of the same question
            yield rows

    def parts(self, rows: Rows) -> Parts:
        """Return these rows, and those after them."""
        while rows:
            yield rows
            if self._is_forbidden or len(rows) < self._size:
                return
            if self._statement.alias in self._failures:
                return
            rows = self._fetched()
            self._failures.settle()

    def close(self) -> None:
        """Free what the server keeps, unless the transaction that had it has ended."""
        connection = self._connection
        if self._is_forbidden or connection.connection is None:
            return
        with (
            suppress(Error),
            self._failures.of(connection),
            self._failures.watch.over(connection),
            connection.wrap_database_errors,
            connection.cursor() as opened,
        ):
            cursor = opened.cursor
            if connection.in_atomic_block:  # which an error would end
                cursor.execute("SELECT 1 FROM pg_cursors WHERE name = %s", [self._name])
                if cursor.fetchone() is None:
                    return
            cursor.execute(f"CLOSE {self._name}")

    def _fetched(self) -> Rows:
        connection = self._connection
        rows: Rows = []
        with (
            self._failures.of(connection),
            self._failures.watch.over(connection),
            connection.wrap_database_errors,
            connection.cursor() as opened,
        ):
            opened.cursor.execute(self._more)
            rows = opened.cursor.fetchall()
        return rows


def _in_turn(statement: Statement, size: int, failures: Failures) -> Parts:
    with ExitStack() as stack:
        cursor: Any = None
        while statement.alias not in failures:
            rows: Rows = []
            with failures.of(statement.connection), failures.watch.over(statement.connection):
                if cursor is None:
                    cursor = stack.enter_context(statement.send(streamed=True))
                rows = cursor.fetchmany(size)
            failures.settle()
            if not rows:
                return
            yield rows
