"""One key, one effect: under threads, failures and kill -9; and the stored answer, as it was."""

import copy
import pickle
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.connection import ConnectionDoesNotExist

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.idempotency import keys
from dbpatterns.idempotency.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InvalidIdempotencyKey,
)
from dbpatterns.idempotency.keys import purge, run_once
from dbpatterns.idempotency.models import IdempotencyKey
from tests.processes import in_threads, locks_waited_for, start_process, until
from tests.testapp.models import Effect


class Broken(Exception):
    pass


def effect(key: str = "k") -> dict[str, Any]:
    return {"key": key, "effect": Effect.objects.create(key=key).pk}


def fail() -> Any:
    effect("k")
    raise Broken


def once(key: str = "k", work: Callable[[], Any] = effect, **options: Any) -> keys.Outcome[Any]:
    return run_once("user:1", key, ["pay", 5], work, **options)


def effects() -> dict[str, int]:
    return dict(Counter(Effect.objects.values_list("key", flat=True)))


@pytest.mark.django_db(transaction=True)
def test_to_check_and_then_act_does_it_twice() -> None:
    both_have_checked = threading.Barrier(2)

    def pay() -> None:
        if not Effect.objects.filter(key="k").exists():
            both_have_checked.wait(timeout=30)
            effect()

    in_threads([pay, pay])
    assert effects() == {"k": 2}


@pytest.mark.django_db(transaction=True)
def test_two_at_once_do_it_once_and_get_the_same_answer() -> None:
    first, second = in_threads([once, once])
    assert effects() == {"k": 1}
    assert first.value == second.value
    assert {first.is_replay, second.is_replay} == {True, False}


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_twenty_keys_by_twenty_five_threads_with_failing_winners_are_done_once_each() -> None:
    names = [f"key-{number}" for number in range(20)]
    dice = random.Random(7)
    fails = {name: iter([dice.random() < 0.3 for _ in range(500)]) for name in names}
    one = threading.Lock()
    failed: Counter[str] = Counter()

    def work(name: str) -> dict[str, Any]:
        answer = effect(name)
        with one:
            if next(fails[name]):
                failed[name] += 1
                raise Broken
        return answer

    def ask_all() -> list[tuple[str, Any]]:
        answers = []
        for name in names:
            while True:
                try:
                    answers.append((name, once(name, lambda: work(name))))  # noqa: B023
                    break
                except Broken:
                    continue  # as a client would
        return answers

    results = in_threads([ask_all] * 25)
    assert effects() == dict.fromkeys(names, 1)
    outcomes = [pair for each in results for pair in each]
    assert len(outcomes) == 500
    stored = {row.key: row.pk for row in Effect.objects.all()}
    assert all(outcome.value == {"key": k, "effect": stored[k]} for k, outcome in outcomes)
    assert sum(not outcome.is_replay for _, outcome in outcomes) == 20
    assert sum(failed.values()) > 0


@pytest.mark.django_db(transaction=True)
def test_a_failure_keeps_nothing_and_hands_the_key_on() -> None:
    with pytest.raises(Broken):
        once(work=fail)
    assert not IdempotencyKey.objects.exists()
    assert effects() == {}
    assert not once().is_replay
    assert effects() == {"k": 1}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("stage", ["before the work", "after the work", "before the commit"])
def test_a_kill_leaves_all_of_it_or_nothing(stage: str) -> None:
    process = start_process(
        "import sys\n"
        "from django.db import transaction\n"
        "from dbpatterns.idempotency.keys import run_once\n"
        "from tests.testapp.models import Effect\n"
        "def stop(at):\n"
        f"    if at == {stage!r}:\n"
        "        print('here', flush=True); sys.stdin.read()\n"
        "def work():\n"
        "    stop('before the work')\n"
        "    row = Effect.objects.create(key='k')\n"
        "    stop('after the work')\n"
        "    return {'key': 'k', 'effect': row.pk}\n"
        "with transaction.atomic():\n"
        "    run_once('user:1', 'k', ['pay', 5], work)\n"
        "    stop('before the commit')\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not once().is_replay
    assert effects() == {"k": 1}


@pytest.mark.django_db(transaction=True)
def test_a_kill_after_the_commit_leaves_the_answer_to_replay() -> None:
    process = start_process(
        "import os, signal\n"
        "from dbpatterns.idempotency.keys import run_once\n"
        "from tests.testapp.models import Effect\n"
        "work = lambda: {'effect': Effect.objects.create(key='k').pk}\n"
        "run_once('user:1', 'k', ['pay', 5], work)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process.communicate()
    assert once().is_replay
    assert effects() == {"k": 1}


@pytest.mark.django_db(transaction=True)
def test_another_request_under_the_key_is_refused() -> None:
    once()
    with pytest.raises(IdempotencyConflict, match="another request") as caught:
        run_once("user:1", "k", ["pay", 6], effect)
    assert (caught.value.scope, caught.value.key) == ("user:1", "k")
    assert effects() == {"k": 1}


@pytest.mark.django_db
def test_the_same_key_in_another_scope_is_another_key() -> None:
    once()
    assert not run_once("user:2", "k", ["pay", 5], effect).is_replay
    assert effects() == {"k": 2}


@pytest.mark.django_db
def test_the_order_of_a_fingerprint_s_names_does_not_matter() -> None:
    run_once("s", "k", {"a": 1, "b": 2}, effect)
    assert run_once("s", "k", {"b": 2, "a": 1}, effect).is_replay


class Slow:
    """Work that says when it runs, and ends when it may."""

    def __init__(self) -> None:
        self.running, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> dict[str, Any]:
        self.running.set()
        assert self.may_end.wait(timeout=30)
        return effect()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_expired", [False, True])
def test_one_that_does_not_wait_is_told_while_another_runs(is_expired: bool) -> None:
    if is_expired:  # and so is there, and free
        once(expires_in=timedelta(seconds=-1))
    slow = Slow()

    def ask() -> Any:
        assert slow.running.wait(timeout=30)
        before = timeout()
        try:
            with pytest.raises(IdempotencyInProgress) as caught:
                once(wait=False)
            assert timeout() == before
            return caught.value
        finally:
            slow.may_end.set()

    done, refused = in_threads([lambda: once(work=slow), ask])
    assert isinstance(refused, IdempotencyInProgress)
    assert (refused.scope, refused.key) == ("user:1", "k")
    assert not done.is_replay
    assert once(wait=False) == keys.Outcome(done.value, is_replay=True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_expired", [False, True])
def test_one_whose_time_to_wait_is_over_is_told_too(is_expired: bool) -> None:
    if is_expired:
        once(expires_in=timedelta(seconds=-1))
    slow = Slow()

    def ask() -> Any:
        assert slow.running.wait(timeout=30)
        with connection.cursor() as cursor:
            sqlite = connection.vendor == "sqlite"
            cursor.execute("PRAGMA busy_timeout = 20" if sqlite else "SET lock_timeout = '20ms'")
        before = timeout()
        try:
            with pytest.raises(IdempotencyInProgress):
                once()
            assert timeout() == before
        finally:
            slow.may_end.set()

    done, told = in_threads([lambda: once(work=slow), ask])
    assert told is None
    assert once() == keys.Outcome(done.value, is_replay=True)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_time_out_that_is_not_the_key_s_is_not_taken_for_a_running_request() -> None:
    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '20ms'")
        with pytest.raises(OperationalError, match="lock timeout"):
            once()

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {IdempotencyKey._meta.db_table} IN SHARE MODE")
        assert in_threads([ask]) == [None]


@pytest.mark.django_db(transaction=True)
def test_one_that_does_not_wait_gets_an_answer_that_is_there_while_others_write() -> None:
    writing, may_end = threading.Event(), threading.Event()
    first = once()

    def write() -> None:
        with transaction.atomic():
            effect("another")
            writing.set()
            assert may_end.wait(timeout=30)

    def ask() -> Any:
        assert writing.wait(timeout=30)
        try:
            return once(wait=False)
        finally:
            may_end.set()

    _, second = in_threads([write, ask])
    assert second == keys.Outcome(first.value, is_replay=True)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_an_index_that_is_built_is_not_taken_for_a_running_request() -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {IdempotencyKey._meta.db_table} IN SHARE MODE")
            asked = pool.submit(in_threads, [lambda: once(wait=False)])
            until(lambda: asked.done() or locks_waited_for())
        (outcome,) = asked.result(timeout=30)
    assert not outcome.is_replay


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_one_that_does_not_wait_is_told_when_another_is_first_to_forget_an_expired_key() -> None:
    once(expires_in=timedelta(seconds=-1))
    forgotten, may_end = threading.Event(), threading.Event()

    def forget() -> None:
        with transaction.atomic():
            IdempotencyKey.objects.all().delete()
            forgotten.set()
            assert may_end.wait(timeout=30)

    def ask() -> None:
        def after_the_other(execute: Any, sql: str, *rest: Any) -> Any:
            if sql.startswith("DELETE"):
                other.start()
                assert forgotten.wait(timeout=30)
            return execute(sql, *rest)

        other = threading.Thread(target=in_threads, args=[[forget]])
        try:
            with connection.execute_wrapper(after_the_other), pytest.raises(IdempotencyInProgress):
                once(wait=False)
            assert other.is_alive()  # the other has not ended yet
        finally:
            may_end.set()
            other.join(timeout=30)

    assert in_threads([ask]) == [None]
    assert not IdempotencyKey.objects.exists()


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_claim_that_is_cancelled_is_not_taken_for_a_running_request() -> None:
    def cancel(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("INSERT"):
            execute("SET LOCAL statement_timeout = 1", None, *rest[1:])
            sql, rest = "SELECT pg_sleep(5)", (None, *rest[1:])
        return execute(sql, *rest)

    with connection.execute_wrapper(cancel), pytest.raises(OperationalError, match="timeout"):
        once(wait=False)


def timeout() -> str:
    with connection.cursor() as cursor:
        sqlite = connection.vendor == "sqlite"
        cursor.execute("PRAGMA busy_timeout" if sqlite else "SHOW lock_timeout")
        return str(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_nested", [False, True])
def test_not_waiting_ends_with_the_claim(is_nested: bool) -> None:
    before = timeout()
    during: list[str] = []

    def ask() -> None:
        once(work=lambda: during.append(timeout()), wait=False)
        assert timeout() == before

    if is_nested:
        with transaction.atomic():
            ask()
    else:
        ask()
    assert during == [before]
    assert timeout() == before


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_being_told_leaves_an_outer_transaction_and_its_timeout_as_they_were() -> None:
    running, may_end = threading.Event(), threading.Event()

    def slow() -> str:
        running.set()
        assert may_end.wait(timeout=30)
        return "slow"

    def ask() -> str:
        assert running.wait(timeout=30)
        try:
            with transaction.atomic():
                effect("outer")
                with pytest.raises(IdempotencyInProgress):
                    once(wait=False)
                return timeout()
        finally:
            may_end.set()

    _, left = in_threads([lambda: once(work=slow), ask])
    assert left == "0"
    assert effects() == {"outer": 1}


@pytest.mark.django_db
@pytest.mark.parametrize("wait", [True, False])
def test_another_error_of_the_database_stays_what_it_is(wait: bool) -> None:
    def broken() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM nowhere")

    with pytest.raises(Exception, match="nowhere"), transaction.atomic():
        once(work=broken, wait=wait)


@pytest.mark.django_db
def test_what_the_first_gets_is_what_a_replay_gets() -> None:
    odd = {"z": (1, 2), "a": datetime(2026, 1, 2, tzinfo=UTC), "nul": "\0", "none": None}
    first = once(work=lambda: odd)
    assert first.value == {"z": [1, 2], "a": "2026-01-02T00:00:00Z", "nul": "\0", "none": None}
    again = once(work=lambda: odd)
    assert again.value == first.value
    assert list(again.value) == ["z", "a", "nul", "none"]


@pytest.mark.django_db
def test_a_replay_is_told_to_telemetry() -> None:
    heard: list[telemetry.Event] = []
    with telemetry.listening(heard.append):
        once()
        once()
    assert [(each.name, each.database, dict(each.facts)) for each in heard] == [
        ("idempotency.replayed", "default", {"scope": "user:1"})
    ]


@pytest.mark.django_db
def test_nothing_is_an_answer_too() -> None:
    once(work=lambda: None)
    assert once(work=lambda: None) == keys.Outcome(None, is_replay=True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("answer", [object(), {1, 2}, float("nan"), {1: "one"}])
def test_an_answer_that_is_no_json_undoes_the_work(answer: object) -> None:
    with pytest.raises(UsageError, match="no JSON"):
        once(work=lambda: (effect(), answer))
    assert effects() == {}
    assert not IdempotencyKey.objects.exists()


@pytest.mark.django_db
def test_a_fingerprint_whose_keys_are_not_text_is_refused_before_the_work() -> None:
    with pytest.raises(UsageError, match="the key 1 is not text"):
        run_once("user:1", "k", {1: "one"}, effect)
    assert effects() == {}


@pytest.mark.parametrize(
    "error",
    [
        IdempotencyConflict(scope="s", key="k"),
        IdempotencyInProgress(scope="s", key="k"),
        InvalidIdempotencyKey(scope="s", key="", longest=255),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_from_another_process_as_it_was(error: Exception) -> None:
    for came in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(came) is type(error)
        assert (str(came), vars(came)) == (str(error), vars(error))


@pytest.mark.django_db(transaction=True)
def test_a_key_used_inside_its_own_work_is_refused() -> None:
    with pytest.raises(UsageError, match="another scope"):
        once(work=lambda: once().value)
    assert effects() == {}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("scope", "key"),
    [
        ("", "k"),
        ("s", ""),
        ("s", "k" * 256),
        ("s" * 256, "k"),
        ("s", "a\0b"),
        ("s", "\ud800"),
        ("\udfff", "k"),
    ],
    ids=ascii,
)
def test_a_key_that_cannot_be_stored_is_refused(scope: str, key: str) -> None:
    with pytest.raises(InvalidIdempotencyKey, match="1 to 255") as caught:
        run_once(scope, key, 1, effect)
    assert (caught.value.scope, caught.value.key) == (scope, key)
    assert isinstance(caught.value, ValueError)
    assert effects() == {}


@pytest.mark.django_db
def test_the_longest_key_is_one() -> None:
    run_once("s" * 255, "k" * 255, 1, effect)
    assert run_once("s" * 255, "k" * 255, 1, effect).is_replay


@pytest.mark.django_db
def test_the_first_costs_three_statements_and_a_replay_two() -> None:
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            once(work=lambda: None)
        counts.append(
            [
                each["sql"].split()[0]
                for each in queries.captured_queries
                if each["sql"].split()[0] not in ("SAVEPOINT", "RELEASE")
            ]
        )
    assert counts == [["INSERT", "UPDATE"], ["INSERT", "SELECT"]]


@pytest.mark.django_db(transaction=True)
def test_an_outer_transaction_that_fails_takes_the_key_with_it() -> None:
    with transaction.atomic():
        once()
        transaction.set_rollback(True)
    assert effects() == {}
    assert not once().is_replay


@pytest.mark.django_db
def test_an_expired_key_is_free_for_another_request() -> None:
    once(expires_in=timedelta(seconds=-1))
    assert not run_once("user:1", "k", "another", effect).is_replay
    assert effects() == {"k": 2}
    assert run_once("user:1", "k", "another", effect).is_replay


@pytest.mark.django_db(transaction=True)
def test_of_those_who_find_a_key_expired_one_runs() -> None:
    once(expires_in=timedelta(seconds=-1))
    outcomes = in_threads([once] * 4)
    assert sorted(each.is_replay for each in outcomes) == [False, True, True, True]
    assert effects() == {"k": 2}


@pytest.mark.django_db
def test_a_key_lives_as_long_as_the_settings_say_or_the_caller() -> None:
    with override_settings(DBPATTERNS={"IDEMPOTENCY": {"EXPIRES_SECONDS": 60}}):
        once("a")
    once("b")
    once("c", expires_in=timedelta(seconds=5))
    lives = {row.key: row.expires_at - row.created_at for row in IdempotencyKey.objects.all()}
    wanted = {"a": 60, "b": 86_400, "c": 5}
    assert {key: round(life.total_seconds()) for key, life in lives.items()} == wanted


@pytest.mark.django_db
def test_a_key_outlives_work_that_takes_longer_than_its_time() -> None:
    def work() -> str:
        late = timezone.now() - timedelta(seconds=1)
        IdempotencyKey.objects.filter(key="long").update(expires_at=late)
        return "done"

    assert not run_once("user:1", "long", 1, work).is_replay
    assert run_once("user:1", "long", 1, work).is_replay


@pytest.mark.django_db
def test_two_moments_are_two_requests() -> None:
    at = datetime(2026, 1, 1, microsecond=123_456)
    run_once("user:1", "k", [at], lambda: 1)
    with pytest.raises(IdempotencyConflict):
        run_once("user:1", "k", [at.replace(microsecond=123_999)], lambda: 1)


@pytest.mark.django_db
def test_the_key_is_kept_on_the_database_that_the_work_writes_to() -> None:
    with pytest.raises(ConnectionDoesNotExist, match="nowhere"):
        once(using="nowhere")
    once(using="default")
    assert IdempotencyKey.objects.using("default").count() == 1


@pytest.mark.django_db
def test_purging_deletes_the_oldest_expired_and_no_other() -> None:
    for number in range(5):
        once(str(number), expires_in=timedelta(seconds=-10 + number))
    once("alive")
    assert purge(batch_size=2) == 2
    assert set(IdempotencyKey.objects.values_list("key", flat=True)) == {"2", "3", "4", "alive"}
    assert [purge(batch_size=2), purge(batch_size=2), purge()] == [2, 1, 0]
    assert str(IdempotencyKey.objects.get()) == "user:1 alive"


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_purging_leaves_a_key_that_another_has_locked_and_goes_on() -> None:
    for number in range(4):
        once(str(number), expires_in=timedelta(seconds=-10 + number))

    def purge_all() -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '20s'")
        return [purge(batch_size=2), purge(batch_size=2), purge()]

    with transaction.atomic():
        IdempotencyKey.objects.select_for_update().get(key="1")
        assert in_threads([purge_all]) == [[2, 1, 0]]
        assert IdempotencyKey.objects.get().key == "1"
    assert purge() == 1


@pytest.mark.django_db(transaction=True)
def test_several_who_purge_at_once_delete_every_key_once() -> None:
    for number in range(30):
        once(str(number), expires_in=timedelta(seconds=-1))

    def purge_all() -> int:
        return sum(iter(lambda: purge(batch_size=3), 0))

    assert sum(in_threads([purge_all] * 3)) == 30
    assert not IdempotencyKey.objects.exists()
