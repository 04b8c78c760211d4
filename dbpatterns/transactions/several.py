"""One block on several databases, which is a transaction on each and no two-phase commit."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from django.db import transaction

from dbpatterns.transactions._compat import (
    Hook,
    commit_hooks,
    connection_of,
    is_in_transaction,
    run_hooks,
)
from dbpatterns.transactions.hooks import Committed, committed_flag

__all__ = ["atomic_on"]

logger = logging.getLogger("dbpatterns.transactions")


@contextmanager
def atomic_on(aliases: Iterable[str]) -> Iterator[None]:
    """Hold a transaction on each database; they commit together at the end, or are undone together.

    What `after_commit` has runs when all have committed: one that raises undoes none of them, and
    only keeps the later ones of its own database from running; it is logged if a commit failed, and
    the error of that goes on. A server that is lost between two
    of the commits leaves a part.
    """
    held: list[Callable[[], None]] = []
    try:
        with ExitStack() as blocks:
            for alias in aliases:
                blocks.enter_context(_hooks_held_back(alias, held))
            yield
    except BaseException:
        for run in held:
            try:
                run()
            except Exception:
                logger.exception("A hook raised after a commit, and another commit had failed.")
        raise
    with ExitStack() as afterwards:
        for run in held:
            afterwards.callback(run)


@contextmanager
def _hooks_held_back(alias: str, held: list[Callable[[], None]]) -> Iterator[None]:
    connection = connection_of(alias)
    if connection.in_atomic_block or is_in_transaction(connection):
        with transaction.atomic(using=alias):
            yield
        return
    hooks: list[Hook] = []
    committed = Committed()
    try:
        with transaction.atomic(using=alias):
            yield
            committed = committed_flag(alias)
            hooks += commit_hooks(connection)
            del commit_hooks(connection)[1:]  # all but the flag
    finally:
        if committed.is_true:
            held.append(partial(run_hooks, connection, hooks))
        else:
            hooks.clear()  # at once, though a traceback may keep this frame: `after_rollback`
