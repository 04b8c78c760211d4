"""Changes of a map: a key or a region gets its shard, a range is split.

The keys must have no rows: moving rows is resharding. The order is what keeps writes right: both
shards are closed to the keys, the map is changed by compare-and-set, every process's map grows
old, and the new shard is opened. Killed at any step, the keys take no rows, and none is lost; the
same call once more finishes the change.
"""

import time
from dataclasses import dataclass
from uuid import uuid4

from dbpatterns.errors import UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import MapChanged
from dbpatterns.sharding.fences import close, closed_parts, reopen
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.map_store import Rows, change, read
from dbpatterns.sharding.parts import Part
from dbpatterns.sharding.shard_map import ShardMap
from dbpatterns.sharding.strategies import Range, encode

__all__ = ["HandOver", "assign", "assigning", "split", "splitting"]


def assign(group: str, key: Key, shard: str) -> ShardMap:
    """Give a key of a directory, or a region, its shard; it must have no rows.

    Takes as long as maps grow old, `MAP_MAX_AGE_SECONDS`, in which the key takes no rows.
    Raises: UsageError: a map of this strategy places no keys, or there is no such shard.
        PartNotEmpty, MapChanged: nothing was changed.
    """
    return assigning(group, key, shard).run()


def split(group: str, bound: Key, shard: str) -> ShardMap:
    """Give the keys from a bound to the next one to a shard; they must have no rows.

    As `assign`. Raises: UsageError: the map is not by range, or of another type of keys.
    """
    return splitting(group, bound, shard).run()


def assigning(group: str, key: Key, shard: str) -> "HandOver":
    """Return what `assign` would do; reads the map, and changes nothing."""
    before = read(group)
    if before.strategy.name not in ("directory", "geographic"):
        raise UsageError(
            f"The map of {group!r} is by {before.strategy.name}, which places no single keys: "
            "a directory or a geographic map does."
        )
    return HandOver(before, Part(group, key), shard)


def splitting(group: str, bound: Key, shard: str) -> "HandOver":
    """Return what `split` would do; reads the map, and changes nothing."""
    before = read(group)
    if not isinstance(before.strategy, Range):
        raise UsageError(f"The map of {group!r} is by {before.strategy.name}: only ranges split.")
    before.shard_of(bound)  # knows whether it is of the map's type
    above = next((each for each, _ in before.strategy.bounds if each > bound), None)  # type: ignore[operator]
    return HandOver(before, Part(group, bound, above, is_range=True), shard)


@dataclass(frozen=True)
class HandOver:
    """One part of one map on its way to a shard."""

    before: ShardMap
    part: Part
    shard: str

    def __post_init__(self) -> None:
        """Refuse a shard that is not in the settings, and what is no key."""
        aliases = ShardingSettings.load().shards
        if self.shard not in aliases:
            raise UsageError(f"There is no shard {self.shard!r}. Known: {', '.join(aliases)}.")
        encode(self.part.low)

    @property
    def home(self) -> str | None:
        """The shard that has the part by the map; None for a region that is new."""
        return self.before.home_of(self.part.low)

    def rows(self) -> dict[str, int]:
        """Return how many rows stand in the way, by shard and model; a query on each."""
        if self.home == self.shard:
            return {}
        return {
            f"{alias}: {label}": count
            for alias in filter(None, (self.home, self.shard))
            for label, count in self.part.counts(alias).items()
        }

    def run(self) -> ShardMap:
        """Hand the part over, or finish what was interrupted; returns the map that is then true."""
        rows = Rows.of(self.before)
        after = Rows(rows.slots, {**rows.keys, encode(self.part.low): self.shard})
        made = self.before
        if self.home != self.shard:
            made = self._give(after)
        elif after != rows:
            made = change(self.before, after, f"{self.part} on {self.shard}, where it was")
        closed = self._closed(self.shard)
        if any(each.overlaps(self.part) for each in closed):
            time.sleep(ShardingSettings.load().map_max_age_seconds)  # nobody goes by the old map
            reopen(self.shard, self.part)
        return made

    def _give(self, after: Rows) -> ShardMap:
        """Close both shards and change the map; the new one is still closed then."""
        owner = uuid4().hex
        closed: list[str] = []
        try:
            for alias in filter(None, (self.home, self.shard)):
                if close(alias, self.part, owner):
                    closed.append(alias)
        except Exception:
            self._reopen(closed, owner)
            raise
        what = f"{self.part} from {self.home or 'nowhere'} to {self.shard}"
        try:
            return change(self.before, after, what)
        except MapChanged:
            self._reopen(closed, owner)
            raise  # another error leaves them closed: the change may have been committed

    def _reopen(self, closed: list[str], owner: str) -> None:
        for alias in closed:
            reopen(alias, self.part, owner=owner)

    def _closed(self, alias: str) -> dict[Part, str]:
        return closed_parts(alias, self.part.group, type(self.part.low))
