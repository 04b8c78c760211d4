"""Parts of a map: one key or region, or the keys between two bounds; and their rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import connections
from django.db.models import F, Model
from django.db.models.functions import Collate

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.keys import group_of, is_own_key, is_sharded, key_field, kind_of

__all__ = ["Part", "key_type", "keyed_models", "text_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """Keys of one group that change hands together."""

    group: str
    low: Key
    high: Key | None = None
    """The first key above it; None for no end."""
    is_range: bool = False
    """False: `low` alone."""

    def __str__(self) -> str:
        if not self.is_range:
            return repr(self.low)
        return f"{self.low!r} and above" if self.high is None else f"{self.low!r} to {self.high!r}"

    def overlaps(self, other: "Part") -> bool:
        """Tell whether a key is in both; both are of one group."""
        if not (self.is_range and other.is_range):
            return self.low == other.low
        return _below(self.low, other.high) and _below(other.low, self.high)

    def minus(self, other: "Part") -> Iterator["Part"]:
        """Yield what is left of this part without the other's keys."""
        if not self.overlaps(other):
            yield self
        elif self.is_range:
            if self.low < other.low:  # type: ignore[operator]
                yield replace(self, high=other.low)
            if other.high is not None and _below(other.high, self.high):
                yield replace(self, low=other.high)

    def counts(self, alias: str) -> dict[str, int]:
        """Return how many rows have these keys on a shard, by model; a query on each."""
        found = {
            each._meta.label: self.rows(each, alias).count() for each in keyed_models(self.group)
        }
        return {label: count for label, count in found.items() if count}

    def rows(self, model: type[Model], alias: str) -> Any:
        """Return the rows of a model on a shard that have these keys; no query yet.

        Texts compare by code points, as the map's bounds do.
        """
        name = key_field(model).attname
        found = model._base_manager.using(alias)
        if not self.is_range:
            return found.filter(**{name: self.low})
        key: Any = F(name)
        if isinstance(self.low, str):
            key = Collate(key, "C" if connections[alias].vendor == "postgresql" else "BINARY")
        found = found.alias(map_key=key).filter(map_key__gte=self.low)
        return found if self.high is None else found.filter(map_key__lt=self.high)


def keyed_models(group: str) -> Iterator[type[Model]]:
    """Yield the models of a group whose rows say their key themselves, by table; no query.

    Rows that belong to another's by its id cannot be where that one is not.
    """
    models: list[type[Model]] = [
        each
        for each in apps.get_models()
        if is_sharded(each) and each._meta.managed and not each._meta.proxy
    ]
    for model in sorted(models, key=lambda each: each._meta.db_table):
        if group_of(model) == group and is_own_key(model):
            yield model


def key_type(group: str) -> type[Key]:
    """Return the type of a group's keys, by its first model; no query.

    Raises: ConfigurationError: no model says a key.
    """
    for model in keyed_models(group):
        return kind_of(key_field(model))
    raise ConfigurationError(f"Group {group!r} has no model with a shard key of its own.")


def _below(low: Key, high: Key | None) -> bool:
    return high is None or low < high  # type: ignore[operator]


def text_of(key: Key, alias: str) -> str:
    """Return a key as the text of its column."""
    if isinstance(key, UUID) and not connections[alias].features.has_native_uuid_field:
        return key.hex
    return str(key)
