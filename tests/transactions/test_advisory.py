"""Advisory locks: one holder a name, and no two names by accident."""

from contextlib import suppress
from threading import Event
from uuid import UUID

import pytest
from django.db import DatabaseError, NotSupportedError, OperationalError, connection, transaction
from django.test import TestCase
from hypothesis import given
from hypothesis import strategies as st

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.transactions import (
    RETRYABLE,
    LockLost,
    LockTimeout,
    NestedTransactionError,
    Retry,
    RetryExhausted,
    TransactionRequiredError,
    advisory_key,
    advisory_lock,
    advisory_xact_lock,
    atomic,
)
from tests.testapp.models import Purse
from tests.transactions.support import (
    PATIENCE_SECONDS,
    fetch,
    options,
    threads,
    until,
    waiting_sessions,
)

postgresql = pytest.mark.postgresql
real = pytest.mark.django_db(transaction=True)
PID = "SELECT pg_backend_pid()"
PARTS = st.one_of(st.text(max_size=5), st.integers(), st.binary(max_size=5), st.uuids())


@given(st.lists(PARTS, min_size=1, max_size=4), st.lists(PARTS, min_size=1, max_size=4))
def test_keys_are_as_different_as_their_parts(one: list[object], other: list[object]) -> None:
    def typed(parts: list[object]) -> list[tuple[type, object]]:
        return [(type(each), each) for each in parts]

    same = advisory_key(*one) == advisory_key(*other)  # type: ignore[arg-type]
    assert same == (typed(one) == typed(other))
    assert -(2**63) <= advisory_key(*one) < 2**63  # type: ignore[arg-type]


def test_keys_that_a_joined_text_would_confuse() -> None:
    zero = UUID(int=0)
    keys = [("a", "bc"), ("ab", "c"), ("abc",), (1,), ("1",), (b"1",), (11,), (1, 1), (zero,)]
    keys += [(str(zero),), ("a", ""), ("", "a"), ("a",), ("str:1:a",)]
    assert len({advisory_key(*key) for key in keys}) == len(keys)


def test_a_key_is_the_same_in_every_process_and_release() -> None:
    assert advisory_key("import", 7, b"x", UUID(int=1)) == -7843054531867467458


@pytest.mark.parametrize("parts", [(), (True,), (None,), (1.5,), (("a",),)])
def test_what_is_no_key_is_refused(parts: tuple[object, ...]) -> None:
    with pytest.raises(UsageError, match="str, int, bytes"):
        advisory_key(*parts)  # type: ignore[arg-type]


@real
@postgresql
def test_a_session_s_lock_lasts_over_transactions_and_ends_with_the_block() -> None:
    with threads() as pool:

        def take() -> str:
            with advisory_lock("import", 7, wait=False):
                return "mine"

        with advisory_lock("import", 7):
            with atomic():
                Purse.objects.create()
            with pytest.raises(LockTimeout, match="import") as caught:
                pool.start(take).result(30)
            with advisory_lock("import", 8):
                pass
        assert pool.start(take).result(30) == "mine"
    assert (caught.value.keys, caught.value.model, caught.value.timeout) == (
        ("import", 7),
        "",
        None,
    )


@real
@postgresql
def test_it_waits_as_long_as_it_is_told_and_leaves_no_timeout_behind() -> None:
    with threads() as pool:

        def take(wait: bool | float) -> str:
            with advisory_lock("x", wait=wait):
                return str(fetch("SHOW lock_timeout"))

        with advisory_lock("x"):
            with pytest.raises(LockTimeout, match=r"0.05 s") as caught:
                pool.start(take, 0.05).result(30)
            waiting = [pool.start(take, True), pool.start(take, 60.0)]
            until(lambda: waiting_sessions() == 2)
        assert [each.result(30) for each in waiting] == ["0", "0"]
    assert caught.value.timeout == 0.05


@real
@postgresql
def test_those_who_share_do_so() -> None:
    with threads() as pool:

        def take(shared: bool) -> str:
            with advisory_lock("x", shared=shared, wait=False):
                return "mine"

        with advisory_lock("x", shared=True):
            assert pool.start(take, True).result(30) == "mine"
            with pytest.raises(LockTimeout):
                pool.start(take, False).result(30)
        assert pool.start(take, False).result(30) == "mine"


@real
@postgresql
def test_the_lock_goes_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), advisory_lock("x"):
        raise ZeroDivisionError
    mine = "locktype = 'advisory' AND pid = pg_backend_pid()"
    assert fetch(f"SELECT count(*) FROM pg_locks WHERE {mine}") == 0


@real
@postgresql
def test_a_lock_that_was_lost_is_told() -> None:
    with pytest.raises(LockLost, match="another may have held it") as caught, advisory_lock("x"):
        connection.close()
    assert caught.value.keys == ("x",)
    with pytest.raises(LockLost), threads() as pool, advisory_lock("x"):
        pid = fetch("SELECT pg_backend_pid()")
        pool.start(fetch, "SELECT pg_terminate_backend(%s)", pid).result(30)
        is_held = "SELECT count(*) FROM pg_locks WHERE pid = %s"
        pool.start(until, lambda: not fetch(is_held, pid)).result(PATIENCE_SECONDS)
    with pytest.raises(OperationalError, match="terminating"), advisory_lock("x"):
        fetch("SELECT pg_terminate_backend(pg_backend_pid())")


def locks_held(pid: int) -> int:
    sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
    return int(fetch(sql, pid))


@real
@postgresql
def test_a_session_that_a_pool_has_taken_back_lets_go_too() -> None:
    with options(pool={"min_size": 2, "max_size": 2}):
        with pytest.raises(LockLost), advisory_lock("x"):  # others may have borrowed it
            pid = fetch(PID)
            until(lambda: connection.close() or fetch(PID) != pid)
            assert locks_held(pid) == 1
        assert locks_held(pid) == 0


@real
@postgresql
def test_a_lock_that_a_pool_has_lent_to_another_was_not_held_alone() -> None:
    def other() -> None:
        with advisory_lock("x", wait=False):
            pass

    with (
        threads() as pool,
        options(pool={"min_size": 1, "max_size": 1}),
        pytest.raises(LockLost),
        advisory_lock("x"),
    ):
        connection.close()
        pool.start(other).result(PATIENCE_SECONDS)


@real
@postgresql
def test_a_session_that_was_given_back_within_a_block_is_fit_for_the_next() -> None:
    with options(pool={"min_size": 1, "max_size": 1}):
        with pytest.raises(LockLost), advisory_lock("x"), transaction.atomic():
            fetch("SELECT 1")
            connection.close()
        assert fetch("SELECT 1") == 1


@real
@postgresql
def test_a_session_that_its_borrower_has_broken_is_closed_for_the_lock_s_sake() -> None:
    with threads() as pool, options(pool={"min_size": 1, "max_size": 1}):
        with pytest.raises(LockLost), advisory_lock("x"):
            pid = fetch("SELECT pg_backend_pid()")
            connection.close()
            has_failed, may_end = Event(), Event()

            def borrow() -> None:
                with transaction.atomic():
                    with suppress(DatabaseError):
                        fetch("SELECT 1 / 0")
                    has_failed.set()
                    assert may_end.wait(PATIENCE_SECONDS)
                    connection.set_rollback(True)

            borrower = pool.start(borrow)
            assert has_failed.wait(PATIENCE_SECONDS)
        may_end.set()
        borrower.result(PATIENCE_SECONDS)
        until(lambda: not locks_held(pid))


@real
@postgresql
def test_a_lock_that_is_not_waited_for_may_be_tried_again_as_one_that_is() -> None:
    tries: list[int] = []

    @atomic(retry=Retry(attempts=2, base=0.0001, sqlstates=RETRYABLE | {"55P03"}))
    def take() -> None:
        tries.append(len(tries))
        advisory_xact_lock("x", wait=False)

    with threads() as pool, advisory_lock("x"), pytest.raises(RetryExhausted) as caught:
        pool.start(take).result(PATIENCE_SECONDS)
    assert caught.value.sqlstates == ("55P03", "55P03")
    assert tries == [0, 1]


@real
@postgresql
def test_a_session_s_lock_within_a_transaction_is_refused() -> None:
    with (
        atomic(),
        pytest.raises(NestedTransactionError, match="advisory_xact_lock"),
        advisory_lock("x"),
    ):
        pass


@real
@postgresql
def test_a_transaction_s_lock_lasts_until_its_end_and_keeps_the_other_kind_out() -> None:
    with threads() as pool:

        def take() -> str:
            with advisory_lock("x", wait=False):
                return "mine"

        def take_within(wait: bool | float) -> str:
            with atomic():
                advisory_xact_lock("x", wait=wait)
                return "mine"

        with transaction.atomic():
            advisory_xact_lock("x")
            for blocked in (pool.start(take), pool.start(take_within, False)):
                with pytest.raises(LockTimeout):
                    blocked.result(30)
            with pytest.raises(LockTimeout):
                pool.start(take_within, 0.05).result(30)
        assert pool.start(take_within, True).result(30) == "mine"
        with atomic():
            advisory_xact_lock("x", shared=True)


@real
@postgresql
def test_another_error_stays_itself() -> None:
    with threads() as pool, advisory_lock("x"):

        def take() -> None:
            with atomic(statement_timeout=0.05):
                advisory_xact_lock("x")

        with pytest.raises(OperationalError, match="statement timeout"):
            pool.start(take).result(30)


@real
def test_outside_a_transaction_nothing_would_hold_it() -> None:
    with pytest.raises(TransactionRequiredError, match="advisory_xact_lock"):
        advisory_xact_lock("x")


@real
def test_sqlite_s_transaction_is_the_lock() -> None:
    if connection.vendor == "sqlite":
        with atomic():
            advisory_xact_lock("x")
        with pytest.raises(NotSupportedError, match="advisory_xact_lock"), advisory_lock("x"):
            pass


@postgresql
class UnderTestCase(TestCase):
    def test_both_kinds_work(self) -> None:
        with advisory_lock("x"), atomic():
            advisory_xact_lock("x")


@pytest.mark.django_db(transaction=True)
def test_sqlite_without_its_lock_at_begin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor == "sqlite":
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "transaction_mode", None)
        with atomic(), pytest.raises(ConfigurationError, match="advisory_xact_lock"):
            advisory_xact_lock("invoice number", 2026)
