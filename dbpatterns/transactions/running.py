"""What is known of the transaction that runs on a connection, for the blocks nested in it."""

import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.transactions._compat import savepoints_made
from dbpatterns.transactions.conf import TransactionsSettings
from dbpatterns.transactions.errors import IsolationLevelError, SubtransactionOverflow
from dbpatterns.transactions.options import Isolation, Options

__all__ = ["KEPT_IN_MEMORY", "Running", "default_isolation", "require_compatible", "running_on"]
__all__ += ["savepoints_made"]

logger = logging.getLogger("dbpatterns.transactions")

KEPT_IN_MEMORY = 64
"""Subtransactions of a session that PostgreSQL keeps in shared memory. With one more, every other
session looks them up on disk for each row changed lately, as long as this one stays open."""

_WHY = (
    f"PostgreSQL keeps {KEPT_IN_MEMORY} of a session in memory, and with more every other session "
    "gets slower until this transaction ends. Commit in smaller batches, or write sets of rows by "
    "one statement."
)

_RUNNING: "WeakKeyDictionary[BaseDatabaseWrapper, Running]" = WeakKeyDictionary()


@dataclass(slots=True)
class Running:
    """A transaction that our `atomic` began, from its BEGIN to its end."""

    connection: BaseDatabaseWrapper
    isolation: Isolation
    read_only: bool
    deferrable: bool
    label: str
    savepoints_before: int = 0
    has_warned: bool = False

    def begin(self) -> None:
        """Become what runs on the connection."""
        _RUNNING[self.connection] = self
        self.savepoints_before = savepoints_made(self.connection)

    def end(self) -> None:
        """Be over; twice is no error."""
        if _RUNNING.get(self.connection) is self:
            del _RUNNING[self.connection]

    @property
    def savepoints(self) -> int:
        """Savepoints made so far, by whoever; those rolled back count too."""
        return savepoints_made(self.connection) - self.savepoints_before

    def make_savepoint(self) -> None:
        """Count the one about to be made.

        Raises: SubtransactionOverflow: in strict mode, before any SQL.
        """
        savepoints = self.savepoints + 1
        is_postgresql = self.connection.vendor == "postgresql"
        is_strict = is_postgresql and TransactionsSettings.load().strict_savepoints
        if is_strict and savepoints > KEPT_IN_MEMORY:
            raise SubtransactionOverflow(
                f"{self} would make its {savepoints}th savepoint: {_WHY}", savepoints=savepoints
            )
        self.warn_of(savepoints)

    def warn_of(self, savepoints: int) -> None:
        """Log once that there are many, Django's own included."""
        if self.has_warned or self.connection.vendor != "postgresql":
            return
        if savepoints >= TransactionsSettings.load().warn_savepoints:
            self.has_warned = True
            logger.warning(
                "%s has made %d savepoints: %s",
                self,
                savepoints,
                _WHY,
                extra={"label": self.label, "savepoints": savepoints},
            )

    def __str__(self) -> str:
        return f"Transaction {self.label!r} on {self.connection.alias!r}"


def running_on(connection: BaseDatabaseWrapper) -> Running | None:
    """Return the transaction that our `atomic` began on a connection; None without one."""
    return _RUNNING.get(connection)


def default_isolation(connection: BaseDatabaseWrapper) -> Isolation:
    """Return the level of a transaction that asks for none, as DATABASES has it; no SQL.

    A default that the server, the database or the role has is not known here and not less than
    READ COMMITTED, which is taken for it.
    """
    if connection.vendor == "sqlite":
        return Isolation.SERIALIZABLE
    level = connection.settings_dict["OPTIONS"].get("isolation_level")
    if level is not None and connection.vendor == "postgresql":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        level = IsolationLevel(level)  # may be given as its number
    return Isolation.__members__.get(getattr(level, "name", ""), Isolation.READ_COMMITTED)


def require_compatible(connection: BaseDatabaseWrapper, options: Options) -> None:
    """Refuse a nested block that needs what only the outermost can begin with; no SQL.

    Raises: IsolationLevelError: the caller's transaction stays usable.
    """
    running = running_on(connection)
    current = running.isolation if running else default_isolation(connection)
    asked = options.isolation or current
    is_deferrable = bool(running and running.deferrable)
    if asked.strictness <= current.strictness and is_deferrable >= options.deferrable:
        return
    whose = f"{running.label!r}, which" if running and running.label else "one that"
    wanted = f"{asked}{', DEFERRABLE' if options.deferrable else ''}"
    raise IsolationLevelError(
        f"atomic(isolation={asked.name}) was entered within a transaction on "
        f"{connection.alias!r}, {whose} runs at {current}: a level is chosen at BEGIN, so "
        f"{wanted} cannot be had here. Ask for it in the outermost block.",
        asked=wanted,
        current=str(current),
    )
