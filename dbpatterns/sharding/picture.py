"""A map for the eye: who holds which slots, bounds and keys, in lines of text."""

from collections.abc import Iterator
from string import ascii_uppercase

from dbpatterns.sharding.hashing import SLOTS
from dbpatterns.sharding.map_store import Rows
from dbpatterns.sharding.shard_map import ShardMap, shards
from dbpatterns.sharding.strategies import LOWEST, Hash, Range, decode

__all__ = ["lines", "slots_of"]

COLUMNS, LINES, KEYS = 64, 4, 20
CELL = SLOTS // (COLUMNS * LINES)


def lines(shard_map: ShardMap) -> Iterator[str]:
    """Yield a map's lines: its number, its shards, slots as a picture, bounds or keys as a list."""
    rows = Rows.of(shard_map)
    letters = dict(zip(shards(), ascii_uppercase, strict=False))
    yield f"{shard_map.group}: {shard_map.strategy.name}, epoch {shard_map.epoch:,}"
    held = slots_of(rows)
    for alias in shards():
        letter = letters.get(alias, "?")
        share = f"{held.get(alias, 0):>7,} slots {held.get(alias, 0) / SLOTS:>6.1%}"
        placed = sum(each == alias for each in rows.keys.values())
        placed_word = "bound" if shard_map.strategy.name == "range" else "key"
        count = f"{placed:>7,} {placed_word}{'' if placed == 1 else 's'}" if rows.keys else ""
        yield f"  {letter} {alias:<20}{share if rows.slots else ''}{count}"
    yield from _slots(rows, letters)
    if isinstance(shard_map.strategy, Range):
        yield from _bounds(shard_map.strategy, letters)
    else:
        yield from _keys(rows, letters)


def slots_of(rows: Rows) -> dict[str, int]:
    """Return how many slots each shard holds."""
    firsts = sorted(rows.slots)
    held: dict[str, int] = {}
    for first, after in zip(firsts, [*firsts, SLOTS][1:], strict=True):
        shard = rows.slots[first]
        held[shard] = held.get(shard, 0) + after - first
    return held


def _slots(rows: Rows, letters: dict[str, str]) -> Iterator[str]:
    if not rows.slots:
        return
    holders = Hash(sorted(rows.slots.items()), {})
    for line in range(LINES):
        cells = ""
        for column in range(COLUMNS):
            first = (line * COLUMNS + column) * CELL
            found = {holders.of_slot(slot) for slot in range(first, first + CELL)}
            cells += letters.get(found.pop(), "?") if len(found) == 1 else "*"
        yield f"  {line * COLUMNS * CELL:>6,} {cells}"
    if any(first % CELL for first in rows.slots):
        yield f"         * has slots of several shards; a letter is {CELL} slots"


def _bounds(placed: Range, letters: dict[str, str]) -> Iterator[str]:
    bounds = [("the lowest", placed.keys[LOWEST]), *((str(key), at) for key, at in placed.bounds)]
    widest = max(len(text) for text, _ in bounds)
    for text, shard in bounds:
        yield f"  from {text:<{widest}}  {letters.get(shard, '?')} {shard}"


def _keys(rows: Rows, letters: dict[str, str]) -> Iterator[str]:
    for encoded in sorted(rows.keys)[:KEYS]:
        shard = rows.keys[encoded]
        yield f"  {decode(encoded)!s:<20}  {letters.get(shard, '?')} {shard}"
    if len(rows.keys) > KEYS:
        yield f"  and {len(rows.keys) - KEYS:,} more keys: --format json has all"
