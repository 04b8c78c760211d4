"""Explicit placement: which shard holds a key, and a router that refuses to guess.

The issue on sharding replaces this module by a slot map that can move data. Until then
placement is a pure function of the key and of the number of shards, and a query on a sharded
model must say its database itself: `Account.objects.using(shard_for(customer_id))`.
"""

from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.hashing import SLOTS, Key, slot_of

__all__ = ["ShardRouter", "shard_for", "shards"]


def shards() -> tuple[str, ...]:
    """Return the shard aliases in the order the hash counts them.

    Raises: ConfigurationError: there is none.
    """
    aliases = ShardingSettings.load().shards
    if not aliases:
        raise ConfigurationError(
            'There are no shards: set DBPATTERNS["SHARDING"]["SHARDS"] to a list of databases.'
        )
    return aliases


def shard_for(key: Key) -> str:
    """Return the alias of the shard that holds `key`; no query.

    Slots are dealt to the shards in equal runs: with four, slots 0 to 4,095 are the first's.
    """
    aliases = shards()
    return aliases[slot_of(key) * len(aliases) // SLOTS]


class ShardRouter:
    """Keep sharded apps on the shards, all others off them, and refuse to guess.

    Django gives a router the model and, from related managers and saves, an instance. The
    instance's own database is the answer then; without one the query must say `using`.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Return the instance's database for a sharded model, None for any other."""
        return self._database_of(model, hints.get("instance"))

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        """Return the instance's database for a sharded model, None for any other."""
        return self._database_of(model, hints.get("instance"))

    def allow_relation(self, obj1: Model, obj2: Model, **hints: Any) -> bool | None:
        """Allow a relation between sharded rows of one database only."""
        if not (self._is_sharded(obj1) or self._is_sharded(obj2)):
            return None
        return obj1._state.db is None or obj2._state.db in (None, obj1._state.db)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Put a sharded app's tables on every shard, and no other app's there.

        Nothing goes anywhere while the settings are wrong: `check` asks too (Django 6.1) and has
        to report them, and `migrate` is refused before it begins.
        """
        try:
            sharding = ShardingSettings.load()
        except ConfigurationError:
            return False
        if app_label in sharding.apps:
            return db in sharding.shards
        if db in sharding.shards and db != DEFAULT_DB_ALIAS:
            return False
        return None

    def _database_of(self, model: type[Model], instance: Model | None) -> str | None:
        if not self._is_sharded(model):
            return None
        if instance is not None and instance._state.db is not None:
            return instance._state.db
        raise UsageError(
            f"{model._meta.label} is sharded and this query does not say where: use "
            f"{model.__name__}.objects.using(shard_for(key)), save(using=…) or a related manager."
        )

    def _is_sharded(self, model: Model | type[Model]) -> bool:
        return model._meta.app_label in ShardingSettings.load().apps
