"""Unit of work: repositories of one transaction, and events that go out only if it commits.

    class BlogUnit(UnitOfWork):
        handlers = {PostPublished: [notify_followers, warm_cache]}

    with BlogUnit() as work:
        post = work.repository(PostRepository).get_by_id(pk)
        post.publish()
        work.repository(PostRepository).save(post)
        work.publish(PostPublished(post.pk))

It is `transaction.atomic`, no more: a unit within another, or within a plain atomic block, is a
savepoint, and TestCase's `captureOnCommitCallbacks` sees the events.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast, overload

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from dbpatterns.errors import UsageError

__all__ = ["Handler", "UnitOfWork"]

logger = logging.getLogger("dbpatterns.repositories")

Handler = Callable[[Any], None]
"""What is called with an event; its type's, or a subclass of it."""
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class _Factory(Protocol[R_co]):
    def __call__(self, *, using: str) -> R_co: ...


class _Bound(Protocol):
    @property
    def using(self) -> str | None: ...


_B = TypeVar("_B", bound=_Bound)


class UnitOfWork:
    """One transaction on one database; use each object once, in one thread.

    Two statements, BEGIN and COMMIT, or SAVEPOINT and RELEASE within another; no query else.
    """

    handlers: ClassVar[Mapping[Any, Sequence[Handler]]] = {}
    """The events it may publish, by type, and who is told of each, in this order."""

    def __init__(
        self,
        *,
        using: str = DEFAULT_DB_ALIAS,
        handlers: Mapping[Any, Sequence[Handler]] | None = None,
    ) -> None:
        """Prepare a unit; the transaction begins with the block.

        Args:
            handlers: in place of the class's own.
        Raises: UsageError: a handler is async, or no function.
        """
        self.using = using
        self._handlers = self.handlers if handlers is None else handlers
        self._atomic = transaction.atomic(using=using)
        self._connection: object = None
        self._is_over = self._is_undone = False
        self._repositories: dict[object, object] = {}
        for event, listed in self._handlers.items():
            _check_handlers(event, listed)

    def __enter__(self) -> Self:
        if self._connection is not None:
            raise UsageError(
                f"This {type(self).__name__} was used before: make one for each block."
            )
        connection = connections[self.using]
        self._atomic.__enter__()
        self._connection = connection
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        if self._is_undone:
            # Said again: leaving a block within this one has cleared the connection's flag.
            transaction.set_rollback(True, using=self.using)
        self._atomic.__exit__(kind, error, traceback)

    @overload
    def repository(self, wanted: _Factory[R], /) -> R: ...
    @overload
    def repository(self, wanted: _B, /) -> _B: ...
    def repository(self, wanted: Any, /) -> Any:
        """Return the unit's repository of this class, the same one each time; no query.

        Args:
            wanted: a class that takes `using`; or an object, to be sure that it is bound to this
                unit's database, which is then returned.
        Raises: UsageError: it is bound to another database, or leaves it to the routers.
        """
        self._require_open("repository()")
        if not isinstance(wanted, type):
            return self._of_this_database(wanted, alias=getattr(wanted, "using", "?"))
        if wanted not in self._repositories:
            made = cast(Any, wanted)(using=self.using)
            alias = getattr(made, "using", self.using)
            self._repositories[wanted] = self._of_this_database(made, alias=alias)
        return self._repositories[wanted]

    def publish(self, event: object) -> None:
        """Tell the handlers of the event's type once the outermost transaction has committed.

        In the order published. Dropped when the block it was published in, or one around it, is
        rolled back. The event should be a value, a frozen dataclass: handlers see it later. One
        that fails is logged as an error with its event, and the others still run: the commit
        stands, and an exception would tell the caller otherwise.
        Raises: UsageError: `handlers` does not list the type, nor one that it inherits from.
        """
        self._require_open("publish()")
        listed = [kind for kind in self._handlers if isinstance(event, kind)]
        if not listed:
            known = ", ".join(sorted(kind.__name__ for kind in self._handlers)) or "none"
            raise UsageError(
                f"{type(self).__name__} publishes no {type(event).__name__}: add it to the unit's "
                f"handlers, with an empty list if nobody is told. Known: {known}."
            )
        handlers = [handler for kind in listed for handler in self._handlers[kind]]

        def deliver() -> None:
            for handler in handlers:
                try:
                    handler(event)
                except Exception:
                    logger.exception(
                        "Handler %r failed on %r, which is committed.",
                        handler,
                        event,
                        extra={"event": event, "database": self.using},
                    )

        transaction.on_commit(deliver, using=self.using)

    def rollback(self) -> None:
        """Undo the unit: its writes, and the events published in it.

        The unit is over: until its block is left Django refuses queries, and the unit all calls.
        """
        self._require_open("rollback()")
        self._is_undone = True
        transaction.set_rollback(True, using=self.using)

    async def arun(
        self, function: Callable[Concatenate[Self, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run `function(work, …)` as the unit's block, in Django's thread, and return its result.

        Django's transactions are sync, so the block is one: what it awaits would be outside. A
        task that is cancelled does not stop it: it commits or rolls back by itself.
        Raises: UsageError: the function is async.
        """

        def block() -> R:
            with self:
                result = function(self, *args, **kwargs)
                if inspect.iscoroutine(result):
                    result.close()
                    raise UsageError(
                        f"{type(self).__name__}.arun() was given an async function: a transaction "
                        "is one thread's. Await before it, or after."
                    )
                return result

        return await sync_to_async(block)()

    def _require_open(self, call: str) -> None:
        name = f"{call} of {type(self).__name__}"
        if self._connection is None:
            raise UsageError(f"{name} needs its block: write with {type(self).__name__}() as work.")
        if self._is_over or self._is_undone:
            raise UsageError(f"{name} comes too late: the unit is over. Make a new one.")
        if connections[self.using] is not self._connection:
            raise UsageError(
                f"{name} was called from another thread, which has its own connection to "
                f"{self.using!r} and so is outside the transaction. Make a unit there."
            )

    def _of_this_database(self, repository: object, *, alias: str | None) -> object:
        if alias != self.using:
            name = type(repository).__name__
            where = {
                None: "leaves its database to the routers",
                "?": "does not tell its database by `using`",
            }
            raise UsageError(
                f"This {name} {where.get(alias, f'is on {alias!r}')}, and the unit is on "
                f"{self.using!r}: take it from the unit, work.repository({name})."
            )
        return repository


def _check_handlers(event: object, handlers: object) -> None:
    name = getattr(event, "__name__", repr(event))
    if not isinstance(event, type):
        raise UsageError(f"Handlers are listed by type of event, and {name} is no type.")
    if not isinstance(handlers, list | tuple) or not all(map(callable, handlers)):
        raise UsageError(f"The handlers of {name} must be a list of functions, not {handlers!r}.")
    for each in handlers:
        if inspect.iscoroutinefunction(each):
            raise UsageError(
                f"The handler {each.__name__} of {name} is async, and events are sent by sync "
                f"code: list async_to_sync({each.__name__})."
            )
