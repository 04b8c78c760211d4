"""Explicit placement: which shard holds a key, and a router that refuses to guess.

The issue on sharding replaces this module by a slot map that can move data. Until then
placement is a pure function of the key and of the number of shards, and a query on a sharded
model must say its database itself: `Account.objects.using(shard_for(customer_id))`.

The hash is PostgreSQL's own for hash partitions (`hashint8extended` with the partition seed,
16,384 remainders), so the slots stay what they are when the slot map arrives, and the server
agrees: `satisfies_hash_partition(table, 16384, slot_of(key), key)`.
"""

from functools import lru_cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding.conf import ShardingSettings

__all__ = ["SLOTS", "ShardRouter", "shard_for", "shards", "slot_of"]

SLOTS = 16_384
"""Fixed buckets of a shard key; a power of two."""

_SEED = 8816678312871386365  # HASH_PARTITION_SEED of PostgreSQL
_COMBINE = 0x49A0F4DD15E5A8E3  # the constant of hash_combine64, which starts from zero
_UINT32 = 0xFFFFFFFF


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


def shard_for(key: int) -> str:
    """Return the alias of the shard that holds `key`; no query.

    Slots are dealt to the shards in equal runs: with four, slots 0 to 4,095 are the first's.
    """
    aliases = shards()
    return aliases[slot_of(key) * len(aliases) // SLOTS]


@lru_cache(maxsize=65_536, typed=True)  # typed: True and 1.0 equal 1
def slot_of(key: int) -> int:
    """Return the slot of a 64-bit integer key, 0 to 16,383, as PostgreSQL computes it.

    Raises: UsageError: `key` is no integer of 64 bits.
    Source: PostgreSQL, `hash_bytes_uint32_extended` (hashfn.c) and `hashint8extended`
    (hashfunc.c), after Bob Jenkins' lookup3; `hash_combine64` from zero (hashfn.h).
    """
    if type(key) is not int or not -(2**63) <= key < 2**63:
        raise UsageError(f"A shard key is an integer of 64 bits, not {key!r}.")
    low, high = key & _UINT32, (key >> 32) & _UINT32
    folded = low ^ (high if key >= 0 else ~high & _UINT32)
    return (_hash_uint32(folded, _SEED) + _COMBINE) % SLOTS


def _hash_uint32(value: int, seed: int) -> int:
    a = b = c = (0x9E3779B9 + 4 + 3923095) & _UINT32
    a, b, c = _mix((a + (seed >> 32)) & _UINT32, (b + (seed & _UINT32)) & _UINT32, c)
    _, b, c = _final((a + value) & _UINT32, b, c)
    return (b << 32) | c


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _UINT32


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & _UINT32) ^ _rotate(c, bits)
        c = (c + b) & _UINT32
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, bits)) & _UINT32
        a, b, c = b, c, a
    return c, a, b


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
