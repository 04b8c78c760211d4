"""Budgets: nobody notices a query more, until a budget says which and from where."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import IntegrityError, connection, connections, transaction
from django.db.models import QuerySet

from dbpatterns.errors import UsageError
from dbpatterns.queries import QueryBudgetExceeded, query_budget
from tests.queries.conftest import SIZE
from tests.testapp.models import Country, Gadget, Maker, Part

pytestmark = pytest.mark.django_db


def read_one_by_one() -> list[str]:
    return [str(row.maker) for row in Gadget.objects.order_by("pk")]


def run_on(alias: str, sql: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)


def test_nothing_stops_a_view_that_sends_a_query_a_row(
    shop: None, django_assert_num_queries: Callable[..., Any]
) -> None:
    with django_assert_num_queries(1 + 2 * SIZE):
        read_one_by_one()  # the harm
    with pytest.raises(QueryBudgetExceeded), query_budget(max_queries=5):
        read_one_by_one()


def test_the_error_says_what_was_spent_on_what_and_where(shop: None) -> None:
    with pytest.raises(QueryBudgetExceeded) as caught:
        query_budget(max_queries=5)(read_one_by_one)()
    message = str(caught.value)
    first, *lines = message.splitlines()
    assert first.startswith("read_one_by_one is over its query budget: 6 queries, 5 allowed.")
    assert lines[0].startswith("  5 times, ")
    assert 'WHERE "testapp_maker"."id" = %s' in lines[0]
    assert lines[0].endswith(f"tests/queries/test_budgets.py:{LINE} in <listcomp>") or lines[
        0
    ].endswith(f"tests/queries/test_budgets.py:{LINE} in read_one_by_one")
    assert caught.value.spent.queries == 6


LINE = read_one_by_one.__code__.co_firstlineno + 1


def test_within_its_budget_a_block_is_left_alone(shop: None) -> None:
    with query_budget(max_queries=2, max_ms=60_000, max_rows=100, per_table={"testapp_gadget": 2}):
        assert len(Gadget.objects.select_related("maker")) == 2 * SIZE
        assert Gadget.objects.count() == 2 * SIZE


@pytest.mark.parametrize(
    "read", [list, lambda rows: list(rows.iterator())], ids=["list", "iterator"]
)
def test_rows_are_counted_as_they_come(shop: None, read: Callable[[Any], Any]) -> None:
    rows: QuerySet[Part] = Part.objects.order_by("pk")
    with query_budget(max_rows=3 * SIZE):
        read(rows.all())
    words = f"{3 * SIZE} rows, {3 * SIZE - 1} allowed"
    with pytest.raises(QueryBudgetExceeded, match=words), query_budget(max_rows=3 * SIZE - 1):
        read(rows.all())


def test_rows_of_a_bare_cursor_are_counted() -> None:
    with query_budget(max_rows=6) as budget, connection.cursor() as cursor:
        cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
        assert cursor.fetchone() == (1,)
        assert cursor.fetchmany(1) == [(2,)]
        assert cursor.fetchall() == [(3,)]
        assert cursor.fetchone() is None
        assert budget.spent.rows == 3
        cursor.execute("SELECT 1 UNION SELECT 2")
        assert list(cursor) == [(1,), (2,)]
        assert [each[0] for each in cursor.description] == [cursor.description[0][0]]
        assert budget.spent.rows == 5


def test_rows_of_a_cursor_that_runs_again_are_counted_once_by_each_budget() -> None:
    with query_budget(max_rows=4) as outer, query_budget(max_rows=4) as inner:
        with connection.cursor() as cursor:
            for _ in range(2):
                cursor.execute("SELECT 1 UNION SELECT 2")
                assert len(cursor.fetchall()) == 2
        assert (outer.spent.rows, inner.spent.rows) == (4, 4)


def test_time_is_limited() -> None:
    with pytest.raises(QueryBudgetExceeded, match=" ms, 0 allowed"), query_budget(max_ms=0):
        Country.objects.count()


@pytest.mark.parametrize("table", ["testapp_maker", "testapp.Maker", "testapp.maker", Maker])
def test_statements_on_a_table_are_limited(shop: None, table: Any) -> None:
    @query_budget(per_table={table: 1})
    def read(*rows: QuerySet[Any]) -> None:
        for each in rows:
            list(each.all())

    joined = Gadget.objects.select_related("maker")
    read(joined, Gadget.objects.all())
    with pytest.raises(QueryBudgetExceeded, match="2 statements on testapp_maker, 1 allowed"):
        read(joined, Maker.objects.all())


@pytest.mark.django_db(transaction=True)
def test_no_write_is_cut_and_no_transaction_left_open() -> None:
    @query_budget(max_queries=1)
    def write() -> None:
        with transaction.atomic():
            first = Country.objects.create(name="one")
            second = Country.objects.create(name="two")
        assert None not in (first.pk, second.pk)

    with pytest.raises(QueryBudgetExceeded, match="2 queries, 1 allowed"):
        write()
    assert not connection.in_atomic_block
    assert connection.get_autocommit()
    assert Country.objects.count() == 2  # it raised after the commit, which is no read


@pytest.mark.django_db(transaction=True)
def test_a_read_over_budget_rolls_its_transaction_back_and_the_connection_works_on() -> None:
    @query_budget(max_queries=1)
    def write_and_read() -> None:
        with transaction.atomic():
            Country.objects.create(name="one")
            with transaction.atomic():
                Country.objects.count()

    with pytest.raises(QueryBudgetExceeded):
        write_and_read()
    assert not connection.in_atomic_block
    assert Country.objects.count() == 0
    with transaction.atomic():
        with pytest.raises(QueryBudgetExceeded), query_budget(max_queries=0):
            Country.objects.count()
        Country.objects.create(name="two")
    assert Country.objects.count() == 1


def test_the_statement_that_fails_is_booked_and_its_error_is_the_one_raised(shop: None) -> None:
    budget = query_budget(max_queries=0)
    with pytest.raises(IntegrityError), budget, transaction.atomic():
        Gadget.badges.through.objects.create(gadget_id=1, badge_id=None)
    assert budget.spent.queries == 1


def test_budgets_nest_and_the_inner_one_is_booked_on_both(shop: None) -> None:
    outer, inner = query_budget(max_queries=3), query_budget(max_queries=1)
    with outer:
        with pytest.raises(QueryBudgetExceeded, match="2 queries, 1 allowed"), inner:
            read_one_by_one()
        Country.objects.count()
    assert (outer.spent.queries, inner.spent.queries) == (3, 2)


def test_an_error_that_the_block_swallows_is_raised_at_its_end() -> None:
    @query_budget(max_queries=0)
    def swallow() -> None:
        with suppress(QueryBudgetExceeded):
            Country.objects.count()

    with pytest.raises(QueryBudgetExceeded):
        swallow()


def test_rows_that_are_read_after_the_block_are_not_its_own(shop: None) -> None:
    with query_budget(max_rows=1) as budget, connection.cursor() as cursor:
        cursor.execute("SELECT 1 UNION SELECT 2")
        budget.__exit__(None, None, None)
        assert len(cursor.fetchall()) == 2
    assert budget.spent.rows == 0


@pytest.mark.django_db(databases=["default", "shard_0"])
def test_a_budget_may_be_one_databases() -> None:
    with query_budget(max_queries=1, using="shard_0") as budget:
        Country.objects.count()
        Country.objects.count()
        run_on("shard_0", "SELECT 1")
    assert list(budget.spent.templates) == ["SELECT 1"]
    with pytest.raises(QueryBudgetExceeded), query_budget(max_queries=0, using="shard_0"):
        run_on("shard_0", "SELECT 1")


def test_each_call_has_a_budget_of_its_own() -> None:
    @query_budget(max_queries=1)
    def count() -> int:
        """Count."""
        return Country.objects.count()

    assert [count(), count()] == [0, 0]
    assert count.__doc__ == "Count."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "limits nothing"),
        ({"per_table": {}}, "limits nothing"),
        ({"max_queries": -1}, r"max_queries=-1\): must be a whole number from 0 up"),
        ({"max_rows": 2.5}, "must be a whole number"),
        ({"max_queries": True}, "must be a whole number"),
        ({"max_ms": float("nan")}, "must be a number"),
        ({"max_ms": "50"}, "must be a number"),
        ({"per_table": {"testapp_maker": -1}}, "must be a whole number"),
        ({"per_table": {"testapp_makr": 1}}, "no such table. Did you mean 'testapp_maker'"),
        ({"per_table": {"": 1}}, "no such table.$"),
        ({"max_queries": 1, "using": "nowhere"}, "no such database. Known: default"),
    ],
    ids=str,
)
def test_a_wrong_budget_is_an_error_when_it_is_made(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        query_budget(**options)


def test_the_list_of_statements_is_short_and_its_memory_bounded() -> None:
    @query_budget(max_queries=300)
    def read() -> None:
        with connection.cursor() as cursor:
            for number in range(301):
                cursor.execute(f"SELECT {number} AS {'x' * 200}")

    with pytest.raises(QueryBudgetExceeded) as caught:
        read()
    assert len(caught.value.spent.templates) == 201
    *_, last = lines = str(caught.value).splitlines()
    assert (len(lines), last) == (7, "  and 196 more")
    assert "101 times" in lines[1]
    assert "other statements" in lines[1]
    assert all(len(line) < 300 for line in lines[1:])


def test_values_are_no_part_of_a_template(shop: None) -> None:
    with query_budget(max_queries=9) as budget:
        list(Country.objects.filter(pk__in=[1, 2, 3]))
        list(Country.objects.filter(pk__in=[1, 2, 3, 4]))
    assert [times for times, *_ in budget.spent.templates.values()] == [2]


def test_coroutines_have_budgets_and_the_awaiting_line(shop: None) -> None:
    @query_budget(max_queries=1)
    async def view() -> None:
        await Country.objects.acount()
        await Maker.objects.acount()

    with pytest.raises(QueryBudgetExceeded, match=r"view is over .* 2 queries") as caught:
        async_to_sync(view)()
    line = view.__wrapped__.__code__.co_firstlineno + 2  # type: ignore[attr-defined]
    assert f"test_budgets.py:{line} in view" in str(caught.value)
    assert f"test_budgets.py:{line + 1} in view" in str(caught.value)


def test_two_tasks_on_one_connection_spend_apart() -> None:
    async def count(times: int) -> int:
        async with query_budget(max_queries=3) as budget:
            for _ in range(times):
                await Country.objects.acount()
        return budget.spent.queries

    async def both() -> list[int]:
        return await asyncio.gather(count(3), count(2))

    assert async_to_sync(both)() == [3, 2]


def test_a_block_in_a_coroutine_without_async_is_an_error() -> None:
    async def wrong() -> None:
        with query_budget(max_queries=1):
            await Country.objects.acount()

    with pytest.raises(UsageError, match="write `async with`"):
        async_to_sync(wrong)()


def test_a_block_where_async_is_allowed_to_be_unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def notebook() -> int:
        with query_budget(max_queries=1) as budget:
            run_on("default", "SELECT 1")
        connection.close()  # the loop's own
        return budget.spent.queries

    assert asyncio.run(notebook()) == 1


@pytest.mark.django_db(transaction=True)
def test_a_thread_that_runs_in_the_blocks_context_is_counted() -> None:
    def count() -> int:
        try:
            return Country.objects.count()
        finally:
            connection.close()

    async def view() -> int:
        async with query_budget(max_queries=5) as budget:
            await sync_to_async(count, thread_sensitive=False)()
        return budget.spent.queries

    assert async_to_sync(view)() == 1


def test_a_generator_cannot_be_decorated() -> None:
    with pytest.raises(UsageError, match=r"cannot decorate the generator .*rows"):

        @query_budget(max_queries=1)
        def rows() -> Any:
            yield Country.objects.count()


def test_a_budget_is_entered_once() -> None:
    budget = query_budget(max_queries=1)
    with budget:
        pass
    with pytest.raises(UsageError, match="was entered before"), budget:
        pass


def test_a_connection_whose_hooks_were_replaced_is_no_error() -> None:
    before = connection.execute_wrappers
    with query_budget(max_queries=1):
        connection.execute_wrappers = []
    connection.execute_wrappers = before
    assert not [each for each in before if isinstance(getattr(each, "__self__", 0), query_budget)]


def test_made_up_code_is_nobodys_line() -> None:
    with query_budget(max_queries=1) as budget:
        exec(compile("Country.objects.count()", "<string>", "exec"), {"Country": Country})
    ((_, _, line),) = budget.spent.templates.values()
    assert line.endswith("in test_made_up_code_is_nobodys_line")
    assert ":" in line
    assert "<" not in line
