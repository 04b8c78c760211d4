"""A deadline for each shard, kept beside the one thread that waits for them all.

Who waits for a driver cannot say for how long. So a timer cuts the connection of a shard that is
late, and the wait ends with an error: PostgreSQL's socket is shut down, which needs nothing of the
server; SQLite's statement is interrupted.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Thread
from time import monotonic
from typing import Any, Self

from django.db import InterfaceError

__all__ = ["Watch"]

AGAIN_SECONDS = 0.02
"""An interrupt that came between two steps of a statement met nothing, and is repeated."""


class Watch:
    """The deadlines of one fan-out; one timer's thread for all, none without `seconds`."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.late: set[str] = set()
        self._due: dict[Any, float] = {}
        self._changed = Condition()
        self._is_over = False
        self._timer: Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()

    @contextmanager
    def over(self, connection: Any) -> Iterator[None]:
        """Cut the connection if the block is not done in time; its alias is then in `late`.

        Raises: InterfaceError: the block has not noticed that.
        """
        if self.seconds is None:
            yield
            return
        with self._changed:
            self._due[connection] = monotonic() + self.seconds
            if self._timer is None:
                self._timer = Thread(
                    target=self._cut_the_late, name="fan-out deadline", daemon=True
                )
                self._timer.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._due[connection]
        if connection.alias in self.late:
            raise InterfaceError("its connection was cut")

    def cut(self, connection: Any) -> None:
        """End all waiting for a connection."""
        self.late.add(connection.alias)
        opened = connection.connection
        if opened is None:
            return
        if connection.vendor == "sqlite":
            opened.interrupt()
            return
        with suppress(OSError), socket.socket(fileno=os.dup(opened.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)

    def _cut_the_late(self) -> None:
        with self._changed:
            while not self._is_over:
                now = monotonic()
                waits = [due - now for due in self._due.values() if due > now]
                for connection, due in self._due.items():
                    if due <= now:
                        self.cut(connection)
                        waits.append(AGAIN_SECONDS)
                self._changed.wait(min(waits, default=None))
