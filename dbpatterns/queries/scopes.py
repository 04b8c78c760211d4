"""A block of code whose statements are seen: one execute wrapper on every connection it uses.

Base of `autofixing` and `query_budget`: a context manager, sync and async, and a decorator of
functions and coroutines. A scope sees the statements of its own context (`contextvars`) only,
though async tasks share a connection, and leaves no hook behind.
"""

import asyncio
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, Self, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from dbpatterns.errors import UsageError

__all__ = ["Execute", "Scope"]

F = TypeVar("F", bound=Callable[..., Any])
Execute = Callable[[str, Any, bool, dict[str, Any]], Any]

_active: ContextVar[tuple["Scope", ...]] = ContextVar("dbpatterns_query_scopes", default=())


class Scope(ABC):
    """Write `see` and `renewed`; use it with `with`, `async with` or `@`.

    Entering and leaving cost about 20 µs and no query. An instance is entered once.
    """

    def __init__(self) -> None:
        self._joined: list[list[Any]] | None = None

    @abstractmethod
    def see(
        self, execute: Execute, sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        """Run one statement of the block and return what `execute` returns."""

    @abstractmethod
    def renewed(self) -> Self:
        """Return an equal scope that has not been entered; a decorator needs one for each call."""

    def __enter__(self) -> Self:
        """Begin, in this thread.

        Raises: UsageError: in a coroutine, whose queries run in another thread; or entered before.
        """
        if _is_in_coroutine():
            raise UsageError(
                f"`with {self}` stands in a coroutine, whose queries run in another thread: "
                "write `async with`."
            )
        self._join_thread()
        _active.set((*_active.get(), self))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """End, whatever happened."""
        _active.set(tuple(each for each in _active.get() if each is not self))
        connection_created.disconnect(dispatch_uid=("dbpatterns.queries", id(self)))
        for wrappers in self._joined or ():
            with suppress(ValueError):  # somebody emptied the list
                wrappers.remove(self._wrapper)

    async def __aenter__(self) -> Self:
        """Begin, in the thread that runs this coroutine's queries."""
        await sync_to_async(self._join_thread)()
        _active.set((*_active.get(), self))
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        """End, whatever happened."""
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Wrap each call of a function or coroutine in a scope of its own.

        Raises: UsageError: a generator, whose body runs after the call has returned.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"{self} cannot decorate the generator {function.__qualname__}: its body runs "
                "later. Write `with` in its body."
            )
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def arun(*args: Any, **kwargs: Any) -> Any:
                async with self.renewed():
                    return await function(*args, **kwargs)

            return arun  # type: ignore[return-value]

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.renewed():
                return function(*args, **kwargs)

        return run  # type: ignore[return-value]

    def _join_thread(self) -> None:
        if self._joined is not None:
            raise UsageError(f"{self} was entered before: make a new one for each block.")
        self._joined = []
        for connection in connections.all():
            self._join(connection)
        # Another thread that runs in this context (`sync_to_async`) brings connections of its own.
        connection_created.connect(
            self._on_created, weak=False, dispatch_uid=("dbpatterns.queries", id(self))
        )

    def _join(self, connection: BaseDatabaseWrapper) -> None:
        assert self._joined is not None
        self._joined.append(connection.execute_wrappers)
        connection.execute_wrappers.append(self._wrapper)

    def _on_created(self, *, connection: BaseDatabaseWrapper, **_: Any) -> None:
        if self in _active.get() and self._wrapper not in connection.execute_wrappers:
            self._join(connection)

    def _wrapper(
        self, execute: Execute, sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        if self in _active.get():
            return self.see(execute, sql, params, many, context)
        return execute(sql, params, many, context)


def _is_in_coroutine() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")  # Django's own switch
