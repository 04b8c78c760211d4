"""Guards and savepoints: code says what it needs, and is believed in tests as in production."""

import logging
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import TestCase, override_settings

from dbpatterns.errors import UsageError
from dbpatterns.transactions import (
    NestedTransactionError,
    SubtransactionOverflow,
    TransactionRequiredError,
    atomic,
    durable,
    in_transaction,
    savepoint,
    transaction_required,
)
from tests.testapp.models import Purse

real = pytest.mark.django_db(transaction=True)
BLOCKS = pytest.mark.parametrize("block", [transaction.atomic, atomic], ids=["django", "ours"])
STRICT = {"TRANSACTIONS": {"STRICT_SAVEPOINTS": True}}


class Broken(Exception):
    pass


@transaction_required
def withdraw(amount: int) -> int:
    """Take money."""
    return amount


@transaction_required(using="default")
def deposit(amount: int) -> int:
    return amount


@durable
def send(amount: int) -> int:
    return amount


@real
@BLOCKS
def test_code_that_needs_a_transaction_has_one_or_is_refused(block: Any) -> None:
    for function in (withdraw, deposit):
        with pytest.raises(TransactionRequiredError, match=rf"{function.__name__} needs"):
            function(1)
        with block():
            assert function(1) == 1
    with pytest.raises(TransactionRequiredError, match="This block"), transaction_required():
        pass
    with block(), transaction_required():
        pass
    assert withdraw.__doc__ == "Take money."


@real
@BLOCKS
def test_code_that_must_be_outermost_is(block: Any) -> None:
    assert send(1) == 1
    with block(), pytest.raises(NestedTransactionError, match="send was called"):
        send(1)


@real
@BLOCKS
def test_in_transaction_tells(block: Any) -> None:
    assert not in_transaction()
    with block():
        assert in_transaction()
    assert not in_transaction("default")


@real
def test_with_autocommit_off_somebody_has_a_transaction() -> None:
    transaction.set_autocommit(False)
    try:
        assert in_transaction()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


@real
def test_a_closed_connection_is_in_no_transaction_and_stays_closed() -> None:
    connection.close()
    assert not in_transaction()
    assert connection.connection is None


@real
def test_django_s_atomic_may_be_a_transaction_by_accident() -> None:
    with pytest.raises(Broken):
        with transaction.atomic():  # meant as a part, and commits
            Purse.objects.create()
        raise Broken
    assert Purse.objects.count() == 1


@real
@BLOCKS
def test_a_savepoint_is_never_a_transaction_by_accident(block: Any) -> None:
    with pytest.raises(TransactionRequiredError), savepoint():
        pass
    with block():
        Purse.objects.create()
        with pytest.raises(Broken), savepoint():
            Purse.objects.create()
            raise Broken
    assert Purse.objects.count() == 1


def make_savepoints(number: int, block: Any = savepoint) -> None:
    for _ in range(number):
        with block():
            pass


@real
@pytest.mark.postgresql
@pytest.mark.parametrize("block", [savepoint, atomic, transaction.atomic], ids=["s", "a", "d"])
def test_many_savepoints_are_warned_of_once(block: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dbpatterns.transactions"):
        with atomic(label="few"):
            make_savepoints(49, block)
        assert caplog.records == []
        with atomic(label="many"):
            make_savepoints(70, block)
    (record,) = caplog.records
    assert "'many' on 'default' has made" in record.getMessage()
    assert record.__dict__["savepoints"] == (70 if block is transaction.atomic else 50)


@real
@pytest.mark.postgresql
def test_in_strict_mode_the_65th_is_refused_before_any_sql() -> None:
    with override_settings(DBPATTERNS=STRICT), atomic(label="many"):
        make_savepoints(64)
        with pytest.raises(SubtransactionOverflow, match="65th") as caught, savepoint():
            raise AssertionError
        Purse.objects.create()
    assert caught.value.savepoints == 65
    assert Purse.objects.count() == 1


@real
def test_sqlite_keeps_as_many_as_one_likes(caplog: pytest.LogCaptureFixture) -> None:
    if connection.vendor == "sqlite":
        with override_settings(DBPATTERNS=STRICT), atomic():
            make_savepoints(70)
        assert caplog.records == []


@real
@pytest.mark.postgresql
def test_each_transaction_counts_its_own() -> None:
    with override_settings(DBPATTERNS=STRICT):
        for _ in range(3):
            with atomic():
                make_savepoints(40)


@real
@pytest.mark.postgresql
def test_within_django_s_own_transaction_nobody_counts() -> None:
    with override_settings(DBPATTERNS=STRICT), transaction.atomic():
        make_savepoints(70)


class UnderTestCase(TestCase):
    def test_the_test_s_own_transaction_does_not_count(self) -> None:
        assert not in_transaction()
        assert send(1) == 1
        with pytest.raises(TransactionRequiredError):
            withdraw(1)
        with pytest.raises(TransactionRequiredError), savepoint():
            pass
        with transaction.atomic():
            assert in_transaction()
            with savepoint():
                assert withdraw(1) == 1


def test_a_body_that_would_run_after_the_guard_is_refused() -> None:
    def generator() -> Any:
        yield 1

    for guard in (durable, transaction_required):
        with pytest.raises(UsageError, match="is a generator"):
            guard(generator)
