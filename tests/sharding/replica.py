"""Real replicas of the suite's first shard, whose replay a test stops and starts."""

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
__all__ += ["Routed", "promote", "replica_of_first_shard", "resume", "sharding", "where"]

PRIMARY, OTHER, REPLICA = "shard_0", "shard_1", "shard_0_replica"
KEY = BUYERS[0]


class Routed:
    """What one writes first: reads go to a replica, writes to its primary."""

    def __init__(self, replica: str) -> None:
        self.replica = replica

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return self.replica

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return PRIMARY


def ask(alias: str, sql: str) -> Any:
    """Return what a server says, by a connection that no wrapper watches."""
    connection = connections[alias]
    connection.ensure_connection()
    return connection.connection.execute(sql).fetchone()[0]


def where() -> str:
    """Return who answers a read of the buyer's orders."""
    return Order.objects.filter(buyer=KEY).db


def answers(replica: str = REPLICA) -> bool:
    """Tell whether a replica answers one who has seen nothing."""
    positions._known.clear()
    with seen.begin(seen.Seen()), replica_reads():
        return where() == replica


def resume(replica: str = REPLICA) -> None:
    """Let a replica replay what there is, and wait until it answers."""
    ask(replica, "SELECT pg_wal_replay_resume() IS NULL")
    wal = ask(PRIMARY, "SELECT pg_current_wal_insert_lsn()::text")
    until(lambda: ask(replica, f"SELECT pg_last_wal_replay_lsn() >= '{wal}'"))
    until(lambda: answers(replica))


def pause(replica: str = REPLICA) -> None:
    """Let a replica stay as it is."""
    ask(replica, "SELECT pg_wal_replay_pause() IS NULL")
    until(lambda: ask(replica, "SELECT pg_get_wal_replay_pause_state()") == "paused")


def promote(replica: str) -> None:
    """Make a replica a primary of its own; its sessions stay."""
    assert ask(replica, "SELECT pg_promote()")


def sharding(**values: Any) -> Any:
    """Change settings of the section."""
    section = {**settings.DBPATTERNS["SHARDING"], **values}
    return override_settings(DBPATTERNS={**settings.DBPATTERNS, "SHARDING": section})


@contextmanager
def replica_of_first_shard(alias: str = REPLICA) -> Iterator[Standby]:
    """Start one and make it a database."""
    assert shard_for(KEY) == PRIMARY
    url = os.environ["DBPATTERNS_SHARD_URLS"].split(",")[0]
    with Standby(alias, url) as server:
        own = {**connections[PRIMARY].settings_dict, "PORT": server.port}
        connections.databases[alias] = {**own, "TEST": {**own["TEST"], "MIRROR": PRIMARY}}
        try:
            yield server
        finally:
            connections[alias].close()
            del connections[alias]
            del connections.databases[alias]


@contextmanager
def following(*replicas: str) -> Iterator[None]:
    """Let the first shard have its replica, or those named, in the settings and on new sessions."""
    replicas = replicas or (REPLICA,)
    with sharding(REPLICAS={PRIMARY: list(replicas)}), seen.begin(seen.Seen()):
        for alias in (PRIMARY, *replicas):
            connections[alias].close()
        positions._known.clear()
        try:
            yield
        finally:
            for alias in replicas:
                if ask(alias, "SELECT pg_is_in_recovery()"):
                    ask(alias, "SELECT pg_wal_replay_resume() IS NULL")
    for alias in (PRIMARY, *replicas):
        connections[alias].close()
        connections[alias].execute_wrappers.clear()
