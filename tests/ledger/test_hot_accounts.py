"""The batcher: one commit for many callers, and nobody waits for a dead worker."""

import threading
from concurrent.futures import Future
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import DataError, OperationalError, connection, transaction

from dbpatterns.errors import UsageError
from dbpatterns.ledger import errors, hot_accounts
from dbpatterns.ledger.batches import BatchResult, ItemResult, Payment, pay_batch
from dbpatterns.ledger.hot_accounts import Batcher
from dbpatterns.ledger.models import Account
from dbpatterns.ledger.verification import verify_ledger
from tests.ledger.support import balances, funded, in_threads, run_worker

pytestmark = pytest.mark.django_db(transaction=True)


class Gate:
    """Stands for pay_batch: lets a batch through when told, and remembers their sizes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        monkeypatch.setattr(hot_accounts, "pay_batch", self)

    def __call__(self, items: Any, **options: Any) -> BatchResult:
        self.sizes.append(len(items))
        self.entered.set()
        assert self.open.wait(timeout=30)
        if self.error and len(items) != 1:
            raise self.error
        return pay_batch(items, **options)


def test_every_caller_gets_its_own_answer() -> None:
    shop, *buyers = funded(0, *[10] * 16)

    def buy(number: int) -> Any:
        return batcher.transfer(buyers[number], shop, 10 + number % 2, idempotency_key=f"k{number}")

    with Batcher() as batcher:
        outcomes = in_threads(16, buy)
        again = batcher.transfer(buyers[0], shop, 10, idempotency_key="k0")
    assert [isinstance(each, errors.InsufficientFunds) for each in outcomes] == [
        bool(n % 2) for n in range(16)
    ]
    assert {each.source_id for each in outcomes[::2]} == {each.pk for each in buyers[::2]}
    assert (again.pk, again.is_replay) == (outcomes[0].pk, True)
    assert balances(shop) == [80]
    assert verify_ledger().is_sound


def test_callers_that_wait_share_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    payer, shop = funded(100, 0)
    gate = Gate(monkeypatch)
    with Batcher(max_items=5) as batcher:
        futures = [batcher.submit(Payment(payer, shop, 1))]
        assert gate.entered.wait(timeout=30)
        futures += [batcher.submit(Payment(payer, shop, 1)) for _ in range(7)]
        gate.open.set()
    assert [each.result(timeout=0).code for each in futures] == ["made"] * 8
    assert gate.sizes == [1, 5, 2]


def test_closing_commits_what_waits_and_refuses_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    payer, shop = funded(100, 0)
    gate = Gate(monkeypatch)
    batcher = Batcher()
    waiting = [batcher.submit(Payment(payer, shop, 1)) for _ in range(10)]
    gate.open.set()
    batcher.close()
    assert all(each.result(timeout=0).is_made for each in waiting)
    with pytest.raises(errors.BatcherStopped, match="closed"):
        batcher.submit(Payment(payer, shop, 1))
    batcher.close()
    assert balances(shop) == [10]


def test_closing_an_unused_batcher_waits_for_nothing() -> None:
    Batcher().close()


def test_a_worker_that_dies_lets_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    payer, shop = funded(100, 0)
    gate = Gate(monkeypatch)
    gate.error = SystemExit("killed")
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: died.set())
    batcher = Batcher(max_items=2)
    first = [batcher.submit(Payment(payer, shop, 1)) for _ in range(2)]
    assert gate.entered.wait(timeout=30)
    rest = [batcher.submit(Payment(payer, shop, 1)) for _ in range(3)]
    gate.open.set()
    taken = next(each for each in reversed(first) if isinstance(each.exception(30), BaseException))
    assert isinstance(taken.exception(timeout=30), SystemExit)
    left = [each.exception(timeout=30) for each in rest]
    assert any(isinstance(each, errors.BatcherStopped) for each in left)
    gate.error = None
    assert batcher.submit(Payment(payer, shop, 1)).result(timeout=30).is_made  # a new worker
    batcher.close()
    assert verify_ledger().is_sound


def test_trouble_of_the_server_reaches_every_caller_and_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payer, shop = funded(100, 0)
    gate = Gate(monkeypatch)
    with Batcher() as batcher:
        first = batcher.submit(Payment(payer, shop, 1))
        assert gate.entered.wait(timeout=30)
        two = [batcher.submit(Payment(payer, shop, 1)) for _ in range(2)]
        gate.error = OperationalError("the server is gone")
        gate.open.set()
        assert first.result(timeout=30).is_made
        assert [each.exception(timeout=30) for each in two] == [gate.error] * 2
        assert batcher.submit(Payment(payer, shop, 1)).result(timeout=30).is_made


def test_one_that_the_database_refuses_does_not_take_the_others_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payer, shop = funded(100, 0)
    gate = Gate(monkeypatch)
    gate.error = DataError("one of them")
    with Batcher() as batcher:
        first = batcher.submit(Payment(payer, shop, 1))
        assert gate.entered.wait(timeout=30)
        two = [batcher.submit(Payment(payer, shop, 1)) for _ in range(2)]
        gate.open.set()
        assert [each.result(timeout=30).code for each in (first, *two)] == ["made"] * 3


def test_a_server_that_ended_our_session_is_reconnected_to() -> None:
    if connection.vendor != "postgresql":
        return  # SQLite has no sessions
    payer, shop = funded(100, 0)
    with Batcher() as batcher:
        batcher.transfer(payer, shop, 1)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(OperationalError):
            batcher.transfer(payer, shop, 1)
        batcher.transfer(payer, shop, 1)
    assert balances(shop) == [2]


def test_a_caller_inside_a_transaction_is_refused() -> None:
    payer, shop = funded(100, 0)
    batcher = Batcher()
    with transaction.atomic(), pytest.raises(UsageError, match="outside `atomic`"):
        batcher.transfer(payer, shop, 1)


def test_wrong_payments_are_refused_before_they_wait() -> None:
    payer, shop = funded(100, 0)
    batcher = Batcher()
    with pytest.raises(UsageError, match="single payments"):
        batcher.submit(Payment(payer, shop, 1, group="a"))
    with pytest.raises(UsageError, match="saved Account"):
        batcher.submit(Payment(payer, Account(currency="EUR"), 1))
    with pytest.raises(UsageError, match="at least one"):
        Batcher(max_items=0)


def test_a_forked_process_has_a_worker_of_its_own() -> None:
    shop, buyer = funded(0, 100)
    told = run_worker("fork")
    assert told == {"parent": "made", "child": "made"}
    assert balances(shop, buyer) == [2, 98]


def test_a_child_begins_with_an_empty_queue() -> None:
    batcher = Batcher()
    batcher.close()
    hot_accounts._begin_in_child()
    payer, shop = funded(100, 0)
    batcher.transfer(payer, shop, 1)  # open again, as in a child whose parent's was closed
    batcher.close()


def test_a_dying_worker_leaves_alone_who_has_an_answer() -> None:
    batcher = Batcher()
    batcher.close()
    answered: Future[ItemResult] = Future()
    answered.set_result(ItemResult("made", 1))
    batcher._give_up([(Payment(1, 2, 3), answered)], SystemExit())
    assert answered.result(timeout=0).is_made


def test_a_callback_that_ends_the_worker_takes_no_answer_from_what_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payer, payee = funded(10, 0)
    gate = Gate(monkeypatch)
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: died.set())

    def callback(_: object) -> None:
        raise SystemExit

    with Batcher() as batcher:
        first = batcher.submit(Payment(payer, payee, 1))
        assert gate.entered.wait(timeout=30)
        futures = [batcher.submit(Payment(payer, payee, 1)) for _ in range(3)]
        futures[0].add_done_callback(callback)
        gate.open.set()
        assert [each.result(timeout=30).code for each in (first, *futures)] == ["made"] * 4
        assert died.wait(timeout=30)
    assert balances(payer, payee) == [6, 4]


@pytest.mark.django_db(transaction=True)
def test_a_thread_that_could_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    payer, payee = funded(10, 0)
    with Batcher() as batcher:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no thread")))
            with pytest.raises(RuntimeError, match="no thread"):
                batcher.submit(Payment(payer, payee, 1))
        assert batcher.submit(Payment(payer, payee, 1)).result(timeout=30).code == "made"


@pytest.mark.django_db(transaction=True)
def test_a_callback_that_would_wait_for_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payer, payee = funded(10, 0)
    gate = Gate(monkeypatch)
    caught: list[BaseException] = []

    def callback(_: object) -> None:
        try:
            batcher.transfer(payer, payee, 1)
        except UsageError as error:
            caught.append(error)

    with Batcher() as batcher:
        future = batcher.submit(Payment(payer, payee, 1))
        future.add_done_callback(callback)
        gate.open.set()
        batcher.submit(Payment(payer, payee, 1)).result(timeout=30)
    assert [type(each) for each in caught] == [UsageError]
    assert balances(payer, payee) == [8, 2]
