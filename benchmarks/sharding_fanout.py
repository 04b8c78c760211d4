"""Fan-out: what a question to four shards costs beside the slowest of them, and a stream's rate.

Each shard waits 20 ms before its one row. Beside ours: the shards one after another, and a pool of
threads as one writes it by hand, with connections of its own. The stream is all buyers by their
id; its memory is what the process grew by at its highest, the driver's included.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connections
from django.db.models.expressions import RawSQL

from benchmarks.measuring import Bar, row, take_turns
from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.shard_map import first_map, pinned
from tests.shop.models import Buyer, Order

CONNECTION = connections[shards()[0]]
IS_POSTGRESQL = CONNECTION.vendor == "postgresql"
DATABASE = f"{CONNECTION.display_name} {'.'.join(map(str, CONNECTION.get_database_version()))}"
ROWS = int(os.environ.get("BENCH_FANOUT_ROWS", "600_000"))
WAIT_SECONDS = 0.02
ROUNDS = 31
NOBODY = {"ours": None, "one after another": None, "thread pool": None, "one shard": None}


def rows() -> list[dict[str, object]]:
    """Return the rows of waits, of a page, and of streams."""
    for alias in ("default", *shards()):
        call_command("migrate", database=alias, verbosity=0, run_syncdb=True)
    with pinned({"bank": first_map("bank")}):
        _fill()
        buyers = Buyer.objects.order_by("pk")
        page = _beside("the first 20 of all by id", buyers.fanout()[:20], buyers[:20])
        return [*_waits(), page, *_streams()]


def _waits() -> Iterator[dict[str, object]]:
    if IS_POSTGRESQL:  # the others are asked in turn, which needs no measuring
        waits = Order.objects.annotate(waited=RawSQL("(pg_sleep(%s)::text)", [WAIT_SECONDS]))
        yield _beside("20 ms on each of 4 shards", waits.fanout(), waits, Bar(1.3, "of one shard"))
        yield _beside(
            "the same with a deadline",
            waits.fanout(timeout=10),
            waits,
            Bar(1.3, "of one shard"),
        )


def _fill() -> None:
    """Give each shard as many buyers, without asking where they belong: it is read, not routed."""
    shard_count = len(shards())
    numbers = (
        "SELECT i FROM generate_series(0, %s) AS n(i)"
        if IS_POSTGRESQL
        else "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
        "SELECT i FROM n"
    )
    for place, alias in enumerate(shards()):
        with connections[alias].cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {Buyer._meta.db_table} (id, name) "
                f"SELECT i * {shard_count} + {place}, 'buyer' FROM ({numbers}) AS numbers",
                [ROWS // shard_count - 1],
            )
            cursor.execute(f"ANALYZE {Buyer._meta.db_table}")
        here = range(place, ROWS, shard_count)
        buyer = next(each for each in here if shard_for(each) == alias)
        Order.objects.create(buyer_id=buyer, number=1)


def _beside(what: str, ours: Any, asked: Any, bar: Bar | None = None) -> dict[str, object]:
    first = shards()[0]

    def by_hand(alias: str) -> list[Any]:
        return list(asked.using(alias))

    before = _sessions()
    for _ in range(3):
        list(ours.all())
    opened = len(_sessions() - before)
    with ThreadPoolExecutor(len(shards())) as pool:
        timings = take_turns(
            {
                "ours": lambda: list(ours.all()),
                "one after another": lambda: [by_hand(alias) for alias in shards()],
                "thread pool": lambda: list(pool.map(by_hand, shards())),
                "one shard": lambda: by_hand(first),
            },
            rounds=ROUNDS,
        )
        threads = len(_sessions() - before)
        list(pool.map(lambda _: connections.close_all(), range(len(shards()))))
    return row(
        DATABASE,
        what,
        unit="ms",
        figures={name: timings.seconds(name) * 1e3 for name in NOBODY},
        ratio=timings.ratio("ours", "one shard"),
        bar=bar,
        spread=timings.spread("ours"),
        also=f"connections besides: ours {opened}, thread pool {threads}" if IS_POSTGRESQL else "",
        detail=timings.as_json(),
    )


def _sessions() -> set[tuple[str, int]]:
    """Return the connections to all shards, by the server's process."""
    if not IS_POSTGRESQL:
        return set()
    asked = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
    found = set()
    for alias in shards():
        with connections[alias].cursor() as cursor:
            cursor.execute(asked)
            found |= {(alias, pid) for (pid,) in cursor.fetchall()}
    return found


def _streams() -> Iterator[dict[str, object]]:
    buyers = Buyer.objects.order_by("pk")
    shapes = {
        "values_list": buyers.values_list("pk", "name"),
        "model rows": buyers,
    }
    for name, asked in shapes.items():
        grown = _growth(partial(_merged, asked))  # first, while the process is small
        timings = take_turns(
            {"ours": partial(_merged, asked), "one after another": partial(_in_turn, asked)},
            rounds=5,
        )
        is_judged = IS_POSTGRESQL and name == "values_list"
        yield row(
            DATABASE,
            f"a stream of {ROWS:,} in order, {name}",
            unit="rows/s",
            figures={**NOBODY, **{each: ROWS / timings.seconds(each) for each in timings.samples}},
            bar=Bar(300_000, "rows/s", at_least=True) if is_judged else None,
            judged=ROWS / timings.seconds("ours"),
            spread=timings.spread("ours"),
            also=f"{ROWS / timings.cpu_seconds('ours'):,.0f} rows per s of CPU",
            detail=timings.as_json(),
        )
        yield row(
            DATABASE,
            f"the same stream's memory, {name}",
            unit="MB",
            figures={**NOBODY, "ours": grown},
            bar=Bar(10, "MB"),
            judged=grown,
            also=f"a list of them {_growth(partial(_listed, asked)):.0f} MB",
        )


def _merged(asked: Any) -> None:
    _walk(asked.fanout().iterator())


def _listed(asked: Any) -> None:
    _walk(list(asked.fanout(max_rows=ROWS)))


def _in_turn(asked: Any) -> None:
    for alias in shards():
        _walk(asked.using(alias).iterator())


def _walk(rows: Any) -> None:
    count = 0
    for _ in rows:
        count += 1
    assert count in (ROWS, ROWS // len(shards()))


def _growth(work: Any) -> float:
    """Return by how many MB the process was larger at its highest than before."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])
