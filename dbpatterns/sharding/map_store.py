"""The map in the control database: read whole, changed in one transaction, by one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from django.db import DatabaseError, ProgrammingError, connections, router, transaction
from django.db.models import F, QuerySet

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import MapChanged
from dbpatterns.sharding.models import MapChange, PlacedKey, ShardGroup, SlotRange
from dbpatterns.sharding.shard_map import ShardMap, first_map, forget, settings_of
from dbpatterns.sharding.strategies import STRATEGIES

K = TypeVar("K")

__all__ = ["Rows", "change", "epoch_of", "make_first_maps", "read"]


@dataclass(frozen=True)
class Rows:
    """A map as its tables have it, each row's shard by its first slot or its key."""

    slots: Mapping[int, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, shard_map: ShardMap) -> "Rows":
        """Return the rows of a map; no query."""
        strategy = shard_map.strategy
        return cls(dict(getattr(strategy, "slots", ())), dict(getattr(strategy, "keys", {})))


def epoch_of(group: str) -> int:
    """Return the number of a group's map; one query."""
    epoch = _groups().filter(pk=group).values_list("epoch", flat=True).first()
    if epoch is None:
        raise ConfigurationError(_missing(group))
    return epoch


def read(group: str) -> ShardMap:
    """Return a group's map; four queries, the last of which tells that the others saw one state.

    Raises: ConfigurationError: it is not there, not in the settings, has a gap, or is of another
        strategy.
    """
    control = ShardingSettings.load().control
    while True:
        try:
            row = _groups().get(pk=group)
        except ShardGroup.DoesNotExist:
            raise ConfigurationError(_missing(group)) from None
        except DatabaseError as error:
            if not _has_no_table(error):
                raise
            raise ConfigurationError(_missing(group)) from error
        slots = SlotRange.objects.using(control).filter(group=group).order_by("first_slot")
        keys = PlacedKey.objects.using(control).filter(group=group)
        found = (
            list(slots.values_list("first_slot", "shard")),
            dict(keys.values_list("key", "shard")),
        )
        if epoch_of(group) == row.epoch:  # else somebody changed it between the queries
            break
    return _made(group, row, *found)


def change(before: ShardMap, after: Rows, what: str) -> ShardMap:
    """Put another map in the place of `before`, if that is still the current one.

    One transaction on the control database; the group's row is changed first, so of two who
    change at once one waits, and is then told.
    Raises: MapChanged: nothing was written. ConfigurationError: it is no map of its strategy.
    """
    control = ShardingSettings.load().control
    with transaction.atomic(using=control):
        here = _groups().filter(pk=before.group, epoch=before.epoch)
        if not here.update(epoch=F("epoch") + 1):
            raise MapChanged(before.group, expected=before.epoch, found=epoch_of(before.group))
        made = _made(
            before.group, _groups().get(pk=before.group), sorted(after.slots.items()), after.keys
        )
        _write(before.group, after, Rows.of(before))
        MapChange.objects.using(control).create(
            group_id=before.group, epoch=made.epoch, change=what
        )
    forget()
    return made


def make_first_maps(using: str) -> None:
    """Make the map of each group that has none, where `using` is the control database."""
    settings = ShardingSettings.load()
    if using != settings.control or not settings.shards:
        return
    if not router.allow_migrate_model(using, ShardGroup):
        return
    if ShardGroup._meta.db_table not in connections[using].introspection.table_names():
        return  # migrated backwards
    for name, group in settings.groups.items():
        with transaction.atomic(using=using):
            _, is_new = _groups().get_or_create(pk=name, defaults={"strategy": group.strategy})
            if is_new:
                _write(name, Rows.of(first_map(name)), Rows())
    forget()


def _has_no_table(error: DatabaseError) -> bool:
    """Tell what PostgreSQL has a class for and SQLite says as it says that a file is locked."""
    return isinstance(error, ProgrammingError) or "no such table" in str(error)


def _groups() -> "QuerySet[ShardGroup]":
    return ShardGroup.objects.using(ShardingSettings.load().control)


def _write(group: str, after: Rows, before: Rows) -> None:
    control = ShardingSettings.load().control
    slots = SlotRange.objects.using(control)
    slots.filter(group=group, first_slot__in=_gone(before.slots, after.slots)).delete()
    slots.bulk_create(
        SlotRange(group_id=group, first_slot=first, shard=after.slots[first])
        for first in _gone(after.slots, before.slots)
    )
    keys = PlacedKey.objects.using(control)
    keys.filter(group=group, key__in=_gone(before.keys, after.keys)).delete()
    keys.bulk_create(
        PlacedKey(group_id=group, key=key, shard=after.keys[key])
        for key in _gone(after.keys, before.keys)
    )


def _gone(these: Mapping[K, str], those: Mapping[K, str]) -> list[K]:
    return [each for each, shard in these.items() if those.get(each) != shard]


def _made(
    group: str, row: ShardGroup, slots: list[tuple[int, str]], keys: Mapping[str, str]
) -> ShardMap:
    expected = settings_of(group).strategy
    if row.strategy != expected:
        raise ConfigurationError(
            f"Group {group!r} is {expected!r} in the settings, and its map was made by "
            f"{row.strategy!r}: a map keeps its strategy, since its rows were placed by it."
        )
    try:
        made = STRATEGIES[row.strategy](slots, keys)
    except ConfigurationError as error:
        raise ConfigurationError(f"Group {group!r}: {error}") from error
    unknown = made.shards - set(ShardingSettings.load().shards)
    if unknown:
        raise ConfigurationError(
            f"The map of {group!r} places keys on {', '.join(sorted(unknown))}, which SHARDS does "
            "not have: put it back into the settings."
        )
    return ShardMap(group, row.epoch, made)


def _missing(group: str) -> str:
    control = ShardingSettings.load().control
    return (
        f"Group {group!r} has no map in database {control!r}: run `migrate --database {control}`, "
        "which makes the first."
    )
