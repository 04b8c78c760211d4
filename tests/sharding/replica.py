"""A real replica of the suite's first shard, whose replay a test stops and starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connections
from django.test import override_settings

from dbpatterns.sharding import replica_reads, shard_for
from dbpatterns.sharding.replicas import positions, seen
from tests.processes import until
from tests.servers import Standby
from tests.sharding.support import BUYERS
from tests.shop.models import Order

__all__ = ["KEY", "OTHER", "PRIMARY", "REPLICA", "answers", "ask", "following", "pause"]
__all__ += ["replica_of_first_shard", "resume", "sharding", "where"]

PRIMARY, OTHER, REPLICA = "shard_0", "shard_1", "shard_0_replica"
KEY = BUYERS[0]


def ask(alias: str, sql: str) -> Any:
    """Return what a server says, by a connection that no wrapper watches."""
    connection = connections[alias]
    connection.ensure_connection()
    return connection.connection.execute(sql).fetchone()[0]


def where() -> str:
    """Return who answers a read of the buyer's orders."""
    return Order.objects.filter(buyer=KEY).db


def answers() -> bool:
    """Tell whether the replica answers one who has seen nothing."""
    positions._known.clear()
    with seen.begin(seen.Seen()), replica_reads():
        return where() == REPLICA


def resume() -> None:
    """Let the replica replay what there is, and wait until it answers."""
    ask(REPLICA, "SELECT pg_wal_replay_resume() IS NULL")
    wal = ask(PRIMARY, "SELECT pg_current_wal_insert_lsn()::text")
    until(lambda: ask(REPLICA, f"SELECT pg_last_wal_replay_lsn() >= '{wal}'"))
    until(answers)


def pause() -> None:
    """Let the replica stay as it is."""
    ask(REPLICA, "SELECT pg_wal_replay_pause() IS NULL")
    until(lambda: ask(REPLICA, "SELECT pg_get_wal_replay_pause_state()") == "paused")


def sharding(**values: Any) -> Any:
    """Change settings of the section."""
    section = {**settings.DBPATTERNS["SHARDING"], **values}
    return override_settings(DBPATTERNS={**settings.DBPATTERNS, "SHARDING": section})


@contextmanager
def replica_of_first_shard() -> Iterator[Standby]:
    """Start it and make it a database."""
    assert shard_for(KEY) == PRIMARY
    url = os.environ["DBPATTERNS_SHARD_URLS"].split(",")[0]
    with Standby(REPLICA, url) as server:
        own = {**connections[PRIMARY].settings_dict, "PORT": server.port}
        connections.databases[REPLICA] = {**own, "TEST": {**own["TEST"], "MIRROR": PRIMARY}}
        try:
            yield server
        finally:
            connections[REPLICA].close()
            del connections[REPLICA]
            del connections.databases[REPLICA]


@contextmanager
def following(**values: Any) -> Iterator[None]:
    """Let the first shard have its replica, in the settings and on new connections."""
    with sharding(REPLICAS={PRIMARY: [REPLICA]}, **values), seen.begin(seen.Seen()):
        connections[PRIMARY].close()
        connections[REPLICA].close()
        positions._known.clear()
        try:
            yield
        finally:
            ask(REPLICA, "SELECT pg_wal_replay_resume() IS NULL")
    for alias in (PRIMARY, REPLICA):
        connections[alias].close()
        connections[alias].execute_wrappers.clear()
