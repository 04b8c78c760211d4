"""`atomic_on`: a transaction on each of several databases, and nothing between their commits."""

from collections.abc import Iterator
from functools import partial

import pytest
from django.db import IntegrityError, connections, transaction
from django.test import TestCase

from dbpatterns.transactions import after_commit, after_rollback
from dbpatterns.transactions.several import atomic_on

BOTH = ("default", "shard_0")
pytestmark = pytest.mark.django_db(transaction=True, databases=BOTH)


class Broken(Exception):
    pass


def fail() -> None:
    raise Broken


def execute(alias: str, sql: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture(autouse=True)
def tables(transactional_db: None) -> Iterator[None]:
    for alias in BOTH:
        execute(alias, "CREATE TABLE parts (id int)")
    yield
    for alias in BOTH:
        execute(alias, "DROP TABLE parts")


def count() -> list[int]:
    counts = []
    for alias in BOTH:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM parts")
            counts.append(cursor.fetchone()[0])
    return counts


def insert() -> None:
    for alias in BOTH:
        execute(alias, "INSERT INTO parts VALUES (1)")


def test_a_commit_that_failed_is_what_is_told_though_a_hook_raises_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if connections["default"].vendor != "postgresql":
        pytest.skip("SQLite has no constraint that is checked at COMMIT alone")
    execute("default", "ALTER TABLE parts ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(IntegrityError), atomic_on(BOTH):
        insert()
        insert()
        after_commit(fail, using="shard_0")  # which commits first
    assert count() == [0, 2]
    assert "another commit had failed" in caplog.text


def test_with_autocommit_off_hooks_are_left_to_who_commits() -> None:
    heard: list[str] = []
    connection = connections["default"]
    connection.set_autocommit(False)
    try:
        with atomic_on(["default"]):
            execute("default", "INSERT INTO parts VALUES (1)")
            transaction.on_commit(partial(heard.append, "done"))
            after_rollback(partial(heard.append, "undone"))
        assert heard == []
        connection.commit()
    finally:
        connection.set_autocommit(True)
    assert heard == ["done"]


@pytest.mark.parametrize("failing", BOTH)
def test_a_hook_that_raises_undoes_no_database_and_keeps_no_other_s_from_running(
    failing: str,
) -> None:
    heard: list[str] = []
    with pytest.raises(Broken), atomic_on(BOTH):
        insert()
        after_commit(fail, using=failing)
        for alias in BOTH:
            after_commit(partial(heard.append, alias), using=alias)
            after_rollback(partial(heard.append, "undone"), using=alias)
    assert count() == [1, 1]
    assert heard == [each for each in BOTH if each != failing]


def test_hooks_see_what_all_have_committed() -> None:
    heard: list[bool] = []
    with atomic_on(BOTH):
        for alias in BOTH:
            after_commit(
                lambda: heard.append(any(connections[each].in_atomic_block for each in BOTH)),
                using=alias,
            )
    assert heard == [False, False]


@pytest.mark.parametrize("marked", [False, True])
def test_what_is_undone_calls_the_other_kind(marked: bool) -> None:
    heard: list[str] = []
    try:
        with atomic_on(BOTH):
            insert()
            for alias in BOTH:
                after_commit(partial(heard.append, "done"), using=alias)
                after_rollback(partial(heard.append, "undone"), using=alias)
                if marked:
                    transaction.set_rollback(True, using=alias)
            if not marked:
                raise Broken
    except Broken:
        pass
    assert count() == [0, 0]
    assert heard == ["undone", "undone"]


@pytest.mark.postgresql
def test_a_commit_that_is_refused_leaves_the_hooks_of_those_that_were_not() -> None:
    heard: list[str] = []
    for alias in BOTH:
        execute(alias, "ALTER TABLE parts ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(IntegrityError), atomic_on(BOTH):
        insert()
        execute("default", "INSERT INTO parts VALUES (1)")  # the last to commit
        for alias in BOTH:
            after_commit(partial(heard.append, f"{alias} done"), using=alias)
            after_rollback(partial(heard.append, f"{alias} undone"), using=alias)
    assert count() == [0, 1]
    assert heard == ["default undone", "shard_0 done"]


class UnderTestCase(TestCase):
    databases = BOTH

    def test_the_hooks_that_django_captures_are_the_code_s(self) -> None:
        heard: list[str] = []
        with self.captureOnCommitCallbacks(execute=True), atomic_on(BOTH):
            after_commit(partial(heard.append, "done"))
        assert heard == ["done"]
