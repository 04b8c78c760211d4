"""The monitor: what it counts, what it costs in memory, and that it leaves nothing behind."""

import asyncio
import json
import operator
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.db.utils import DatabaseError
from django.test import override_settings

from dbpatterns import telemetry
from dbpatterns.queries import monitor as process
from dbpatterns.queries.capture import hook
from dbpatterns.queries.monitor import OTHER, Monitor
from dbpatterns.queries.stats import BOUNDS, QueryStats, summarise
from dbpatterns.statements import Statement, read_log
from tests.testapp.models import Writer

pytestmark = pytest.mark.django_db


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(clock: Clock) -> Iterator[Monitor]:
    """A running monitor that counts everything."""
    monitor = Monitor(clock=clock)
    monitor.start()
    yield monitor
    monitor.stop()


def run(sql: str, params: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def wrappers() -> list[Any]:
    """All but the guard's hook, which is on every connection once it is imported."""
    return [each for each in connection.execute_wrappers if each is not hook]


def test_nothing_is_watched_until_it_starts() -> None:
    assert process.report() == []
    run("SELECT 1")
    assert wrappers() == []
    started = process.start()
    try:
        run("SELECT 1")
        assert process.start() is started
        assert len(wrappers()) == 1
        assert [each.calls for each in process.report()] == [1]
    finally:
        process.stop()
    process.stop()
    assert wrappers() == []
    assert process.report() == []


def test_calls_add_up_by_fingerprint_and_call_site(monitor: Monitor) -> None:
    for number in range(3):
        run("SELECT %s", [number])
    run("SELECT 7")
    (only,) = monitor.report()
    assert only.calls == 4
    assert only.fingerprint == "SELECT %s"
    assert only.database == "default"
    path, line, function = only.site.replace(":", " ").split()
    assert (path, function) == (__file__, "run")
    assert int(line) > 1


def test_the_call_site_is_the_users_line_and_not_the_orms(monitor: Monitor) -> None:
    list(Writer.objects.all())
    list(Writer.objects.all())
    sites = [each.site for each in monitor.report()]
    assert len(set(sites)) == 2
    assert all(each.startswith(f"{__file__}:") for each in sites)


def test_time_goes_into_buckets_that_tell_quantiles() -> None:
    stats = QueryStats("SELECT")
    for milliseconds in range(1, 101):
        stats.add(milliseconds / 1000, 1, False, False)
    for part, exact in ((0.5, 0.050), (0.95, 0.095), (0.99, 0.099)):
        found = stats.quantile(part)
        assert found is not None
        assert exact <= found <= exact * 1.26
    assert stats.quantile(1.0) == 0.1
    assert stats.rows == 100
    slow = QueryStats("SELECT")
    slow.add(500.0, None, False, False)  # beyond the last edge
    assert slow.quantile(0.5) == 500.0
    assert slow.rows is None
    assert QueryStats("SELECT").quantile(0.5) is None
    assert BOUNDS[0] == pytest.approx(1e-5)
    assert BOUNDS[-1] == pytest.approx(100)


def test_an_error_is_counted_and_raised(monitor: Monitor) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        run("SELECT * FROM nowhere")
    (only,) = [each for each in monitor.report() if "nowhere" in each.fingerprint]
    assert (only.calls, only.errors, only.rows) == (1, 1, None)


def test_rows_are_what_the_driver_says(monitor: Monitor) -> None:
    Writer.objects.bulk_create([Writer(name="a"), Writer(name="b")])
    list(Writer.objects.all())
    Writer.objects.update(name=Concat(F("name"), Value("!")))
    found = {each.fingerprint.split()[0]: each.rows for each in monitor.report()}
    assert found["UPDATE"] == 2
    assert found["SELECT"] == (2 if connection.vendor == "postgresql" else None)


def test_the_same_read_again_in_a_second_is_a_duplicate(monitor: Monitor, clock: Clock) -> None:
    def duplicates() -> int:
        return sum(each.duplicates for each in monitor.report())

    run("SELECT %s", [1])
    run("SELECT %s", [-1])
    run("SELECT %s", [-2])  # hash(-1) == hash(-2) in Python
    assert duplicates() == 0
    run("SELECT %s", [1])
    assert duplicates() == 1
    clock.now = 0.99
    run("SELECT %s", [1])
    assert duplicates() == 2
    clock.now = 1.0
    run("SELECT %s", [1])
    assert duplicates() == 2


def test_a_write_ends_what_counts_as_a_duplicate_and_a_savepoint_does_not(
    monitor: Monitor,
) -> None:
    run("SELECT 1")
    with transaction.atomic():
        run("SELECT 1")
    assert sum(each.duplicates for each in monitor.report()) == 1
    Writer.objects.create(name="a")
    run("SELECT 1")
    assert sum(each.duplicates for each in monitor.report()) == 1


def test_what_a_connection_remembers_of_a_second_is_bounded(monitor: Monitor) -> None:
    for number in range(300):
        run(f"SELECT {number}")
    run("SELECT 299")
    assert sum(each.duplicates for each in monitor.report()) == 0
    run("SELECT 1")
    assert sum(each.duplicates for each in monitor.report()) == 1


def test_values_that_cannot_be_compared_are_no_duplicates(monitor: Monitor) -> None:
    if connection.vendor == "postgresql":
        for _ in range(2):
            run("SELECT %s", [[1, 2]])
    else:
        for _ in range(2):
            run("SELECT %s", [bytearray(b"x")])
    assert sum(each.duplicates for each in monitor.report()) == 0


def test_many_rows_at_once_are_one_call_and_no_duplicate(monitor: Monitor) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("UPDATE testapp_writer SET name = %s WHERE id = %s", [["a", 1]] * 2)
    (only,) = monitor.report()
    assert (only.calls, only.duplicates) == (1, 0)


def test_fingerprints_beyond_the_limit_are_counted_as_other() -> None:
    monitor = Monitor(max_fingerprints=3)
    monitor.start()
    try:
        for number in range(10):
            run(f"SELECT 1 AS name_{number}")
    finally:
        monitor.stop()
    found = {each.fingerprint: each.calls for each in monitor.report()}
    assert found == {"SELECT %s AS name_0": 1, "SELECT %s AS name_1": 1, OTHER: 8}


def test_memory_is_bounded_and_keeps_no_values() -> None:
    monitor = Monitor(max_fingerprints=100)
    monitor.start()
    try:
        for number in range(5_000):
            run(f"SELECT 'secret' AS name_{number} WHERE %s = 'hidden'", ["hidden"])
    finally:
        monitor.stop()
    kept = repr(vars(monitor)) + repr(wrappers())
    assert "secret" not in kept
    assert "hidden" not in kept
    assert len(monitor.report()) == 100
    assert len(monitor._known) <= 2_048
    assert sum(sys.getsizeof(each.buckets) for each in monitor.report()) < 100 * 1_000
    assert sum(each.calls for each in monitor.report()) == 5_000


@pytest.mark.parametrize(("sample", "calls"), [(0.0, 0), (1.0, 5)])
def test_a_sample_is_a_part_of_the_seconds(sample: float, calls: int, clock: Clock) -> None:
    monitor = Monitor(sample=sample, clock=clock)
    monitor.start()
    try:
        for second in range(5):
            clock.now = float(second)
            run("SELECT 1")
    finally:
        monitor.stop()
    assert sum(each.calls for each in monitor.report()) == calls


def test_half_a_sample_counts_whole_seconds(clock: Clock) -> None:
    monitor = Monitor(sample=0.5, clock=clock)
    monitor.start()
    try:
        for second in range(200):
            clock.now = float(second)
            for _ in range(3):
                run("SELECT 1")
    finally:
        monitor.stop()
    (only,) = monitor.report()
    assert 50 * 3 < only.calls < 150 * 3
    assert only.calls % 3 == 0
    assert only.duplicates == only.calls * 2 // 3


def test_a_slow_statement_is_told_when_somebody_listens(clock: Clock) -> None:
    monitor = Monitor(sample=0.0, slow_ms=200, clock=clock)
    events: list[telemetry.Event] = []

    def takes(seconds: float, error: type[Exception] | None = None) -> Any:
        def wrapper(execute: Any, *arguments: Any) -> Any:
            clock.now += seconds
            if error:
                raise error
            return execute(*arguments)

        return connection.execute_wrapper(wrapper)

    monitor.start()
    try:
        with takes(0.3):
            run("SELECT 1")
        with telemetry.listening(events.append):
            with takes(0.1):
                run("SELECT 2")
            with takes(0.3):
                run("SELECT 'secret'")
            with takes(0.4, ZeroDivisionError), pytest.raises(ZeroDivisionError):
                run("SELECT 4")
    finally:
        monitor.stop()
    first, second = events
    assert (first.name, first.database) == ("queries.slow", "default")
    assert first.seconds == pytest.approx(0.3)
    assert first.facts["fingerprint"] == "SELECT %s"
    assert str(first.facts["site"]).startswith(__file__)
    assert (first.facts["is_error"], second.facts["is_error"]) == (False, True)
    assert monitor.report() == []


def test_a_connection_opened_inside_djangos_own_wrapper_stays_watched() -> None:
    """Django's `execute_wrapper()` ends by taking the last wrapper away, whosever it is."""
    monitor, alias = Monitor(), "default"
    seen: list[str] = []

    def spy(execute: Any, sql: str, *arguments: Any) -> Any:
        seen.append(sql)
        return execute(sql, *arguments)

    def work() -> None:
        other = connections[alias]
        with other.execute_wrapper(spy), other.cursor() as cursor:
            cursor.execute("SELECT 1")
        with other.cursor() as cursor:
            cursor.execute("SELECT 2")
        other.close()

    monitor.start()
    try:
        in_thread(work)
    finally:
        monitor.stop()
    assert [each.calls for each in monitor.report() if each.fingerprint == "SELECT %s"] == [1, 1]
    assert seen == ["SELECT 1"]


def test_threads_count_together() -> None:
    monitor = Monitor()
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        with connection.cursor() as cursor:
            for number in range(50):
                cursor.execute(f"SELECT {number}")
        connection.close()

    monitor.start()
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        monitor.stop()
    (only,) = monitor.report()
    assert only.calls == 200
    assert sum(only.buckets) == 200


def test_a_stopped_monitor_leaves_other_threads_with_their_next_query() -> None:
    monitor = Monitor()
    opened, stopped = threading.Event(), threading.Event()
    left: list[int] = []

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            opened.set()
            stopped.wait(10)
            left.append(len(wrappers()))
            cursor.execute("SELECT 2")
            left.append(len(wrappers()))
        connection.close()

    monitor.start()
    thread = threading.Thread(target=work)
    thread.start()
    opened.wait(10)
    monitor.stop()
    stopped.set()
    thread.join()
    assert left == [1, 0]
    assert [each.calls for each in monitor.report()] == [1]


def test_a_scoped_monitor_counts_its_own_thread_and_task_only() -> None:
    monitor = Monitor(is_scoped=True)

    def elsewhere() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()

    async def request() -> None:
        monitor.start()
        await sync_to_async(elsewhere, thread_sensitive=False)()

    async def main() -> None:
        await asyncio.gather(request())
        await sync_to_async(elsewhere, thread_sensitive=False)()

    try:
        asyncio.run(main())
    finally:
        monitor.stop()
    assert [each.calls for each in monitor.report()] == [1]


@pytest.mark.django_db(transaction=True)
def test_the_call_site_of_an_awaited_query_is_the_line_that_awaits(monitor: Monitor) -> None:
    async def the_view() -> None:
        await Writer.objects.acount()  # no frame of ours in the thread that runs it

    async def work() -> None:
        await the_view()
        await sync_to_async(connections.close_all)()

    asyncio.run(work())
    sites = [each.site for each in monitor.report() if "COUNT" in each.fingerprint]
    assert len(sites) == 1
    assert sites[0].endswith("the_view")
    assert sites[0].startswith(__file__)


def test_counts_of_many_processes_add_up_through_a_file(monitor: Monitor, tmp_path: Path) -> None:
    run("SELECT %s", ["secret"])
    run("SELECT %s", ["secret"])
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    monitor.write(one)
    monitor.write(two)
    assert sorted(tmp_path.iterdir()) == [one, two]
    assert "secret" not in one.read_text()
    (only,) = monitor.report()
    read = [*read_log(one).statements, *read_log(two).statements]
    (merged,) = summarise(read)
    assert (merged.calls, merged.duplicates, merged.site) == (4, 2, only.site)
    assert list(merged.buckets) == [2 * each for each in only.buckets]
    assert merged.seconds == pytest.approx(2 * only.seconds)
    assert merged.quantile(0.5) == only.quantile(0.5)
    monitor.reset()
    assert monitor.report() == []


def test_a_summary_tells_no_quantiles_of_totals() -> None:
    totals = Statement("SELECT $1", calls=10, seconds=1.0, facts={"slowest": 0.9})
    single = Statement("SELECT 1", seconds=0.002, rows=3)
    (both,) = summarise([totals, single])
    assert (both.calls, both.slowest, both.rows) == (11, 0.9, 3)
    assert both.quantile(0.5) is None
    assert both.as_dict()["p50_ms"] is None
    (alone,) = summarise([single])
    assert alone.as_dict()["p50_ms"] == 2.0
    assert summarise([Statement("SELECT 1", calls=0)])[0].calls == 0
    assert json.loads(alone.as_log_line())["rows"] == 3


def test_the_dearest_comes_first(clock: Clock) -> None:
    cheap = Statement("SELECT a", seconds=0.1)
    dear = Statement("SELECT b", seconds=0.2)
    assert [each.fingerprint for each in summarise([cheap, dear])] == ["SELECT b", "SELECT a"]


def test_options_come_from_the_settings() -> None:
    chosen = {"MONITOR_SAMPLE": 0.25, "MONITOR_FINGERPRINTS": 7, "MONITOR_SLOW_MS": 40}
    with override_settings(DBPATTERNS={"QUERIES": chosen}):
        monitor = Monitor()
    assert (monitor.sample, monitor.max_fingerprints, monitor.slow_seconds) == (0.25, 7, 0.04)


def test_without_a_line_of_the_users_the_site_is_in_a_library_or_empty(monitor: Monitor) -> None:
    # What a worker thread looks like that runs a method of Django itself.
    monitor.stop()
    counting = Monitor()
    counting.start()
    library = "/x/site-packages/queue_of_jobs.py"
    scope: dict[str, Any] = {"close": connections.close_all}
    exec(compile("def job(count):\n    count()\n    close()", library, "exec"), scope)
    count = Writer.objects.using("default").count
    patched = pytest.MonkeyPatch()
    patched.setattr(process, "_LIBRARIES", (*process._LIBRARIES, "/x/site-packages/"))
    try:
        for target, argument in (
            (scope["job"], count),
            (list, map(operator.call, (count, connections.close_all))),
        ):
            thread = threading.Thread(target=target, args=(argument,))
            thread.start()
            thread.join()
    finally:
        patched.undo()
        counting.stop()
    sites = {each.site for each in counting.report() if "testapp_writer" in each.fingerprint}
    assert sites == {f"{library}:2 job", ""}


def in_thread(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
