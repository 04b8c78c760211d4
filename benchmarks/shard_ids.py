"""Ids that carry a slot: how many each maker makes in a second, and what an INSERT costs by them.

Beside them what others take: the uuid6 package's version 7, random UUIDs, PostgreSQL's own
`gen_random_uuid`, a bare sequence, and Instagram's function, which puts a shard, the time and a
sequence modulo 1,024 together and asks for no lock.
"""

import os
import random
import statistics
import threading
import time
import uuid
from collections.abc import Callable

import uuid6
from django.core.management import call_command
from django.db import connections, models

from benchmarks.measuring import row
from dbpatterns.sharding.hashing import SLOTS, slot_of
from dbpatterns.sharding.ids import make_uuid
from dbpatterns.sharding.shard_map import first_map, shards
from tests.parcels.models import Consignment, Courier, Parcel

ALIAS = shards()[0]
CONNECTION = connections[ALIAS]
DATABASE = f"{CONNECTION.display_name} {'.'.join(map(str, CONNECTION.get_database_version()))}"
ROUNDS = int(os.environ.get("BENCH_ID_ROUNDS", "9"))
IDS = 20_000
ROWS = 2_000
SESSIONS = 8
KEY = next(key for key in range(1, SLOTS) if first_map("bank").shard_of(key) == ALIAS)
INSTAGRAM = """
CREATE SEQUENCE IF NOT EXISTS bench_plain;
CREATE OR REPLACE FUNCTION bench_instagram(shard bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1314220021721) << 23
        | shard << 10 | nextval('bench_plain') % 1024;
END $$
"""


class Counted(models.Model):
    """What Django does by default: ids that each database counts."""

    customer_id = models.BigIntegerField()
    label = models.CharField(max_length=50, blank=True)

    class Meta:
        app_label = "parcels"
        db_table = "bench_counted"

    def __str__(self) -> str:
        return self.label


def rows() -> list[dict[str, object]]:
    """Return the rows of making ids, of PostgreSQL by one session and by several, and inserting."""
    call_command("migrate", verbosity=0, run_syncdb=True)
    for alias in shards():
        call_command("migrate", database=alias, verbosity=0, run_syncdb=True)
    Courier.objects.create(id=KEY)
    return [_in_python(), *_in_database(), _inserting()]


def _in_python() -> dict[str, object]:
    slot = slot_of(KEY)
    makers: dict[str, Callable[[], object]] = {
        "ShardedUUIDField": lambda: make_uuid(slot),
        "uuid6.uuid7": uuid6.uuid7,
        "uuid4": uuid.uuid4,
    }

    def many(make: Callable[[], object]) -> Callable[[], object]:
        return lambda: [make() for _ in range(IDS)]

    return _row("ids in Python", {name: many(make) for name, make in makers.items()}, IDS)


def _in_database() -> list[dict[str, object]]:
    ours = "dbpatterns_make_id(7)"
    if CONNECTION.vendor == "sqlite":
        return [_row("ids in the database", {"ShardedIdField": lambda: _ask(ours)}, IDS)]
    with CONNECTION.cursor() as cursor:
        cursor.execute(INSTAGRAM)
    makers = {
        "ShardedIdField": ours,
        "Instagram's": "bench_instagram(7)",
        "gen_random_uuid": "gen_random_uuid()",
        "sequence": "nextval('bench_plain')",
    }

    def one(expression: str) -> Callable[[], object]:
        return lambda: _ask(expression)

    def crowd(expression: str) -> Callable[[], object]:
        return lambda: _in_sessions(expression)

    return [
        _row("ids in the database", {name: one(made) for name, made in makers.items()}, IDS),
        _row(
            f"ids in the database, {SESSIONS} sessions",
            {name: crowd(made) for name, made in makers.items()},
            IDS * SESSIONS,
        ),
    ]


def _ask(expression: str) -> None:
    """Make ids, all in the database."""
    with CONNECTION.cursor() as cursor:
        if CONNECTION.vendor == "sqlite":
            cursor.execute(
                "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < %s)"
                f" SELECT count({expression}) FROM n",
                [IDS],
            )
        else:
            cursor.execute(f"SELECT count({expression}) FROM generate_series(1, %s)", [IDS])


def _in_sessions(expression: str) -> None:
    threads = [threading.Thread(target=_in_own_session, args=[expression]) for _ in range(SESSIONS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def _in_own_session(expression: str) -> None:
    try:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(f"SELECT count({expression}) FROM generate_series(1, %s)", [IDS])
    finally:
        connections[ALIAS].close()


def _inserting() -> dict[str, object]:
    def parcels() -> None:
        Parcel.objects.bulk_create([Parcel(customer_id=KEY) for _ in range(ROWS)])

    def consignments() -> None:
        Consignment.objects.bulk_create([Consignment(courier_id=KEY) for _ in range(ROWS)])

    def counted() -> None:
        Counted._default_manager.using(ALIAS).bulk_create(
            [Counted(customer_id=KEY) for _ in range(ROWS)]
        )

    works: dict[str, Callable[[], object]] = {
        "ShardedIdField": parcels,
        "ShardedUUIDField": consignments,
        "BigAutoField": counted,
    }
    return _row(f"bulk_create of {ROWS:,} rows", works, ROWS)


COLUMNS = (
    "ShardedIdField",
    "ShardedUUIDField",
    "BigAutoField",
    "sequence",
    "Instagram's",
    "gen_random_uuid",
    "uuid6.uuid7",
    "uuid4",
)


def _row(measured: str, works: dict[str, Callable[[], object]], count: int) -> dict[str, object]:
    rates: dict[str, list[float]] = {name: [] for name in works}
    shuffled = random.Random(1)
    for number in range(ROUNDS + 1):
        for name in shuffled.sample(list(works), len(works)):
            began = time.perf_counter()
            works[name]()
            if number:  # the first one makes connections and warms up
                rates[name].append(count / (time.perf_counter() - began))
    return row(
        DATABASE,
        measured,
        unit="a second",
        figures={
            name: statistics.median(rates[name]) if name in rates else None for name in COLUMNS
        },
        detail=rates,
    )
