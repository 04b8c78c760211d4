"""Opening connections to many shards at once, within a deadline.

A driver connects for as long as it likes. So, where there is a deadline, each connection that is
not open yet is opened in a thread of its own, and handed back to the caller's; one that is late is
left behind and gives its connection back. A shard has one such thread at a time: until it ends,
the shard is as unavailable as it was.
"""

from collections.abc import Sequence
from contextlib import suppress
from threading import Lock, Thread
from time import monotonic
from typing import Any

from django.db import Error, connections

from dbpatterns.sharding.fanout.reading.failures import Failures

__all__ = ["connect"]

_left_behind: dict[str, Thread] = {}


def connect(opening: Sequence[Any], seconds: float | None, failures: Failures) -> None:
    """Open the connections that are not, or whose health is to be checked."""
    cold = [each for each in opening if _is_cold(each) and each.alias not in failures]
    if seconds is None or all(each.vendor == "sqlite" for each in cold):
        for each in cold:
            with failures.of(each):
                _open(each)
        return
    started, deadline = [], monotonic() + seconds
    for each in cold:
        before = _left_behind.get(each.alias)
        if before is not None and before.is_alive():
            failures.add(each, "an earlier connection is still waited for", TimeoutError())
        else:
            started.append(_Opening(each))
    for attempt in started:
        attempt.join(max(0.0, deadline - monotonic()))
        if attempt.is_given_up():
            failures.add(attempt.connection, f"no connection within {seconds:g} s", TimeoutError())
            _left_behind[attempt.connection.alias] = attempt
            del connections[attempt.connection.alias]  # the next to ask gets another
            continue
        with failures.of(attempt.connection):
            if attempt.error is not None:
                raise attempt.error


class _Opening(Thread):
    """The opening of one connection of another thread's."""

    def __init__(self, connection: Any) -> None:
        super().__init__(name=f"connect to {connection.alias}", daemon=True)
        self.connection = connection
        self.error: Error | None = None
        self._claim = Lock()
        connection.inc_thread_sharing()
        self.start()

    def run(self) -> None:
        try:
            _open(self.connection)
        except Error as error:
            self.error = error
        if not self._claim.acquire(blocking=False):
            with suppress(Error):
                self.connection.close()

    def is_given_up(self) -> bool:
        """Tell whether it has not ended yet, and leave it behind; else take it back."""
        if self._claim.acquire(blocking=False):
            return True
        self.connection.dec_thread_sharing()
        return False


def _is_cold(connection: Any) -> bool:
    return connection.connection is None or (
        connection.health_check_enabled and not connection.health_check_done
    )


def _open(connection: Any) -> None:
    connection.close_if_health_check_failed()
    connection.ensure_connection()
