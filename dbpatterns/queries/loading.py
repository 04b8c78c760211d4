"""Batch loading: ask for one value at a time, fetch many at once.

    authors = loader_for(Author)
    comments = loader_for(Comment.objects.filter(is_live=True), by="post_id", many=True)

    with load_scope():                          # one request, or one task
        authors.load_many([1, 2, 3])            # {1: <Author>, …}, one query
        await comments.load(7)                  # one query for all that wait in this tick

A `Loader` is a definition, made once; what it loaded lives in the scope, so that nothing passes
from one request to another, nor between event loops. A batch function returns a dict, so that
values cannot come in another order than their keys.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any, Generic, Literal, Self, TypeVar, overload

from asgiref.sync import sync_to_async
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db.models import Model, QuerySet
from django.utils.decorators import sync_and_async_middleware

from dbpatterns.errors import UsageError

__all__ = ["Loader", "load_scope", "load_scope_middleware", "loader_for"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
M = TypeVar("M", bound=Model)
F = TypeVar("F", bound=Callable[..., Any])

_scope: ContextVar["dict[Loader[Any, Any], _Loads] | None"] = ContextVar(
    "dbpatterns_load_scope", default=None
)


class load_scope:  # reads as `with load_scope():`
    """Keep what loaders load for the length of a block, or of each call of what it decorates.

    Put it around one request or task. A scope in a scope begins empty.
    """

    def __enter__(self) -> Self:
        """Begin, with nothing loaded."""
        self._token: Token[Any] = _scope.set({})
        return self

    def __exit__(self, *error: object) -> None:
        """Forget what was loaded."""
        _scope.reset(self._token)

    def __call__(self, function: F) -> F:
        """Give each call of a function or coroutine a scope of its own."""
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def arun(*args: Any, **kwargs: Any) -> Any:
                with load_scope():
                    return await function(*args, **kwargs)

            return arun  # type: ignore[return-value]

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with load_scope():
                return function(*args, **kwargs)

        return run  # type: ignore[return-value]


@sync_and_async_middleware
def load_scope_middleware(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Give each request a scope; a streamed body is made after it and needs one of its own."""
    return load_scope()(get_response)


class _Loads:
    """What one loader loaded, and is loading, in one scope."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.waiting: dict[asyncio.AbstractEventLoop, dict[Any, asyncio.Future[Any]]] = {}
        """What the next tick of each loop sends."""
        self.futures: dict[tuple[asyncio.AbstractEventLoop, Any], asyncio.Future[Any]] = {}
        """What waits or is under way and may still be shared and kept."""
        self.tasks: set[asyncio.Task[None]] = set()


class Loader(Generic[K, V]):
    """Values by key, many keys a call of `batch`.

    Args:
        batch: takes a list of distinct keys and returns a dict, or is a coroutine that does. When
            awaited, one that is no coroutine runs in the thread of the database.
        max_batch: keys in one call at most.
        default: called for the value of a key that `batch` leaves out; without it such a key is
            a KeyError, for those who asked for it only.
    Raises: UsageError: `max_batch` is below 1.
    """

    def __init__(
        self,
        batch: Callable[[list[K]], Mapping[K, V]] | Callable[[list[K]], Awaitable[Mapping[K, V]]],
        *,
        max_batch: int = 500,
        default: Callable[[], V] | None = None,
    ) -> None:
        self._batch: Callable[[list[K]], Any] = batch
        self._is_async = inspect.iscoroutinefunction(batch) or inspect.iscoroutinefunction(
            type(batch).__call__
        )
        self._max_batch = max_batch
        self._default = default
        if max_batch < 1:
            raise UsageError(f"{self} with max_batch={max_batch} loads nothing: take 1 or more.")

    def load_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of these keys, in the keys' order.

        One call of `batch` for up to `max_batch` keys that the scope has not loaded. Without a
        scope it works, and keeps nothing.
        Raises: KeyError: a key has no value, and there is no default. UsageError: `batch` is a
            coroutine, or returned no dict.
        """
        if self._is_async:
            raise UsageError(f"{self} loads in a coroutine: write `await load(key)`.")
        scope = _scope.get()
        values: dict[K, V] = {} if scope is None else self._loads(scope).values
        wanted = list(dict.fromkeys(keys))
        missing = [key for key in wanted if key not in values]
        for start in range(0, len(missing), self._max_batch):
            chunk = missing[start : start + self._max_batch]
            found = self._checked(self._batch(chunk))
            values.update((key, self._value(found, key)) for key in chunk)
        return {key: values[key] for key in wanted}

    async def load(self, key: K) -> V:
        """Return one value, loaded together with all that wait for one in this tick of the loop.

        Raises: KeyError: it has none, and there is no default. UsageError: there is no scope, or
            `batch` returned no dict. What `batch` raises, the keys of that call raise.
        """
        scope = _scope.get()
        if scope is None:
            raise UsageError(
                f"{self} was awaited outside of a scope, where requests could mix: put "
                "`with load_scope():` around the request or task."
            )
        loads = self._loads(scope)
        if key in loads.values:
            value: V = loads.values[key]
            return value
        loop = asyncio.get_running_loop()
        future = loads.futures.get((loop, key))
        if future is None:
            future = loads.futures[loop, key] = loop.create_future()
            # Its awaiters may all be cancelled; then nobody takes the error, and none is lost.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            waiting = loads.waiting.setdefault(loop, {})
            if not waiting:
                loop.call_soon(self._send, loads, loop)
            waiting[key] = future
        result: V = await asyncio.shield(future)  # one awaiter's end is not the others'
        return result

    def prime(self, key: K, value: V) -> None:
        """Put a value into the scope, in place of one that is there or under way.

        Raises: UsageError: there is no scope.
        """
        scope = _scope.get()
        if scope is None:
            raise UsageError(f"{self} was primed outside of a scope, which would keep nothing.")
        self._loads(scope).values[key] = value

    def clear(self, *keys: K) -> None:
        """Forget these keys, or all: call it after a write; what is under way is not kept."""
        loads = (_scope.get() or {}).get(self)
        if loads is None:
            return
        for key in keys or tuple(loads.values):
            loads.values.pop(key, None)
        for loop, key in tuple(loads.futures):
            is_sent = key not in loads.waiting.get(loop, {})
            if is_sent and (not keys or key in keys):
                loads.futures.pop((loop, key), None)

    def __str__(self) -> str:
        return f"Loader({getattr(self._batch, '__qualname__', self._batch)})"

    def _loads(self, scope: "dict[Loader[Any, Any], _Loads]") -> _Loads:
        return scope.setdefault(self, _Loads())

    def _send(self, loads: _Loads, loop: asyncio.AbstractEventLoop) -> None:
        waiting = list(loads.waiting.pop(loop).items())
        for start in range(0, len(waiting), self._max_batch):
            chunk = dict(waiting[start : start + self._max_batch])
            task = loop.create_task(self._fly(loads, loop, chunk))
            loads.tasks.add(task)  # a loop keeps no task alive
            task.add_done_callback(loads.tasks.discard)

    async def _fly(
        self,
        loads: _Loads,
        loop: asyncio.AbstractEventLoop,
        chunk: dict[K, "asyncio.Future[V]"],
    ) -> None:
        try:
            batch = self._batch if self._is_async else sync_to_async(self._batch)
            found = self._checked(await batch(list(chunk)))
            for key, future in chunk.items():
                try:
                    value = self._value(found, key)
                except KeyError as error:
                    future.set_exception(error)
                    continue
                future.set_result(value)
                if loads.futures.get((loop, key)) is future:
                    loads.values.setdefault(key, value)
        except Exception as error:
            for future in chunk.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            for key, future in chunk.items():
                future.cancel()  # the loop ends: nothing else leaves one undone
                if loads.futures.get((loop, key)) is future:
                    del loads.futures[loop, key]

    def _checked(self, found: Any) -> Mapping[K, V]:
        if not isinstance(found, Mapping):
            raise UsageError(
                f"{self} must return a dict of values by key, not {type(found).__name__}: a list "
                "may have another order than the keys."
            )
        return found

    def _value(self, found: Mapping[K, V], key: K) -> V:
        if key not in found and self._default is not None:
            return self._default()
        return found[key]


@overload
def loader_for(
    source: type[M] | QuerySet[M],
    *,
    by: str = ...,
    many: Literal[False] = ...,
    max_batch: int = ...,
) -> Loader[Any, M]: ...
@overload
def loader_for(
    source: type[M] | QuerySet[M], *, by: str = ..., many: Literal[True], max_batch: int = ...
) -> Loader[Any, list[M]]: ...
def loader_for(
    source: type[M] | QuerySet[M], *, by: str = "pk", many: bool = False, max_batch: int = 500
) -> Loader[Any, Any]:
    """Return a loader of a model's rows by a column; one query a batch.

    Keys may be text, as they come from outside; one that the column cannot hold has no rows.

    Args:
        source: a model, or a queryset that says which rows, how ordered and where from.
        by: a column, which must be unique unless `many`; `author` and `author_id` are the same.
        many: a key's value is the list of its rows, empty if it has none.
    Raises: UsageError: no such column, not unique, or the queryset is sliced.
    """
    queryset = source.all() if isinstance(source, QuerySet) else source._default_manager.all()
    options = queryset.model._meta
    try:
        field: Any = options.pk if by == "pk" else options.get_field(by)
    except FieldDoesNotExist:
        field = None
    if field not in options.concrete_fields:
        columns = ", ".join(each.attname for each in options.concrete_fields)
        raise UsageError(
            f"loader_for({options.label}, by={by!r}): no such column. Columns: {columns}."
        )
    constraints = {tuple(each.fields) for each in options.total_unique_constraints}
    if not (many or field.unique or (field.name,) in constraints):
        raise UsageError(
            f"loader_for({options.label}, by={by!r}): a value may have many rows, of which one "
            "would be kept at random. Write many=True."
        )
    if queryset.query.is_sliced:
        raise UsageError(
            f"loader_for({options.label}): the queryset is sliced, which cuts each batch as a "
            "whole. Take the slice away."
        )

    def batch(keys: list[Any]) -> dict[Any, Any]:
        asked: dict[Any, list[Any]] = {}
        for key in keys:
            try:
                asked.setdefault(field.to_python(key), []).append(key)
            except ValidationError:
                continue
        found: dict[Any, Any] = {}
        for row in queryset.filter(**{f"{field.attname}__in": list(asked)}):
            for key in asked[getattr(row, field.attname)]:
                if many:
                    found.setdefault(key, []).append(row)
                else:
                    found[key] = row
        return found

    batch.__qualname__ = f"{options.label} by {field.attname}"
    return Loader(batch, max_batch=max_batch, default=list if many else None)
