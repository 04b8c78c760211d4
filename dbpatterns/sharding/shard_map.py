"""The shard map: which shard holds a key, from an immutable snapshot that each process keeps.

A snapshot is used for `MAP_MAX_AGE_SECONDS`; then one query compares the map's number, its epoch,
and the map is read again if that has grown. A process may so work by an old map for some seconds:
who changes a map waits for that long before a part is used on its new shard. While the control
database does not answer, the map that is known goes on.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache

from django.db import DatabaseError

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import GroupSettings, ShardingSettings
from dbpatterns.sharding.errors import UnplacedKey
from dbpatterns.sharding.hashing import Key, plain
from dbpatterns.sharding.strategies import (
    LOWEST,
    STRATEGIES,
    Strategy,
    equal_runs,
)

__all__ = [
    "ShardMap",
    "first_map",
    "forget",
    "pinned",
    "reload",
    "settings_of",
    "shard_for",
    "shard_map",
    "shards",
]

logger = logging.getLogger("dbpatterns.sharding")


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Who holds what, of one group, at one epoch."""

    group: str
    epoch: int
    strategy: Strategy
    of_key: Callable[[Key], frozenset[str]] = field(init=False, repr=False, compare=False)
    """`shard_of` as a set of one, known at once for keys that were asked for lately."""

    def __post_init__(self) -> None:
        """Remember keys by their types too: True and 1.0 equal 1."""
        known = lru_cache(maxsize=16_384, typed=True)(lambda key: _alone(self.shard_of(key)))
        object.__setattr__(self, "of_key", known)

    def shard_of(self, key: Key) -> str:
        """Return the shard that holds a key; no query.

        Raises: UnplacedKey: none does. UsageError: it is None, or of a type that is no key.
        """
        try:
            return self.strategy.shard_of(plain(key))
        except LookupError as error:
            raise UnplacedKey(self.group, key, why=str(error)) from error

    def home_of(self, key: Key) -> str | None:
        """Return the shard that holds a key, None when none does; no query."""
        with suppress(UnplacedKey):
            return self.shard_of(key)
        return None

    def holders(self, slot: int) -> frozenset[str]:
        """Return the shards that may hold a row whose id carries this slot; no query."""
        return self.strategy.holders(slot)


@cache
def _alone(shard: str) -> frozenset[str]:
    return frozenset((shard,))


_known: dict[str, tuple[ShardMap, float]] = {}
"""By group, with the moment until which nobody need ask."""
_pinned: list[Mapping[str, ShardMap]] = []
"""Maps of `pinned` blocks; the last counts."""


def shards() -> tuple[str, ...]:
    """Return the aliases of all shards, in the order of the settings.

    Raises: ConfigurationError: there is none.
    """
    aliases = ShardingSettings.load().shards
    if not aliases:
        raise ConfigurationError(
            'There are no shards: set DBPATTERNS["SHARDING"]["SHARDS"] to a list of databases.'
        )
    return aliases


def shard_for(key: Key, group: str | None = None) -> str:
    """Return the alias of the shard that holds a key; `group` where there are several.

    No query but the map's own, once in `MAP_MAX_AGE_SECONDS`.
    Raises: UnplacedKey, UsageError, ConfigurationError.
    """
    return shard_map(group).shard_of(key)


def shard_map(group: str | None = None) -> ShardMap:
    """Return the map of a group, of the only one if None.

    A query when it is too old, four more when it has changed.
    Raises: ConfigurationError: there is no such group, or no such map in the control database.
    """
    if group is None:
        group = _only_group()
    if _pinned and group in _pinned[-1]:
        return _pinned[-1][group]
    known = _known.get(group)
    if known is not None and time.monotonic() < known[1]:
        return known[0]
    return _refresh(group, known and known[0])


def reload(group: str) -> ShardMap:
    """Look for a newer map at once, whatever the age of the one that is known."""
    if group in _known:
        _known[group] = (_known[group][0], 0.0)  # old, and better than none if nobody answers
    return shard_map(group)


def forget() -> None:
    """Let each group's map be read again when it is next needed."""
    _known.clear()


@contextmanager
def pinned(maps: Mapping[str, ShardMap]) -> Iterator[None]:
    """Use these maps, and never look into the control database, until the block ends.

    For tests, whose counts of queries must not hang on a map's age; not per thread.
    """
    _pinned.append(maps)
    try:
        yield
    finally:
        _pinned.pop()


def first_map(group: str) -> ShardMap:
    """Return the map that a group begins with; no query.

    Slots are dealt in equal runs; a range is the first shard's whole; regions are to be placed.
    """
    name = settings_of(group).strategy
    aliases = shards()
    made = {
        "range": ((), {LOWEST: aliases[0]}),
        "geographic": ((), {}),
    }.get(name) or (equal_runs(aliases), {})
    return ShardMap(group, 1, STRATEGIES[name](*made))


def _only_group() -> str:
    groups = ShardingSettings.load().groups
    if len(groups) != 1:
        raise ConfigurationError(
            'There are no groups: set DBPATTERNS["SHARDING"]["GROUPS"].'
            if not groups
            else f"Say which group the key is of: {', '.join(sorted(groups))}."
        )
    return next(iter(groups))


def settings_of(group: str) -> GroupSettings:
    """Return what the settings say of a group; no query.

    Raises: ConfigurationError: nothing.
    """
    settings = ShardingSettings.load()
    if group not in settings.groups:
        known = ", ".join(sorted(settings.groups)) or "none"
        raise ConfigurationError(f"There is no group {group!r}. Known: {known}.")
    return settings.groups[group]


def _refresh(group: str, known: ShardMap | None) -> ShardMap:
    from dbpatterns.sharding.map_store import epoch_of, read  # models, when they are there

    settings_of(group)
    asked = time.monotonic()  # before the answer: a map's age counts from what it may have missed
    try:
        if known is None or epoch_of(group) != known.epoch:
            known = read(group)
    except DatabaseError:
        if known is None:
            raise
        logger.warning("The control database does not answer; the map of %r is as known.", group)
    _known[group] = (known, asked + ShardingSettings.load().map_max_age_seconds)
    return known
