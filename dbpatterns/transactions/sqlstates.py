"""SQLSTATEs: what the server says an error is, and what that means for another attempt.

SQLite has names instead, `SQLITE_BUSY` for one; they are used the same way.
"""

from collections.abc import Iterator

__all__ = ["HOPELESS", "RETRYABLE", "causes", "is_connection_loss", "sqlstate_of"]

RETRYABLE = frozenset({"40001", "40P01", "SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT"})
"""Serialization failure and deadlock: the server undid this one so that another could go on."""
HOPELESS = {
    "57014": "the statement was cancelled, or ran into its timeout",
    "25P02": "an earlier error has already ended the transaction",
    "25P03": "the transaction was idle for too long",
    "25P04": "the transaction took too long",
    "40002": "a constraint was violated at COMMIT",
    "40003": "nobody knows whether the statement was done",
}
"""What must not be retried, and why."""
_SHUTDOWNS = {"57P01", "57P02", "57P03"}
_NO_ANSWER = "08006"


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of the first driver error in the chain of causes; None without one.

    Only causes (`raise … from`) count: an error raised while another was handled is its own.
    A driver that lost the server has no SQLSTATE to tell; that is 08006, connection failure.
    """
    for each in causes(error):
        for name in ("sqlstate", "pgcode"):  # psycopg 3, psycopg2
            if hasattr(each, name):
                state: str | None = getattr(each, name)
                return state or (_NO_ANSWER if _is_operational(each) else None)
        if hasattr(each, "sqlite_errorname"):
            name = each.sqlite_errorname
            return str(name)
    return None


def is_connection_loss(sqlstate: str | None) -> bool:
    """Tell whether the server cannot say any more what became of the transaction."""
    return sqlstate is not None and (sqlstate.startswith("08") or sqlstate in _SHUTDOWNS)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, that one's, and so on."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        yield each
        seen.add(id(each))
        each = each.__cause__


def _is_operational(error: BaseException) -> bool:
    return any(base.__name__ == "OperationalError" for base in type(error).__mro__)
