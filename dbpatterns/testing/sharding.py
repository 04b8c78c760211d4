"""Sharded models in ordinary tests: which databases, which keys, and maps that cost no query.

class OrderTests(TestCase):
    databases = sharded_databases()

    def test_two_customers(self):
        here, there = key_on("shard_0"), key_on("shard_1")
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from dbpatterns.errors import UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.shard_map import first_map, pinned, shard_map, shards

__all__ = ["key_on", "keys_on", "pinned_maps", "sharded_databases"]


def sharded_databases() -> frozenset[str]:
    """Return the shards and the control database, for `TestCase.databases`; no query.

    Raises: ConfigurationError: there are no shards.
    """
    return frozenset((ShardingSettings.load().control, *shards()))


def key_on(alias: str, *, group: str | None = None) -> Key:
    """Return the smallest whole number above zero that a shard holds as a key."""
    return next(keys_on(alias, group=group))


def keys_on(
    alias: str, *, group: str | None = None, among: Iterable[Key] | None = None
) -> Iterator[Key]:
    """Yield the keys that a shard holds, of the whole numbers from 1 or of those given.

    For texts and UUIDs give some `among` which to choose. `group` where there are several.
    Raises: UsageError: the shard holds no key at all, by the map.
    """
    placed = shard_map(group)
    if alias not in placed.strategy.shards:
        holding = ", ".join(sorted(placed.strategy.shards)) or "none"
        raise UsageError(
            f"No key of group {placed.group!r} is on {alias!r}: by its map these shards hold keys: "
            f"{holding}."
        )
    return (
        each for each in (count(1) if among is None else among) if placed.shard_of(each) == alias
    )


@contextmanager
def pinned_maps() -> Iterator[None]:
    """Place rows by the settings' first maps in a block, and never read a map.

    So a test's count of queries does not hang on the age of the map that the process knows.
    """
    with pinned({name: first_map(name) for name in ShardingSettings.load().groups}):
        yield
