"""What a shard has and lacks: one look, by a few short queries."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import connections
from django.db.models import Model

from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.map_store import Rows
from dbpatterns.sharding.migrating import planned, targets_of
from dbpatterns.sharding.picture import slots_of
from dbpatterns.sharding.shard_map import ShardMap

__all__ = ["Holding", "Look", "holdings", "look"]

VERSION = {"postgresql": "SHOW server_version", "sqlite": "SELECT sqlite_version()"}
SIZE = {
    "postgresql": "SELECT pg_database_size(current_database())",
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
}
ESTIMATE = """
SELECT CASE WHEN min(reltuples) >= 0 THEN sum(reltuples)::bigint END
FROM pg_class WHERE pg_table_is_visible(oid) AND relname = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a shard that answered."""

    latency_ms: float
    """Of the shortest query, on a connection that is there."""
    version: str
    size_bytes: int
    rows: int | None
    """Of all tables that are on shards. An estimate of the server's, which has none for a table
    that was never analyzed, nor on SQLite."""
    unapplied: list[str]
    """Migrations that it lacks."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What the map of a group gives a shard."""

    slots: int
    keys: int
    """Keys, regions or lower bounds that are placed on it by themselves."""

    def __str__(self) -> str:
        """Say it for people."""
        said = [f"{self.slots:,} slots"] if self.slots else []
        if self.keys:
            said.append(f"{self.keys:,} placed key{'' if self.keys == 1 else 's'}")
        return " and ".join(said) or "nothing"


def look(shard: str, *, count_rows: bool = False) -> Look:
    """Look at a shard: five short queries, and with `count_rows` one for each table.

    Counting reads whole tables or indexes; tables that it lacks have no rows.
    """
    connection = connections[shard]
    started = time.perf_counter()
    _ask(shard, "SELECT 1")
    latency_ms = round((time.perf_counter() - started) * 1000, 2)
    rows = None
    if count_rows:
        there = set(connection.introspection.table_names())
        rows = sum(
            model._base_manager.using(shard).count()
            for table, model in _tables().items()
            if table in there
        )
    elif connection.vendor == "postgresql":
        rows = _ask(shard, ESTIMATE, list(_tables()))
    return Look(
        latency_ms=latency_ms,
        version=f"{connection.display_name} {_ask(shard, VERSION[connection.vendor])}",
        size_bytes=_ask(shard, SIZE[connection.vendor]),
        rows=rows,
        unapplied=planned(shard, targets_of(None, None)),
    )


def holdings(of: ShardMap) -> dict[str, Holding]:
    """Return what a map gives each shard of the settings; no query."""
    rows = Rows.of(of)
    slots, keys = slots_of(rows), Counter(rows.keys.values())
    return {
        shard: Holding(slots.get(shard, 0), keys[shard]) for shard in ShardingSettings.load().shards
    }


def _tables() -> dict[str, type[Model]]:
    """Return the tables that are on shards, each with a model of it; a view is none."""
    sharded = ShardingSettings.load().apps
    return {
        model._meta.db_table: model
        for model in apps.get_models(include_auto_created=True)
        if model._meta.app_label in sharded and model._meta.managed
    }


def _ask(shard: str, query: str, *values: Any) -> Any:
    with connections[shard].cursor() as cursor:
        cursor.execute(query, values or None)
        return cursor.fetchone()[0]
