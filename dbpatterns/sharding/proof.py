"""The proof of a map: against the shards' fences, and against the rows that they have."""

from collections import Counter
from collections.abc import Iterator

from django.db import DatabaseError

from dbpatterns.sharding.errors import said_by
from dbpatterns.sharding.fences import closed_parts
from dbpatterns.sharding.keys import key_field
from dbpatterns.sharding.parts import Part, key_type, keyed_models
from dbpatterns.sharding.shard_map import ShardMap, shards
from dbpatterns.sharding.strategies import Range

__all__ = ["interrupted", "strays"]


def interrupted(shard_map: ShardMap) -> Iterator[str]:
    """Yield what a shard is closed to and has by the map; a query on each shard.

    A change that was killed leaves it so, and one that is under way for some seconds.
    """
    kind = key_type(shard_map.group)
    for alias in shards():
        try:
            closed = closed_parts(alias, shard_map.group, kind)
        except DatabaseError as error:
            yield f"{alias} cannot be asked: {said_by(error)}; `migrate` it if a table is missing"
            continue
        for part in closed:
            yield from _closed_at_home(shard_map, alias, part)


def _closed_at_home(shard_map: ShardMap, alias: str, part: Part) -> Iterator[str]:
    keys = [part.low]
    if isinstance(shard_map.strategy, Range):
        bounds = (each for each, _ in shard_map.strategy.bounds)
        keys += [each for each in bounds if part.overlaps(Part(part.group, each, each, True))]
    for key in keys:
        if shard_map.home_of(key) == alias:
            verb = "split" if part.is_range else "assign"
            yield (
                f"{alias} is closed to {key!r}, which is its own by the map: a change is under way "
                f"or was interrupted; `shard_map {verb} {key} {alias} --group {part.group}` "
                "opens it"
            )
            return


def strays(shard_map: ShardMap) -> Iterator[str]:
    """Yield how many rows lie where the map does not have them; reads every key of every shard."""
    for alias in shards():
        for model in keyed_models(shard_map.group):
            name = key_field(model).attname
            found: Counter[str | None] = Counter()
            keys = model._base_manager.using(alias).order_by(name).values_list(name, flat=True)
            for key in keys.iterator():
                found[shard_map.home_of(key)] += 1
            found.pop(alias, None)
            for home, count in sorted(found.items(), key=str):
                where = f"belong on {home}" if home else "have no shard"
                yield f"{count:,} of {model._meta.label} on {alias} {where}"
