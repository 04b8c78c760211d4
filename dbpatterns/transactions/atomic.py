"""`atomic`: Django's, with what a transaction is asked for said where it begins.

    @atomic(isolation=Isolation.SERIALIZABLE, retry=Retry(attempts=10), label="pay")
    def pay(invoice_id): ...

    with atomic(read_only=True, statement_timeout=2.0):
        ...

A function can be run again, so it may be retried; a block cannot, and takes `attempts()`.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast, overload

from dbpatterns.transactions.blocks import block
from dbpatterns.transactions.checks import declare
from dbpatterns.transactions.guards import name_of, refuse_deferred
from dbpatterns.transactions.options import Isolation, Options
from dbpatterns.transactions.retries import Retry, each_attempt

__all__ = ["Atomic", "atomic", "run_in_transaction"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Atomic:
    """What `atomic(…)` returns; a decorator and, without `retry`, a context manager."""

    def __init__(self, using: str | None, options: Options, retry: Retry | None) -> None:
        self._using = using
        self._options = options
        self._retry = retry
        self._local = threading.local()  # Django's may be entered again, and by many threads
        declare(using, is_retried=retry is not None)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make each call a transaction.

        Raises: UsageError: the function is async or a generator, whose body would run outside.
        """
        refuse_deferred(function)
        options = self._options
        if not options.label:
            options = replace(options, label=_label_of(function))

        @wraps(function)
        def transactional(*args: P.args, **kwargs: P.kwargs) -> R:
            return _run(self._using, options, self._retry, lambda: function(*args, **kwargs))

        return transactional

    def __enter__(self) -> None:
        if self._retry is not None:
            raise TypeError(
                "atomic(retry=…) cannot be a `with` block, which Python cannot run again. Decorate "
                "a function with it, or write: for attempt in attempts(Retry(…)): with attempt: …"
            )
        entered = block(self._using, self._options)
        entered.__enter__()
        self._open().append(entered)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open().pop().__exit__(kind, error, traceback)

    def _open(self) -> list[AbstractContextManager[None]]:
        stack: list[AbstractContextManager[None]] = self._local.__dict__.setdefault("stack", [])
        return stack


@overload
def atomic(using: F, /) -> F: ...
@overload
def atomic(
    using: str | None = None,
    savepoint: bool = True,
    durable: bool = False,
    *,
    isolation: Isolation | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    retry: Retry | None = None,
    lock_timeout: float | None = None,
    statement_timeout: float | None = None,
    label: str = "",
    resolve_commit: bool = False,
) -> Atomic: ...
def atomic(
    using: Any = None,
    savepoint: bool = True,
    durable: bool = False,
    *,
    isolation: Isolation | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    retry: Retry | None = None,
    lock_timeout: float | None = None,
    statement_timeout: float | None = None,
    label: str = "",
    resolve_commit: bool = False,
) -> Any:
    """Run a function or a block as one transaction; a savepoint within another.

    `using`, `savepoint` and `durable` are Django's. No statement but Django's own, save one for
    timeouts, two for a nested block's, one for `resolve_commit`, and one for a level in a pooled
    connection. A nested block may ask for what it is within, or for less; what only the server, the
    database or the role has as its default is not known, so the outermost names it. Under a
    TestCase the outermost block is a savepoint of the test's transaction, whose isolation stays
    what it is.

    Args:
        isolation: outermost block only; the connection's own if None.
        read_only: writes are refused (25006); within a transaction to the block's end.
        deferrable: wait for a snapshot that no other transaction can spoil; PostgreSQL, with
            `read_only` and SERIALIZABLE.
        retry: run a decorated function again when the server undid it for another.
        lock_timeout: seconds a statement may wait for a lock; on SQLite the BEGIN, outermost only.
        statement_timeout: seconds a statement may take; PostgreSQL.
        label: what telemetry and messages call it; a function's name if empty.
        resolve_commit: ask the server what became of it when the connection is lost in mid-commit.
    Raises: IsolationLevelError: nested, and stricter than what runs; before any SQL.
        NestedTransactionError: `durable` or `retry` within a transaction. RetryExhausted.
        CommitOutcomeUnknown: the connection was lost while COMMIT was under way.
        SubtransactionOverflow: too many savepoints, in strict mode. UsageError: nonsense, at once.
    """
    if callable(using):
        return atomic()(using)
    options = Options(
        savepoint=savepoint,
        durable=durable,
        isolation=isolation,
        read_only=read_only,
        deferrable=deferrable,
        lock_timeout=lock_timeout,
        statement_timeout=statement_timeout,
        label=label,
        resolve_commit=resolve_commit,
    )
    return Atomic(using, options, retry)


def run_in_transaction(
    function: Callable[P, R],
    /,
    *args: Any,
    using: str | None = None,
    isolation: Isolation | None = None,
    retry: Retry | None = None,
    **kwargs: Any,
) -> R:
    """Call a function as one transaction and return its result; the decorator for one call.

    Raises: what `atomic` does, with these arguments.
    """
    made = atomic(using, isolation=isolation, retry=retry)
    return cast(R, made(cast(Any, function))(*args, **kwargs))


def _run(using: str | None, options: Options, retry: Retry | None, call: Callable[[], R]) -> R:
    if retry is None:
        with block(using, options):
            return call()
    for attempt in each_attempt(retry, using, options):
        with attempt:
            result = call()  # not `return`: the COMMIT that follows may fail, and be tried again
    return result


def _label_of(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None)
    return f"{module}.{name_of(function)}" if module else name_of(function)
