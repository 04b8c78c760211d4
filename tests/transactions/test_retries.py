"""Retries: exactly one commit, whatever fails when; and never a second for what is committed."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.test import TestCase

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.testing.failures import inject_failures
from dbpatterns.transactions import (
    RETRYABLE,
    CommitOutcomeUnknown,
    Isolation,
    NestedTransactionError,
    Retry,
    RetryExhausted,
    after_commit,
    after_rollback,
    atomic,
    attempts,
    savepoint,
)
from dbpatterns.transactions.sqlstates import sqlstate_of
from tests.testapp.models import Purse
from tests.transactions.support import fetch

real = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.postgresql
QUICK = Retry(base=0.0001)


def conflict() -> str:
    return "40001" if connection.vendor == "postgresql" else "SQLITE_BUSY"


def naive_retry(function: Callable[[], Any], tries: int = 5) -> Any:
    """What many projects have: the transaction in a loop, by class of error."""
    for _ in range(tries):
        try:
            with transaction.atomic():
                return function()
        except OperationalError:
            continue
    raise AssertionError


def fail_with_conflict() -> None:
    """A hook whose own transaction cannot be serialized."""
    with inject_failures(conflict()), transaction.atomic():
        Purse.objects.count()


@real
def test_a_naive_retry_commits_twice_when_a_hook_fails() -> None:
    failing = [fail_with_conflict]

    def pay() -> None:
        Purse.objects.create()
        if failing:
            transaction.on_commit(failing.pop())

    naive_retry(pay)
    assert Purse.objects.count() == 2  # the harm


@real
def test_a_hook_that_fails_with_a_conflict_never_runs_the_body_again() -> None:
    calls: list[None] = []

    @atomic(retry=QUICK)
    def pay() -> None:
        calls.append(None)
        Purse.objects.create()
        after_commit(fail_with_conflict)

    with pytest.raises(OperationalError, match="injected"):
        pay()
    assert (len(calls), Purse.objects.count()) == (1, 1)


@real
@pytest.mark.parametrize("at", ["statement", pytest.param("commit", marks=postgresql)])
@pytest.mark.parametrize("isolation", [None, Isolation.SERIALIZABLE])
def test_three_conflicts_and_one_commit(at: Any, isolation: Isolation | None) -> None:
    hooks: list[str] = []
    events: list[telemetry.Event] = []
    calls: list[None] = []

    @atomic(retry=QUICK, isolation=isolation, label="pay")
    def pay() -> int:
        calls.append(None)
        after_commit(lambda: hooks.append("done"))
        after_rollback(lambda: hooks.append("undone"))
        return Purse.objects.create().pk

    with telemetry.listening(events.append), inject_failures(conflict(), times=3, at=at):
        pk = pay()
    assert [each.pk for each in Purse.objects.all()] == [pk]
    assert len(calls) == 4
    assert hooks == ["undone"] * 3 + ["done"]
    assert len(events) == 1
    assert events[0].facts["attempts"] == 4
    assert events[0].facts["sqlstates"] == (conflict(),) * 3
    assert events[0].facts["outcome"] == "committed"


@real
@pytest.mark.parametrize("at", ["statement", pytest.param("commit", marks=postgresql)])
def test_a_loop_does_the_same(at: Any) -> None:
    numbers: list[int] = []
    with inject_failures(conflict(), times=2, at=at):
        for attempt in attempts(QUICK):
            with attempt as number:
                numbers.append(number)
                Purse.objects.create()
    assert (numbers, Purse.objects.count()) == ([1, 2, 3], 1)


@real
def test_attempts_end_in_an_error_with_its_facts() -> None:
    events: list[telemetry.Event] = []

    @atomic(retry=Retry(attempts=3, base=0.0001), label="pay")
    def pay() -> None:
        Purse.objects.create()

    with (
        telemetry.listening(events.append),
        inject_failures(conflict(), times=9),
        pytest.raises(RetryExhausted, match=r"'pay' .* failed 3 times") as caught,
    ):
        pay()
    error = caught.value
    assert (error.attempts, error.sqlstates) == (3, (conflict(),) * 3)
    assert error.elapsed_seconds > 0
    assert sqlstate_of(error) == conflict()
    assert isinstance(error.__cause__, OperationalError)
    assert Purse.objects.count() == 0
    assert [each.facts["outcome"] for each in events] == ["rolled_back"]


@real
def test_a_deadline_ends_it_too() -> None:
    retry = Retry(attempts=10**6, base=0.01, deadline=0.1)
    begun = time.monotonic()
    with inject_failures(conflict(), times=10**6), pytest.raises(RetryExhausted, match=r"0.1 s"):
        for attempt in attempts(retry):
            with attempt:
                Purse.objects.create()
    assert time.monotonic() - begun < 5


def test_delays_are_full_jitter() -> None:
    retry = Retry(base=0.01, cap=0.05)
    for made, most in ((1, 0.01), (2, 0.02), (3, 0.04), (4, 0.05), (30, 0.05)):
        delays = [retry.delay(made) for _ in range(500)]
        assert 0 <= min(delays) < most * 0.2
        assert most * 0.8 < max(delays) <= most


@real
def test_it_sleeps_outside_of_the_transaction_and_says_before() -> None:
    told: list[tuple[str | None, int]] = []

    def on_retry(error: BaseException, made: int, seconds: float) -> None:
        assert not connection.in_atomic_block
        assert connection.get_autocommit()
        assert 0 <= seconds <= 0.0002
        told.append((sqlstate_of(error), made))

    with inject_failures(conflict(), times=2):
        atomic(retry=Retry(base=0.0001, on_retry=on_retry))(Purse.objects.create)()
    assert told == [(conflict(), 1), (conflict(), 2)]


@real
def test_a_callback_that_raises_ends_the_attempts_and_they_are_told_of() -> None:
    events: list[telemetry.Event] = []

    def on_retry(error: BaseException, made: int, seconds: float) -> None:
        raise Wrapped

    pay = atomic(retry=Retry(base=0.0001, on_retry=on_retry))(Purse.objects.create)
    with telemetry.listening(events.append), inject_failures(conflict(), times=2):
        with pytest.raises(Wrapped):
            pay()
        for attempt in attempts(Retry(base=0.0001)):
            with attempt:
                Purse.objects.create()
    facts = [(each.facts["outcome"], each.facts["attempts"]) for each in events]
    assert facts == [("rolled_back", 1), ("committed", 2)]


@real
@pytest.mark.parametrize("state", ["22012", "23505", "57014", "25P02", "55P03"])
@postgresql
def test_another_error_is_raised_at_once(state: str) -> None:
    calls: list[None] = []

    @atomic(retry=QUICK)
    def pay() -> None:
        calls.append(None)
        Purse.objects.create()

    with inject_failures(state), pytest.raises(DatabaseError) as caught:
        pay()
    assert sqlstate_of(caught.value) == state
    assert len(calls) == 1


@real
@postgresql
@pytest.mark.parametrize("state", ["55P03", "23505"])
def test_what_is_asked_for_is_retried(state: str) -> None:
    with inject_failures(state, times=2):
        atomic(retry=Retry(base=0.0001, sqlstates=RETRYABLE | {state}))(Purse.objects.create)()
    assert Purse.objects.count() == 1


class Wrapped(Exception):
    pass


@real
def test_the_cause_decides_and_not_the_class() -> None:
    calls: list[None] = []

    @atomic(retry=QUICK)
    def pay() -> None:
        calls.append(None)
        try:
            Purse.objects.create()
        except OperationalError as error:
            raise Wrapped from error

    with inject_failures(conflict()):
        pay()
    assert (len(calls), Purse.objects.count()) == (2, 1)


@real
def test_an_error_while_another_is_handled_is_its_own() -> None:
    @atomic(retry=QUICK)
    def pay() -> None:
        try:
            Purse.objects.create()
        except OperationalError:
            raise Wrapped  # noqa: B904

    with inject_failures(conflict()), pytest.raises(Wrapped):
        pay()


def test_a_ring_of_causes_ends() -> None:
    first, second = Wrapped(), Wrapped()
    first.__cause__, second.__cause__ = second, first
    assert sqlstate_of(first) is None


@real
@postgresql
def test_a_lost_connection_is_retried_when_asked_for() -> None:
    retry = Retry(base=0.0001, sqlstates=RETRYABLE | {"57P01", "08006"})
    calls: list[None] = []

    @atomic(retry=retry)
    def pay() -> None:
        calls.append(None)
        Purse.objects.create()
        if len(calls) == 1:
            fetch("SELECT pg_terminate_backend(pg_backend_pid())")
        elif len(calls) == 2:
            connection.connection.close()
            Purse.objects.count()  # the driver's own error, without a SQLSTATE

    pay()
    assert (len(calls), Purse.objects.count()) == (3, 1)


@real
@pytest.mark.parametrize("outer", [transaction.atomic, atomic], ids=["django", "ours"])
def test_within_a_transaction_it_is_refused_at_entry(outer: Any) -> None:
    calls: list[None] = []
    with outer():
        with pytest.raises(NestedTransactionError, match="outermost"):
            atomic(retry=QUICK)(calls.append)(None)
        with pytest.raises(NestedTransactionError):
            attempts(QUICK)
        Purse.objects.create()
    assert (calls, Purse.objects.count()) == ([], 1)


@real
def test_a_begin_that_is_refused_is_not_repeated() -> None:
    if connection.vendor == "sqlite":
        events: list[telemetry.Event] = []
        with telemetry.listening(events.append), pytest.raises(UsageError, match="SQLite"):
            for attempt in attempts(QUICK, statement_timeout=1):
                with attempt:
                    raise AssertionError
        assert events[0].facts["attempts"] == 1


@real
def test_sqlite_has_no_commit_to_fail() -> None:
    if connection.vendor == "sqlite":
        with (
            pytest.raises(UsageError, match="SQLite"),
            inject_failures("SQLITE_BUSY", at="commit"),
        ):
            pass


@real
@postgresql
def test_a_commit_is_failed_once_however_many_statements_there_are() -> None:
    @atomic(retry=QUICK)
    def pay() -> None:
        Purse.objects.create()
        with savepoint():
            Purse.objects.create()
        Purse.objects.create()

    with inject_failures("40001", times=2, at="commit"):
        pay()
    assert Purse.objects.count() == 3


@real
def test_with_autocommit_off_it_is_refused_too() -> None:
    transaction.set_autocommit(False)
    try:
        with pytest.raises(NestedTransactionError):
            attempts(QUICK)
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


@real
def test_an_attempt_is_used_once_and_in_its_turn() -> None:
    with pytest.raises(UsageError, match="was not used"):
        for _ in attempts(QUICK):
            pass
    for attempt in attempts(QUICK):
        with attempt:
            pass
    with pytest.raises(UsageError, match="is over"), attempt:
        pass


@real
@postgresql
def test_a_loop_left_by_return_after_a_failed_commit_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def pay() -> int:
        for attempt in attempts(QUICK, label="pay"):
            with attempt:
                return Purse.objects.create().pk
        return 0

    assert pay()
    assert not caplog.records
    with inject_failures("40001", at="commit"), caplog.at_level(logging.ERROR):
        pay()
    assert Purse.objects.count() == 1  # what the docstring warns of
    assert "'pay' on 'default' was left" in caplog.text


@real
def test_what_is_not_an_exception_ends_it() -> None:
    events: list[telemetry.Event] = []
    with telemetry.listening(events.append), pytest.raises(KeyboardInterrupt):
        for attempt in attempts(QUICK):
            with attempt:
                raise KeyboardInterrupt
    assert len(events) == 1


@real
def test_an_interrupt_in_a_hook_ends_it_too() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    events: list[telemetry.Event] = []
    with telemetry.listening(events.append), pytest.raises(KeyboardInterrupt):
        for attempt in attempts(QUICK):
            with attempt:
                after_commit(interrupt)
    assert [each.facts["outcome"] for each in events] == ["committed"]


@real
def test_an_exhausted_retry_of_another_database_is_not_multiplied() -> None:
    if "other" not in connections.settings and "shard_0" not in connections.settings:
        pytest.fail("needs a second database")
    calls: list[None] = []

    @atomic(retry=QUICK)
    def outer() -> None:
        calls.append(None)
        raise RetryExhausted("x", attempts=1, sqlstates=["40001"], elapsed_seconds=0) from error

    with inject_failures(conflict()), pytest.raises(OperationalError) as caught, atomic():
        Purse.objects.create()
    error = caught.value
    with pytest.raises(RetryExhausted):
        outer()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attempts": 0}, "at least 1"),
        ({"attempts": 1.5}, "whole number"),
        ({"attempts": True}, "whole number"),
        ({"base": 0}, "base"),
        ({"cap": -1}, "cap"),
        ({"deadline": "soon"}, "deadline"),
        ({"sqlstates": frozenset({"40001", "57014"})}, "57014, which another attempt cannot help"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Retry(**options)


def three_blocks() -> list[str]:
    """Write twice in each of three transactions, first in a savepoint; tell what was written."""
    ends: list[str] = []
    for _ in range(3):
        with transaction.atomic():
            with contextlib.suppress(OperationalError), transaction.atomic():
                Purse.objects.create()
                ends.append("first")
            Purse.objects.create()
            ends.append("second")
    return ends


class UnderTestCase(TestCase):
    def test_attempts_are_savepoints(self) -> None:
        calls: list[None] = []

        @atomic(retry=QUICK, isolation=Isolation.SERIALIZABLE)
        def pay() -> None:
            calls.append(None)
            Purse.objects.create()

        with inject_failures(conflict(), times=2):
            pay()
        assert (len(calls), Purse.objects.count()) == (3, 1)

    def test_each_outermost_block_fails_once_and_the_test_itself_never(self) -> None:
        with inject_failures(conflict(), times=2):
            Purse.objects.create()
            ends = three_blocks()
        assert ends == ["second", "second", "first", "second"]

    def test_a_failed_constraint_in_the_body_is_no_reason(self) -> None:
        Purse.objects.create(pk=1)
        with pytest.raises(IntegrityError):
            atomic(retry=QUICK)(Purse.objects.create)(pk=1)

    def test_a_commit_to_fail_is_refused(self) -> None:
        with (
            pytest.raises(UsageError, match=r"at=.commit"),
            inject_failures("40001", at="commit"),
        ):
            pass


@pytest.mark.parametrize("state", ["4000", "'; --", "SQLITE_NONSENSE"])
def test_only_a_sqlstate_is_injected(state: str) -> None:
    with pytest.raises(UsageError, match="five of"), inject_failures(state):
        pass


@real
def test_each_transaction_fails_once_whatever_it_does_after_that() -> None:
    with inject_failures(conflict(), times=2):
        ends = three_blocks()
    assert ends == ["second", "second", "first", "second"]
    assert Purse.objects.count() == 4


@real
@postgresql
def test_a_commit_fails_though_all_statements_are_in_savepoints_that_are_undone() -> None:
    calls: list[None] = []

    @atomic(retry=QUICK)
    def pay() -> None:
        calls.append(None)
        with contextlib.suppress(Wrapped), savepoint():
            Purse.objects.create()
            raise Wrapped

    with inject_failures("40001", at="commit"):
        pay()
    assert (len(calls), Purse.objects.count()) == (2, 0)


@real
@postgresql
def test_a_read_only_transaction_has_no_commit_to_fail() -> None:
    with inject_failures("40001", at="commit"):
        with pytest.raises(UsageError, match="is read-only"), atomic(read_only=True):
            Purse.objects.count()
        with pytest.raises(OperationalError), atomic():
            Purse.objects.count()


@real
@postgresql
def test_nothing_is_injected_into_what_has_failed_by_itself() -> None:
    with inject_failures("40001", at="commit"):
        with (
            pytest.raises(DatabaseError, match="aborted"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            connection.connection.execute("SAVEPOINT a")
            with contextlib.suppress(Exception):
                connection.connection.execute("SELECT 1 / 0")
            cursor.execute("SELECT 1")
        with pytest.raises(OperationalError), transaction.atomic():
            Purse.objects.count()


@real
def test_outside_a_transaction_nothing_is_injected() -> None:
    with inject_failures(conflict()):
        assert Purse.objects.count() == 0
        with contextlib.suppress(OperationalError), transaction.atomic():
            Purse.objects.create()
        Purse.objects.create()
    assert Purse.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_an_unknown_outcome_is_not_retried_by_another_name() -> None:
    calls: list[None] = []

    class LostLine(OperationalError):
        sqlstate = "08006"

    @atomic(retry=Retry(base=0.0001, sqlstates=RETRYABLE | {"08006"}))
    def pay() -> None:
        calls.append(None)
        unknown = CommitOutcomeUnknown("?", database="other", label="", xid=None)
        unknown.__cause__ = LostLine()
        raise OSError("the payment failed") from unknown

    with pytest.raises(OSError, match="the payment failed"):
        pay()
    assert len(calls) == 1


def test_a_delay_has_a_limit_after_any_number_of_attempts() -> None:
    assert Retry(attempts=5_000, cap=0.25).delay(4_999) <= 0.25
