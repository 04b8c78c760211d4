"""`replica_reads`: reads that a shard's replicas answer.

with replica_reads():
    Account.objects.get(customer=7)  # from a replica of this customer's shard
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from django.db import connections

from dbpatterns.errors import UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.replicas.positions import may_answer
from dbpatterns.sharding.replicas.seen import is_open, open_replica, seen

__all__ = [
    "for_reading",
    "is_reading",
    "primary_of",
    "primary_reads",
    "refuse_transaction_there",
    "replica_reads",
]

F = TypeVar("F", bound=Callable[..., Any])

_is_reading: ContextVar[bool] = ContextVar("dbpatterns_replica_reads", default=False)


class replica_reads:
    """Let replicas answer the reads of sharded and reference models in a block or function.

    Writes, `select_for_update()`, `using()`, raw SQL, `fanout()` and all within a transaction stay
    on the primary, and so do reads until a replica has what this work has written or read there.
    Costs a statement on primary and replica once a second in each process, one on the replica for
    each new connection, and one on each where the primary was used before; some 60 µs a read.

    Raises: UsageError: a transaction was opened on a replica, as by `atomic(using=rows.db)`.
    """

    def __init__(self) -> None:
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        seen()  # here, so that what the block starts has the same
        self._tokens.append(_is_reading.set(True))

    def __exit__(self, *_: object) -> None:
        _is_reading.reset(self._tokens.pop())

    def __call__(self, function: F) -> F:
        """Return the function, each call in a block; a coroutine function too."""

        @wraps(function)
        def now(*args: Any, **options: Any) -> Any:
            with replica_reads():
                return function(*args, **options)

        @wraps(function)
        async def later(*args: Any, **options: Any) -> Any:
            with replica_reads():
                return await function(*args, **options)

        made: Any = later if iscoroutinefunction(function) else now
        return made  # type: ignore[no-any-return]


@contextmanager
def primary_reads() -> Iterator[None]:
    """Keep reads in the block on the primary, for what belongs to rows that were read there."""
    token = _is_reading.set(False)
    try:
        yield
    finally:
        _is_reading.reset(token)


def is_reading() -> bool:
    """Tell whether replicas may answer here."""
    return _is_reading.get()


def for_reading(primary: str) -> str:
    """Return the database that answers a read of a shard: itself, or in a block a replica.

    In an event loop itself: there nobody may be asked, and Django sends no query from it.
    Raises: UsageError: a transaction is open on a replica.
    """
    if not _is_reading.get():
        return primary
    replicas = ShardingSettings.load().replicas.get(primary, ())
    if not replicas or is_open(connections[primary]) or _is_in_event_loop():
        return primary
    refuse_transaction_there(primary)
    here = seen()
    least = here.position(primary)
    chosen = here.chosen.get(primary)
    for each in [chosen] if chosen in replicas else random.sample(replicas, k=len(replicas)):
        if may_answer(each, primary, least):
            here.chosen[primary] = each
            return each
    here.turn_from(primary)
    return primary


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_transaction_there(primary: str) -> None:
    """Refuse to go on while a transaction is open on a replica: it would not hold what is written.

    Raises: UsageError.
    """
    there = open_replica(ShardingSettings.load().replicas.get(primary, ()))
    if there is not None:
        raise UsageError(
            f"A transaction is open on replica {there!r}, which holds nothing of what is read or "
            f"written on its shard {primary!r}: open it by atomic(using=shard_for(key)), and not "
            "by the database of a queryset in replica_reads()."
        )


def primary_of(alias: str) -> str:
    """Return the shard that a replica follows; of any other database itself."""
    for primary, replicas in ShardingSettings.load().replicas.items():
        if alias in replicas:
            return primary
    return alias
