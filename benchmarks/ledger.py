"""Money per second: ours, plain Django, and pgbench's TPC-B-like transaction on the same server.

Workers are processes; the variants take turns in short slices, round by round, so that a slow
moment of the machine hits all of them. pgbench does three updates, a select and an insert, each
prepared: what a database can do with transactions of that kind.
"""

import multiprocessing
import os
import random
import re
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from django.core.management import call_command
from django.db import connection, connections, transaction

from benchmarks.measuring import Bar, row
from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.ledger.hot_accounts import Batcher
from dbpatterns.ledger.models import Account
from dbpatterns.ledger.slots import Slots
from dbpatterns.ledger.transfers import transfer
from dbpatterns.ledger.verification import verify_ledger
from tests.servers import postgres_bin
from tests.testapp.models import Wallet, WalletPayment

__all__ = ["rows"]

ACCOUNTS = 1_000
WORKERS = 8
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
SLICE = 1.5
"""Seconds of one variant in one round."""
CONTENDED = float(os.environ.get("BENCH_SECONDS", "30"))
"""Seconds of the one run on ten accounts."""
BATCH = 1_000
WINDOW = 50
"""Payments that each thread has under way at the batcher."""
PLAIN: Any = (Wallet, WalletPayment)
"""Untyped, since the type checker's settings do not have the tests' models."""
DATABASE = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"

Row = dict[str, object]
Step = Callable[[], int]
"""Does some payments and says how many."""
Race = Callable[[], float]
"""Runs one slice of one variant and returns its payments per second."""


def rows() -> list[Row]:
    """Return one row for each bar of the ledger; on SQLite those that need no server."""
    call_command("migrate", verbosity=0, run_syncdb=True)
    first = _open_accounts()
    pair, one_pair = _pairs(first), _pairs(first, hot=True)
    counts = (1, WORKERS) if _is_server() else (1,)
    made = [_transfers(workers, pair) for workers in counts]
    made.append(_batches(pair))
    made.append(_hot(one_pair))
    if _is_server():
        made.append(_contended(first))
    report = verify_ledger()
    assert report.is_sound, report.findings[:10]
    return made


def _open_accounts() -> int:
    Account.objects.bulk_create(
        Account(currency="EUR", min_balance=-(10**12)) for _ in range(ACCOUNTS)
    )
    PLAIN[0].objects.bulk_create(PLAIN[0](balance=10**12) for _ in range(ACCOUNTS))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return 1


def _pairs(first: int, *, hot: bool = False) -> Callable[[], tuple[int, int]]:
    def pair() -> tuple[int, int]:
        if hot:
            return random.randrange(first + 1, first + ACCOUNTS), first
        source, destination = random.sample(range(first, first + ACCOUNTS), 2)
        return source, destination

    return pair


def _transfers(workers: int, pair: Callable[[], tuple[int, int]]) -> Row:
    races = {
        "ours": _processes(workers, _ours(pair)),
        "naive": _processes(workers, _naive(pair)),
        **_pgbench(workers),
    }
    rates = _interleave(races)
    pgbench = _ratio(rates, "ours", "pgbench")
    return row(
        DATABASE,
        f"transfer, {workers} workers, {ACCOUNTS:,} accounts",
        unit="/s",
        figures=_figures(rates),
        ratio=_ratio(rates, "ours", "naive"),
        bar=Bar(5, "times naive", at_least=True) if workers > 1 else None,
        also=_beside(pgbench, 0.8 if workers > 1 else None),
        spread=_spread(rates["ours"]),
        detail=rates,
    )


def _batches(pair: Callable[[], tuple[int, int]]) -> Row:
    def batch() -> int:
        return pay_batch([Payment(*pair(), 1) for _ in range(BATCH)]).made

    races = {
        "ours": _processes(1, batch),
        "naive": _processes(1, _naive(pair)),
        **_pgbench(1),
    }
    rates = _interleave(races)
    return row(
        DATABASE,
        f"pay_batch of {BATCH:,}, 1 worker",
        unit="/s",
        figures=_figures(rates),
        ratio=_ratio(rates, "ours", "naive"),
        bar=Bar(40, "times naive", at_least=True) if _is_server() else None,
        also=_beside(_ratio(rates, "ours", "pgbench"), 5),
        spread=_spread(rates["ours"]),
        detail=rates,
    )


def _hot(pair: Callable[[], tuple[int, int]]) -> Row:
    workers = WORKERS if _is_server() else 1
    races = {
        "ours": lambda: _batched(pair, WINDOW),
        "naive": _processes(workers, _naive(pair)),
        "single": _processes(workers, _ours(pair)),
        "blocking": lambda: _batched(pair, 1),
        "slots": _processes(workers, _slotted(pair)),
    }
    rates = _interleave(races)
    single, blocking, slots = (
        statistics.median(rates[each]) for each in ("single", "blocking", "slots")
    )
    return row(
        DATABASE,
        f"hot account, {WORKERS} workers, Batcher",
        unit="/s",
        figures=_figures(rates),
        ratio=_ratio(rates, "ours", "single"),
        bar=Bar(5, "times single", at_least=True) if _is_server() else None,
        also=f"single {single:,.0f}/s; Batcher with callers that wait {blocking:,.0f}/s; "
        f"16 slots {slots:,.0f}/s",
        spread=_spread(rates["ours"]),
        detail=rates,
    )


def _contended(first: int) -> Row:
    """Eight workers on ten accounts: how much slower the slowest hundredth is."""

    def pair() -> tuple[int, int]:
        source, destination = random.sample(range(first, first + 10), 2)
        return source, destination

    before = _deadlocks()
    latencies: list[float] = []
    rate = _processes(WORKERS, _ours(pair), CONTENDED, latencies)()
    cuts = statistics.quantiles(latencies, n=100)
    return row(
        DATABASE,
        f"transfer, {WORKERS} workers, 10 accounts, {CONTENDED:g} s",
        unit="/s",
        figures={"ours": rate, "naive": None, "pgbench": None},
        ratio=cuts[98] / cuts[49],
        bar=Bar(10, "times p50 for p99"),
        also=f"p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms; "
        f"{_deadlocks() - before} deadlocks, 0 retries (there are none)",
    )


def _deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(deadlocks) FROM pg_stat_database")
        return int(cursor.fetchone()[0])


def _ours(pair: Callable[[], tuple[int, int]]) -> Step:
    def step() -> int:
        transfer(*pair(), 1)
        return 1

    return step


def _slotted(pair: Callable[[], tuple[int, int]]) -> Step:
    slots = Slots.open("hot", currency="EUR")

    def step() -> int:
        slots.receive(pair()[0], 1)
        return 1

    return step


def _naive(pair: Callable[[], tuple[int, int]]) -> Step:
    purses, payments = PLAIN

    def step() -> int:
        source_id, destination_id = pair()
        with transaction.atomic():
            # In one order, or the eight workers would measure the deadlock timeout.
            first, second = (
                purses.objects.select_for_update().get(pk=each)
                for each in sorted((source_id, destination_id))
            )
            source, destination = (first, second) if first.pk == source_id else (second, first)
            source.balance -= 1
            destination.balance += 1
            source.save()
            destination.save()
            payments.objects.create(source=source, destination=destination, amount=1)
        return 1

    return step


def _processes(
    workers: int, step: Step, slice_seconds: float = SLICE, latencies: list[float] | None = None
) -> Race:
    def race() -> float:
        connections.close_all()
        context = multiprocessing.get_context("fork")
        barrier, counts = context.Barrier(workers), context.SimpleQueue()

        def work(seed: int) -> None:
            random.seed(seed)
            step()  # connects, and warms the server's caches
            barrier.wait(timeout=60)
            started = before = time.perf_counter()
            done, took = 0, []
            while (seconds := before - started) < slice_seconds:
                done += step()
                now = time.perf_counter()
                took.append(now - before)
                before = now
            counts.put((done / seconds, took if latencies is not None else []))
            connections.close_all()

        children = [context.Process(target=work, args=(random.random(),)) for _ in range(workers)]
        for child in children:
            child.start()
        told = [counts.get() for _ in children]
        if latencies is not None:
            latencies.extend(each for _, took in told for each in took)
        for child in children:
            child.join()
        return float(sum(rate for rate, _ in told))

    return race


def _batched(pair: Callable[[], tuple[int, int]], window: int) -> float:
    connections.close_all()
    barrier = threading.Barrier(WORKERS)
    counts: list[float] = []

    def work() -> None:
        barrier.wait()
        started = time.perf_counter()
        done = 0
        under_way: list[Future[Any]] = []
        while (seconds := time.perf_counter() - started) < SLICE:
            under_way += [
                batcher.submit(Payment(*pair(), 1)) for _ in range(window - len(under_way))
            ]
            under_way[0].result()
            waiting = [each for each in under_way if not each.done()]
            done += len(under_way) - len(waiting)
            under_way = waiting
        counts.append(done / seconds)

    with Batcher() as batcher:
        threads = [threading.Thread(target=work) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts)


def _pgbench(clients: int) -> dict[str, Race]:
    """Return pgbench as a variant, or nothing when there is no server or no pgbench."""
    found = shutil.which("pgbench", path=f"{postgres_bin()}{os.pathsep}{os.environ['PATH']}")
    if connection.vendor != "postgresql" or found is None:
        return {}
    settings = connection.settings_dict
    address = ["-h", settings["HOST"], "-p", str(settings["PORT"]), "-U", settings["USER"]]

    def run(*options: str) -> str:
        command = [found, *options, *address, settings["NAME"]]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    if "pgbench_accounts" not in connection.introspection.table_names():
        run("-i", "-q", "-s", "10")

    def race() -> float:
        seconds = str(max(1, round(SLICE)))
        told = run(*("-n", "-M", "prepared", "-T", seconds), "-c", str(clients), "-j", "2")
        return float(re.findall(r"tps = ([\d.]+)", told)[0])

    return {"pgbench": race}


def _interleave(races: Mapping[str, Race]) -> dict[str, list[float]]:
    shuffled = random.Random(1)
    rates: dict[str, list[float]] = {name: [] for name in races}
    for _ in range(ROUNDS):
        for name in shuffled.sample(list(races), len(races)):
            rates[name].append(races[name]())
    return rates


def _ratio(rates: Mapping[str, list[float]], name: str, peer: str) -> float | None:
    if peer not in rates:
        return None
    return statistics.median(a / b for a, b in zip(rates[name], rates[peer], strict=True))


def _figures(rates: Mapping[str, list[float]]) -> dict[str, float | None]:
    names = ("ours", "naive", "pgbench")
    return {each: statistics.median(rates[each]) if each in rates else None for each in names}


def _spread(rates: list[float]) -> float:
    low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
    return (high - low) / 2 / middle


def _beside(ratio: float | None, limit: float | None) -> str:
    if ratio is None:
        return "no pgbench beside the server or on the PATH" if _is_server() else ""
    met = "" if limit is None else f" (bar ≥ {limit:g}: {'met' if ratio >= limit else 'NOT met'})"
    return f"{ratio:.2f} times pgbench{met}"


def _is_server() -> bool:
    return connection.vendor == "postgresql"
