"""Money per second: ours, plain Django, and pgbench's TPC-B-like transaction on the same server.

Workers are processes; the variants take turns in short slices, round by round, so that a slow
moment of the machine hits all of them. pgbench does three updates, a select and an insert, each
prepared: what a database can do with transactions of that kind. Its 50 branches are enough that
eight clients seldom wait for one.

Readers beside a batch are compared with readers with nobody beside them. They and their sessions
have half of the cores, the writer and its session the other half, so that what is left is what the
batch does to them in the server and not the cores it takes. A writer that makes no savepoints is
shown too, and what PostgreSQL looked up for savepoints.

The naive peer keeps a balance and writes one row for each payment. "The same rows by the ORM" are
those of a transfer, with the ledger's models and under its guards.

"Prepared" is Django with `server_side_binding` and `prepare_threshold` among its OPTIONS. The least
call is a function that inserts one row of one number: no transfer from Django can cost less.
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
from dbpatterns.ledger.batches import SAVEPOINTS, Payment, pay_batch
from dbpatterns.ledger.hot_accounts import Batcher
from dbpatterns.ledger.models import Account, Entry, Transfer
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
READERS = 4
READ = "SELECT id, balance FROM dbpatterns_ledger_account WHERE id = ANY(%s)"
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
    made = [each for workers in counts for each in _transfers(workers, pair)]
    made.append(_batches(pair))
    made += _hot(one_pair)
    if _is_server():
        made.append(_read_beside(pair))
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
        source = int(random.random() * ACCOUNTS)  # a driver that costs little, as pgbench's
        apart = 1 + int(random.random() * (ACCOUNTS - 1))
        return first + source, first + (source + apart) % ACCOUNTS

    return pair


def _transfers(workers: int, pair: Callable[[], tuple[int, int]]) -> list[Row]:
    races = {
        "ours": _processes(workers, _ours(pair)),
        "naive": _processes(workers, _naive(pair)),
        "same rows": _processes(workers, _same_rows(pair)),
        **_pgbench(workers),
    }
    if _is_server():
        races |= {
            "ours, prepared": _prepared(races["ours"]),
            "naive, prepared": _prepared(races["naive"]),
            "least": _prepared(_processes(workers, _least())),
        }
    rates = _interleave(races)
    measured = f"transfer, {workers} workers, {ACCOUNTS:,} accounts"
    judged = [("", "naive", 5.0)]
    if _is_server():
        judged += [(", prepared", "naive", 5.0), (", prepared", "pgbench", 0.8)]
    made = [
        row(
            DATABASE,
            measured + words,
            unit="/s",
            figures=_figures(
                {**rates, "ours": rates["ours" + words], "naive": rates["naive" + words]}
            ),
            ratio=_ratio(rates, "ours" + words, peer + (words if peer == "naive" else "")),
            bar=Bar(limit, f"times {peer}", at_least=True) if workers > 1 else None,
            spread=_spread(rates["ours" + words]),
            detail=rates,
        )
        for words, peer, limit in judged
    ]
    made[0]["also"] = f"{_ratio(rates, 'ours', 'same rows'):.2f} times the same rows by the ORM"
    if _is_server():
        made.append(
            row(
                DATABASE,
                f"the least call from Django, {workers} workers, prepared",
                unit="/s",
                figures={**_figures(rates), "ours": statistics.median(rates["least"])},
                also=_beside(_ratio(rates, "least", "pgbench"), None),
                spread=_spread(rates["least"]),
                detail=rates,
            )
        )
    return made


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


def _hot(pair: Callable[[], tuple[int, int]]) -> list[Row]:
    workers = WORKERS if _is_server() else 1
    races = {
        "batcher": lambda: _batched(pair, WINDOW),
        "blocking": lambda: _batched(pair, 1),
        "slots": _processes(workers, _slotted(pair)),
        "single": _processes(workers, _ours(pair)),
        "naive": _processes(workers, _naive(pair)),
    }
    rates = _interleave(races)
    single, blocking = (statistics.median(rates[each]) for each in ("single", "blocking"))
    return [
        row(
            DATABASE,
            f"hot account, {workers} workers, {words}",
            unit="/s",
            figures=_figures({**rates, "ours": rates[name]}),
            ratio=_ratio(rates, name, "single"),
            bar=Bar(limit, "times single", at_least=True) if limit and _is_server() else None,
            also=also,
            spread=_spread(rates[name]),
            detail=rates,
        )
        for name, words, limit, also in (
            (
                *("batcher", "Batcher", 5),
                f"single {single:,.0f}/s; Batcher with callers that wait {blocking:,.0f}/s",
            ),
            ("slots", "16 Slots", None, f"single {single:,.0f}/s; in the caller's transaction"),
        )
    ]


def _read_beside(pair: Callable[[], tuple[int, int]]) -> Row:
    """Return how many rows four readers get while a batch of 1,000 runs, by each strategy."""

    def batch(strategy: Any) -> Step:
        return lambda: (
            pay_batch([Payment(*pair(), 1) for _ in range(BATCH)], strategy=strategy).made
        )

    def without_savepoints() -> int:
        with transaction.atomic():
            for _ in range(SAVEPOINTS):
                transfer(*pair(), 1)
        return SAVEPOINTS

    def savepoints_without_end() -> int:
        with transaction.atomic():
            for _ in range(BATCH):
                with transaction.atomic():
                    transfer(*pair(), 1)
        return BATCH

    strategies = ("set", "bisect", "savepoint")
    writers = {each: batch(each) for each in strategies} | {
        "plain": without_savepoints,
        "naive": savepoints_without_end,
    }
    looked: dict[str, list[float]] = {name: [] for name in (*writers, "idle")}
    rates = _interleave(
        {name: _beside_writer(writers.get(name), pair, looked[name]) for name in looked}
    )
    ratios = {each: _ratio(rates, each, "idle") or 0.0 for each in writers}
    worst = min(strategies, key=ratios.__getitem__)
    told = [
        f"{name} {ratio:.2f} ({statistics.median(looked[name]):.2g} lookups a read)"
        for name, ratio in ratios.items()
    ]
    return row(
        DATABASE,
        f"{READERS} readers beside pay_batch of {BATCH:,}",
        unit="/s",
        figures=_figures({**rates, "ours": rates[worst]}),
        ratio=ratios[worst],
        bar=Bar(0.95, "times idle", at_least=True),
        also="; ".join(told)
        + f" (plain: no savepoint; naive: {BATCH:,} in one transaction)"
        + ("" if _halves() else "; on the same cores"),
        spread=_spread(rates[worst]),
        detail={**rates, "lookups": looked},
    )


def _beside_writer(
    write: Step | None, pair: Callable[[], tuple[int, int]], looked: list[float]
) -> Race:
    """Count what readers read in a second while one process writes on and on, or none does.

    `looked` takes how often PostgreSQL looked up or noted, for each read, which transaction a
    savepoint belongs to.
    """

    def read() -> int:
        _keep_to(0)
        with connection.cursor() as cursor:
            if random.random() < 0.02:  # as any server has other writers, which end meanwhile
                cursor.execute("SELECT pg_current_xact_id()")
            cursor.execute(READ, [[each for _ in range(10) for each in pair()]])
            return len(cursor.fetchall()) and 1

    def race() -> float:
        before = _lookups()
        connections.close_all()
        context = multiprocessing.get_context("fork")
        begun, enough = context.Event(), context.Event()

        def work(write: Step) -> None:
            _keep_to(1)
            write()  # warms the server's caches
            begun.set()
            while not enough.is_set():
                write()
            connections.close_all()

        writer = context.Process(target=work, args=(write,)) if write else None
        if writer:
            writer.start()
            begun.wait(timeout=60)
        rate = _processes(READERS, read)()
        enough.set()
        if writer:
            writer.join()
        looked.append((_lookups() - before) / (rate * SLICE))
        return rate

    return race


def _halves() -> tuple[set[int], set[int]] | None:
    """Return the two halves of the cores; None where there is one, or nobody may choose."""
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return None
    cores = list(range(os.cpu_count() or 1))
    return set(cores[::2]), set(cores[1::2])


def _keep_to(half: int) -> None:
    """Keep this process and its session of the server to a half of the cores."""
    halves = _halves()
    if halves is None or os.sched_getaffinity(0) == halves[half]:
        return
    connection.ensure_connection()
    os.sched_setaffinity(0, halves[half])
    os.sched_setaffinity(connection.connection.info.backend_pid, halves[half])


def _lookups() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(blks_hit + blks_read) FROM pg_stat_slru WHERE name ILIKE 'subtrans%'"
        )
        return int(cursor.fetchone()[0])


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


def _least() -> Step:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS bench_least (number bigint)")
        cursor.execute(
            "CREATE OR REPLACE FUNCTION bench_least(number bigint) RETURNS bigint LANGUAGE plpgsql"
            " AS $$ BEGIN INSERT INTO bench_least VALUES (number); RETURN number; END $$"
        )

    def step() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT bench_least(%s)", [1])
            return int(cursor.fetchone()[0])

    return step


def _prepared(race: Race) -> Race:
    """Run a variant with the statements that it repeats prepared by the server."""

    def run() -> float:
        before = connection.settings_dict["OPTIONS"]
        connection.settings_dict["OPTIONS"] = before | {
            "server_side_binding": True,
            "prepare_threshold": 0,
        }
        try:
            return race()  # which opens connections anew
        finally:
            connection.settings_dict["OPTIONS"] = before
            connections.close_all()

    return run


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


def _same_rows(pair: Callable[[], tuple[int, int]]) -> Step:
    """Write by the ORM what a transfer writes, with the ledger's models and its guards."""

    def step() -> int:
        sides = dict(zip(pair(), (-1, 1), strict=True))
        with transaction.atomic():
            locked = [Account.objects.select_for_update().get(pk=each) for each in sorted(sides)]
            source_id, destination_id = sides
            made = Transfer.objects.create(
                source_id=source_id,
                destination_id=destination_id,
                amount=1,
                posted_amount=1,
                currency="EUR",
                status=Transfer.Status.POSTED,
            )
            entries = []
            for account in locked:
                amount = sides[account.pk]
                balance, version = account.balance + amount, account.version + 1
                Account.objects.filter(pk=account.pk).update(balance=balance, version=version)
                entries.append(
                    Entry(
                        transfer=made,
                        account=account,
                        account_version=version,
                        amount=amount,
                        balance_after=balance,
                    )
                )
            Entry.objects.bulk_create(entries)
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
        run("-i", "-q", "-s", "50")

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
