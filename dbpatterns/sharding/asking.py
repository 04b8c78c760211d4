"""Work on one shard within a deadline, and on several at once: a dead one holds up no other.

Each shard is asked by a thread of its own, whose connections are its own too: Django keeps one
for each thread and alias, and they are closed when the work ends. A thread that waits for a dead
server cannot be stopped, so it is left behind, and does nothing if it gets its connection late.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from django.db import connections

from dbpatterns.sharding.errors import ShardUnavailable, said_by

__all__ = ["ask", "ask_each"]

T = TypeVar("T")


def ask(
    shard: str, work: Callable[[], T], *, connect_seconds: float, work_seconds: float | None = None
) -> T:
    """Return what `work` returns, in a thread that has connected to the shard.

    Two deadlines: to connect, and, where one is given, for the work after it.

    Raises: ShardUnavailable: a deadline has passed, or the server refused. What `work` raises.
    """
    found: Future[T] = Future()
    connected, claim = threading.Event(), threading.Lock()

    def run() -> None:
        try:
            answer = connect_and_work()
        except BaseException as error:
            connections.close_all()
            found.set_exception(error)
        else:
            connections.close_all()
            found.set_result(answer)

    def connect_and_work() -> T:
        try:
            connections[shard].ensure_connection()
        except Exception as error:
            raise ShardUnavailable(shard, why=said_by(error)) from error
        finally:
            is_ours = claim.acquire(blocking=False)
            connected.set()
        if not is_ours:
            raise ShardUnavailable(shard, why="it was given up")
        return work()

    threading.Thread(target=run, name=f"ask {shard}", daemon=True).start()
    if not connected.wait(connect_seconds) and claim.acquire(blocking=False):
        raise ShardUnavailable(shard, why=f"no connection within {connect_seconds:g} s")
    try:
        return found.result(work_seconds)
    except TimeoutError:
        if found.done():
            raise  # the work's own
        raise ShardUnavailable(shard, why=f"no answer within {work_seconds:g} s") from None


def ask_each(
    shards: Iterable[str], question: Callable[[str], T], *, parallel: int
) -> Iterator[tuple[str, T]]:
    """Yield each shard and its answer as they come, `parallel` shards at a time.

    `question` is to turn errors into answers: one that it raises ends all.
    """
    with ThreadPoolExecutor(parallel) as pool:
        asked = {pool.submit(question, shard): shard for shard in shards}
        for answer in as_completed(asked):
            yield asked[answer], answer.result()
