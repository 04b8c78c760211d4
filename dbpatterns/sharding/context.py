"""Which shard a block of code works on, when its queries do not say.

    with shard(customer_id):
        Account.objects.count()  # of that shard, all its customers

A query that names a key goes to that key's shard, in such a block too, unless it is locked.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from dbpatterns.sharding.errors import CrossShardError
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.shard_map import shard_for, shards

__all__ = ["current_shard", "enter", "enter_all", "on", "shard", "single_shard"]


@dataclass
class _Scope:
    alias: str | None
    is_locked: bool


_scope: ContextVar[_Scope | None] = ContextVar("dbpatterns_shard", default=None)


@contextmanager
def shard(key: Key, *, group: str | None = None, lock: bool = False) -> Iterator[str]:
    """Let queries that say no key go to this key's shard; yields its alias. No query.

    A queryset made in the block stays on it when it is evaluated later. With `lock` nothing in
    the block may go to another shard, not even by a key or a block of its own.
    Raises: CrossShardError: within a locked block of another shard.
    """
    alias = shard_for(key, group)
    with on(alias, lock=lock):
        yield alias


@contextmanager
def on(alias: str, *, lock: bool = False) -> Iterator[None]:
    """Do the same for a shard that is known by its alias."""
    enter("shard()", alias)
    before = _scope.get()
    token = _scope.set(_Scope(alias, lock or (before is not None and before.is_locked)))
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def single_shard() -> Iterator[None]:
    """Hold a block to one shard, whichever it touches first."""
    before = _scope.get()
    token = _scope.set(before if before is not None and before.is_locked else _Scope(None, True))
    try:
        yield
    finally:
        _scope.reset(token)


def current_shard() -> str | None:
    """Return the shard of the block this runs in; None without one."""
    scope = _scope.get()
    return None if scope is None else scope.alias


def enter(what: str, alias: str) -> str:
    """Return a shard that is about to be used, if the block allows it.

    Raises: CrossShardError.
    """
    scope = _scope.get()
    if scope is None or not scope.is_locked:
        return alias
    if scope.alias is None:
        scope.alias = alias
    elif scope.alias != alias:
        raise CrossShardError(
            what,
            (scope.alias, alias),
            why=f"would go to {alias!r}, in a block that is held to {scope.alias!r}: leave the "
            "block first, or drop the lock.",
        )
    return alias


def enter_all(what: str, named: Collection[str] | None) -> list[str]:
    """Return the named shards, all if None, that are about to be used, if the block allows it.

    Raises: CrossShardError: it is held to one, and they are several.
    """
    aliases = [alias for alias in shards() if named is None or alias in named]
    scope = _scope.get()
    if len(aliases) == 1:
        enter(what, aliases[0])
    elif scope is not None and scope.is_locked:
        raise CrossShardError(
            what,
            aliases,
            why=f"would go to {len(aliases)} shards ({', '.join(aliases)}), in a block that is "
            "held to one: leave the block first, or drop the lock.",
        )
    return aliases
