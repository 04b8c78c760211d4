"""Hooks: called when, and only when, what they wait for has happened."""

import logging
from collections.abc import Callable

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test import TestCase

from dbpatterns.errors import UsageError
from dbpatterns.transactions.hooks import after_commit, after_rollback
from tests.testapp.models import Writer


class Broken(Exception):
    pass


def add_to(heard: list[str], name: str) -> Callable[[], None]:
    return lambda: heard.append(name)


def roll_back(body: Callable[[], object]) -> None:
    with pytest.raises(Broken), transaction.atomic():
        body()
        raise Broken


@pytest.mark.django_db(transaction=True)
def test_a_row_in_memory_is_ahead_of_the_database_after_a_rollback() -> None:
    writer = Writer.objects.create(name="before")

    def rename() -> None:
        writer.name = "after"
        writer.save()

    roll_back(rename)
    assert (writer.name, Writer.objects.get().name) == ("after", "before")  # the harm


@pytest.mark.django_db(transaction=True)
def test_a_rollback_calls_the_last_registered_first() -> None:
    heard: list[str] = []

    def body() -> None:
        after_rollback(add_to(heard, "1"))
        after_rollback(add_to(heard, "2"))
        with transaction.atomic():
            after_rollback(add_to(heard, "3"))
        after_commit(lambda: None)
        after_rollback(add_to(heard, "4"))

    roll_back(body)
    assert heard == ["4", "3", "2", "1"]


@pytest.mark.django_db(transaction=True)
def test_a_commit_drops_them_and_runs_the_other_kind() -> None:
    heard: list[str] = []
    with transaction.atomic():
        after_rollback(add_to(heard, "undone"))
        after_commit(add_to(heard, "done"))
        assert heard == []
    assert heard == ["done"]


@pytest.mark.django_db(transaction=True)
def test_a_savepoint_has_hooks_of_its_own() -> None:
    heard: list[str] = []
    with transaction.atomic():
        after_rollback(add_to(heard, "outer"))
        with transaction.atomic():
            after_rollback(add_to(heard, "kept"))

        def inner() -> None:
            after_rollback(add_to(heard, "inner"))
            after_commit(add_to(heard, "never"))

        roll_back(inner)
        assert heard == ["inner"]
    assert heard == ["inner"]


@pytest.mark.django_db(transaction=True)
def test_a_block_without_a_savepoint_is_undone_with_the_one_around_it() -> None:
    heard: list[str] = []

    def body() -> None:
        with pytest.raises(Broken), transaction.atomic(savepoint=False):
            after_rollback(add_to(heard, "inner"))
            raise Broken
        assert heard == []

    roll_back(body)
    assert heard == ["inner"]


@pytest.mark.django_db(transaction=True)
def test_a_hook_that_raises_after_the_commit_is_no_rollback() -> None:
    heard: list[str] = []

    def fail() -> None:
        raise Broken

    with pytest.raises(Broken), transaction.atomic():
        after_commit(fail)
        after_rollback(add_to(heard, "undone"))
    assert heard == []


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_commit_that_the_server_refuses_is_a_rollback() -> None:
    heard: list[str] = []
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE once (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        cursor.execute("INSERT INTO once VALUES (1), (1)")
        after_rollback(add_to(heard, "undone"))
    assert heard == ["undone"]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_lost_connection_is_a_rollback() -> None:
    heard: list[str] = []
    with pytest.raises(OperationalError), transaction.atomic(), connection.cursor() as cursor:
        after_rollback(add_to(heard, "undone"))
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert heard == ["undone"]


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_there_is_nothing_to_undo() -> None:
    heard: list[str] = []
    after_rollback(add_to(heard, "undone"))
    after_commit(add_to(heard, "done"))
    roll_back(lambda: None)
    assert heard == ["done"]


@pytest.mark.django_db(transaction=True)
def test_one_that_raises_is_logged_and_keeps_no_other_from_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[str] = []

    def fail() -> None:
        raise Broken("in the hook")

    def body() -> None:
        after_rollback(add_to(heard, "first"))
        after_rollback(fail)

    with caplog.at_level(logging.ERROR, "dbpatterns.transactions"):
        roll_back(body)
    assert heard == ["first"]
    assert "after a rollback" in caplog.text


@pytest.mark.parametrize("register", [after_commit, after_rollback])
def test_an_async_hook_is_refused(register: Callable[..., None]) -> None:
    async def hook() -> None: ...

    with pytest.raises(UsageError, match=r"async_to_sync\(hook\)"):
        register(hook)


class UnderTestCase(TestCase):
    def test_a_block_of_the_code_is_undone_and_the_test_s_own_is_not(self) -> None:
        heard: list[str] = []
        after_rollback(add_to(heard, "test"))
        roll_back(lambda: after_rollback(add_to(heard, "code")))
        assert heard == ["code"]

    def test_the_test_s_end_undoes_what_a_block_has_kept(self) -> None:
        heard: list[str] = []
        with transaction.atomic():
            after_rollback(add_to(heard, "kept"))

        def look() -> None:
            assert heard == ["kept"]

        self.addClassCleanup(look)

    def test_the_hooks_that_django_captures_are_the_code_s(self) -> None:
        heard: list[str] = []
        transaction.on_commit(add_to(heard, "before"))
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            after_rollback(add_to(heard, "undone"))
            after_commit(add_to(heard, "done"))
        assert (len(callbacks), heard) == (1, ["done"])

    def test_django_captures_no_hook_from_before(self) -> None:
        heard: list[str] = []
        transaction.on_commit(add_to(heard, "before"))
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            after_rollback(add_to(heard, "undone"))
            after_commit(add_to(heard, "done"))
        assert heard == ["done"]

    def test_a_captured_undo_counts_as_committed(self) -> None:
        heard: list[str] = []
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            after_rollback(add_to(heard, "undone"))
        connection.run_on_commit.clear()
        assert heard == []
