"""Where a row is written: its key's shard, or where the code around says."""

from collections.abc import Mapping
from typing import Any

from django.db import models

from dbpatterns.sharding.context import current_shard, enter
from dbpatterns.sharding.covering import refuse_uncovered
from dbpatterns.sharding.errors import ShardKeyChanged, ShardKeyRequired, WrongShard
from dbpatterns.sharding.fields import home_by_lot
from dbpatterns.sharding.keys import home_of, key_field, key_of
from dbpatterns.sharding.routing import refuse_foreign

__all__ = ["inner_queries", "place", "place_uncovered", "refuse_other_key"]


def place(
    instance: models.Model, using: str | None, *, near: str | None = None, by_lot: bool = True
) -> str:
    """Return where to write an instance: its home by the map; `using` if it names none.

    `near` is where the code around works, for a row that says nothing. A new row that is its own
    key and has none gets one `by_lot`.

    Raises: WrongShard: `using` is another. ShardKeyRequired: nothing says where.
        CrossShardError: one of its values is an inner query on another shard. UncoveredWrite:
            another database alone has a transaction open.
    """
    home = place_uncovered(instance, using, near=near, by_lot=by_lot)
    refuse_uncovered(type(instance)._meta.label, home)
    return home


def place_uncovered(
    instance: models.Model, using: str | None, *, near: str | None, by_lot: bool = True
) -> str:
    """Return what `place` does, whether or not a transaction there covers the write yet."""
    home = home_of(instance)
    if home is None and by_lot:
        home = home_by_lot(instance, using or near or current_shard())
    model = type(instance)._meta.label
    if home is None:
        home = using or near or instance._state.db or current_shard()
        if home is None:
            key = key_field(type(instance)).attname
            raise ShardKeyRequired(model, key, why="this row has none")
    elif using is not None and using != home:
        raise WrongShard(model, key_of(instance), shard=using, home=home)
    if using is None:
        _refuse_foreign_values(instance, home)
    return enter(model, home)


def refuse_other_key(instance: models.Model) -> None:
    """Refuse to write a row that was read under another key.

    A query when it was read without its key and has one now.
    Raises: ShardKeyChanged.
    """
    after = key_of(instance)
    if instance._state.adding or after is None:
        return
    field = key_field(type(instance))
    before, there = getattr(instance._state, "shard_key", None), instance._state.db
    if before is None:
        if there is None:
            return
        rows = type(instance)._base_manager.using(there).filter(pk=instance.pk)
        found = list(rows.values_list(field.attname, flat=True))
        if not found:
            return  # nothing is there that could be left behind
        before = found[0]
        if before is None and home_of(instance) == there:
            return  # a row without a key gets one, and is in its place
    if after != before:
        raise ShardKeyChanged(instance._meta.label, field.name, before=before, after=after)


def inner_queries(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new values that inner queries answer, which have shards too, as annotations."""
    return {f"new_{name}": value for name, value in values.items() if _asks(value)}


def _refuse_foreign_values(instance: models.Model, alias: str) -> None:
    columns = (each.attname for each in instance._meta.concrete_fields)
    asking = inner_queries({name: instance.__dict__.get(name) for name in columns})
    if asking:
        rows = type(instance)._base_manager.using(alias).annotate(**asking)
        refuse_foreign(rows.query, alias, is_pinned=False)


def _asks(value: Any) -> bool:
    if isinstance(value, models.Subquery | models.QuerySet):
        return True
    inner = getattr(value, "get_source_expressions", None)
    return inner is not None and any(map(_asks, inner()))
