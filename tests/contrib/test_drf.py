"""Pages by keyset in Django REST framework: what its own cursor loses, and what ours keeps."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from django.db import connection
from django.db.models import F, Value
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from rest_framework import serializers
from rest_framework.filters import BaseFilterBackend, OrderingFilter
from rest_framework.generics import ListAPIView
from rest_framework.pagination import BasePagination, CursorPagination
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import exception_handler

from dbpatterns.contrib.drf import KeysetPagination
from dbpatterns.errors import UsageError
from dbpatterns.repositories import Repository, Spec
from dbpatterns.repositories.errors import UnknownField
from dbpatterns.repositories.keyset import Keyset
from dbpatterns.sharding import shards
from demo.banking.models import Account
from tests.testapp.models import Article, Topic, Writer

pytestmark = pytest.mark.django_db


class ArticleSerializer(serializers.ModelSerializer[Article]):
    class Meta:
        model = Article
        fields = ["slug", "rating", "topics"]


def view(pagination: type[BasePagination], **attributes: Any) -> Any:
    """Return a list view of all articles, paged by a class with these attributes."""
    paged = type("Paged", (pagination,), {"page_size": 4, **attributes})
    return type(
        "ArticleList",
        (ListAPIView,),
        {
            "queryset": Article.objects.all(),
            "serializer_class": ArticleSerializer,
            "pagination_class": paged,
            "permission_classes": [AllowAny],
            "filter_backends": [],
            "throttle_classes": [],
            "renderer_classes": [JSONRenderer],
            "get_exception_handler": lambda self: exception_handler,
        },
    )


def get(view: Any, url: str = "/", **query: Any) -> Response:
    answer: Response = view.as_view()(APIRequestFactory().get(url, query))
    return answer


def walk(
    view: Any,
    *,
    link: str = "next",
    start: str = "/",
    visit: Callable[[str], None] = lambda url: None,
) -> Iterator[list[str]]:
    """Follow the links of a list, one page at a time."""
    url: str | None = start
    for _ in range(50):
        if url is None:
            return
        visit(url)
        answer = get(view, url)
        assert answer.status_code == 200, answer.data
        yield [row["slug"] for row in answer.data["results"]]
        url = answer.data[link]
    raise AssertionError("the pages go round in a circle")


def last_page(view: Any) -> str:
    pages = [""]
    for _ in walk(view, visit=pages.append):
        pass
    return pages[-1]


def write(ratings: Sequence[int | None], **values: Any) -> None:
    for number, rating in enumerate(ratings):
        Article.objects.create(slug=f"a{number}", rating=rating, **values)


@pytest.fixture
def articles() -> list[Article]:
    """Forty articles with ties and NULLs, by two writers and nobody."""
    writers = [None, Writer.objects.create(name="Ada"), Writer.objects.create(name="Ben")]
    noon = datetime.datetime(2024, 1, 1, 12, 30, 15, 123456, tzinfo=datetime.UTC)
    return Article.objects.bulk_create(
        Article(
            slug=f"article-{number:02}",
            title=["", "One", "two", "Three"][number % 4],
            rating=None if number % 5 == 0 else number % 3,
            price=None if number % 7 == 0 else number,
            published_at=None if number % 3 == 0 else noon + datetime.timedelta(number % 9),
            number=number,
            writer=writers[number % 3],
        )
        for number in range(40)
    )


# The harm


def nulls_last() -> str:
    return "-rating" if connection.vendor == "sqlite" else "rating"


def test_rows_with_null_are_lost_by_drfs_own_cursor() -> None:
    write([1, 1, 1, None, None, None])
    paged = view(CursorPagination, ordering=nulls_last(), page_size=3)
    assert [sorted(page) for page in walk(paged)] == [["a0", "a1", "a2"], []]


def test_rows_with_null_are_kept() -> None:
    write([1, 1, 1, None, None, None])
    paged = view(KeysetPagination, ordering=nulls_last(), page_size=3)
    assert [sorted(page) for page in walk(paged)] == [["a0", "a1", "a2"], ["a3", "a4", "a5"]]


def test_a_row_deleted_among_equal_ones_hides_another_from_drfs_own_cursor() -> None:
    write([1] * 6)
    paged = view(CursorPagination, ordering=("rating", "slug"), page_size=3)
    pages = walk(paged)
    assert next(pages) == ["a0", "a1", "a2"]
    Article.objects.get(slug="a0").delete()
    assert next(pages) == ["a4", "a5"]  # a3 was never shown


def test_a_row_deleted_among_equal_ones_hides_none() -> None:
    write([1] * 6)
    paged = view(KeysetPagination, ordering=("rating", "slug"), page_size=3)
    pages = walk(paged)
    assert next(pages) == ["a0", "a1", "a2"]
    Article.objects.get(slug="a0").delete()
    assert list(pages) == [["a3", "a4", "a5"]]


def test_drfs_own_cursor_skips_rows_on_the_way_back_among_equal_ones() -> None:
    write([1] * 7)
    paged = view(CursorPagination, ordering="rating", page_size=2)
    seen = {slug for page in walk(paged, link="previous", start=last_page(paged)) for slug in page}
    assert len(seen) < 7


# Pages


ORDERS: list[Any] = [
    "pk",
    "-rating",
    ("title", "-price"),
    ("-published_at", "-rating"),
    [F("rating").desc(nulls_last=True), "title"],
    F("published_at").asc(nulls_first=True),
    "writer__name",
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_row_is_walked_once_in_order_both_ways(articles: list[Article], order: Any) -> None:
    paged = view(KeysetPagination, ordering=order)
    keyset = Keyset.of(Article, order if isinstance(order, list | tuple) else [order])
    expected = [each.slug for each in Article.objects.order_by(*keyset.order_by())]
    assert [slug for page in walk(paged) for slug in page] == expected
    back = list(walk(paged, link="previous", start=last_page(paged)))
    assert [slug for page in reversed(back) for slug in page] == expected


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_page_is_one_query_whatever_it_costs_to_reach(
    articles: list[Article], order: Any
) -> None:
    paged = view(KeysetPagination, ordering=order)
    paged.serializer_class = type("Slug", (ArticleSerializer,), {"Meta": SlugOnly})
    for url in ("/", get(paged).data["next"], get(paged, last_page(paged)).data["previous"]):
        with CaptureQueriesContext(connection) as queries:
            get(paged, url)
        assert len(queries) == 1


class SlugOnly:
    model = Article
    fields = ["slug"]


def test_a_queryset_keeps_its_filter_annotations_and_what_it_loads(
    articles: list[Article],
) -> None:
    topic = Topic.objects.create(name="SQL")
    for article in articles:
        article.topics.add(topic)
    rows = Article.objects.filter(rating__isnull=False).annotate(extra=Value(7))
    paged = view(KeysetPagination, ordering=("rating", "-number"))
    paged.queryset = rows.select_related("writer").prefetch_related("topics")
    following = get(paged).data["next"]
    with CaptureQueriesContext(connection) as queries:
        page = list(paginated(paged, following))
        assert [each.extra for each in page] == [7] * 4
        assert all(each.writer is None or each.writer.name for each in page)
        assert all(topic in each.topics.all() for each in page)
    assert len(queries) == 2
    assert sum(len(each) for each in walk(paged)) == rows.count()


def paginated(view: Any, url: str) -> list[Article]:
    page: list[Article] | None = view.pagination_class().paginate_queryset(
        view.queryset, Request(APIRequestFactory().get(url))
    )
    assert page is not None
    return page


def paged_by(size: int | None, **attributes: Any) -> type[KeysetPagination]:
    return type("Paged", (KeysetPagination,), {"page_size": size, **attributes})


@pytest.mark.django_db(databases="__all__")
def test_a_queryset_of_another_database_is_paged_there() -> None:
    shard = shards()[0]
    Account.objects.using(shard).create(number="1", kind=Account.Kind.OPENING)
    request = Request(APIRequestFactory().get("/"))
    page = paged_by(4)().paginate_queryset(Account.objects.using(shard), request)
    assert page is not None
    assert [each._state.db for each in page] == [shard]


def test_the_newest_come_first_when_no_order_is_set() -> None:
    write([1, 1, 1])
    assert list(walk(view(KeysetPagination))) == [["a2", "a1", "a0"]]


class NoOrder(BaseFilterBackend):
    """A filter that orders nothing."""

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        return queryset


def test_the_order_an_ordering_filter_was_asked_for_is_paged() -> None:
    write([3, 1, 2, 1, None])
    paged = view(KeysetPagination, ordering="-number", page_size=2)
    Article.objects.update(number=F("pk"))
    paged.filter_backends, paged.ordering_fields = [NoOrder, OrderingFilter], ["slug"]
    assert list(walk(paged, start="/?ordering=slug")) == [["a0", "a1"], ["a2", "a3"], ["a4"]]
    assert list(walk(paged)) == [["a4", "a3"], ["a2", "a1"], ["a0"]]


def test_links_keep_the_other_parameters() -> None:
    write([1] * 5)
    following = get(view(KeysetPagination), "/", rating="1").data["next"]
    assert following.startswith("http://testserver/?cursor=")
    assert following.endswith("&rating=1")


def test_an_empty_list_has_no_links() -> None:
    assert get(view(KeysetPagination)).data == {"next": None, "previous": None, "results": []}


# A repository


def test_a_repository_is_paged_by_a_specification(articles: list[Article]) -> None:
    rated = Spec[Article]("rated", rating__isnull=False)
    paginator = paged_by(50, ordering="-number")()
    rows = paginator.paginate_repository(
        Repository.for_model(Article), Request(APIRequestFactory().get("/")), rated, title="One"
    )
    assert rows == list(
        Article.objects.filter(rating__isnull=False, title="One").order_by("-number")
    )


def test_a_repository_loads_what_it_is_told_to(articles: list[Article]) -> None:
    request = Request(APIRequestFactory().get("/"))
    with CaptureQueriesContext(connection) as queries:
        rows = paged_by(50)().paginate_repository(
            Repository.for_model(Article), request, load=["topics", "writer"], order_by=["title"]
        )
        assert [each.title for each in rows] == sorted(each.title for each in rows)
        assert [(list(each.topics.all()), each.writer and each.writer.name) for each in rows]
    assert len(queries) == 2


# Sizes


@pytest.mark.parametrize(
    ("asked", "size"), [(None, 4), ("2", 2), ("9", 5), ("0", 4), ("-1", 4), ("x", 4), ("\0", 4)]
)
def test_a_page_has_the_size_asked_for_up_to_the_maximum(asked: str | None, size: int) -> None:
    write([1] * 10)
    paged = view(KeysetPagination, page_size_query_param="page_size", max_page_size=5)
    query = {} if asked is None else {"page_size": asked}
    assert len(get(paged, **query).data["results"]) == size


@override_settings(DBPATTERNS={"REPOSITORIES": {"MAX_PAGE_SIZE": 3}})
def test_no_page_is_larger_than_repositories_may_be_asked_for() -> None:
    write([1] * 10)
    paged = view(KeysetPagination, page_size_query_param="page_size")
    assert len(get(paged, page_size="999999999999").data["results"]) == 3


def test_without_a_page_size_nothing_is_paged() -> None:
    write([1] * 3)
    request = Request(APIRequestFactory().get("/"))
    assert paged_by(None)().paginate_queryset(Article.objects.all(), request) is None
    with pytest.raises(UsageError, match="Paged has no page_size"):
        paged_by(None)().paginate_repository(Repository.for_model(Article), request)


# What cannot be


@pytest.mark.parametrize(
    "cursor", ["", "!", "cD1ub25zZW5zZQ==", "bz0x", "\0", "é", "a:b:c", "x" * 5_000]
)
def test_a_forged_cursor_is_a_404(cursor: str) -> None:
    write([1] * 3)
    answer = get(view(KeysetPagination), cursor=cursor)
    assert (answer.status_code, answer.data) == (404, {"detail": "Invalid cursor"})


def test_a_cursor_that_was_changed_is_a_404() -> None:
    write([1] * 9)
    following: str = get(view(KeysetPagination, ordering="number")).data["next"]
    assert get(view(KeysetPagination, ordering="slug"), following).status_code == 404
    flipped = following.replace("cursor=", "cursor=A")
    assert get(view(KeysetPagination, ordering="number"), flipped).status_code == 404


def test_a_list_cannot_be_paged() -> None:
    request = Request(APIRequestFactory().get("/"))
    with pytest.raises(UsageError, match=r"pages a queryset, or a repository .* not a list"):
        paged_by(3)().paginate_queryset([], request)


def test_an_order_by_an_unknown_column_is_refused_by_name() -> None:
    with pytest.raises(UnknownField, match=r"'raiting' .* Did you mean 'rating'"):
        get(view(KeysetPagination, ordering="raiting"))


# As DRF's own


def test_parameters_and_schema_are_those_of_cursor_pagination() -> None:
    attributes = {"page_size": 4, "page_size_query_param": "page_size"}
    ours, theirs = (
        type("P", (each,), attributes)() for each in (KeysetPagination, CursorPagination)
    )
    assert ours.get_schema_operation_parameters(None) == theirs.get_schema_operation_parameters(
        None
    )
    assert ours.get_paginated_response_schema({}) == theirs.get_paginated_response_schema({})


def test_the_browsable_api_shows_links_when_there_is_another_page() -> None:
    write([1] * 5)
    shown = []
    for size in (4, 5):
        paged = view(KeysetPagination, page_size=size)
        paged.renderer_classes = [BrowsableAPIRenderer]
        shown.append('<ul class="pager">' in get(paged).render().content.decode())
    assert shown == [True, False]
