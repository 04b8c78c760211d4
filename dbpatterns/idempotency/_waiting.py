"""A claim that fails at once instead of waiting for another's, or when the session's time to wait
is over: PostgreSQL's way, and SQLite's."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import OperationalError, connections

from dbpatterns.idempotency.models import IdempotencyKey

__all__ = ["Busy", "claiming"]

Claim = Callable[[], AbstractContextManager[None]]


class Busy(Exception):
    """Another transaction is in the way."""


@contextmanager
def claiming(alias: str, *, wait: bool) -> Iterator[Claim]:
    """Yield what to put around each statement of a claim; enter it before BEGIN.

    The session's own timeouts hold again after the statement, and after an error.
    Raises: Busy: it would have waited, or has, for longer than the session allows.
    """
    connection = connections[alias]
    if connection.vendor == "sqlite":
        with _sqlite(connection, wait=wait) as claim:
            yield claim
    else:
        yield lambda: _patient() if wait else _impatient(connection)


@contextmanager
def _patient() -> Iterator[None]:
    """No statement. A `lock_timeout` that ends a wait for the table is not another's request.

    Only a wait for a row has a context, such as "while inserting index tuple".
    """
    try:
        yield
    except OperationalError as error:
        cause: Any = error.__cause__
        if getattr(cause, "sqlstate", None) == "55P03" and cause.diag.context:
            raise Busy from error
        raise


@contextmanager
def _impatient(connection: Any) -> Iterator[None]:
    """One statement before and one after; a rollback undoes the setting by itself.

    The first also locks the table as an INSERT does, and waits for that as any statement may, so
    that an index being built is not taken for a request with the key.
    """
    table = connection.ops.quote_name(IdempotencyKey._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH nothing AS (DELETE FROM {table} WHERE false) "
            "SELECT current_setting('lock_timeout'), set_config('lock_timeout', '1ms', true)"
        )
        before = cursor.fetchone()[0]
        try:
            yield
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) == "55P03":
                raise Busy from error
            raise
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [before])


@contextmanager
def _sqlite(connection: Any, *, wait: bool) -> Iterator[Claim]:
    """BEGIN may wait as well, so the timeout is off from before it until the claim is made."""
    is_claiming = True
    before = None

    @contextmanager
    def claim() -> Iterator[None]:
        nonlocal is_claiming
        yield
        is_claiming = False
        set_timeout(before)

    def set_timeout(milliseconds: int | None) -> None:
        if milliseconds is not None:
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {milliseconds:d}")

    if not wait:
        with connection.cursor() as cursor:
            before = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        set_timeout(0)
    try:
        yield claim
    except OperationalError as error:
        if is_claiming and "locked" in str(error):
            raise Busy from error
        raise
    finally:
        set_timeout(before)
