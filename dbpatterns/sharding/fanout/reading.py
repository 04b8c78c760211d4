"""Reading from many shards at once, in one thread, over the connections that the caller has.

On PostgreSQL each statement is sent in psycopg's pipeline mode, which does not wait for the
answer; then the answers are read one by one, while the other servers work. It sees what the
caller wrote and did not commit, and opens no connection besides. Other databases answer in turn.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Any

from dbpatterns.sharding.fanout.statements import Statement

__all__ = ["read", "stream"]


def read(statements: Sequence[Statement]) -> list[list[Any]]:
    """Return each shard's rows; one round trip for all on PostgreSQL."""
    with ExitStack() as stack:
        for each in statements:
            _pipeline(each, stack)
        cursors = [stack.enter_context(each.send()) for each in statements]
        return [cursor.fetchall() for cursor in cursors]


def stream(statement: Statement, chunk_size: int) -> Generator[list[Any], None, None]:
    """Return one shard's rows in parts of `chunk_size`, which the server keeps until then.

    Close it: its cursor is the server's.
    """
    with statement.send(streamed=True) as cursor:
        while rows := cursor.fetchmany(chunk_size):
            yield rows


def _pipeline(statement: Statement, stack: ExitStack) -> None:
    statement.connection.ensure_connection()
    opened: Any = statement.connection.connection
    if hasattr(opened, "pipeline"):  # psycopg 3
        stack.enter_context(opened.pipeline())
