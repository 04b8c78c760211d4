"""Changes of a map: a key or a region gets its shard, a range is split.

The keys must have no rows: moving rows is resharding. The order is what keeps writes right: both
shards are closed to the keys, the map is changed by compare-and-set, every process's map grows
old, and the new shard is opened. Killed at any step, the keys take no rows, and none is lost; the
same call once more finishes the change.
"""

import time
from uuid import uuid4

from dbpatterns.errors import UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import MapChanged, UnplacedKey
from dbpatterns.sharding.fences import close, closed_parts, reopen
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.map_store import Rows, change, read
from dbpatterns.sharding.parts import Part
from dbpatterns.sharding.shard_map import ShardMap
from dbpatterns.sharding.strategies import LOWEST, decode, encode

__all__ = ["assign", "split"]


def assign(group: str, key: Key, shard: str) -> ShardMap:
    """Give a key of a directory, or a region, its shard; it must have no rows.

    Takes as long as maps grow old, `MAP_MAX_AGE_SECONDS`, in which the key takes no rows.
    Raises: UsageError: a map of this strategy places no keys, or there is no such shard.
        PartNotEmpty, MapChanged: nothing was changed.
    """
    before = read(group)
    if before.strategy.name not in ("directory", "geographic"):
        raise UsageError(
            f"The map of {group!r} is by {before.strategy.name}, which places no single keys: "
            "a directory or a geographic map does."
        )
    placed = encode(key) in Rows.of(before).keys
    is_new = before.strategy.name == "geographic" and not placed
    home = None if is_new else before.shard_of(key)
    return _hand_over(before, Part(group, key), home, shard)


def split(group: str, bound: Key, shard: str) -> ShardMap:
    """Give the keys from a bound to the next one to a shard; they must have no rows.

    As `assign`. Raises: UsageError: the map is not by range, or of another type of keys.
    """
    before = read(group)
    if before.strategy.name != "range":
        raise UsageError(f"The map of {group!r} is by {before.strategy.name}: only ranges split.")
    home = before.shard_of(bound)
    bounds = [decode(each) for each in Rows.of(before).keys if each != LOWEST]
    above = min((each for each in bounds if each > bound), default=None)  # type: ignore[operator]
    return _hand_over(before, Part(group, bound, above, is_range=True), home, shard)


def _hand_over(before: ShardMap, part: Part, home: str | None, shard: str) -> ShardMap:
    settings = ShardingSettings.load()
    if shard not in settings.shards:
        known = ", ".join(settings.shards)
        raise UsageError(f"There is no shard {shard!r}. Known: {known}.")
    rows = Rows.of(before)
    after = Rows(rows.slots, {**rows.keys, encode(part.low): shard})
    made = before
    if home != shard:
        made = _give(before, part, home, shard, after)
    elif after != rows:
        made = change(before, after, f"{part} on {shard}, where it was")
    if any(each.overlaps(part) for each in closed_parts(shard, part.group, part.low)):
        time.sleep(settings.map_max_age_seconds)  # until nobody goes by the old map
        reopen(shard, part)
    return made


def _give(before: ShardMap, part: Part, home: str | None, shard: str, after: Rows) -> ShardMap:
    """Close both shards and change the map; the new one is still closed then."""
    owner = uuid4().hex
    closed: list[str] = []
    try:
        for alias in filter(None, (home, shard)):
            if close(alias, part, owner):
                closed.append(alias)
    except Exception:
        _undo(part, home, owner, closed)
        raise
    try:
        return change(before, after, f"{part} from {home or 'nowhere'} to {shard}")
    except MapChanged:
        _undo(part, home, owner, closed)
        raise  # another error leaves them closed: the change may have been committed


def _undo(part: Part, home: str | None, owner: str, closed: list[str]) -> None:
    """Open what this change closed, but what another change has taken over or given away."""
    now = _home(part)
    for alias in closed:
        is_mine = closed_parts(alias, part.group, part.low).get(part) == owner
        if is_mine and (alias != home or alias == now):
            reopen(alias, part)


def _home(part: Part) -> str | None:
    try:
        return read(part.group).shard_of(part.low)
    except UnplacedKey:
        return None
