"""Shards that do not answer: told from errors in the question, named all together.

A server that is gone, full, or was too slow is unavailable. Whatever else goes wrong on a shard is
the caller's to see, as Django raises it, with the shard's name in a note.
"""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Self

from django.db import DatabaseError, Error, InterfaceError

from dbpatterns.sharding.errors import ShardUnavailable, said_by
from dbpatterns.sharding.fanout.reading.watching import Watch
from dbpatterns.transactions import in_transaction
from dbpatterns.transactions.sqlstates import is_connection_loss, sqlstate_of

__all__ = ["Failures"]

CLASSES = ("53", "57", "58")
"""Of SQLSTATEs: resources, an operator's intervention or a timeout, the system."""
CANCELLED = "57014"
"""By the server, which was told the deadline too, so that either may be the first."""
SQLITE = ("SQLITE_INTERRUPT", "SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_FULL")


class Failures:
    """The shards that did not answer one fan-out in time; `missing` takes them, else they raise.

    They raise too where a shard has a transaction of the caller's, which is lost with it, and
    where no shard has answered.
    """

    def __init__(
        self, timeout: float | None, missing: MutableMapping[str, str] | None, *, asked: int
    ) -> None:
        self.watch, self._missing, self._asked = Watch(timeout), missing, asked
        self._causes: dict[str, tuple[str, BaseException]] = {}
        self._lost_transaction = False

    def __enter__(self) -> Self:
        self.watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.__exit__()

    def __contains__(self, alias: str) -> bool:
        return alias in self._causes

    @contextmanager
    def of(self, connection: Any) -> Iterator[None]:
        """Catch what makes a shard unavailable; its connection is then closed if it is of no use.

        Raises: whatever else goes wrong there.
        """
        try:
            yield
        except Error as error:
            why = self._why(connection.alias, error)
            if why is None:
                error.add_note(f"On shard {connection.alias!r}.")
                raise
            self.add(connection, why, error)

    def add(self, connection: Any, why: str, error: BaseException) -> None:
        """Count a shard as unavailable; the first reason stays."""
        alias = connection.alias
        self._causes.setdefault(alias, (why, error))
        self._lost_transaction |= in_transaction(alias)
        if (
            connection.vendor == "postgresql"
            and connection.connection is not None
            and (alias in self.watch.late or connection.connection.closed)
        ):
            with suppress(DatabaseError):
                connection.close()

    def settle(self) -> None:
        """Raise what there is to raise, or name the shards among the missing.

        Raises: ShardUnavailable.
        """
        if not self._causes:
            return
        whys = {alias: why for alias, (why, _) in self._causes.items()}
        if self._missing is not None and len(whys) < self._asked and not self._lost_transaction:
            self._missing.update(whys)
            return
        causes = [cause for _, cause in self._causes.values()]
        raise ShardUnavailable.of(whys) from (
            causes[0] if len(causes) == 1 else BaseExceptionGroup("what each shard said", causes)
        )

    def _why(self, alias: str, error: Error) -> str | None:
        state = sqlstate_of(error) or ""
        if alias in self.watch.late or (state == CANCELLED and self.watch.seconds is not None):
            return f"no answer within {self.watch.seconds:g} s"
        if (
            is_connection_loss(state)
            or state.startswith((*CLASSES, *SQLITE))
            or isinstance(error, InterfaceError)
        ):
            return said_by(error)
        return None
