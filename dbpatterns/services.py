"""Services with dependency injection: plain classes, whose typed constructors say what they need.

    class PostService:
        def __init__(self, posts: PostRepository, mailer: Mailer) -> None: ...

    bind(Mailer, SmtpMailer, scope=Scope.SINGLETON)     # in AppConfig.ready
    resolve(PostService).publish(post)                  # in a view, a task, a command
    with override(Mailer, FakeMailer()): ...            # in a test; no request needed

A class whose constructor says all needs no binding; an interface does. Small on purpose: a grown
container (svcs, dishka) is asked through `delegate`, not rivalled.
"""

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from enum import StrEnum
from functools import lru_cache, partial
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from dbpatterns.errors import UsageError

__all__ = ["Scope", "Services", "bind", "delegate", "override", "problems", "request_scope"]
__all__ += ["request_scope_middleware", "resolve"]

T = TypeVar("T")


class Scope(StrEnum):
    """How long an object lives: for one `resolve`, for a request, or as long as the process."""

    CALL = "call"
    REQUEST = "request"
    SINGLETON = "singleton"


class _Object:
    """An object, under construction below those that wait for it, or built."""

    value: object

    def __init__(self, key: object, above: "tuple[_Object, ...]") -> None:
        self.key, self.above, self.scope = key, above, Scope.CALL
        self.met = {key}  # every type of its graph: overriding one outdates it

    def refusal(self, reason: object) -> UsageError:
        chain = " -> ".join(_name(each.key) for each in (*self.above, self))
        return UsageError(f"Cannot build {chain}: {reason}.")


class _Home:
    """What lives as long as one request or the process, and the lock it is built under."""

    def __init__(self) -> None:
        self.built: dict[object, _Object] = {}
        self.lock, self.closers, self.is_closed = threading.RLock(), ExitStack(), False

    def find(self, slot: object) -> _Object | None:
        replaced, instead = _layer.get()
        built = self.built.get(slot)
        if built is None or replaced.keys() & built.met:
            built = instead.get(slot)
        return None if self.is_closed else built


_FOREIGN = {*sys.stdlib_module_names, "django"}  # values, not services: never built unasked
_thread = threading.local()  # a build never changes threads, as a context does
_request: ContextVar[_Home | None] = ContextVar("dbpatterns_request", default=None)
# What is replaced, and what was built for the block instead of objects that are kept.
_Layer = tuple[dict[object, object], dict[object, _Object]]
_layer: ContextVar[_Layer] = ContextVar("dbpatterns_override", default=({}, {}))


class Services:
    """A set of bindings; the module's functions are those of one that the project shares."""

    def __init__(self) -> None:
        self._bindings: dict[object, tuple[Any, Scope]] = {}
        self._singletons, self._ask = _Home(), cast("Callable[[Any], object] | None", None)

    def resolve(self, wanted: Callable[..., T]) -> T:
        """Return an object of the type, built with all it needs; no query of its own.

        Singletons are built under one lock: a factory must not wait for another thread's.
        Raises: UsageError: naming the chain of types that leads to the fault.
        """
        return cast(T, self._get(_key(wanted)))

    def bind(
        self,
        interface: Any,
        factory: Callable[..., Any] | None = None,
        *,
        scope: Scope = Scope.CALL,
    ) -> None:
        """Say what to build where the interface is asked for; a later binding replaces it.

        Args:
            factory: a class or function whose typed parameters are injected, or the interface
                itself. What follows its `yield`, if it has one, runs when the request ends.
        """
        key, make = _key(interface), interface if factory is None else factory
        if inspect.iscoroutinefunction(make) or inspect.isasyncgenfunction(make):
            raise UsageError(f"The factory of {_name(key)} is async, and resolve() cannot await.")
        if inspect.isgeneratorfunction(make) and scope is not Scope.REQUEST:
            raise UsageError(f"The factory of {_name(key)} yields: bind it with Scope.REQUEST.")
        with self._singletons.lock:
            self._bindings[key] = make, scope
            kept = self._singletons.built.items()
            self._singletons.built = {slot: built for slot, built in kept if key not in built.met}

    @contextmanager
    def override(self, interface: Callable[..., object], replacement: object) -> Iterator[None]:
        """Give the replacement, an object, to whoever asks for the type within the block.

        Holds in this context: what is awaited, tasks, and threads begun by `sync_to_async`.
        Kept objects that have the type in their graph are built anew, for the block alone.
        """
        if isinstance(replacement, type):
            name = _name(replacement)
            raise UsageError(f"override() was given the class {name}: give an object, {name}().")
        outer = _layer.get()
        _layer.set(({**outer[0], _key(interface): replacement}, {}))
        try:
            yield
        finally:
            _layer.set(outer)  # no reset(token): a fixture may end in another context

    def delegate(self, get: Callable[[Any], object] | None) -> None:
        """Ask another container for each type that is not bound here; None ends it.

        Not for a parameter that has a default. A class that we should build needs `bind` then.
        """
        self._ask = get

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each thing wrong with the bindings; builds nothing.

        It cannot see what a factory resolves by itself, nor what a delegate would answer.
        """
        found = (each for key in self._bindings for each in self._walk(key, (), set()))
        yield from dict.fromkeys(found)

    def _walk(self, key: object, above: tuple[_Object, ...], seen: set[object]) -> Iterator[str]:
        this = _Object(key, above)
        try:
            _, wanted = self._plan(this)
        except UsageError as error:
            yield str(error)
            return
        for each in () if key in seen else wanted.parameters.values():
            if each.default is each.empty or each.annotation in self._bindings:
                yield from self._walk(each.annotation, (*above, this), seen)
        seen.add(key)

    def _get(self, key: object) -> object:
        replaced, instead = _layer.get()
        this = _Object(key, getattr(_thread, "waiting", ()))
        for waiting in this.above:
            waiting.met.add(key)
        if key in replaced:
            return replaced[key]
        make, wanted = self._plan(this)
        if this.scope is Scope.CALL:
            return self._build(this, make, wanted).value
        home = self._singletons if this.scope is Scope.SINGLETON else _request.get()
        slot = self, home, key
        built = home and home.find(slot)
        if home and not built:
            with home.lock:
                built = home.find(slot)
                if not built and not home.is_closed:
                    built = self._build(this, make, wanted, home.closers)
                    shelf = instead if replaced.keys() & built.met else home.built
                    shelf[slot] = built
        if not built:
            raise this.refusal(
                "it lives for one request, and none is active here; write with request_scope(), or "
                "put 'dbpatterns.services.request_scope_middleware' in MIDDLEWARE"
            )
        for waiting in this.above:
            waiting.met |= built.met
        return built.value

    def _plan(self, this: _Object) -> tuple[Any, inspect.Signature]:
        """Return what builds the object, and from what; refuse what cannot be right."""
        key, name, ask = this.key, _name(this.key), self._ask
        if any(each.key == key for each in this.above):
            raise this.refusal("it needs itself; let a method of one resolve() the other")
        if ask and key not in self._bindings:
            return partial(ask, key), inspect.Signature()
        is_ours = isinstance(key, type) and key.__module__.partition(".")[0] not in _FOREIGN
        make, this.scope = self._bindings.get(key, (key if is_ours else None, Scope.CALL))
        if make is None or inspect.isabstract(make) or _is_protocol(make):
            raise this.refusal(f"nothing that can be built is bound to it; say bind({name}, …)")
        is_kept = any(each.scope is Scope.SINGLETON for each in this.above)
        if this.scope is Scope.REQUEST and is_kept:
            raise this.refusal(
                f"a singleton would keep one request's {name} for ever; let its methods "
                "resolve() it, or bind both with Scope.REQUEST"
            )
        try:
            return make, _signature(make)
        except Exception as error:  # an annotation is code, and may raise anything
            raise this.refusal(error) from error

    def _build(
        self, this: _Object, make: Any, wanted: inspect.Signature, closers: Any = None
    ) -> _Object:
        call = wanted.bind_partial()
        _thread.waiting = (*this.above, this)
        try:
            for each in wanted.parameters.values():
                key = each.annotation
                this.met.add(key)  # overriding it outdates a default too
                is_asked = each.default is each.empty or key in self._bindings
                is_asked = is_asked or key in _layer.get()[0]
                call.arguments[each.name] = self._get(key) if is_asked else each.default
            made = make(*call.args, **call.kwargs)
            if inspect.isgeneratorfunction(make):
                made = closers.enter_context(contextmanager(lambda: made)())
        finally:
            _thread.waiting = this.above
        is_checked = isinstance(this.key, type) and not _is_protocol(this.key)
        if made is None or (is_checked and not isinstance(made, cast(type, this.key))):
            raise this.refusal(f"its factory made {made!r}, which is no {_name(this.key)}")
        this.value, this.above = made, ()
        return this


@contextmanager
def request_scope() -> Iterator[ExitStack]:
    """Keep one of each REQUEST-scoped object within the block, and end them with it.

    For a task or a command too. Ending runs what follows the `yield` of factories, last one first.
    """
    home, outer = _Home(), _request.get()
    _request.set(home)
    try:
        yield home.closers
    finally:
        _request.set(outer)
        with home.lock:
            home.is_closed, home.built = True, {}
        home.closers.close()


@sync_and_async_middleware
def request_scope_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[..., Any]:
    """Give every request a `request_scope()`, which ends before a streamed response is sent."""
    if not iscoroutinefunction(get_response):
        return request_scope()(get_response)

    async def middleware(request: HttpRequest) -> Any:
        with request_scope() as closers:
            try:
                return await get_response(request)
            finally:
                await sync_to_async(closers.close)()  # what it ends may be a database's

    return middleware


@lru_cache(maxsize=1024)
def _signature(factory: Any) -> inspect.Signature:
    if getattr(getattr(factory, "__init__", None), "__module__", "") == "typing":
        return inspect.Signature()  # a Protocol's heir without a constructor of its own
    found = inspect.signature(factory, eval_str=True)
    for each in found.parameters.values():
        untyped = each.annotation is each.empty and each.default is each.empty
        if untyped or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise TypeError(f"its parameter {each.name!r} has no type to inject; annotate it")
    parameters = found.parameters.values()
    return inspect.Signature(
        [each.replace(annotation=_key(each.annotation)) for each in parameters]
    )


def _key(annotation: Any) -> Any:
    """Return the type meant by `X | None`."""
    meant = [each for each in get_args(annotation) if each is not type(None)]
    is_union = get_origin(annotation) in (Union, UnionType)
    return meant[0] if is_union and len(meant) == 1 else annotation


def _name(key: Any) -> str:
    return key.__qualname__ if isinstance(key, type) else str(key)


def _is_protocol(key: object) -> bool:
    return bool(getattr(key, "_is_protocol", False))  # typing.is_protocol from Python 3.13


_shared = Services()
resolve, bind, override = _shared.resolve, _shared.bind, _shared.override
delegate, problems = _shared.delegate, _shared.problems
