"""The hook on connections: every statement, in every thread, told to the scope that is open.

One `execute_wrapper` a connection, put there when it connects and never taken away: it costs
0.1 to 0.2 µs a query while no scope is open. A context variable says which scope is; it follows
async code into its threads, where a hook put on by the guard's own thread would not be.
"""

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any, Protocol

from django.core.signals import request_finished, request_started
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

__all__ = ["Scope", "close_scope", "current_scope", "open_scope"]


class Scope(Protocol):
    """What is told of statements."""

    def saw(self, sql: Any, params: Any, connection: BaseDatabaseWrapper, frame: FrameType) -> None:
        """Take note of a statement before it runs; what it raises keeps it from running."""
        ...

    def turn(self) -> None:
        """Take note that a request starts or ends: the same line is another place now."""
        ...


_open: ContextVar[Scope | None] = ContextVar("dbpatterns.queries.scope", default=None)
_lock = threading.Lock()
_scopes = 0
_lent: list[BaseDatabaseWrapper] = []


def current_scope() -> Scope | None:
    """Return the innermost open scope of this thread or task."""
    return _open.get()


def open_scope(scope: Scope | None) -> Scope | None:
    """Tell statements to this scope, to nobody if None; return what `close_scope` takes.

    Connections of this thread that were there before this module get the hook until the last
    scope closes.
    """
    global _scopes
    with _lock:
        _scopes += 1
        for connection in connections.all(initialized_only=True):
            if hook not in connection.execute_wrappers:
                _put_on(connection)
                _lent.append(connection)
    before = _open.get()
    _open.set(scope)
    return before


def close_scope(before: Scope | None) -> None:
    """Go back to the scope there was before."""
    global _scopes
    _open.set(before)  # not reset(): a fixture may end in another context than it began
    with _lock:
        _scopes -= 1
        while not _scopes and _lent:
            connection = _lent.pop()
            connection.execute_wrappers[:] = [
                each for each in connection.execute_wrappers if each is not hook
            ]


def hook(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    scope = _open.get()
    if scope is not None and not many:  # executemany() is the fix, not the fault
        scope.saw(sql, params, context["connection"], sys._getframe(1))
    return execute(sql, params, many, context)


def _put_on(connection: BaseDatabaseWrapper) -> None:
    # First in the list: `connection.execute_wrapper()` takes the last away when its block ends.
    connection.execute_wrappers.insert(0, hook)


def _connected(*, connection: BaseDatabaseWrapper, **_: object) -> None:
    if hook not in connection.execute_wrappers:
        _put_on(connection)


def _request(**_: object) -> None:
    if (scope := _open.get()) is not None:
        scope.turn()


connection_created.connect(_connected, dispatch_uid="dbpatterns.queries")
request_started.connect(_request, dispatch_uid="dbpatterns.queries")
request_finished.connect(_request, dispatch_uid="dbpatterns.queries")
