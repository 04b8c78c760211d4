"""Pages by keyset: the harm of offsets, then one query a page and no row lost or repeated."""

import datetime
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.core import signing
from django.core.paginator import Paginator
from django.db import connection, connections
from django.db.models import F, Index
from django.db.models.functions import Lower
from django.template import Context, Template
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from dbpatterns.errors import UsageError
from dbpatterns.repositories import Page, Repository
from dbpatterns.repositories.errors import InvalidCursor, UnknownField
from dbpatterns.repositories.keyset import Keyset, OrderTerm
from tests.testapp.models import Article, Writer

ORDERS: list[Sequence[OrderTerm]] = [
    ["pk"],
    ["-pk"],
    ["slug"],
    ["title"],
    ["-title", "-pk"],
    ["title", "-slug"],
    ["rating"],
    ["-rating"],
    ["rating", "-price"],
    ["-rating", "published_at", "-title"],
    [F("rating").asc(nulls_first=True)],
    [F("rating").desc(nulls_last=True), "published_at"],
    ["writer_id", "-number"],
    ["writer__name", "rating"],
    ["-writer__born", "pk"],
    [F("number")],
    [],
]


def walk(order: Sequence[OrderTerm], *, size: int) -> tuple[list[Page[Article]], list[int]]:
    """Read every page forward; return the pages and the queries of each."""
    repository, pages, queries = Repository.for_model(Article), [], []
    cursor: str | None = None
    while not pages or cursor:
        with CaptureQueriesContext(connection) as captured:
            pages.append(repository.page(size=size, cursor=cursor, order_by=order))
        queries.append(len(captured))
        cursor = pages[-1].next_cursor
    return pages, queries


def all_in(order: Sequence[OrderTerm]) -> list[Article]:
    keyset = Keyset.of(Article, order)
    return list(Article.objects.order_by(*keyset.order_by()))


@pytest.mark.django_db
def test_an_offset_repeats_a_row_when_another_is_written_between_two_pages() -> None:
    Article.objects.bulk_create(Article(slug=f"{number}") for number in range(6))
    newest_first = Article.objects.order_by("-pk")
    first = list(Paginator(newest_first, 3).page(1))
    Article.objects.create(slug="new")
    assert first[-1] in Paginator(newest_first, 3).page(2)  # the harm


@pytest.mark.django_db
def test_a_row_written_between_two_pages_repeats_none() -> None:
    Article.objects.bulk_create(Article(slug=f"{number}") for number in range(6))
    repository = Repository.for_model(Article)
    first = repository.page(size=3)
    Article.objects.create(slug="new")
    second = repository.page(size=3, cursor=first.next_cursor)
    assert [each.slug for each in (*first, *second)] == ["5", "4", "3", "2", "1", "0"]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_pages_are_the_whole_order_with_one_query_each(
    articles: list[Article], order: Sequence[OrderTerm], size: int
) -> None:
    pages, queries = walk(order, size=size)
    assert [row for page in pages for row in page] == all_in(order)
    assert set(queries) == {1}
    assert all(len(page) == size for page in pages[:-1])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_pages_backward_are_the_pages_forward(
    articles: list[Article], order: Sequence[OrderTerm]
) -> None:
    pages, _ = walk(order, size=6)
    repository, page = Repository.for_model(Article), pages[-1]
    back = [page.object_list]
    while page.previous_cursor:
        with CaptureQueriesContext(connection) as captured:
            page = repository.page(size=6, cursor=page.previous_cursor, order_by=order)
        assert len(captured) == 1
        assert page.has_next()
        back.insert(0, page.object_list)
    assert [row for rows in back for row in rows] == all_in(order)


class TestAnyRowsAnyOrder(HypothesisTestCase):
    """Ties and NULLs as hypothesis likes them, on the database of the run."""

    @settings(max_examples=60, deadline=None)
    @given(
        ratings=st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=12),
        order=st.lists(
            st.sampled_from(["rating", "-rating", "number", "-number", "score", "-title"]),
            unique_by=lambda name: name.removeprefix("-"),
        ),
        size=st.integers(1, 5),
        data=st.data(),
    )
    def test_no_row_is_lost_or_repeated(
        self, ratings: list[int | None], order: list[str], size: int, data: st.DataObject
    ) -> None:
        Article.objects.bulk_create(
            Article(
                slug=str(place),
                rating=rating,
                score=data.draw(st.sampled_from([-1.5, 0.0, 0.1])),
                title=data.draw(st.sampled_from(["", "a", "B", "ß"])),
            )
            for place, rating in enumerate(ratings)
        )
        pages, _ = walk(order, size=size)
        assert [row for page in pages for row in page] == all_in(order)
        back = Repository.for_model(Article)
        for page, before in zip(pages[1:], pages, strict=False):
            read = back.page(size=size, cursor=page.previous_cursor, order_by=order)
            assert read.object_list == before.object_list

    @settings(max_examples=40, deadline=None)
    @given(
        before=st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=8),
        meanwhile=st.lists(
            st.tuples(st.sampled_from(["insert", "delete"]), st.none() | st.integers(0, 3)),
            max_size=10,
        ),
        order=st.sampled_from([["rating"], ["-rating"], ["rating", "-pk"]]),
    )
    def test_rows_that_stay_are_seen_once_whatever_others_do(
        self,
        before: list[int | None],
        meanwhile: list[tuple[str, int | None]],
        order: list[str],
    ) -> None:
        old = Article.objects.bulk_create(
            Article(slug=str(place), rating=rating) for place, rating in enumerate(before)
        )
        repository, seen, gone = Repository.for_model(Article), [], set()
        cursor, steps = None, iter(enumerate(meanwhile))
        while True:
            page = repository.page(size=2, cursor=cursor, order_by=order)
            seen += [row.pk for row in page]
            if (cursor := page.next_cursor) is None:
                break
            step = next(steps, None)
            if step is not None:
                place, (action, rating) = step
                if action == "insert":
                    Article.objects.create(slug=f"new-{place}", rating=rating)
                else:
                    victim = old[place % len(old)]
                    gone.add(victim.pk)
                    Article.objects.filter(pk=victim.pk).delete()
        assert {row.pk for row in old} - gone <= set(seen)
        assert len(seen) == len(set(seen))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("order", [["-rating"], ["rating", "-pk"]], ids=str)
def test_a_reader_among_writers_sees_each_row_that_stays_once(order: list[str]) -> None:
    """The ledger: rows nobody touches. Two writers insert and delete all the while."""
    kept = Article.objects.bulk_create(
        Article(slug=f"kept-{number}", rating=[None, 0, 1][number % 3]) for number in range(120)
    )
    stop, written, errors = threading.Event(), [0, 0], []

    def write(writer: int) -> None:
        try:
            while not stop.is_set():
                written[writer] += 1
                rating = [0, None, 1][written[writer] % 3]
                row = Article.objects.create(slug=f"{writer}-{written[writer]}", rating=rating)
                if written[writer] % 2:
                    row.delete()
        except BaseException as error:
            errors.append(error)
        finally:
            connections["default"].close()

    writers = [threading.Thread(target=write, args=[number]) for number in range(2)]
    for thread in writers:
        thread.start()
    try:
        for _ in range(5):
            began = list(written)
            pages, queries = walk(order, size=7)
            seen = [row.pk for page in pages for row in page]
            assert len(seen) == len(set(seen))
            assert {row.pk for row in kept} <= set(seen)
            assert set(queries) == {1}
            while written == began and not errors:  # every walk had a write beside it
                pages, _ = walk(order, size=7)
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    assert errors == []
    assert min(written) > 0


@pytest.mark.django_db
def test_a_page_reads_like_a_page_of_django_s_paginator(articles: list[Article]) -> None:
    page = Repository.for_model(Article).page(size=3, order_by=["pk"])
    template = Template(
        "{% for each in page %}{{ each.number }} {% endfor %}"
        "{% if page.has_next %}more{% endif %}{% if page.has_previous %}less{% endif %}"
        "{% if page.has_other_pages %} of many{% endif %}"
    )
    assert template.render(Context({"page": page})) == "0 1 2 more of many"
    assert (len(page), page[1].number, page.object_list[2].number) == (3, 1, 2)


@pytest.mark.django_db
def test_an_empty_table_has_one_empty_page() -> None:
    page = Repository.for_model(Article).page(total=True)
    assert (page.object_list, page.total) == ([], 0)
    assert not page.has_other_pages()


def test_a_page_counts_only_when_asked(articles: list[Article]) -> None:
    repository = Repository.for_model(Article)
    assert repository.page(size=5).total is None
    with CaptureQueriesContext(connection) as captured:
        page = repository.page(size=5, rating=1, total=True)
    assert page.total == Article.objects.filter(rating=1).count()
    assert len(captured) == 2


def test_criteria_and_relations_go_with_every_page(articles: list[Article]) -> None:
    repository = Repository.for_model(Article)
    first = repository.page(size=3, rating=1, load=["writer", "remarks"])
    with CaptureQueriesContext(connection) as captured:
        second = repository.page(
            size=3, rating=1, cursor=first.next_cursor, load=["writer", "remarks"]
        )
        assert all(row.rating == 1 for row in second)
        assert [row.writer and row.writer.name for row in second]
        assert [len(row.remarks.all()) for row in second] == [0, 0, 0]
    assert len(captured) == 2  # the page, and its remarks


def test_a_row_with_two_matches_stands_on_a_page_once(articles: list[Article]) -> None:
    articles[0].remarks.create(text="good")
    articles[0].remarks.create(text="good")
    harm = Article.objects.filter(remarks__text="good")
    assert list(harm) == [articles[0], articles[0]]
    page = Repository.for_model(Article).page(remarks__text="good", total=True)
    assert (page.object_list, page.total) == ([articles[0]], 1)


# Cursors


def test_a_changed_cursor_is_refused(articles: list[Article]) -> None:
    repository = Repository.for_model(Article)
    cursor = repository.page(size=2).next_cursor
    assert cursor is not None
    for broken in (cursor[:-1], cursor.replace(":", ";"), f"x{cursor}", "", "a:b:c", "\x00", "é"):
        with pytest.raises(InvalidCursor, match=r"testapp\.Article was changed"):
            repository.page(cursor=broken)


def test_a_cursor_of_another_secret_key_is_refused(articles: list[Article]) -> None:
    repository = Repository.for_model(Article)
    with override_settings(SECRET_KEY="another"):
        cursor = repository.page(size=2).next_cursor
    with pytest.raises(InvalidCursor, match="was changed"):
        repository.page(cursor=cursor)


def test_a_cursor_of_another_model_is_refused(articles: list[Article]) -> None:
    cursor = Repository.for_model(Article).page(size=2, order_by=["pk"]).next_cursor
    with pytest.raises(InvalidCursor, match=r"of testapp\.Writer belongs to testapp\.Article"):
        Repository.for_model(Writer).page(cursor=cursor, order_by=["pk"])


def test_a_cursor_of_another_order_is_refused(articles: list[Article]) -> None:
    repository = Repository.for_model(Article)
    cursor = repository.page(size=2, order_by=["title", "-pk"]).next_cursor
    for other in (["title"], ["-title", "-pk"], ["-pk"], [F("title").desc(), F("pk").desc()]):
        with pytest.raises(InvalidCursor, match="was made for the order 'title, -pk'"):
            repository.page(cursor=cursor, order_by=other)
    assert repository.page(cursor=cursor, order_by=[F("title"), "-pk"]).has_previous()


def test_a_cursor_whose_values_no_longer_fit_is_refused() -> None:
    keyset = Keyset.of(Article, ["published_at"])
    for values in (["no date", "1"], ["2024-01-01T00:00:00", "x"], ["2024-01-01T00:00:00"]):
        payload = ["testapp.Article", str(keyset), 0, values]
        cursor = signing.dumps(payload, salt="dbpatterns.repositories.keyset", compress=True)
        with pytest.raises(InvalidCursor, match="no longer hold"):
            keyset.position(cursor)


def test_a_cursor_keeps_every_digit() -> None:
    article = Article(
        pk=3,
        score=0.1 + 0.2,
        published_at=datetime.datetime(2024, 1, 1, 1, 2, 3, 456789, tzinfo=datetime.UTC),
        reading_time=datetime.timedelta(microseconds=1),
    )
    keyset = Keyset.of(Article, ["score", "published_at", "reading_time", "token"])
    position = keyset.position(keyset.cursor(article, is_backward=True))
    assert position.values == (
        article.score,
        article.published_at,
        article.reading_time,
        None,
        3,
    )
    assert position.is_backward


# Orders


def test_an_order_that_is_total_gets_no_further_column() -> None:
    assert str(Keyset.of(Article, ["title", "slug"])) == "title, slug"
    assert str(Keyset.of(Article, ["rating", "-title"])) == "rating, -title, -id"
    assert str(Keyset.of(Writer, ["born"])) == "born, id"


@pytest.mark.parametrize("order", ["?", Lower("title").asc(), "writer", "remarks__text", "topics"])
def test_an_order_that_cannot_be_resumed_is_refused(order: OrderTerm) -> None:
    with pytest.raises(UsageError, match=r"Pages of testapp\.Article cannot be ordered by"):
        Repository.for_model(Article).page(order_by=[order])


def test_an_unknown_column_is_refused_with_what_was_meant() -> None:
    with pytest.raises(UnknownField, match="Did you mean 'title'"):
        Repository.for_model(Article).page(order_by=["-titel"])


@pytest.mark.parametrize("size", [0, -1, 1001])
def test_a_page_has_a_bounded_size(size: int) -> None:
    with pytest.raises(UsageError, match="1 to 1,000 rows, not"):
        Repository.for_model(Article).page(size=size)


@pytest.mark.postgresql
@pytest.mark.django_db
@pytest.mark.parametrize("order", [["rating"], ["-published_at", "-pk"], ["score", "pk"]], ids=str)
def test_each_range_of_a_deep_page_is_one_index_range(order: list[str]) -> None:
    with connection.schema_editor() as editor:
        for columns in (["rating", "id"], ["-published_at", "-id"], ["score", "id"]):
            editor.add_index(Article, Index(fields=columns, name="i" + columns[0].strip("-")))
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO testapp_article (slug, title, score, is_live, language, rating,"
            " published_at) SELECT i::text, '', i % 5000, true, 'en',"
            " CASE WHEN i % 10 > 0 THEN i % 5000 END,"
            " CASE WHEN i % 10 > 0 THEN now() - i * interval '1 minute' END"
            " FROM generate_series(1, 20000) AS t(i)"
        )
        cursor.execute("ANALYZE testapp_article")
    repository = Repository.for_model(Article)
    offset = Article.objects.order_by(*Keyset.of(Article, order).order_by())[9_000]
    deep = Keyset.of(Article, order).cursor(offset, is_backward=False)
    with CaptureQueriesContext(connection) as captured:
        page = repository.page(size=20, cursor=deep, order_by=order)
    assert len(page) == 20
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {captured[0]['sql']}")
        plan = cursor.fetchone()[0][0]["Plan"]
    scans = [each for each in nodes(plan) if each["Node Type"].endswith("Scan")]
    assert scans
    for scan in scans:  # an OR of the ranges would walk the 9,000 rows before the page
        assert scan.get("Rows Removed by Filter", 0) < 100, plan
        assert scan["Actual Rows"] <= 21, plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
