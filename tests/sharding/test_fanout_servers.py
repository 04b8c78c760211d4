"""Shards that are slow, stopped, cut off or gone: named in time, and the others unharmed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import (
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connections,
    models,
    transaction,
)
from django.db.models import Avg, Count, Func, Sum, Value
from django.db.models.expressions import RawSQL
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard_for, shards, single_shard
from dbpatterns.sharding.errors import CrossShardError, ShardUnavailable
from tests.processes import database_url, locks_waited_for, until
from tests.servers import postmaster, stopped
from tests.sharding.proxy import proxied
from tests.sharding.support import BUYERS
from tests.shop.models import Buyer, Order

pytestmark = [
    pytest.mark.django_db(databases="__all__", transaction=True),
    pytest.mark.usefixtures("filled"),
]
FIRST, LAST = shards()[0], shards()[-1]
SECONDS = 0.8
SOON = 10.0
"""Much longer than the deadline, much shorter than what would be waited for without one."""
ENDLESS = "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n)"


@contextmanager
def held(*aliases: str) -> Iterator[Any]:
    """Let an expression wait on these shards for as long as the block runs; yields it."""
    if connections[FIRST].vendor == "sqlite":
        for alias in shards():
            connections[alias].ensure_connection()
            connections[alias].connection.create_function(
                "is_held", 0, lambda is_held=alias in aliases: is_held
            )
        yield RawSQL(f"CASE WHEN is_held() THEN {ENDLESS} ELSE 0 END", [])
        return
    with ExitStack() as stack:
        for alias in aliases:
            holder = stack.enter_context(connected(alias))
            holder.execute("SELECT pg_advisory_lock(7)")
        yield Func(
            Value(7),
            function="pg_advisory_xact_lock_shared",
            template="(%(function)s(%(expressions)s)::text)",
            output_field=models.TextField(),
        )


def connected(alias: str) -> Any:
    return psycopg.connect(database_url(alias), autocommit=True)


def rows_of(*aliases: str) -> set[Any]:
    """Return the ids of the rows of these shards."""
    return {
        pk for alias in aliases for pk in Order.objects.using(alias).values_list("pk", flat=True)
    }


def others(alias: str) -> list[str]:
    return [each for each in shards() if each != alias]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = monotonic()
    yield
    assert monotonic() - start < seconds


def are_usable() -> bool:
    """Tell whether every shard answers on the caller's connection."""
    return len(rows_of(*shards())) == 2 * len(BUYERS)


@pytest.mark.postgresql
def test_every_shard_is_asked_before_any_answer_is_waited_for() -> None:
    """All wait at once for what nobody would let go before; one after another, two never would."""
    let_go = threading.Event()

    def release(holders: list[Any]) -> None:
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        until(lambda: all(each.execute(waits).fetchone() == (1,) for each in holders))
        let_go.set()
        for each in holders:
            each.close()

    with ExitStack() as stack:
        waits = stack.enter_context(held())
        holders = [connected(alias) for alias in shards()]
        for holder in holders:
            holder.execute("SELECT pg_advisory_lock(7)")
        thread = threading.Thread(target=release, args=[holders])
        thread.start()
        found = list(Order.objects.fanout(timeout=30).annotate(waits=waits))
        thread.join()
    assert let_go.is_set()
    assert len(found) == 2 * len(BUYERS)


@pytest.mark.postgresql
def test_no_other_connection_is_opened_and_no_other_thread_asks() -> None:
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    threads = set()

    def note(execute: Callable[..., Any], *args: Any) -> Any:
        threads.add(threading.get_ident())
        return execute(*args)

    assert are_usable()
    with ExitStack() as stack:
        watchers = [stack.enter_context(connected(alias)) for alias in shards()]
        before = [each.execute(sessions).fetchone() for each in watchers]
        for alias in shards():
            stack.enter_context(connections[alias].execute_wrapper(note))
        ours = Order.objects.fanout(timeout=30)
        assert len(ours) == len(list(ours.iterator())) == 2 * len(BUYERS)
        assert [each.execute(sessions).fetchone() for each in watchers] == before
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("alias", [FIRST, LAST])
def test_a_shard_that_is_late_is_named_and_its_work_ends(alias: str) -> None:
    with held(alias) as waits, within(SOON):
        with pytest.raises(
            ShardUnavailable, match=f"{alias!r} is not available: no answer wi"
        ) as e:
            list(Order.objects.fanout(timeout=SECONDS).annotate(waits=waits))
        assert e.value.missing_shards == {alias: f"no answer within {SECONDS} s"}
        assert isinstance(e.value.__cause__, OperationalError)
        if connections[alias].vendor == "postgresql":
            until(lambda: locks_waited_for(alias) == 0)
    assert are_usable()


@pytest.mark.parametrize("alias", [FIRST, LAST])
def test_the_rows_of_the_others_are_given_on_request(alias: str) -> None:
    expected = rows_of(*others(alias))
    with held(alias) as waits, within(2 * SOON):
        ours = Order.objects.fanout(timeout=SECONDS, on_error="partial").annotate(waits=waits)
        assert {each.pk for each in ours.order_by("number")} == expected
        found = ours.order_by("number")
        assert {each.pk for each in found.iterator(chunk_size=2)} == expected
        assert found.missing_shards == {alias: f"no answer within {SECONDS} s"}
        found = ours.order_by("-number")
        assert found.first().pk in expected
        assert list(found.missing_shards) == [alias]
    assert are_usable()


def test_all_that_are_late_are_named() -> None:
    with held(*shards()) as waits, within(SOON * len(shards())):
        for on_error in ("raise", "partial"):
            with pytest.raises(ShardUnavailable, match="Shards are not available") as caught:
                list(Order.objects.fanout(timeout=SECONDS, on_error=on_error).annotate(w=waits))
            assert set(caught.value.missing_shards) == set(shards())
            assert isinstance(caught.value.__cause__, BaseExceptionGroup)
            assert len(caught.value.__cause__.exceptions) == len(shards())


def test_what_a_missing_shard_could_answer_is_not_denied() -> None:
    with held(LAST) as waits:
        ours = Order.objects.fanout(timeout=SECONDS, on_error="partial").annotate(waits=waits)
        assert ours.exists()
        with pytest.raises(ShardUnavailable):
            ours.filter(waits="x").exists()
        with pytest.raises(ShardUnavailable):
            ours.get(waits="x")
        some = min(rows_of(FIRST))
        assert ours.get(pk=some).pk == some


@pytest.mark.parametrize("alias", [FIRST, LAST])
def test_numbers_of_the_others_are_given_on_request(alias: str) -> None:
    """From the first round trip on nobody asks the shard again that has not answered."""
    expected = [row for each in others(alias) for row in Order.objects.using(each)]
    numbers = [row.number for row in expected]
    with held(alias) as waits, within(3 * SOON):
        ours = Order.objects.fanout(timeout=SECONDS, on_error="partial").annotate(waits=waits)
        waiting = ours.exclude(waits="never")
        found = waiting.filter(number__gte=0)
        with within(2 * SECONDS):
            assert found.count() == len(expected)
        assert list(found.missing_shards) == [alias]
        found = waiting.filter(number__gte=0)
        with within(2 * SECONDS):
            assert found.aggregate(
                total=Sum("number"), mean=Avg("number"), unlike=Count("number", distinct=True)
            ) == {
                "total": sum(numbers),
                "mean": pytest.approx(sum(numbers) / len(numbers)),
                "unlike": len(set(numbers)),
            }
        assert list(found.missing_shards) == [alias]
        found = waiting.values("number").annotate(n=Count("pk")).filter(n__gt=0).order_by("number")
        with within(2 * SECONDS):
            assert {each["number"]: each["n"] for each in found} == Counter(numbers)
        assert list(found.missing_shards) == [alias]
        with pytest.raises(ShardUnavailable, match=f"{alias!r}"):
            Order.objects.fanout(timeout=SECONDS).annotate(waits=waits).exclude(
                waits="never"
            ).count()
    assert are_usable()


def test_an_open_transaction_is_not_lost_without_a_word() -> None:
    """Its COMMIT would be a rollback that nobody is told of."""
    key = next(each for each in BUYERS if shard_for(each) == LAST)

    def change(waits: Any) -> None:
        with transaction.atomic(using=LAST):
            Buyer.objects.filter(pk=key).update(name="new")
            list(Order.objects.fanout(timeout=SECONDS, on_error="partial").annotate(waits=waits))

    with held(LAST) as waits, pytest.raises(ShardUnavailable):
        change(waits)
    assert are_usable()
    assert Buyer.objects.get(pk=key).name != "new"


@pytest.mark.postgresql
def test_the_server_s_own_limit_is_as_it_was() -> None:
    def limit() -> Any:
        with connections[FIRST].cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return cursor.fetchone()

    assert list(Order.objects.fanout(timeout=20))
    assert limit() == ("0",)
    with transaction.atomic(using=FIRST):
        with connections[FIRST].cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '7s'")
        assert list(Order.objects.fanout(timeout=20).iterator(chunk_size=2))
        assert list(Order.objects.fanout(timeout=20))
        assert limit() == ("7s",)


def test_an_error_in_the_question_is_django_s_and_says_the_shard() -> None:
    wrong = RawSQL("no_such_column", [])
    kind = OperationalError if connections[FIRST].vendor == "sqlite" else ProgrammingError
    for on_error in ("raise", "partial"):
        ours = Order.objects.fanout(timeout=SECONDS, on_error=on_error).annotate(wrong=wrong)
        for ask in (list, lambda them: list(them.iterator())):
            with pytest.raises(kind, match="no_such_column") as caught:
                ask(ours)
            assert caught.value.__notes__ in [[f"On shard {alias!r}."] for alias in shards()]
    assert are_usable()


def test_another_on_error_is_refused() -> None:
    with pytest.raises(UsageError, match="'ignore'"):
        Order.objects.fanout(on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.postgresql
def test_a_process_of_the_server_that_is_stopped_costs_its_deadline() -> None:
    with connections[LAST].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (process,) = cursor.fetchone()
    with (
        stopped(process),
        within(SOON),
        pytest.raises(ShardUnavailable, match=f"{LAST!r}.*no answer within"),
    ):
        list(Order.objects.fanout(timeout=SECONDS))
    assert are_usable()


@pytest.mark.parametrize("alias", [FIRST, LAST])
def test_of_a_shard_that_is_lost_between_two_round_trips_nothing_is_counted(alias: str) -> None:
    expected = [row for each in others(alias) for row in Order.objects.using(each)]
    numbers = [row.number for row in expected]
    sent = []

    def fail(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        sent.append(sql)
        if "DISTINCT" in sql:
            raise InterfaceError("gone")
        return execute(sql, *args)

    asked = Order.objects.fanout(on_error="partial")
    with connections[alias].execute_wrapper(fail):
        found = asked.aggregate(n=Count("pk"), unlike=Count("number", distinct=True))
    assert len(sent) == 2  # the first was answered
    assert asked.missing_shards == {alias: "gone"}
    assert found == {"n": len(expected), "unlike": len(set(numbers))}
    groups = Order.objects.fanout(on_error="partial").values("number")
    with connections[alias].execute_wrapper(fail):
        rows = groups.annotate(n=Count("pk"), unlike=Count("is_paid", distinct=True))
        assert {row["number"]: row["n"] for row in rows} == Counter(numbers)
    assert rows.missing_shards == {alias: "gone"}


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "first": lambda them: them.first(),
    "get": lambda them: them.get(number=-1),
    "exists": lambda them: them.exists(),
    "iterator": lambda them: list(them.iterator()),
    "count": lambda them: them.count(),
}


def failing(error: Exception) -> Any:
    def execute(*_: Any) -> Any:
        raise error

    return execute


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_that_raises_names_no_shard_of_the_one_before(name: str) -> None:
    ours = Order.objects.fanout(on_error="partial")
    wrong = connections[FIRST].execute_wrapper(failing(ProgrammingError("wrong")))
    for error, cause in ((ProgrammingError, wrong), (CrossShardError, single_shard())):
        with connections[LAST].execute_wrapper(failing(InterfaceError("gone"))):
            assert ours.first() is not None
        assert ours.missing_shards == {LAST: "gone"}
        with cause, pytest.raises(error):
            QUESTIONS[name](ours)
        assert ours.missing_shards == {}


def attempts() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == f"connect to {LAST}"]


@pytest.mark.postgresql
def test_a_server_that_is_stopped_gets_one_attempt_at_a_time() -> None:
    """The kernel takes connections for it, which nobody answers."""
    with connections[LAST].cursor() as cursor:
        cursor.execute("SHOW data_directory")
        (folder,) = cursor.fetchone()
    expected = rows_of(*others(LAST))
    connections[LAST].close()
    with stopped(postmaster(folder)):
        with within(SOON), pytest.raises(ShardUnavailable, match=f"{LAST!r}.*no connection within"):
            list(Order.objects.fanout(timeout=SECONDS))
        (attempt,) = attempts()
        for _ in range(3):
            ours = Order.objects.fanout(timeout=SECONDS, on_error="partial")
            assert {each.pk for each in ours} == expected
            assert ours.missing_shards == {LAST: "an earlier connection is still waited for"}
        assert attempts() == [attempt]
    until(lambda: not attempt.is_alive())
    assert len(Order.objects.fanout(timeout=20)) == 2 * len(BUYERS)


@pytest.mark.parametrize("timeout", [None, 20])
def test_a_server_that_refuses_is_named(timeout: float | None, tmp_path: Path) -> None:
    expected = rows_of(*others(LAST))
    settings = connections[LAST].settings_dict
    before = dict(settings)
    connections[LAST].close()
    settings.update({"NAME": str(tmp_path)} if "sqlite" in before["ENGINE"] else {"PORT": 1})
    try:
        with pytest.raises(
            ShardUnavailable, match=f"Shard {LAST!r} is not available: .*(open|fail)"
        ):
            list(Order.objects.fanout(timeout=timeout))
        ours = Order.objects.fanout(timeout=timeout, on_error="partial")
        assert {each.pk for each in ours} == expected
        assert {each.pk for each in ours.iterator()} == expected
        assert list(ours.missing_shards) == [LAST]
    finally:
        settings.update(before)
        connections[LAST].close()
    assert are_usable()


@pytest.mark.postgresql
@pytest.mark.parametrize("sent", [0, 1, 200])
@pytest.mark.parametrize("how", ["hold", "cut"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_stops_in_mid_answer_is_named(sent: int, how: str, streamed: bool) -> None:
    def ask(ours: Any) -> Any:
        return {each.pk for each in (ours.iterator(chunk_size=3) if streamed else ours)}

    expected = rows_of(*others(LAST))
    for on_error in ("raise", "partial"):
        with within(SOON), proxied(LAST) as proxy:
            getattr(proxy, f"{how}_after")(sent)
            ours = Order.objects.fanout(timeout=SECONDS, on_error=on_error).order_by("number")
            if on_error == "raise":
                with pytest.raises(ShardUnavailable, match=f"Shard {LAST!r} is not"):
                    ask(ours)
            else:
                assert ask(ours) >= expected
                assert list(ours.missing_shards) == [LAST]
            assert connections[LAST].connection is None
    assert are_usable()


@pytest.mark.postgresql
def test_a_session_that_an_operator_ends_is_named() -> None:
    with held(LAST) as waits, connected(LAST) as operator:
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE NOT granted AND locktype = 'advisory'"
        )
        thread = threading.Thread(target=lambda: until(lambda: operator.execute(end).fetchall()))
        thread.start()
        with pytest.raises(ShardUnavailable, match="terminating connection") as caught:
            list(Order.objects.fanout().annotate(waits=waits))
        thread.join()
    assert list(caught.value.missing_shards) == [LAST]
    assert are_usable()


def test_a_deadline_costs_no_statement_that_others_see() -> None:
    with CaptureQueriesContext(connections[FIRST]) as without:
        list(Order.objects.fanout())
    with CaptureQueriesContext(connections[FIRST]) as with_one:
        list(Order.objects.fanout(timeout=20))
    assert len(without) == len(with_one) == 1
