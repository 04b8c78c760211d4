"""Guards: code that says whether it needs a transaction, or must not be within one.

    @transaction_required
    def withdraw(account, amount): ...

    @durable
    def send_and_book(payment): ...

A TestCase's own transaction does not count, so a test sees what production would.
"""

import inspect
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import wraps
from typing import Any, ParamSpec, TypeVar, overload

from django.db import connections

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import connection_of, is_in_transaction
from dbpatterns.transactions.errors import NestedTransactionError, TransactionRequiredError

__all__ = ["durable", "in_transaction", "name_of", "refuse_deferred", "require_transaction"]
__all__ += ["transaction_required"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def in_transaction(using: str | None = None) -> bool:
    """Tell whether the code has opened a transaction on a database; no query."""
    return is_in_transaction(connection_of(using))


def require_transaction(what: str, using: str | None) -> None:
    """Refuse to go on outside a transaction.

    Raises: TransactionRequiredError: naming what needs one.
    """
    if not in_transaction(using):
        alias = connection_of(using).alias
        raise TransactionRequiredError(
            f"{what} needs a transaction on {alias!r}, and none is open: call it within atomic()."
        )


def name_of(function: Callable[..., Any]) -> str:
    """Return what messages call a function; a partial or an object that is called has no name."""
    return getattr(function, "__qualname__", None) or repr(function)


def refuse_deferred(function: Callable[..., Any]) -> None:
    """Refuse what runs its body after the call.

    Raises: UsageError: the function is async or a generator.
    """
    kinds = {
        "async": inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
        "a generator": inspect.isgeneratorfunction(function),
    }
    for kind, is_it in kinds.items():
        if is_it:
            raise UsageError(
                f"{name_of(function)} is {kind}, so its body would run after the transaction. "
                "Decorate the sync function that does the work; from async code call it by "
                "sync_to_async."
            )


class _Required(ContextDecorator):
    def __init__(self, using: str | None) -> None:
        self._using = using

    def __call__(self, function: F) -> F:
        refuse_deferred(function)
        name = name_of(function)

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            require_transaction(name, self._using)
            return function(*args, **kwargs)

        return guarded  # type: ignore[return-value]

    def __enter__(self) -> None:
        require_transaction("This block", self._using)

    def __exit__(self, *_: object) -> None:
        pass


@overload
def transaction_required(using: F, /) -> F: ...
@overload
def transaction_required(using: str | None = None) -> _Required: ...
def transaction_required(using: Any = None) -> Any:
    """Refuse to run a function, or a `with` block, outside a transaction; no query.

    Raises: TransactionRequiredError: at the call. UsageError: at once, as `atomic` does.
    """
    if callable(using):
        return _Required(None)(using)
    return _Required(using)


def durable(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse to run a function within a transaction on any database: what it commits must stay.

    Raises: NestedTransactionError: at the call; nothing was done. UsageError: at once, as `atomic`.
    """
    refuse_deferred(function)

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        for alias in connections:
            if in_transaction(alias):
                raise NestedTransactionError(
                    f"{name_of(function)} was called within a transaction on {alias!r}, which "
                    "could still undo what it does. Call it outside, or by after_commit()."
                )
        return function(*args, **kwargs)

    return guarded
