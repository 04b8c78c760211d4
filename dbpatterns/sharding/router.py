"""The router: tables where their app says, rows where their key says, and no guessing.

Django tells a router the model and, from related managers and saves, an instance. What it does
not tell, the query's conditions, `ShardedQuerySet` reads itself; other querysets of apps on the
shards must say `using`.
"""

from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.context import current_shard
from dbpatterns.sharding.keys import home_of, is_sharded
from dbpatterns.sharding.reference import is_reference

__all__ = ["ShardRouter"]

APP = "dbpatterns_sharding"
ON_SHARDS = frozenset({"fence", "fencedgroup"})
"""This app's models that are on the shards; the others are on the control database."""


class ShardRouter:
    """Keep sharded apps on the shards, all others off them, and refuse to guess."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Return the shard of a sharded model's row, the control database of the map's tables."""
        return self._database_of(model, hints.get("instance"))

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        """Return the same as for a read."""
        return self._database_of(model, hints.get("instance"))

    def allow_relation(self, obj1: Model, obj2: Model, **hints: Any) -> bool | None:
        """Allow a relation between sharded rows of one database only."""
        if not (self._is_on_shards(obj1) or self._is_on_shards(obj2)):
            return None
        return obj1._state.db is None or obj2._state.db in (None, obj1._state.db)

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool | None:
        """Put a sharded app's tables on every shard, and no other app's there.

        Nothing goes anywhere while the settings are wrong: `check` asks too (Django 6.1) and has
        to report them, and `migrate` is refused before it begins.
        """
        try:
            sharding = ShardingSettings.load()
        except ConfigurationError:
            return False
        if any(db in replicas for replicas in sharding.replicas.values()):
            return False  # it gets them from its shard
        if app_label in sharding.apps or (app_label == APP and model_name in ON_SHARDS):
            return db in sharding.shards
        if app_label == APP and model_name is not None:
            return db == sharding.control
        if db in sharding.shards and db not in (DEFAULT_DB_ALIAS, sharding.control):
            return None if app_label == APP else False
        return None

    def _database_of(self, model: type[Model], instance: Model | None) -> str | None:
        if model._meta.app_label == APP and model._meta.model_name not in ON_SHARDS:
            return ShardingSettings.load().control
        if not self._is_on_shards(model):
            return None
        if instance is not None:
            home = home_of(instance) if is_sharded(instance) else None
            home = home or instance._state.db
            if home is not None:
                return home
        alias = current_shard()
        if alias is not None:
            return alias
        if is_reference(model):
            raise UsageError(
                f"{model._meta.label} is on every shard, and one transaction is on one: write it "
                "by its manager or save(), within on_every_shard(), or in a ReferenceAdmin."
            )
        raise UsageError(
            f"{model._meta.label} is sharded and this query does not say where: use "
            f"{model.__name__}.objects.using(shard_for(key)), save(using=…) or a related manager."
        )

    def _is_on_shards(self, model: Model | type[Model]) -> bool:
        return ShardingSettings.load().group_of(model._meta.app_label) is not None
