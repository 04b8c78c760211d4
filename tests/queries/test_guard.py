"""The guard itself: modes, what it leaves behind, what it refuses, and what it says."""

import asyncio
import contextlib
import datetime
import logging
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import IntegrityError, connection, connections, transaction
from django.db.backends.signals import connection_created
from django.db.models import Count, signals
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from dbpatterns import telemetry
from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.queries import NPlusOneError, NPlusOneWarning, Place, allow, guard
from dbpatterns.queries.capture import current_scope
from dbpatterns.queries.scope import MAX_ENTRIES
from tests.testapp.models import Genre, Nation, Novel, Novelist


def loop() -> None:
    for novel in Novel.objects.all():
        _ = novel.novelist.name


def _reads(**_: object) -> None:
    """Be there: with a receiver, Django asks which rows exist before it adds others."""


def writes() -> None:
    for name in "abc":
        Nation.objects.create(name=name)


def test_plain_django_sends_a_query_for_each_row(novels: list[Novel]) -> None:
    with CaptureQueriesContext(connection) as captured:
        loop()
    assert len(captured) == 1 + len(novels)  # the harm


def test_raise_stops_the_loop_at_its_second_query(novels: list[Novel]) -> None:
    with (
        CaptureQueriesContext(connection) as captured,
        pytest.raises(NPlusOneError) as raised,
        guard("raise") as report,
    ):
        loop()
    assert len(captured) == 3  # the rows, the first author, and one that never ran
    assert raised.value.finding.count == 2
    assert report.findings == [raised.value.finding]
    assert isinstance(raised.value, UsageError)


def test_the_message(novels: list[Novel]) -> None:
    with guard("log") as report:
        loop()
    line, called = (each.__code__.co_firstlineno for each in (loop, test_the_message))
    called += 2
    assert str(report.findings[0]).splitlines() == [
        f"N+1: 4 queries for Novel.novelist   tests/queries/test_guard.py:{line + 2} in loop",
        f"  called by   tests/queries/test_guard.py:{called} in test_the_message",
        f"  rows from   Novel.objects.all()   tests/queries/test_guard.py:{line + 1}",
        '  fix         .select_related("novelist")      1 query instead of 5',
        "  SQL         SELECT … FROM testapp_novelist WHERE id = %s LIMIT 21   "
        f"first 2 params: {novels[0].novelist_id}, {novels[1].novelist_id}",  # type: ignore[attr-defined]
        '  silence     allow("testapp.Novel.novelist", at="tests/queries/test_guard.py", reason=…, '
        f'until="{datetime.date.today().year + 1}-01-01")',
    ]


def test_the_message_before_the_loop_has_ended_counts_so_far(novels: list[Novel]) -> None:
    rows = list(Novel.objects.all())
    with (
        pytest.raises(NPlusOneError, match="N\\+1: 2 queries so far for") as raised,
        guard("raise"),
    ):
        [novel.novelist for novel in rows]
    assert "1 query instead of 5" in str(raised.value)  # the list of rows is in sight


def test_warn_tells_at_the_end_and_points_to_the_line(novels: list[Novel]) -> None:
    with pytest.warns(NPlusOneWarning) as warned, guard("warn"):
        loop()
    [warning] = warned
    assert warning.filename == __file__
    assert warning.lineno == loop.__code__.co_firstlineno + 2
    assert "N+1: 4 queries for Novel.novelist" in str(warning.message)


def test_log_tells_with_facts(novels: list[Novel], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dbpatterns.queries"), guard("log"):
        loop()
    [record] = caplog.records
    assert record.__dict__["subject"] == "testapp.Novel.novelist"
    assert record.__dict__["queries"] == 4


def test_telemetry_hears_of_findings(novels: list[Novel]) -> None:
    heard: list[telemetry.Event] = []
    with telemetry.listening(heard.append), guard("log"):
        loop()
    [event] = heard
    assert event.name == "queries.n_plus_one"
    assert event.database == "default"
    assert event.facts["fix"] == '.select_related("novelist")'


def test_off_and_a_sample_of_none_watch_nothing(novels: list[Novel]) -> None:
    for quiet in (guard("off"), guard("raise", sample=0)):
        with quiet as report:
            loop()
        assert not report.is_watched
        assert report.queries == 0


def test_a_threshold_lets_short_loops_pass(novels: list[Novel]) -> None:
    with guard("raise", threshold=5):
        loop()
    with pytest.raises(NPlusOneError), guard("raise", threshold=4):
        loop()


# What is left behind


def test_the_connection_is_as_it_was_after_an_error(novels: list[Novel]) -> None:
    before = list(connection.execute_wrappers)
    depth = len(connection.savepoint_ids)
    rows = Novel.objects.all()
    with pytest.raises(NPlusOneError), guard("raise"):
        [novel.novelist.name for novel in rows]
    assert connection.execute_wrappers == before
    assert len(connection.savepoint_ids) == depth
    assert not connection.needs_rollback
    assert Novel.objects.count() == 4
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)
    assert current_scope() is None


@pytest.mark.django_db(transaction=True)
def test_no_transaction_is_left_open_after_an_error() -> None:
    genres = [Genre.objects.create(name=name) for name in "abc"]
    with pytest.raises(NPlusOneError), guard("raise"):
        [Genre.objects.update_or_create(name=genre.name) for genre in genres]
    assert not connection.in_atomic_block
    assert connection.get_autocommit()
    assert Genre.objects.count() == 3


def test_a_connection_of_before_gets_the_hook_for_the_guard_only(novels: list[Novel]) -> None:
    hooks = list(connection.execute_wrappers)
    connection.execute_wrappers.clear()  # as if it had connected before this package was imported
    try:
        with guard("log") as outer:
            with guard("log") as inner:
                loop()
            loop()
        assert outer.findings
        assert inner.findings
        assert connection.execute_wrappers == []
    finally:
        connection.execute_wrappers[:] = hooks


def test_a_wrapper_of_somebody_else_survives_a_guard_inside_it(novels: list[Novel]) -> None:
    seen: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    hooks = list(connection.execute_wrappers)
    connection.execute_wrappers.clear()
    try:
        with guard("log") as report:
            with connection.execute_wrapper(wrapper):
                Novel.objects.count()
            loop()
        assert len(seen) == 1
        assert report.findings
        with connection.execute_wrapper(wrapper), guard("log") as report:
            loop()
        assert report.findings
        assert connection.execute_wrappers == []
    finally:
        connection.execute_wrappers[:] = hooks


def test_a_wrapper_that_ends_before_the_guard_takes_itself_away(novels: list[Novel]) -> None:
    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        return execute(sql, params, many, context)

    hooks = list(connection.execute_wrappers)
    connection.execute_wrappers.clear()
    block, watched = connection.execute_wrapper(wrapper), guard("log")
    try:
        block.__enter__()
        with watched as report:
            block.__exit__(None, None, None)
            assert wrapper not in connection.execute_wrappers
            loop()
        assert report.findings
    finally:
        connection.execute_wrappers[:] = hooks


def test_connecting_twice_hooks_once(db: None) -> None:
    before = list(connection.execute_wrappers)
    connection_created.send(sender=type(connection), connection=connection)
    connection_created.send(sender=type(connection), connection=connection)
    assert len(connection.execute_wrappers) == max(len(before), 1)


def test_a_new_connection_is_watched_from_its_first_statement(novels: list[Novel]) -> None:
    found: list[int] = []

    def work() -> None:
        with guard("log") as report:
            with connection.cursor() as cursor:
                for number in range(3):
                    cursor.execute("SELECT 1 WHERE 1 = %s", [number])
            found.append(len(report.findings))
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1]


# Writes and transactions


def test_a_write_is_never_stopped(novels: list[Novel]) -> None:
    with pytest.raises(NPlusOneError) as raised, guard("raise", writes="raise"):
        writes()
    assert Nation.objects.filter(name__in=["a", "b", "c"]).count() == 3
    assert raised.value.finding.is_write
    assert raised.value.finding.count == 3
    assert "N+1: 3 writes for Nation.objects.create()" in str(raised.value)
    assert "1 write instead of 3" in str(raised.value)


def test_writes_are_warned_of_or_left_alone_as_told(novels: list[Novel]) -> None:
    with pytest.warns(NPlusOneWarning, match="3 writes"), guard("raise", writes="warn"):
        writes()
    with guard("raise", writes="off") as report:
        writes()
    assert report.writes == []


def test_an_error_of_the_block_is_not_replaced(novels: list[Novel]) -> None:
    def failing() -> None:
        writes()
        raise IntegrityError

    with pytest.raises(IntegrityError), guard("raise", writes="raise"):
        failing()


def test_a_read_inside_a_step_without_savepoint_is_raised_at_the_end(novels: list[Novel]) -> None:
    with (
        pytest.raises(NPlusOneError) as raised,
        guard("raise"),
        transaction.atomic(savepoint=False),
    ):
        loop()
    assert Novel.objects.count() == 4
    assert not connection.needs_rollback  # else the surrounding transaction were lost
    assert raised.value.finding.count == 4


def test_reads_inside_add_do_not_break_the_transaction(novels: list[Novel]) -> None:
    genre = Genre.objects.create(name="new")
    through = Novel.genres.through
    signals.m2m_changed.connect(_reads, sender=through)  # then add() asks which are there
    try:
        with pytest.raises(NPlusOneError) as raised, guard("raise", writes="off"):
            [novel.genres.add(genre) for novel in novels]
    finally:
        signals.m2m_changed.disconnect(_reads, sender=through)
    assert raised.value.finding.count == 4
    assert genre.novels.count() == 4
    assert not connection.needs_rollback


def test_reads_of_a_save_are_part_of_the_write(novels: list[Novel]) -> None:
    with guard("raise", writes="log") as report:
        for novel in novels:
            Novel._meta.select_on_save = True
            try:
                novel.save()
            finally:
                Novel._meta.select_on_save = False
    assert [each.label for each in report.writes] == ["Novel.save()"]


def test_a_read_below_a_save_is_raised_at_the_end(
    novels: list[Novel], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Novel._meta.get_field("title")

    def pre_save(instance: Novel, add: bool) -> str:
        return f"{instance.title} by {Novelist.objects.get(pk=instance.novelist_id).name}"  # type: ignore[attr-defined]

    monkeypatch.setattr(field, "pre_save", pre_save)
    with pytest.raises(NPlusOneError) as raised, guard("raise", writes="off"):
        [novel.save() for novel in novels]
    assert raised.value.finding.count == 4
    assert not connection.needs_rollback


# Scopes


def test_an_error_that_the_block_catches_is_raised_at_its_end(novels: list[Novel]) -> None:
    """A log handler, a resolver of GraphQL or a task runner catches every error."""
    read: list[object] = []

    def careless() -> None:
        for novel in Novel.objects.all():
            with contextlib.suppress(Exception):
                read.append(novel.novelist)

    with pytest.raises(NPlusOneError) as raised, guard("raise"):
        careless()
    assert raised.value.finding.count == 4
    assert len(read) == 1


@pytest.mark.django_db(transaction=True)
def test_a_task_that_outlives_its_guard_is_not_watched(novels: list[Novel]) -> None:
    async def work() -> int:
        ended = asyncio.Event()

        async def late() -> list[Novel]:
            await ended.wait()
            return [await Novel.objects.aget(pk=novel.pk) for novel in novels]

        async with guard("raise") as report:
            task = asyncio.create_task(late())
        ended.set()
        assert len(await task) == len(novels)
        await sync_to_async(connections.close_all)()
        return report.queries

    assert asyncio.run(work()) == 0


def test_one_guard_in_tasks_that_overlap_ends_the_right_run(novels: list[Novel]) -> None:
    watching = guard("log")

    async def work() -> list[int]:
        entered, both, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def first() -> int:
            async with watching as report:
                await Novel.objects.aget(pk=novels[0].pk)
                entered.set()
                await both.wait()
            ended.set()
            return report.queries

        async def second() -> int:
            await entered.wait()
            async with watching as report:
                both.set()
                await ended.wait()
                await Novel.objects.aget(pk=novels[1].pk)
            return report.queries

        return list(await asyncio.gather(first(), second()))

    assert async_to_sync(work)() == [1, 1]
    assert current_scope() is None


def test_an_inner_guard_takes_over(novels: list[Novel]) -> None:
    with guard("raise") as outer, guard("log") as inner:
        loop()
    assert inner.findings
    assert not outer.queries
    with guard("raise"), guard("off"):
        loop()


def test_the_same_query_again_is_a_duplicate_and_no_error(novels: list[Novel]) -> None:
    with guard("raise") as report:
        for _ in range(3):
            Novel.objects.filter(title="x").exists()
    [duplicate] = report.duplicates
    assert duplicate.count == 3
    assert duplicate.place == Place(
        "tests/queries/test_guard.py",
        duplicate.place.line if duplicate.place else 0,
        "test_the_same_query_again_is_a_duplicate_and_no_error",
    )
    assert str(duplicate).startswith("Duplicate: 3 times the same query   tests/queries/")
    assert "Duplicate" in str(report)


def test_a_scope_forgets_nothing_and_takes_no_more_than_its_bound(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_ENTRIES == 10_000
    monkeypatch.setattr("dbpatterns.queries.scope.MAX_ENTRIES", 1)
    with guard("raise") as report, connection.cursor() as cursor:
        for name in ("id", "title"):
            for number in range(2 if name == "title" else 1):
                cursor.execute(f"SELECT {name} FROM testapp_novel WHERE id = %s", [number])
    assert report.queries == 3


# Decorator and async


def test_as_a_decorator_each_call_is_watched_anew(novels: list[Novel]) -> None:
    @guard("raise")
    def once(pk: int) -> str:
        return Novel.objects.get(pk=pk).title

    assert [once(novel.pk) for novel in novels] == [novel.title for novel in novels]
    with pytest.raises(NPlusOneError):
        guard("raise")(loop)()


def test_a_decorator_of_a_coroutine_function(novels: list[Novel]) -> None:
    @guard("raise")
    async def work() -> None:
        async for novel in Novel.objects.all():
            await sync_to_async(getattr)(novel, "novelist")

    with pytest.raises(NPlusOneError):
        async_to_sync(work)()


def test_a_generator_cannot_be_decorated() -> None:
    with pytest.raises(ConfigurationError, match="is a generator"):

        @guard("raise")
        def work() -> Iterator[int]:
            yield 1


def test_async_with(novels: list[Novel]) -> None:
    async def work() -> None:
        async with guard("raise"):
            async for novel in Novel.objects.all():
                await Novelist.objects.aget(pk=novel.novelist_id)  # type: ignore[attr-defined]

    with pytest.raises(NPlusOneError):
        async_to_sync(work)()


@pytest.mark.django_db(transaction=True)
def test_a_worker_thread_that_has_connected_before_is_watched(patience: None) -> None:
    for name in "abc":
        Genre.objects.create(name=name)

    async def work() -> Place:
        assert await Genre.objects.acount() == 3  # the worker connects
        with guard("log") as report:
            for name in "abc":
                await Genre.objects.aget(name=name)
        await sync_to_async(connections.close_all)()
        return report.findings[0].place

    place = asyncio.run(work())
    assert (place.path, place.function) == ("tests/queries/test_guard.py", "work")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("together", ["gather", "group"])
def test_tasks_show_who_waits_for_them(patience: None, together: str) -> None:
    for name in "abc":
        Genre.objects.create(name=name)

    async def work() -> Place:
        with guard("log") as report:
            reads = [Genre.objects.aget(name=name) for name in "abc"]
            if together == "gather":
                await asyncio.gather(*reads)
            else:
                async with asyncio.TaskGroup() as group:
                    for read in reads:
                        group.create_task(read)
        await sync_to_async(connections.close_all)()
        return report.findings[0].place

    assert asyncio.run(work()).function == "work"


background: list[asyncio.Task[Any]] = []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_held", [True, False])
def test_tasks_nobody_waits_for_are_still_found(
    request: pytest.FixtureRequest, is_held: bool
) -> None:
    if is_held:
        request.getfixturevalue("patience")
    for name in "abc":
        Genre.objects.create(name=name)

    async def work() -> Any:
        mine: list[asyncio.Task[Any]] = []
        async with asyncio.timeout(30):
            with guard("log") as report:
                for name in "abc":
                    (mine if is_held else background).append(
                        asyncio.create_task(Genre.objects.aget(name=name))
                    )
                while not all(map(asyncio.Task.done, mine or background)):
                    await asyncio.sleep(0)  # nothing that a task would wake
        await sync_to_async(connections.close_all)()
        background.clear()
        return report.findings[0]

    finding = asyncio.run(work())
    assert finding.label == "Genre.objects.get()"
    assert (finding.place.function == "work") is is_held


def test_scopes_of_tasks_that_overlap_are_apart(novels: list[Novel]) -> None:
    async def one(pk: int) -> int:
        async with guard("raise") as report:
            await Novel.objects.aget(pk=pk)
            await asyncio.sleep(0)
            return report.queries

    async def work() -> list[int]:
        return await asyncio.gather(*(one(novel.pk) for novel in novels))

    assert async_to_sync(work)() == [1, 1, 1, 1]


# Bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "rise"}, "mode is 'rise'. Known: raise, warn, log, autofix, off"),
        ({"writes": "autofix"}, "writes is 'autofix'"),
        ({"threshold": 1}, "threshold is 1"),
        ({"threshold": True}, "threshold is True"),
        ({"threshold": "2"}, "threshold is '2'"),
        ({"sample": 2}, "sample is 2"),
        ({"sample": "all"}, "sample is 'all'"),
        ({"baseline": "nowhere.json"}, "There is no baseline 'nowhere.json'"),
        ({"baseline": 5}, "The baseline 5 cannot be read"),
        ({"allow": ["blog.Post"]}, "The allow-list has 'blog.Post'"),
        ({"allow": None}, "The allow-list is None: give a list"),
        ({"allow": {"what": "sql", "reason": "few"}}, "The allow-list is {'what': 'sql'"),
        ({"allow": allow("sql", reason="few")}, "The allow-list is Allowed(what='sql'"),
        ({"allow": [allow("novel", reason="few")]}, "name app.Model or app.Model.field"),
    ],
)
def test_a_broken_argument_is_an_error_at_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        guard(**options)
    assert words in str(raised.value)


def test_settings_are_the_defaults(novels: list[Novel]) -> None:
    allowed = {"what": "testapp.Novel.novelist", "reason": "known"}
    queries = {"MODE": "raise", "WRITES": "off", "THRESHOLD": 3, "ALLOW": [allowed]}
    with override_settings(DBPATTERNS={"QUERIES": queries}), guard() as report:
        loop()
        writes()
    assert [each.label for each in report.allowed] == ["Novel.novelist"]
    assert report.stale == []


# Oddities of drivers


def test_values_that_refuse_to_be_compared_are_different(db: None) -> None:
    class Odd(str):
        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            raise ValueError("ambiguous")

    with guard("log") as report, connection.cursor() as cursor:
        for name in "abc":
            cursor.execute("SELECT id FROM testapp_novel WHERE title = %s", [Odd(name)])
    assert report.findings


def test_comments_and_named_values_do_not_hide_a_loop(db: None) -> None:
    with guard("log") as report, connection.cursor() as cursor:
        for number in range(3):
            sql = f"/* trace {number} */ SELECT id FROM testapp_novel WHERE id = %(id)s"
            cursor.execute(sql, {"id": number})
    [finding] = report.findings
    assert finding.count == 3


@pytest.mark.postgresql
def test_composed_statements_of_psycopg(db: None) -> None:
    from psycopg import sql

    with guard("log") as report, connection.cursor() as cursor:
        for number in range(3):
            text = sql.SQL("SELECT id FROM {} WHERE id = {}").format(
                sql.Identifier("testapp_novel"), sql.Literal(number)
            )
            cursor.execute(text)  # type: ignore[arg-type]
            cursor.execute(b"SELECT 1")  # type: ignore[arg-type]
    [finding] = report.findings
    assert finding.count == 3


def test_an_allowed_place_is_silent_and_counted(novels: list[Novel]) -> None:
    entry = allow("testapp.Novel.novelist", at="test_guard.py", reason="four rows")
    with guard("raise", allow=[entry]) as report:
        loop()
    assert [each.count for each in report.allowed] == [4]
    assert report.matched == [entry]


# Autofix


def aggregating() -> None:
    loop()
    for novel in Novel.objects.all():
        novel.critiques.aggregate(Count("pk"))  # type: ignore[attr-defined]


def test_autofix_batches_what_it_can_and_warns_of_the_rest(novels: list[Novel]) -> None:
    with (
        CaptureQueriesContext(connection) as captured,
        pytest.warns(NPlusOneWarning, match=r"Novel\.critiques\.aggregate\(\)"),
        guard("autofix") as report,
    ):
        aggregating()
    assert [each.label for each in report.findings] == ["Novel.critiques.aggregate()"]
    assert len(captured) == 2 + 1 + len(novels)


def test_autofix_in_a_coroutine(novels: list[Novel]) -> None:
    async def work() -> int:
        async with guard("autofix") as report:
            async for novel in Novel.objects.all():
                await sync_to_async(getattr)(novel, "novelist")
        return report.queries

    assert async_to_sync(work)() == 2


def test_autofix_where_it_cannot_be_leaves_no_scope_open(db: None) -> None:
    async def work() -> None:
        with guard("autofix"):
            pass

    with pytest.raises(UsageError):
        async_to_sync(work)()
    assert current_scope() is None
