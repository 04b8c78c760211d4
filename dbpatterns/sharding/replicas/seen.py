"""What a piece of work has seen of each shard: how far a replica must be to go on with it.

Each statement on a primary counts, whatever it does: who has read a row there must not find it
gone on a replica. Where the primary is gets asked when it is first needed, by the next read that
a replica may answer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import connections

from dbpatterns.sharding.replicas.positions import position_of

__all__ = ["EVERYTHING", "Seen", "begin", "is_open", "seen"]

EVERYTHING = (1 << 63) - 1
"""A position that no replica has: of a primary that was written and cannot say where it is."""


class Seen:
    """What one piece of work has seen, with the threads and tasks that it starts."""

    def __init__(self, least: Mapping[str, int] | None = None) -> None:
        self.chosen: dict[str, str] = {}
        """The replica that answers, by primary: another might be behind it."""
        self._least = dict(least or {})
        self._used: set[str] = set()
        """Since the position was asked."""
        self._noted: set[str] = set()
        self._written: set[str] = set()
        self._open: dict[str, set[Any]] = {}

    def note(self, connection: Any, *, is_write: bool) -> None:
        """Note that a statement was sent to a primary."""
        alias = connection.alias
        self._noted.add(alias)
        if is_write:
            self._written.add(alias)
        if is_open(connection):
            self._open.setdefault(alias, set()).add(connection)
        else:
            self._used.add(alias)

    def turn_from(self, primary: str) -> None:
        """Give up the replica that has answered: what it showed, the next one must have."""
        if self.chosen.pop(primary, None) is not None:
            self._used.add(primary)

    def position(self, primary: str) -> int:
        """Return where a replica must be; a statement on the primary if it was used."""
        # Before the question: what is sent meanwhile is noted anew. What is open commits later.
        for each in list(self._open.get(primary, ())):
            if not is_open(each):
                self._open[primary].discard(each)
                self._used.add(primary)
        if primary in self._used:
            self._used.discard(primary)
            found = position_of(primary)
            if found is None:
                self._used.add(primary)
                return EVERYTHING
            self._least[primary] = max(found, self._least.get(primary, 0))
        return self._least.get(primary, 0)

    def written(self, *, counts_reads: bool) -> dict[str, int]:
        """Return the positions to carry on with, if this work wrote; a statement on each primary.

        A SELECT may call a function that writes: with `counts_reads` any statement is a write.
        """
        wrote = set(self._noted if counts_reads else self._written)
        if not wrote:
            return {}
        return {**self._least, **{primary: self.position(primary) for primary in wrote}}


_seen: ContextVar[Seen | None] = ContextVar("dbpatterns_replicas_seen", default=None)


def seen() -> Seen:
    """Return what the work that runs here has seen; without a `begin`, as long as its context."""
    found = _seen.get()
    if found is None:
        found = Seen()
        _seen.set(found)
    return found


@contextmanager
def begin(work: Seen) -> Iterator[None]:
    """Let a piece of work of its own run in a block."""
    token = _seen.set(work)
    try:
        yield
    finally:
        _seen.reset(token)


def is_open(connection: Any) -> bool:
    """Tell whether a connection is within a transaction, also while that commits."""
    return connection.connection is not None and not connection.autocommit


def open_replica(replicas: tuple[str, ...]) -> str | None:
    """Return a replica on which this thread has opened a transaction; no query."""
    for alias in replicas:
        if is_open(connections[alias]):
            return alias
    return None
