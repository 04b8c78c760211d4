"""Hooks: what to do once the work has been committed, or undone.

    after_commit(lambda: send_receipt(order.pk))
    after_rollback(lambda: setattr(order, "version", before))

Both also work in Django's own `atomic`, and both belong to the innermost savepoint open when they
are registered: it is rolled back, they are.
"""

import inspect
import logging
from collections.abc import Callable

from django.db import transaction

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import (
    commit_hooks,
    connection_of,
    has_testcase,
    is_in_testcase,
    open_savepoints,
    put_first,
)

__all__ = ["after_commit", "after_rollback"]

logger = logging.getLogger("dbpatterns.transactions")

Hook = Callable[[], object]

# Note [Dropped entries]
# Django has no hook for a rollback, but it forgets the `on_commit` entries of what is rolled back
# at that very moment. An entry of ours that is let go without having been called therefore tells
# of the rollback, of a savepoint as of the whole, and nothing is patched. CPython frees an object
# with its last reference, and a list from its end, so that what was done last is undone first.
# Entries are let go as well after a commit, when a hook before them has raised: the first entry
# of the list, a `Committed`, knows.


class Committed:
    """The first entry of a transaction's hooks: called when it has been committed."""

    __slots__ = ("is_true", "is_unknown")

    def __init__(self) -> None:
        self.is_true = False
        self.is_unknown = False
        """Set when COMMIT was sent, and nobody heard the answer."""

    def __call__(self) -> None:
        self.is_true = True


class _Undo:
    """An entry that runs its functions when it is let go; see Note [Dropped entries]."""

    __slots__ = ("committed", "hooks")

    def __init__(self, committed: Committed) -> None:
        self.committed = committed
        self.hooks: list[Hook] = []

    def __call__(self) -> None:
        self.hooks.clear()

    def __del__(self) -> None:
        if self.committed.is_true or self.committed.is_unknown:
            return
        for hook in reversed(self.hooks):
            try:
                hook()
            except Exception:  # it would be lost in a finaliser
                logger.exception("%r failed after a rollback.", hook)


def after_commit(hook: Hook, using: str | None = None, robust: bool = False) -> None:
    """Call `hook` once the outermost transaction has committed; at once outside any.

    Dropped when the savepoint it was registered in, or one around it, is rolled back, and with
    each failed attempt of a retry. One that raises keeps the later ones from running, unless it
    is `robust` and logged instead; the commit stands either way, and is never retried.
    Raises: UsageError: the hook is async.
    """
    _refuse_async(hook, "after_commit")
    transaction.on_commit(hook, using=using, robust=robust)


def after_rollback(hook: Hook, using: str | None = None) -> None:
    """Call `hook` when the transaction, or the savepoint open now, is rolled back.

    Dropped on commit, and outside any transaction. The last registered is called first.
    It is called while Django rolls back, so it must not query: put memory right, no rows. One
    that raises is logged, and the others still run. When nobody can tell whether a COMMIT was
    done, because the connection was lost or a signal came, neither it is called nor what
    `after_commit` has; Django's own `atomic` takes that for a rollback. Under a TestCase, a block
    of the code's own must be open, and the test's end, a rollback, calls what that block kept.
    Raises: UsageError: the hook is async.
    """
    _refuse_async(hook, "after_rollback")
    connection = connection_of(using)
    if not connection.in_atomic_block or is_in_testcase(connection):
        return
    hooks, savepoints = commit_hooks(connection), open_savepoints(connection)
    if hooks:
        held_by, last, _ = hooks[-1]
        if isinstance(last, _Undo) and held_by == savepoints:
            last.hooks.append(hook)
            return
    undo = _Undo(committed_flag(using))
    undo.hooks.append(hook)
    transaction.on_commit(undo, using=using)


def committed_flag(using: str | None) -> Committed:
    """Return what will know of the running transaction's commit; one for each transaction.

    It must be the first hook. In a TestCase, which counts its hooks from an index and never
    commits, no entry is made.
    """
    connection = connection_of(using)
    hooks = commit_hooks(connection)
    if hooks and isinstance(hooks[0][1], Committed):
        return hooks[0][1]
    flag = Committed()
    if not has_testcase(connection):
        put_first(connection, flag)
    return flag


def _refuse_async(hook: Hook, name: str) -> None:
    if inspect.iscoroutinefunction(hook):
        raise UsageError(
            f"{name}() was given the async function {hook.__name__}, which nothing would await: "
            f"give it async_to_sync({hook.__name__})."
        )
