"""Advisory locks: names that one holder has at a time, on PostgreSQL.

    with advisory_lock("import", supplier.pk):      # around transactions, to the block's end
        ...

    with atomic():
        advisory_xact_lock("invoice number", year)  # within one, to its end
        ...

Both take the same locks and so keep each other out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any
from uuid import UUID

from django.db import DatabaseError, NotSupportedError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import connection_of, driver_error, is_in_transaction
from dbpatterns.transactions.errors import LockLost, LockTimeout, NestedTransactionError
from dbpatterns.transactions.guards import require_transaction
from dbpatterns.transactions.locks import LOCK_NOT_AVAILABLE, require_lock_at_begin
from dbpatterns.transactions.options import check_seconds
from dbpatterns.transactions.sqlstates import sqlstate_of
from dbpatterns.transactions.timeouts import local_timeouts

__all__ = ["KeyPart", "advisory_key", "advisory_lock", "advisory_xact_lock"]

KeyPart = str | int | bytes | UUID
_NAMESPACE = b"dbpatterns"


def advisory_key(*parts: KeyPart) -> int:
    """Return the 64-bit number that PostgreSQL knows a key by.

    Each part goes in with its type and length, so ("a", "bc") is not ("ab", "c"), nor 1 "1".
    Different keys share a number with a chance of 1 in 2**64, and would then only wait.
    Raises: UsageError: no part, or one that is not a str, int, bytes or UUID.
    """
    if not parts:
        raise UsageError("An advisory lock needs a key: one or more of str, int, bytes, UUID.")
    digest = blake2b(digest_size=8, person=_NAMESPACE)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, KeyPart):
            raise UsageError(
                f"An advisory lock's key has {part!r}: use str, int, bytes or UUID, which mean the "
                "same in every process. For a row use its table's name and its primary key."
            )
        value = part if isinstance(part, bytes) else str(part).encode()
        kind = next(kind for kind in (str, int, bytes, UUID) if isinstance(part, kind))
        digest.update(f"{kind.__name__}:{len(value)}:".encode() + value)
    return int.from_bytes(digest.digest(), "big", signed=True)


@contextmanager
def advisory_lock(
    *key: KeyPart, shared: bool = False, wait: bool | float = True, using: str | None = None
) -> Iterator[None]:
    """Hold a lock of the session for a block, over as many transactions as it has.

    Four statements with BEGIN and COMMIT, and one to let go. A pooler in transaction mode gives
    each transaction another session, where this cannot work.

    Args:
        shared: with others who share, and without those who do not.
        wait: as long as it takes, not at all (False), or for so many seconds.
    Raises: LockTimeout: not to be had. LockLost: the connection was lost in the block, and the
        lock with it. NestedTransactionError: within a transaction, whose work would show only
        after the lock has gone; use `advisory_xact_lock`. NotSupportedError: not PostgreSQL.
    """
    connection = connection_of(using)
    number = advisory_key(*key)
    if connection.vendor != "postgresql":
        raise NotSupportedError(
            f"advisory_lock(): {connection.display_name}, the database of {connection.alias!r}, "
            "has none. advisory_xact_lock() works there, by the transaction's own lock."
        )
    if is_in_transaction(connection):
        raise NestedTransactionError(
            f"advisory_lock({', '.join(map(repr, key))}) was entered within a transaction on "
            f"{connection.alias!r}: others would have the lock before they see what was written. "
            "Open the transaction within it, or use advisory_xact_lock()."
        )
    suffix = "_shared" if shared else ""
    with transaction.atomic(using=connection.alias):
        _take(connection, f"pg_{{}}advisory_lock{suffix}", number, key, wait)
        holder = connection.connection
    try:
        yield
    except BaseException:
        _let_go(connection, holder, suffix, number)
        raise
    if not _let_go(connection, holder, suffix, number):
        raise LockLost(
            f"The advisory lock {key!r} on {connection.alias!r} was lost with its connection, and "
            "another may have held it since. What was committed in the block stands.",
            keys=key,
        )


def _let_go(connection: BaseDatabaseWrapper, holder: Any, suffix: str, number: int) -> bool:
    """Tell whether the lock was held all the time; a session that was lost has let go of it.

    One that was closed within the block is in Django's pool, if there is one, and holds it there,
    where others who borrow the session had it too.
    """
    was_pooled = connection.connection is not holder and not holder.closed
    session = holder if was_pooled else connection
    is_idle = was_pooled and holder.info.transaction_status == 0
    try:
        with session.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_unlock{suffix}(%s)", [number])
            was_held = bool(cursor.fetchone()[0])
        if is_idle:
            holder.rollback()  # of nothing, where it was returned with autocommit off
    except (DatabaseError, driver_error(connection)):
        session.close()
        return False
    return was_held and not was_pooled


def advisory_xact_lock(
    *key: KeyPart, shared: bool = False, wait: bool | float = True, using: str | None = None
) -> None:
    """Take a lock that the transaction holds until it ends; there is no letting go before.

    One statement; two more for a `wait` in seconds. On SQLite the transaction has locked
    everything at BEGIN, and this does nothing.
    Raises: TransactionRequiredError: nothing would hold it. LockTimeout: not to be had; after a
        wait in seconds the transaction is lost, unless a savepoint is around the call.
        ConfigurationError: SQLite that locks nothing at BEGIN.
    """
    connection = connection_of(using)
    number = advisory_key(*key)
    require_transaction("advisory_xact_lock()", connection.alias)
    require_lock_at_begin("advisory_xact_lock()", connection.alias)
    if connection.vendor == "postgresql":
        suffix = "_shared" if shared else ""
        _take(connection, f"pg_{{}}advisory_xact_lock{suffix}", number, key, wait)


def _take(
    connection: BaseDatabaseWrapper,
    function: str,
    number: int,
    key: tuple[KeyPart, ...],
    wait: bool | float,
) -> None:
    timeout = None if isinstance(wait, bool) else wait
    check_seconds("wait", timeout)
    call = function.format("try_" if wait is False else "")
    with local_timeouts(connection, lock=timeout, restore=True), connection.cursor() as cursor:
        try:
            cursor.execute(f"SELECT {call}(%s)", [number])
            if cursor.fetchone()[0] is not False:
                return
        except DatabaseError as raised:
            if sqlstate_of(raised) != LOCK_NOT_AVAILABLE:
                raise
            raise _timeout(connection, key, timeout) from raised
    raise _timeout(connection, key, timeout)


def _timeout(
    connection: BaseDatabaseWrapper, key: tuple[KeyPart, ...], timeout: float | None
) -> LockTimeout:
    waited = "" if timeout is None else f", waited for {timeout:g} s"
    return LockTimeout(
        f"The advisory lock {key!r} on {connection.alias!r} is held by another session{waited}. "
        "See `manage.py transaction_report` for who holds it.",
        model="",
        keys=key,
        timeout=timeout,
    )
