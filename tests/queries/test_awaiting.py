"""The line that waits for a task is found whatever that task's loop is doing just then."""

import asyncio
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections

from dbpatterns.queries import Report, awaiting, guard
from tests.processes import until
from tests.queries.guilty import marked
from tests.testapp.models import Novel

HALF_A_SECOND = awaiting._PATIENCE
pytestmark = pytest.mark.usefixtures("fleet", "patience")


async def tasks_by(report: Report) -> "Iterable[asyncio.Future[Novel]]":
    """Start four look-ups; when the first is done, hold the loop until one of the rest is told."""
    pks = [novel.pk async for novel in Novel.objects.all()[:4]]
    tasks = [asyncio.ensure_future(Novel.objects.aget(pk=pk)) for pk in pks]
    done = asyncio.as_completed(tasks)
    for task in tasks:
        task.add_done_callback(lambda _: until(lambda: bool(report.findings)))
    return done


def is_looked_for() -> bool:
    """Tell whether a thread looks for the line that waits."""
    code, others = awaiting.gathering.__code__, dict(sys._current_frames())
    del others[threading.get_ident()]
    for innermost in others.values():
        frame = innermost
        while frame is not None:
            if frame.f_code is code:
                return True
            frame = frame.f_back  # type: ignore[assignment]
    return False


def test_a_task_that_is_woken_but_not_yet_back_is_found_by_what_it_loops_over() -> None:
    async def main() -> None:
        for each in await tasks_by(report):
            await each  # N+1

    with guard("log") as report:
        async_to_sync(main)()
    assert [finding.place.line for finding in report.findings] == [marked(main)[1]]


def test_a_task_that_is_at_work_is_waited_for() -> None:
    async def main() -> None:
        pks = [novel.pk async for novel in Novel.objects.all()[:4]]
        for each in asyncio.as_completed([Novel.objects.aget(pk=pk) for pk in pks]):
            await each  # N+1
            until(lambda: bool(report.findings) or is_looked_for())

    with guard("log") as report:
        async_to_sync(main)()
    assert [finding.place.line for finding in report.findings] == [marked(main)[1]]


def test_the_line_is_where_it_waited_though_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, gone_on, find = [], threading.Event(), awaiting._waiter

    def found_and_gone(*tasks: Any) -> Any:
        waiter = find(*tasks)
        looks.append(waiter)
        if len(looks) == 2:  # the first only asks whether the calls are written out
            assert gone_on.wait(10)
        return waiter

    async def main() -> None:
        pks = [novel.pk async for novel in Novel.objects.all()[:4]]
        tasks = [asyncio.ensure_future(Novel.objects.aget(pk=pk)) for pk in pks]
        tasks[0].add_done_callback(lambda _: until(lambda: len(looks) == 2))
        for each in asyncio.as_completed(tasks):
            await each  # N+1
            gone_on.set()
            until(lambda: bool(report.findings) or len(looks) > 2)

    monkeypatch.setattr(awaiting, "_waiter", found_and_gone)
    with guard("log") as report:
        async_to_sync(main)()
    assert looks[1] is not None
    assert [finding.place.line for finding in report.findings] == [marked(main)[1]]


def test_a_task_that_waits_for_another_of_its_tasks_is_found() -> None:
    async def main() -> None:
        pks = [novel.pk async for novel in Novel.objects.all()[:4]]
        tasks = [asyncio.create_task(Novel.objects.aget(pk=pk)) for pk in pks]
        await tasks[-1]  # N+1
        assert all(task.done() for task in tasks)

    with guard("log") as report:
        async_to_sync(main)()
    assert [finding.place.line for finding in report.findings] == [marked(main)[1]]


class Eager(ThreadPoolExecutor):
    """Ends a job before its caller, who holds the loop, can wait for it."""

    def submit(self, *job: Any, **options: Any) -> "Future[Any]":
        future = super().submit(*job, **options)
        until(future.done)
        return future


def ask(number: int) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 WHERE 1 = %s", [number])
    finally:
        connections.close_all()


def test_a_task_that_has_called_a_thread_and_does_not_wait_yet_is_found() -> None:
    async def main(pool: Eager) -> None:
        for number in (1, 2, 3):
            await sync_to_async(caller, thread_sensitive=False, executor=pool)(number)  # N+1

    def caller(number: int) -> None:
        ask(number)

    with Eager(1) as pool, guard("log") as report:
        async_to_sync(main)(pool)
    assert report.queries == 3
    [finding] = report.findings
    assert marked(main)[1] in [place.line for place in (finding.place, *finding.callers)]


def test_a_loop_that_stays_at_work_is_not_waited_for_longer_than_half_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(awaiting, "_PATIENCE", HALF_A_SECOND)

    async def main() -> None:
        pks = [novel.pk async for novel in Novel.objects.all()[:4]]
        for each in asyncio.as_completed([Novel.objects.aget(pk=pk) for pk in pks]):
            await each
            until(lambda: bool(report.findings))

    assert HALF_A_SECOND == 0.5
    with guard("log") as report:
        async_to_sync(main)()
    assert [finding.label for finding in report.findings] == ["Novel.objects.get()"]
