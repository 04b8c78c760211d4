"""What hangs on the rows of many shards: asked of each row's own shard, within the deadline."""

from collections.abc import Sequence
from typing import Any

from django.db import Error, connections, models
from django.db.models import prefetch_related_objects

from dbpatterns.sharding.fanout.reading.failures import Failures
from dbpatterns.sharding.replicas.choosing import primary_reads

__all__ = ["relate"]


def relate(rows: list[Any], lookups: Sequence[Any], failures: Failures) -> list[Any]:
    """Load what hangs on rows, and return those whose shards are not lost, by now or before.

    One shard after another, each with a deadline of its own.
    Raises: ShardUnavailable.
    """
    if not lookups or not rows or not isinstance(rows[0], models.Model):
        return rows  # on values hangs nothing, as Django's
    of_shard: dict[str, list[Any]] = {}
    for row in rows:
        of_shard.setdefault(row._state.db, []).append(row)
    for alias, some in of_shard.items():
        if alias not in failures:
            _load(connections[alias], some, lookups, failures)
    failures.settle()
    return [row for row in rows if row._state.db not in failures]


def _load(connection: Any, rows: list[Any], lookups: Sequence[Any], failures: Failures) -> None:
    before, connection.errors_occurred = connection.errors_occurred, False
    try:
        with primary_reads(), failures.watch.over(connection):
            prefetch_related_objects(rows, *lookups)
    except Error:
        is_late = connection.alias in failures.watch.late
        if not (is_late or connection.errors_occurred):
            raise  # of another database, which has what some rows refer to
        with failures.of(connection):
            raise
    finally:
        connection.errors_occurred |= before
