"""What can go wrong with a transaction, each with its facts as attributes.

A `UsageError` is a mistake in the calling code, raised before any SQL is sent. The others are what
the world does, and are each an `OperationalError` too, which a generic handler catches.
"""

from collections.abc import Sequence

from django.db import OperationalError

from dbpatterns.errors import DBPatternsError, UsageError

__all__ = [
    "CommitOutcomeUnknown",
    "IsolationLevelError",
    "LockLost",
    "LockTimeout",
    "NestedTransactionError",
    "RetryExhausted",
    "SubtransactionOverflow",
    "TransactionError",
    "TransactionRequiredError",
]


class TransactionError(DBPatternsError):
    """Any error of this package."""


class NestedTransactionError(TransactionError, UsageError):
    """Code that must be the outermost transaction was called within another."""


class TransactionRequiredError(TransactionError, UsageError):
    """Code that needs a transaction was called outside any."""


class IsolationLevelError(TransactionError, UsageError):
    """A nested block asks for more than the running transaction gives; `asked` and `current`."""

    def __init__(self, message: str, *, asked: str, current: str) -> None:
        super().__init__(message)
        self.asked = asked
        self.current = current


class SubtransactionOverflow(TransactionError, UsageError):
    """A transaction would make more savepoints than PostgreSQL keeps in memory."""

    def __init__(self, message: str, *, savepoints: int) -> None:
        super().__init__(message)
        self.savepoints = savepoints


class RetryExhausted(TransactionError, OperationalError):
    """Every attempt failed with an error worth another; nothing was written."""

    def __init__(
        self, message: str, *, attempts: int, sqlstates: Sequence[str], elapsed_seconds: float
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.sqlstates = tuple(sqlstates)
        self.elapsed_seconds = elapsed_seconds


class CommitOutcomeUnknown(TransactionError, OperationalError):
    """The connection was lost while COMMIT was under way: all was written, or nothing."""

    def __init__(self, message: str, *, database: str, label: str, xid: str | None) -> None:
        super().__init__(message)
        self.database = database
        self.label = label
        self.xid = xid
        """For `pg_xact_status`; None unless `resolve_commit` was asked for."""


class LockTimeout(TransactionError, OperationalError):
    """A lock was not to be had in the time given; None waited for, nothing changed."""

    sqlstate = "55P03"
    """The server's for it, also where it only answered that the lock is held."""

    def __init__(
        self, message: str, *, model: str, keys: Sequence[object], timeout: float | None
    ) -> None:
        super().__init__(message)
        self.model = model
        """The model's label; empty for an advisory lock."""
        self.keys = tuple(keys)
        self.timeout = timeout
        """Seconds; None when it was not to wait at all."""


class LockLost(TransactionError, OperationalError):
    """An advisory lock ended before its block did, with the connection that held it."""

    def __init__(self, message: str, *, keys: Sequence[object]) -> None:
        super().__init__(message)
        self.keys = tuple(keys)
