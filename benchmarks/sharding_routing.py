"""Routing: what it costs a query to find its shard, and what other ways answer.

Costs are of one process with a known map, over keys that are asked for the first time and again;
a one-row query runs beside the same one with `.using()`, on the shard and on a replica of it. The
answers are those of the shop's rows on all shards: plain managers under a router that goes by the
instance's database, and under ours. That router goes as django-sharding's does, whose last version
asks for Django below 4 and cannot be installed here.
"""

import os
import statistics
import timeit
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.core.management import call_command
from django.db import DatabaseError, connections
from django.db.models import Manager, Prefetch, prefetch_related_objects
from django.test import override_settings

from benchmarks.measuring import Bar, Work, row, take_turns
from dbpatterns.errors import UsageError
from dbpatterns.sharding import replica_reads, shard_for, shards
from dbpatterns.sharding.keys import key_of
from dbpatterns.sharding.shard_map import first_map, pinned
from tests.sharding.replica import KEY, REPLICA, following, replica_of_first_shard, resume
from tests.shop.models import Buyer, Order

ALIAS = shards()[0]
CONNECTION = connections[ALIAS]
DATABASE = f"{CONNECTION.display_name} {'.'.join(map(str, CONNECTION.get_database_version()))}"
CALLS = int(os.environ.get("BENCH_ROUTING_CALLS", "2_000"))
ROUNDS = 15
BUYERS = 40
BAR = Bar(15, "µs")
WARM = ("a key asked lately", "a join, a range and an order")


class ByInstance:
    """A router that goes by the instance, and by nothing where there is none."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return the database of the instance; where it has none yet, its shard."""
        instance = hints.get("instance")
        if instance is None:
            return None
        found: str | None = instance._state.db
        return found or shard_for(key_of(instance))

    db_for_write = db_for_read


def rows() -> list[dict[str, object]]:
    """Return the rows of costs, of a one-row query, and of answers."""
    for alias in ("default", *shards()):
        call_command("migrate", database=alias, verbosity=0, run_syncdb=True)
    with pinned({"bank": first_map("bank")}):
        _fill()
        return [*_costs(), _one_row(), *_of_replicas(), _answers()]


def _fill() -> None:
    Buyer.objects.bulk_create(Buyer(id=key, name=f"buyer {key}") for key in range(1, BUYERS + 1))
    Order.objects.bulk_create(
        Order(buyer_id=key, number=number) for key in range(1, BUYERS + 1) for number in range(3)
    )


def _costs() -> Iterator[dict[str, object]]:
    new = iter(Order.objects.filter(buyer_id=key) for key in range(10**6, 10**9))
    known = cycle([Order.objects.filter(buyer_id=key) for key in range(1, 101)])
    listed = Order.objects.filter(buyer_id__in=[key for key in range(1, 99) if _is_here(key)][:10])
    joined = Order.objects.filter(buyer__name="x", buyer_id=7, number__gt=1).order_by("number")
    shapes: dict[str, Callable[[], Any]] = {
        "a key asked lately": lambda: next(known),
        "a key's first time": lambda: next(new),
        "a join, a range and an order": lambda: joined,
        "ten keys of one shard": lambda: listed,
    }
    for name, query in shapes.items():
        samples = []
        for _ in range(ROUNDS):
            queries = [query() for _ in range(CALLS)]
            samples.append(timeit.timeit(lambda qs=queries: [q.db for q in qs], number=1) / CALLS)  # type: ignore[misc]
        microseconds = statistics.median(samples) * 1e6
        yield row(
            DATABASE,
            f"find the shard: {name}",
            unit="µs",
            figures={"ours": microseconds, ".using()": 0.0, "router by instance": None},
            bar=BAR if name in WARM else None,
            judged=microseconds,
        )


def _one_row() -> dict[str, object]:
    return _beside_using("a query of one row", lambda: Buyer.objects.get(id=KEY), ALIAS)


def _of_replicas() -> Iterator[dict[str, object]]:
    """Yield what a read costs where the shard has a replica; PostgreSQL has them."""
    if CONNECTION.vendor != "postgresql":
        return
    read = replica_reads()(lambda: Buyer.objects.get(id=KEY))
    with replica_of_first_shard(), following():
        resume()
        yield _beside_using("a query of one row, of a replica", read, REPLICA)
        yield _beside_using(
            "the same of a shard that has replicas", lambda: Buyer.objects.get(id=KEY), ALIAS
        )


def _beside_using(measured: str, read: Work, alias: str) -> dict[str, object]:
    timings = take_turns(
        {"ours": read, ".using()": lambda: Buyer.objects.using(alias).get(id=KEY)},
        rounds=41,
        calls=200,
    )
    return row(
        DATABASE,
        measured,
        unit="µs",
        figures={
            "ours": timings.seconds("ours") * 1e6,
            ".using()": timings.seconds(".using()") * 1e6,
            "router by instance": None,
        },
        ratio=timings.ratio("ours", ".using()"),
        cpu_ratio=timings.cpu_ratio("ours", ".using()"),
        bar=Bar(1.02 if alias == ALIAS else 1.2, "of .using()"),
        detail=timings.as_json(),
    )


def _answers() -> dict[str, object]:
    with override_settings(DATABASE_ROUTERS=[ByInstance()]):
        hinted = _wrong(_plain(Buyer), _plain(Order))
    ours = _wrong(Buyer.objects.all(), Order.objects.all())
    return row(
        DATABASE,
        "wrong answers without an error, of 160",
        unit="answers",
        figures={
            "ours": ours,
            ".using()": None,
            "router by instance": hinted,
        },
        bar=Bar(0, "answers"),
        judged=ours,
    )


def _wrong(buyers: Any, orders: Any) -> float:
    """Count the wrong answers to four questions about each buyer; a refusal is none."""
    merged = [each for alias in shards() for each in buyers.using(alias).order_by("id")]
    with suppress(UsageError):
        prefetch_related_objects(merged, Prefetch("orders", orders))
    asked = sum(len(each.orders.all()) != 3 for each in merged)
    for key in range(1, BUYERS + 1):
        here = buyers.filter(id=key)
        asked += _is_wrong(lambda here=here: here.get().id, key)  # type: ignore[misc]
        asked += _is_wrong(lambda here=here: [each.name for each in here], [f"buyer {key}"])  # type: ignore[misc]
        asked += _is_wrong(orders.filter(buyer_id=key).count, 3)
    return asked


def _is_wrong(ask: Callable[[], object], right: object) -> bool:
    try:
        return ask() != right
    except (UsageError, DatabaseError, ObjectDoesNotExist):
        return False  # told, so nobody goes on with it


def _plain(model: Any) -> Any:
    manager: Any = Manager()
    manager.model = model
    return manager.all()


def _is_here(key: int) -> bool:
    return shard_for(key) == ALIAS
