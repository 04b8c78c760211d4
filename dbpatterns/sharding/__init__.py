"""Sharding: rows placed on several databases by one key and a map of slots.

Install with "dbpatterns.sharding" in `INSTALLED_APPS` and this package's `ShardRouter` in
`DATABASE_ROUTERS`; then `class Account(ShardedModel)` names its key, and queries find their shard.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbpatterns.sharding.base import ShardedModel
    from dbpatterns.sharding.context import current_shard, shard, single_shard
    from dbpatterns.sharding.fields import ShardedIdField, ShardedUUIDField
    from dbpatterns.sharding.lookups import LookupIndex
    from dbpatterns.sharding.querysets import ShardedManager, ShardedQuerySet
    from dbpatterns.sharding.reference import ReferenceModel, on_every_shard
    from dbpatterns.sharding.replicas import replica_reads
    from dbpatterns.sharding.router import ShardRouter
    from dbpatterns.sharding.shard_map import shard_for, shards

__all__ = [
    "LookupIndex",
    "ReferenceModel",
    "ShardRouter",
    "ShardedIdField",
    "ShardedManager",
    "ShardedModel",
    "ShardedQuerySet",
    "ShardedUUIDField",
    "current_shard",
    "on_every_shard",
    "replica_reads",
    "shard",
    "shard_for",
    "shards",
    "single_shard",
]

_MODULES = {
    "LookupIndex": "lookups",
    "ReferenceModel": "reference",
    "ShardRouter": "router",
    "ShardedIdField": "fields",
    "ShardedManager": "querysets",
    "ShardedModel": "base",
    "ShardedQuerySet": "querysets",
    "ShardedUUIDField": "fields",
    "current_shard": "context",
    "on_every_shard": "reference",
    "replica_reads": "replicas",
    "shard": "context",
    "shard_for": "shard_map",
    "shards": "shard_map",
    "single_shard": "context",
}


def __getattr__(name: str) -> Any:
    """Import what was asked for: this package is an app, and its models come after it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
