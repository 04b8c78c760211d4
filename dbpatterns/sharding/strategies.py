"""Strategies: four ways from a key to its shard, each an immutable value made from rows.

A strategy is made of slot ranges (by their first slot) and of placed keys, the rows of the map's
two tables. `hash` uses slots alone; `directory` is a hash with keys of its own beside it, for a
hot tenant; `range` takes placed keys as lower bounds; `geographic` takes them as regions.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol
from uuid import UUID

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding.hashing import SLOTS, Key, plain, slot_of

__all__ = [
    "LOWEST",
    "STRATEGIES",
    "Directory",
    "Geographic",
    "Hash",
    "Range",
    "Strategy",
    "decode",
    "encode",
    "equal_runs",
]

LOWEST = ""
"""Stands for a bound below every key, in a map by range."""
_TYPES: Mapping[str, type] = {"int": int, "str": str, "uuid": UUID}

Slots = Sequence[tuple[int, str]]
"""First slots and their shards, in order; the first is slot 0."""
Keys = Mapping[str, str]
"""Encoded keys and their shards."""


def encode(key: Key) -> str:
    """Return a key as the map keeps it: its type and its text.

    Raises: UsageError: no text, no UUID and no integer of 64 bits.
    """
    slot_of(key)  # knows what a key is
    key = plain(key)
    return f"{'uuid' if isinstance(key, UUID) else type(key).__name__}:{key}"


def decode(text: str) -> Key:
    """Return the key that `encode` made the text of.

    Raises: ConfigurationError: it did not.
    """
    kind, _, value = text.partition(":")
    try:
        key: Key = _TYPES[kind](value)
    except (KeyError, ValueError):
        raise ConfigurationError(f"The map has {text!r}, which is no key.") from None
    return key


def equal_runs(shards: Sequence[str]) -> list[tuple[int, str]]:
    """Return slots dealt to shards in equal runs: with four, 0 to 4,095 are the first's."""
    count = len(shards)
    return [(-(-SLOTS * index // count), shard) for index, shard in enumerate(shards)]


class Strategy(Protocol):
    """From a key to its shard; no method queries."""

    name: ClassVar[str]

    def __init__(self, slots: Slots, keys: Keys) -> None:
        """Take the map's rows.

        Raises: ConfigurationError: they are not a map of this kind.
        """

    @property
    def shards(self) -> frozenset[str]:
        """The shards that hold anything."""

    def shard_of(self, key: Key) -> str:
        """Return the shard of a key.

        Raises: LookupError: it has none; the text says why. UsageError: it cannot be a key.
        """

    def holders(self, slot: int) -> frozenset[str]:
        """Return the shards that may hold keys of a slot, for a row known by its id alone."""


@dataclass(frozen=True)
class Hash:
    """A key's slot, and the slot's shard."""

    name: ClassVar[str] = "hash"
    slots: Slots
    keys: Keys

    def __post_init__(self) -> None:
        """Refuse a map with a gap, or with keys that nobody would look at."""
        _check_slots(self.slots)
        if self.keys:
            raise ConfigurationError("A map by hash places slots, and this one has keys.")

    @cached_property
    def shards(self) -> frozenset[str]:
        """The shards that hold anything."""
        return frozenset(shard for _, shard in self.slots)

    @cached_property
    def _firsts(self) -> list[int]:
        return [first for first, _ in self.slots]

    def of_slot(self, slot: int) -> str:
        """Return the shard of a slot."""
        return self.slots[bisect_right(self._firsts, slot) - 1][1]

    def shard_of(self, key: Key) -> str:
        """Return the shard of the key's slot."""
        return self.of_slot(slot_of(key))

    def holders(self, slot: int) -> frozenset[str]:
        """Return the slot's shard, the only one."""
        return frozenset((self.of_slot(slot),))


@dataclass(frozen=True)
class Directory:
    """A hash, but for keys that have a shard of their own."""

    name: ClassVar[str] = "directory"
    slots: Slots
    keys: Keys

    def __post_init__(self) -> None:
        """Refuse a map with a gap, or with a key that is none."""
        _check_slots(self.slots)
        _check_keys(self.keys)

    @cached_property
    def _hash(self) -> Hash:
        return Hash(self.slots, {})

    @cached_property
    def _placed(self) -> dict[Key, str]:
        return {decode(key): shard for key, shard in self.keys.items()}

    @cached_property
    def _placed_slots(self) -> dict[int, frozenset[str]]:
        found: dict[int, frozenset[str]] = {}
        for key, shard in self._placed.items():
            found[slot_of(key)] = found.get(slot_of(key), frozenset()) | {shard}
        return found

    @cached_property
    def shards(self) -> frozenset[str]:
        """The shards that hold anything."""
        return self._hash.shards | frozenset(self.keys.values())

    def shard_of(self, key: Key) -> str:
        """Return the key's own shard, or its slot's."""
        slot_of(key)  # knows what a key is: True is none, and equals 1
        return self._placed.get(key) or self._hash.shard_of(key)

    def holders(self, slot: int) -> frozenset[str]:
        """Return the slot's shard, and those of keys of the slot that have their own."""
        return self._hash.holders(slot) | self._placed_slots.get(slot, frozenset())


@dataclass(frozen=True)
class Range:
    """The shard of the greatest bound that is not above the key.

    Texts compare by code points, as the collation "C" does.
    """

    name: ClassVar[str] = "range"
    slots: Slots
    keys: Keys

    def __post_init__(self) -> None:
        """Refuse bounds of two types, and a map that begins above the lowest key."""
        if LOWEST not in self.keys:
            raise ConfigurationError(
                "A map by range begins below every key, and this one has a gap."
            )
        if len({type(decode(key)) for key in self.keys if key != LOWEST}) > 1:
            raise ConfigurationError("A map by range has bounds of one type, and this one of two.")
        if self.slots:
            raise ConfigurationError(
                "A map by range places ranges of keys, and this one has slots."
            )

    @cached_property
    def bounds(self) -> list[tuple[Key, str]]:
        """The bounds above the lowest, in their order, and their shards."""
        placed = [(decode(key), shard) for key, shard in self.keys.items() if key != LOWEST]
        return sorted(placed, key=lambda each: each[0])

    @cached_property
    def _lower(self) -> list[Key]:
        return [bound for bound, _ in self.bounds]

    @cached_property
    def shards(self) -> frozenset[str]:
        """The shards that hold anything."""
        return frozenset(self.keys.values())

    def shard_of(self, key: Key) -> str:
        """Return the shard of the key's range."""
        slot_of(key)  # knows what a key is
        if self._lower and type(self._lower[0]) is not type(key):
            raise UsageError(
                f"The map is of {type(self._lower[0]).__name__} keys, and {key!r} is none."
            )
        index = bisect_right(self._lower, key)
        return self.bounds[index - 1][1] if index else self.keys[LOWEST]

    def holders(self, slot: int) -> frozenset[str]:
        """Return all shards: a slot says nothing about a range."""
        return self.shards


@dataclass(frozen=True)
class Geographic:
    """Each region has its shard; one shard may have several."""

    name: ClassVar[str] = "geographic"
    slots: Slots
    keys: Keys

    def __post_init__(self) -> None:
        """Refuse slots, which nobody would look at."""
        if self.slots:
            raise ConfigurationError("A geographic map places regions, and this one has slots.")
        _check_keys(self.keys)

    @cached_property
    def _regions(self) -> dict[Key, str]:
        return {decode(key): shard for key, shard in self.keys.items()}

    @cached_property
    def shards(self) -> frozenset[str]:
        """The shards that hold anything."""
        return frozenset(self.keys.values())

    def shard_of(self, key: Key) -> str:
        """Return the region's shard."""
        slot_of(key)  # knows what a key is
        if key not in self._regions:
            known = ", ".join(sorted(map(str, self._regions))) or "none"
            raise LookupError(f"no such region is placed (placed: {known})")
        return self._regions[key]

    def holders(self, slot: int) -> frozenset[str]:
        """Return all shards: a slot says nothing about a region."""
        return self.shards


STRATEGIES: Mapping[str, type[Strategy]] = {
    each.name: each for each in (Hash, Range, Directory, Geographic)
}
"""By the name in the settings."""


def _check_keys(keys: Keys) -> None:
    for key in keys:
        decode(key)


def _check_slots(slots: Slots) -> None:
    firsts = [first for first, _ in slots]
    if not firsts or firsts[0] != 0:
        raise ConfigurationError(
            f"The map has a gap: slots 0 to {(firsts[0] if firsts else SLOTS) - 1:,} have no shard."
        )
    if firsts != sorted(set(firsts)) or firsts[-1] >= SLOTS:
        raise ConfigurationError(f"The map's slots are not in order below {SLOTS:,}.")
