"""What a row's columns say about its shard: the shard key, and ids that carry a slot.

    class Account(ShardedModel):
        shard_key = "customer"

A foreign key within the group says it too, since both rows lie on one shard and the database
holds them to it.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from uuid import UUID

from django.core.exceptions import FieldDoesNotExist
from django.core.signals import setting_changed
from django.db.models import (
    AutoField,
    CharField,
    Field,
    ForeignKey,
    IntegerField,
    Model,
    TextField,
    UUIDField,
)
from django.db.models.signals import class_prepared

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.hashing import INTEGERS
from dbpatterns.sharding.shard_map import ShardMap, shard_map

__all__ = [
    "Telling",
    "end_field",
    "group_of",
    "home_of",
    "is_held",
    "is_key",
    "is_own_key",
    "is_sharded",
    "key_field",
    "key_of",
    "kind_of",
    "lie_together",
    "telling_columns",
]

Telling = Callable[[ShardMap, Any], frozenset[str]]
"""From a column's value to the shards that may hold the row."""


def is_sharded(model: type[Model] | Model) -> bool:
    """Tell whether a model's rows are placed by a shard key; no query."""
    return getattr(model, "shard_key", None) is not None


@cache
def group_of(model: type[Model]) -> str:
    """Return the group of a sharded model; no query.

    Raises: ConfigurationError: its app is in none.
    """
    group = ShardingSettings.load().group_of(model._meta.app_label)
    if group is None:
        raise ConfigurationError(
            f"{model._meta.label} is a sharded model, and its app is in no group: add "
            f'"{model._meta.app_label}" to the APPS of one in DBPATTERNS["SHARDING"]["GROUPS"].'
        )
    return group


@cache
def key_field(model: type[Model]) -> "Field[Any, Any]":
    """Return the field of a model's shard key.

    Raises: ConfigurationError: there is no such column.
    """
    name: str = getattr(model, "shard_key", "")
    field: Any = None
    with suppress(FieldDoesNotExist):
        field = model._meta.get_field(name)
    if not getattr(field, "concrete", False) or field.many_to_many:
        raise ConfigurationError(
            f"{model._meta.label}.shard_key is {name!r}, which is no column of it."
        )
    return field  # type: ignore[no-any-return]


def end_field(field: Any) -> Any:
    """Return the field that a chain of foreign keys ends at: its own values; no query."""
    while isinstance(field, ForeignKey):
        field = field.target_field
    return field


def is_key(field: "Field[Any, Any]") -> bool:
    """Tell whether a field's values can be a shard key: integers, texts, UUIDs; no query."""
    end = end_field(field)
    return isinstance(end, IntegerField | AutoField | CharField | TextField | UUIDField)


def kind_of(field: "Field[Any, Any]") -> type[int] | type[str] | type[UUID]:
    """Return the type of a shard key's values; no query."""
    end = end_field(field)
    if isinstance(end, UUIDField):
        return UUID
    return str if isinstance(end, CharField | TextField) else int


def is_own_key(model: type[Model]) -> bool:
    """Tell whether a model's rows are placed by a key, not by the slot in another row's id."""
    return _slot_reader(key_field(model)) is None


def is_held(field: Any) -> bool:
    """Tell whether the database holds a column to a row of another table; no query."""
    return isinstance(field, ForeignKey) and getattr(field, "db_constraint", False)


def lie_together(one: "Field[Any, Any]", other: "Field[Any, Any]") -> bool:
    """Tell whether rows whose columns are equal are on one shard; no query.

    So are rows of one key, and rows that refer to one row, or are it.
    """
    models: tuple[Any, Any] = (one.model, other.model)
    if not all(map(is_sharded, models)) or len({group_of(each) for each in models}) > 1:
        return False
    if all(each == key_field(each.model) for each in (one, other)):
        return True
    row = _row_of(one)
    return row == _row_of(other) and row.unique and is_sharded(row.model)


def _row_of(field: Any) -> Any:
    while is_held(field):
        field = field.target_field
    return field


def key_of(instance: Model) -> Any:
    """Return an instance's shard key; None when it has none or did not load it. No query."""
    return instance.__dict__.get(key_field(type(instance)).attname)


def home_of(instance: Model) -> str | None:
    """Return the shard that an instance belongs on, by the map; None when it does not say.

    Where it was read from does not count: rows move.
    """
    group_map = shard_map(group_of(type(instance)))
    for attname, tells in _own_columns(type(instance)).items():
        value = instance.__dict__.get(attname)
        if value is None or (
            not isinstance(value, (int, str, bytes)) and hasattr(value, "resolve_expression")
        ):
            continue
        field: Any = instance._meta.get_field(attname)
        told = tells(group_map, field.get_prep_value(value))  # a number may be given as text
        if len(told) == 1:
            return next(iter(told))
    return None


@cache
def telling_columns(model: type[Model]) -> Mapping[str, Telling]:
    """Return the columns of a model that say where a row is, by the field's attribute name."""
    found = dict(_own_columns(model))
    group = group_of(model)
    columns: Iterable[Any] = model._meta.concrete_fields
    for field in columns:
        if field.attname in found or not is_held(field):
            continue
        target = field.remote_field.model
        if not is_sharded(target) or group_of(target) != group:
            continue
        tells = _own_columns(target).get(field.target_field.attname)
        if tells is not None:
            found[field.attname] = tells
    return found


@cache
def _own_columns(model: type[Model]) -> Mapping[str, Telling]:
    field = key_field(model)
    if is_own_key(model):
        found: dict[str, Telling] = {field.attname: _by_key}
    else:  # the key of a row below another: that one's id
        found = {field.attname: _by_slot(_slot_reader(field))}
    for each in model._meta.pk_fields:
        read = _slot_reader(each)
        if read is not None:
            found[each.attname] = _by_slot(read)
    return found


def _slot_reader(field: "Field[Any, Any]") -> Any:
    """Return the function that reads the slot out of a field's value; None if it has none."""
    return getattr(end_field(field), "slot_of_value", None)


def _by_key(group_map: ShardMap, value: Any) -> frozenset[str]:
    if type(value) is int and value not in INTEGERS:
        return frozenset()  # which no column holds: Django asks nobody either
    return group_map.of_key(value)


def _by_slot(read: Callable[[Any], int | None]) -> Telling:
    def tells(group_map: ShardMap, value: Any) -> frozenset[str]:
        slot = read(value)
        return frozenset() if slot is None else group_map.holders(slot)

    return tells


def _forget(**_: object) -> None:
    group_of.cache_clear()
    key_field.cache_clear()
    telling_columns.cache_clear()
    _own_columns.cache_clear()


class_prepared.connect(_forget, dispatch_uid="dbpatterns.sharding.keys")
setting_changed.connect(_forget, dispatch_uid="dbpatterns.sharding.keys")
