"""A unit of work: all of it or nothing, and events that never speak of what did not happen."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import IntegrityError, connection, connections, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils.connection import ConnectionDoesNotExist

from dbpatterns.errors import UsageError
from dbpatterns.repositories import Repository
from dbpatterns.repositories.unit_of_work import UnitOfWork
from tests.testapp.models import Remark, Writer


@dataclass(frozen=True)
class Written:
    name: str


@dataclass(frozen=True)
class Signed(Written):
    pass


class Writers(Repository[Writer]):
    pass


class Bound:
    """As little as a repository must be."""

    def __init__(self, *, using: str | None) -> None:
        self.using = using


class Broken(Exception):
    pass


def heard_by(*kinds: type) -> tuple[list[Any], dict[type, list[Callable[[Any], None]]]]:
    heard: list[Any] = []
    return heard, {kind: [heard.append] for kind in kinds or (Written,)}


def in_thread(function: Callable[[], Any]) -> Any:
    """Run the function on a connection of its own."""

    def run() -> Any:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def names() -> list[str]:
    return list(Writer.objects.order_by("name").values_list("name", flat=True))


def write(work: UnitOfWork, name: str, *, fail: bool = False) -> str:
    work.repository(Writers).save(Writer(name=name))
    work.publish(Written(name))
    if fail:
        raise Broken
    return name


def write_twice(handlers: Any, *names: str) -> None:
    with UnitOfWork(handlers=handlers) as work:
        for name in names:
            write(work, name)


@pytest.mark.django_db(transaction=True)
def test_plain_django_tells_of_a_row_that_then_never_was() -> None:
    heard: list[Written] = []

    @transaction.atomic
    def write_and_tell() -> None:
        Writer.objects.create(name="Eva")
        heard.append(Written("Eva"))  # the mail is out
        raise Broken

    with pytest.raises(Broken):
        write_and_tell()
    assert heard == [Written("Eva")]
    assert names() == []


@pytest.mark.django_db(transaction=True)
def test_an_error_undoes_the_writes_and_the_events() -> None:
    heard, handlers = heard_by()
    with pytest.raises(Broken), UnitOfWork(handlers=handlers) as work:
        write(work, "Eva", fail=True)
    assert (names(), heard) == ([], [])


@pytest.mark.django_db(transaction=True)
def test_nobody_else_sees_the_rows_or_hears_the_event_before_the_commit() -> None:
    seen: list[list[str]] = []
    handlers = {Written: [lambda event: seen.append(in_thread(names))]}
    with UnitOfWork(handlers=handlers) as work:
        work.repository(Writers).save(Writer(name="Eva"))
        work.publish(Written("Eva"))
        assert in_thread(names) == []
        assert seen == []
    assert seen == [["Eva"]]  # a handler's other connection finds the row


@pytest.mark.postgresql  # SQLite lets one writer in at a time
@pytest.mark.django_db(transaction=True)
def test_two_units_at_once_share_neither_rows_nor_events() -> None:
    both_inside, one_is_over = threading.Barrier(2), threading.Event()
    heard, handlers = heard_by()

    def lose() -> None:
        with UnitOfWork(handlers=handlers) as work:
            work.publish(Written("lost"))
            both_inside.wait(timeout=30)
            work.rollback()
        one_is_over.set()

    with ThreadPoolExecutor(1) as pool:
        loser = pool.submit(in_thread, lose)
        with UnitOfWork(handlers=handlers) as work:
            both_inside.wait(timeout=30)
            work.repository(Writers).save(Writer(name="kept"))
            work.publish(Written("kept"))
            assert one_is_over.wait(timeout=30)
        loser.result()
    assert (names(), heard) == (["kept"], [Written("kept")])


@pytest.mark.django_db(transaction=True)
def test_a_commit_that_the_database_refuses_sends_no_event() -> None:
    heard, handlers = heard_by()

    def remark() -> None:
        with UnitOfWork(handlers=handlers) as work:
            Remark.objects.create(article_id=404, text="of nothing")  # checked when it commits
            work.publish(Written("remark"))

    with pytest.raises(IntegrityError):
        remark()
    assert heard == []
    assert not Remark.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_events_go_out_in_the_order_published_to_handlers_in_the_order_listed() -> None:
    heard: list[tuple[str, Written]] = []
    unit = UnitOfWork(
        handlers={
            Written: [lambda e: heard.append(("mail", e)), lambda e: heard.append(("log", e))],
            Signed: [lambda e: heard.append(("stamp", e))],
        }
    )
    with unit as work:
        work.publish(Signed("a"))
        work.publish(Written("b"))
    assert heard == [
        ("mail", Signed("a")),
        ("log", Signed("a")),
        ("stamp", Signed("a")),
        ("mail", Written("b")),
        ("log", Written("b")),
    ]


@pytest.mark.django_db(transaction=True)
def test_an_inner_unit_left_by_an_error_leaves_the_outer_one_whole() -> None:
    heard, handlers = heard_by()
    with UnitOfWork(handlers=handlers) as outer:
        outer.repository(Writers).save(Writer(name="outer"))
        outer.publish(Written("outer"))
        with pytest.raises(IntegrityError):
            write_twice(handlers, "inner", "outer")  # the second name is taken
        outer.publish(Written("after"))
        outer.repository(Writers).save(Writer(name="after"))
    assert names() == ["after", "outer"]
    assert heard == [Written("outer"), Written("after")]


@pytest.mark.django_db(transaction=True)
def test_an_inner_unit_rolled_back_leaves_the_outer_one_whole() -> None:
    heard, handlers = heard_by()
    with UnitOfWork(handlers=handlers) as outer:
        outer.publish(Written("outer"))
        with UnitOfWork(handlers=handlers) as inner:
            inner.repository(Writers).save(Writer(name="inner"))
            inner.publish(Written("inner"))
            inner.rollback()
        outer.repository(Writers).save(Writer(name="outer"))
    assert (names(), heard) == (["outer"], [Written("outer")])


@pytest.mark.django_db(transaction=True)
def test_an_inner_unit_s_events_wait_for_the_outermost_commit() -> None:
    heard, handlers = heard_by()
    with transaction.atomic():
        with UnitOfWork(handlers=handlers) as work:
            work.publish(Written("Eva"))
        assert heard == []
    assert heard == [Written("Eva")]


@pytest.mark.django_db(transaction=True)
def test_an_inner_unit_that_ended_well_falls_with_the_outer_one() -> None:
    heard, handlers = heard_by()
    with UnitOfWork() as outer:
        with UnitOfWork(handlers=handlers) as inner:
            inner.repository(Writers).save(Writer(name="Eva"))
            inner.publish(Written("Eva"))
        outer.rollback()
    assert (names(), heard) == ([], [])


@pytest.mark.django_db(transaction=True)
def test_django_s_flag_set_within_an_inner_block_does_not_undo_the_outer_one() -> None:
    with transaction.atomic():
        Writer.objects.create(name="outer")
        with transaction.atomic():
            transaction.set_rollback(True)  # meant for the outer block
    assert names() == ["outer"]


@pytest.mark.django_db(transaction=True)
def test_rolling_the_outer_unit_back_from_within_an_inner_one_undoes_the_outer_one() -> None:
    heard, handlers = heard_by()
    with UnitOfWork(handlers=handlers) as outer:
        outer.repository(Writers).save(Writer(name="outer"))
        outer.publish(Written("outer"))
        with UnitOfWork():
            outer.rollback()
        Writer.objects.create(name="later")
    assert (names(), heard) == ([], [])


@pytest.mark.django_db(transaction=True)
def test_nothing_is_written_after_a_rollback() -> None:
    with UnitOfWork() as work:
        writers = work.repository(Writers)
        work.rollback()
        with pytest.raises(transaction.TransactionManagementError):
            writers.save(Writer(name="Eva"))
    assert names() == []


@pytest.mark.django_db(transaction=True)
def test_a_failing_handler_is_logged_and_keeps_no_other_from_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Written] = []

    def fail(event: Written) -> None:
        raise Broken("no mail today")

    with UnitOfWork(handlers={Written: [fail, heard.append]}) as work:
        work.publish(Written("a"))
        work.publish(Written("b"))
    assert heard == [Written("a"), Written("b")]
    failures = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [each.name for each in failures] == ["dbpatterns.repositories"] * 2
    assert "fail" in failures[0].getMessage()
    assert "Written(name='a')" in failures[0].getMessage()
    assert failures[0].exc_info is not None
    assert failures[0].exc_info[0] is Broken


@pytest.mark.django_db(transaction=True)
def test_a_handler_may_open_a_unit_of_its_own() -> None:
    heard, handlers = heard_by()

    def answer(event: Signed) -> None:
        with UnitOfWork(handlers=handlers) as work:
            work.repository(Writers).save(Writer(name=event.name))
            work.publish(Written(event.name))

    with UnitOfWork(handlers={Signed: [answer]}) as work:
        work.publish(Signed("Eva"))
    assert (names(), heard) == (["Eva"], [Written("Eva")])


class CaptureTests(TestCase):
    def test_django_s_capture_sees_and_runs_the_events(self) -> None:
        heard, handlers = heard_by()
        with self.captureOnCommitCallbacks() as callbacks:
            with UnitOfWork(handlers=handlers) as work:
                work.publish(Written("kept"))
            with UnitOfWork(handlers=handlers) as work:
                work.publish(Written("lost"))
                work.rollback()
        assert (len(callbacks), heard) == (1, [])
        callbacks[0]()
        assert heard == [Written("kept")]


@pytest.mark.django_db
def test_a_unit_costs_two_statements() -> None:
    with CaptureQueriesContext(connection) as queries, UnitOfWork() as work:
        work.repository(Writers)
    assert [each["sql"].split()[0] for each in queries.captured_queries] == ["SAVEPOINT", "RELEASE"]


@pytest.mark.django_db
def test_a_class_s_handlers_are_those_of_its_units_unless_given() -> None:
    class Unit(UnitOfWork):
        handlers = {Written: []}

    with Unit() as work:
        work.publish(Written("heard by nobody, on purpose"))
    with Unit(handlers={}) as work, pytest.raises(UsageError, match="Known: none"):
        work.publish(Written("Eva"))


@pytest.mark.django_db
def test_an_event_that_the_unit_does_not_list_is_refused() -> None:
    with (
        UnitOfWork(handlers={Signed: [], Broken: []}) as work,
        pytest.raises(UsageError, match=r"no Written: add it .* Known: Broken, Signed\."),
    ):
        work.publish(Written("Eva"))


@pytest.mark.django_db
def test_repositories_are_on_the_unit_s_database_and_one_of_a_class() -> None:
    with UnitOfWork() as work:
        bound = work.repository(Bound)
        assert bound.using == "default"
        assert work.repository(Bound) is bound
        with UnitOfWork() as inner:
            assert inner.repository(Bound) is not bound
        mine = Bound(using="default")
        assert work.repository(mine) is mine


class Elsewhere(Bound):
    def __init__(self, *, using: str) -> None:
        super().__init__(using="shard_0")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Bound(using="shard_0"), "Bound is on 'shard_0', and the unit is on 'default'"),
        (Bound(using=None), "leaves its database to the routers"),
        (object(), "does not tell its database"),
        (Elsewhere, "Elsewhere is on 'shard_0'"),
    ],
)
def test_a_repository_bound_elsewhere_is_refused(wanted: Any, reason: str) -> None:
    with UnitOfWork() as work, pytest.raises(UsageError, match=reason):
        work.repository(wanted)


@pytest.mark.parametrize(
    ("handlers", "reason"),
    [
        ({Written: len}, "must be a list of functions"),
        ({Written: ["mail"]}, "must be a list of functions"),
        ({"Written": []}, "'Written' is no type"),
        ({Written: [asyncio.sleep]}, r"async_to_sync\(sleep\)"),
    ],
)
def test_handlers_that_could_not_be_called_are_refused_at_once(handlers: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        UnitOfWork(handlers=handlers)


def ask(work: UnitOfWork) -> None:
    work.repository(Bound)


def publish(work: UnitOfWork) -> None:
    work.publish(Written("Eva"))


CALLS: list[Callable[[UnitOfWork], object]] = [ask, publish, UnitOfWork.rollback]


@pytest.mark.django_db
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_unit_is_of_use_only_within_its_block(call: Callable[[UnitOfWork], object]) -> None:
    _, handlers = heard_by()
    work = UnitOfWork(handlers=handlers)
    with pytest.raises(UsageError, match="needs its block"):
        call(work)
    with work:
        call(work)
    with pytest.raises(UsageError, match="too late"):
        call(work)
    with pytest.raises(UsageError, match="make one for each block"), work:
        pass  # never entered


@pytest.mark.django_db
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_unit_rolled_back_is_over(call: Callable[[UnitOfWork], object]) -> None:
    with UnitOfWork() as work:
        work.rollback()
        with pytest.raises(UsageError, match="too late"):
            call(work)


@pytest.mark.django_db(transaction=True)
def test_a_handler_finds_the_unit_over() -> None:
    refused: list[str] = []

    def publish_again(event: Written) -> None:
        with pytest.raises(UsageError, match="too late"):
            work.publish(event)
        refused.append(event.name)

    with UnitOfWork(handlers={Written: [publish_again]}) as work:
        work.publish(Written("Eva"))
    assert refused == ["Eva"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_another_thread_is_outside_the_transaction_and_refused(
    call: Callable[[UnitOfWork], object],
) -> None:
    heard, handlers = heard_by()
    with (
        UnitOfWork(handlers=handlers) as work,
        pytest.raises(UsageError, match="another thread"),
    ):
        in_thread(lambda: call(work))
    assert heard == []


def test_a_database_that_does_not_exist_is_django_s_error_and_begins_nothing() -> None:
    work = UnitOfWork(using="nowhere")
    with pytest.raises(ConnectionDoesNotExist), work:
        pass  # never entered
    with pytest.raises(UsageError, match="needs its block"):
        work.rollback()


@pytest.mark.django_db
def test_a_block_in_async_code_is_django_s_error_and_begins_nothing() -> None:
    work = UnitOfWork()

    async def main() -> None:
        with pytest.raises(SynchronousOnlyOperation), work:
            pass  # never entered

    asyncio.run(main())
    with work:
        work.rollback()


@pytest.mark.django_db(transaction=True)
def test_async_code_runs_a_block_in_one_thread() -> None:
    heard, handlers = heard_by()

    async def main() -> str:
        with pytest.raises(Broken):
            await UnitOfWork(handlers=handlers).arun(write, "lost", fail=True)
        return await UnitOfWork(handlers=handlers).arun(write, "Eva")

    assert async_to_sync(main)() == "Eva"
    assert (in_thread(names), heard) == (["Eva"], [Written("Eva")])


@pytest.mark.django_db(transaction=True)
def test_an_async_block_is_refused_and_undone() -> None:
    async def awaits(work: UnitOfWork) -> None:
        raise AssertionError("never runs")

    def starts(work: UnitOfWork) -> Any:
        write(work, "Eva")
        return awaits(work)

    heard, handlers = heard_by()
    with pytest.raises(UsageError, match="async function"):
        async_to_sync(UnitOfWork(handlers=handlers).arun)(starts)
    assert (names(), heard) == ([], [])


@pytest.mark.django_db(transaction=True)
def test_a_cancelled_task_leaves_the_block_to_end_by_itself() -> None:
    began, may_end = threading.Event(), threading.Event()
    heard, handlers = heard_by()

    def block(work: UnitOfWork) -> None:
        began.set()
        assert may_end.wait(timeout=30)
        write(work, "Eva")

    async def main() -> None:
        task = asyncio.create_task(UnitOfWork(handlers=handlers).arun(block))
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sync_to_async(connections.close_all)()  # the same thread, so after the block

    asyncio.run(main())
    assert (in_thread(names), heard) == (["Eva"], [Written("Eva")])
