"""The `SHARDING` section of `DBPATTERNS`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from django.db import DEFAULT_DB_ALIAS

from dbpatterns.conf import Section

__all__ = ["GroupSettings", "ShardingSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """One group: models that lie together, by one key."""

    apps: tuple[str, ...] = ()
    """App labels whose tables are on every shard and nowhere else."""
    strategy: str = "hash"
    """How a key finds its shard: hash, range, directory or geographic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingSettings(Section):
    """Which databases are shards, and what lives on them."""

    key: ClassVar[str] = "SHARDING"
    app: ClassVar[str] = "dbpatterns.sharding"

    shards: tuple[str, ...] = ()
    """Database aliases; the first map deals the slots to them in this order."""
    groups: Mapping[str, GroupSettings] = field(default_factory=dict)
    """What is sharded, by the group's name."""
    control: str = DEFAULT_DB_ALIAS
    """The database that holds the map."""
    map_max_age_seconds: float = 5.0
    """How long a process uses a map before it reads the map's number again."""
    replicas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Databases that follow a shard, by its alias; `replica_reads` reads from them."""
    replica_max_lag_seconds: float = 10.0
    """How far behind its shard a replica may be and still answer."""
    request_key: str = ""
    """Dotted path of the function that tells `ShardMiddleware` a request's shard key."""
    request_lock: bool = False
    """Whether nothing in such a request may go to another shard."""

    @property
    def apps(self) -> frozenset[str]:
        """The app labels of all groups."""
        return frozenset(label for group in self.groups.values() for label in group.apps)

    def group_of(self, app_label: str) -> str | None:
        """Return the group of an app; None for one that is not sharded."""
        for name, group in self.groups.items():
            if app_label in group.apps:
                return name
        return None
