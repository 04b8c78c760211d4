"""Reading from many shards at once, in one thread, over the connections that the caller has.

On PostgreSQL each statement is sent in psycopg's pipeline mode, which does not wait for the
answer; then the answers are read as they come, while the other servers work. It sees what the
caller wrote and did not commit, and opens no connection besides. Other databases answer in turn.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import Any

from django.db import Error

from dbpatterns.sharding.fanout.reading.connecting import connect
from dbpatterns.sharding.fanout.reading.failures import Failures
from dbpatterns.sharding.fanout.reading.watching import Watch
from dbpatterns.sharding.fanout.statements import Statement

__all__ = ["can_pipeline", "gather", "read"]

LIMIT = (
    "SELECT set_config('dbpatterns.statement_timeout', current_setting('statement_timeout'), true),"
    " set_config('statement_timeout', '{}', true)"
)
"""Tells a server the deadline, so that it works no longer for nobody.

For its transaction, which outside of one is the pipeline; the caller's own gets back what it had.
"""
NO_LIMIT = (
    "SELECT set_config('statement_timeout', current_setting('dbpatterns.statement_timeout'), true)"
)
Ask = Callable[[Statement], AbstractContextManager[Any]]
"""Sends a statement; the cursor that it yields has the answer."""


def read(
    statements: Sequence[Statement],
    *,
    timeout: float | None = None,
    missing: MutableMapping[str, str] | None = None,
) -> list[list[Any]]:
    """Return each shard's rows; the time of the slowest shard on PostgreSQL.

    Args:
        timeout: seconds that a shard may take to connect, then to begin its answer, which all
            do at the same time, then to hand it over.
        missing: takes the shards that do not answer, and why; their rows are then none.
    Raises: ShardUnavailable: without `missing`, naming all of them.
    """
    with Failures(timeout, missing, asked=len(statements)) as failures:
        answers = gather(statements, Statement.send, failures)
        failures.settle()
    return [answers.get(each.alias, []) for each in statements]


def gather(statements: Sequence[Statement], ask: Ask, failures: Failures) -> dict[str, list[Any]]:
    """Return the rows of each shard that answers: ask all that can be asked at once, then read."""
    watch = failures.watch
    connect([each.connection for each in statements], watch.seconds, failures)
    left = [each for each in statements if each.alias not in failures]
    sent: dict[str, tuple[ExitStack, Any]] = {}
    answers: dict[str, list[Any]] = {}

    def send(each: Statement) -> None:
        stack = ExitStack()
        sent[each.alias] = stack, stack.enter_context(_sent(each, ask, watch.seconds))

    try:
        for each in left:
            if can_pipeline(each.connection):
                with failures.of(each.connection), watch.over(each.connection):
                    send(each)
        for each in _as_they_answer([each for each in left if each.alias not in failures], watch):
            with failures.of(each.connection), watch.over(each.connection):
                if each.alias not in sent:
                    send(each)
                stack, cursor = sent[each.alias]
                with each.connection.wrap_database_errors, stack:
                    rows = cursor.fetchall()
                answers[each.alias] = rows
    finally:
        for each in left:  # those that an error of another has left unread
            if each.alias in sent:
                with suppress(Error), watch.over(each.connection):
                    sent[each.alias][0].close()
    return answers


def _as_they_answer(asked: list[Statement], watch: Watch) -> Iterator[Statement]:
    """Yield those that have to be asked in turn, and the others when there is something to read.

    Those that have said nothing by the deadline come last, cut off.
    """
    with DefaultSelector() as selector:
        for each in asked:
            if can_pipeline(each.connection):
                selector.register(each.connection.connection, EVENT_READ, each)
            else:
                yield each
        deadline = None if watch.seconds is None else monotonic() + watch.seconds
        while selector.get_map():
            ready = selector.select(None if deadline is None else max(0.0, deadline - monotonic()))
            for key, _ in ready:
                selector.unregister(key.fileobj)
                yield key.data
            if not ready:
                for key in list(selector.get_map().values()):
                    watch.cut(key.data.connection)
                    selector.unregister(key.fileobj)
                    yield key.data


def can_pipeline(connection: Any) -> bool:
    """Tell whether a connection can be sent a statement without waiting for its answer."""
    return hasattr(connection.Database, "Pipeline")  # psycopg 3


@contextmanager
def _sent(statement: Statement, ask: Ask, seconds: float | None) -> Iterator[Any]:
    connection = statement.connection
    if not can_pipeline(connection):
        with ask(statement) as cursor:
            yield cursor
        return
    opened = connection.connection
    with connection.wrap_database_errors, opened.pipeline():
        if seconds is not None:
            opened.execute(LIMIT.format(max(1, round(seconds * 1000))))
        with ask(statement) as cursor:
            if seconds is not None and connection.in_atomic_block:
                opened.execute(NO_LIMIT)
            opened.pgconn.send_flush_request()  # else the server keeps what it has
            opened.pgconn.flush()
            yield cursor
