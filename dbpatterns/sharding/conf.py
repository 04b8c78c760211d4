"""The `SHARDING` section of `DBPATTERNS`."""

from dataclasses import dataclass
from typing import ClassVar

from dbpatterns.conf import Section

__all__ = ["ShardingSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingSettings(Section):
    """Which databases are shards, and which apps live on them."""

    key: ClassVar[str] = "SHARDING"
    app: ClassVar[str] = "dbpatterns.sharding"

    shards: tuple[str, ...] = ()
    """Database aliases, in the order the hash counts them: changing it moves data."""
    apps: tuple[str, ...] = ()
    """App labels whose models live on the shards and nowhere else."""
