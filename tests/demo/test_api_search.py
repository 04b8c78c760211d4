"""The search: criteria from strangers reach what is published, and nothing else."""

import datetime
from typing import Any

import pytest
from rest_framework.test import APIClient

from demo.blog.models import Author, Category, Post, Tag
from tests.demo.api_support import pages, queries_by_database

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_fresh_throttles")]

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def write(slug: str, *, days: int = 0, login: str = "ann", **values: Any) -> Post:
    author, _ = Author.objects.get_or_create(login=login, defaults={"name": login.title()})
    return Post.objects.create(
        slug=slug,
        author=author,
        **{
            "title": f"About {slug}",
            "body": f"<p>{slug}</p>",
            "status": Post.Status.PUBLISHED,
            "published_at": START + datetime.timedelta(days=days),
            **values,
        },
    )


@pytest.fixture
def posts() -> None:
    locks, waits = write("locks"), write("waits", days=1, login="ben", excerpt="Short")
    write("indexes", days=2, title="100% of indexes")
    databases = Category.objects.create(slug="databases", name="Databases")
    deep, wide = (Tag.objects.create(slug=slug, name=slug) for slug in ("deep", "wide"))
    locks.categories.add(databases)
    locks.tags.add(deep, wide)
    waits.tags.add(deep)


def search(**query: str) -> list[str]:
    answer = APIClient().get("/api/posts/search/", query)
    assert answer.status_code == 200, answer.content
    return [post["slug"] for post in answer.json()["results"]]


def pointers(query: str) -> list[str]:
    """Return what the problem names; a problem it must be."""
    answer = APIClient().get(f"/api/posts/search/?{query}")
    assert answer.status_code == 400, answer.content
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/invalid-values"
    return [error["pointer"] for error in problem["errors"]]


@pytest.mark.usefixtures("posts")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["indexes", "waits", "locks"]),
        ({"title__icontains": "ABOUT"}, ["waits", "locks"]),
        ({"title__icontains": "100%"}, ["indexes"]),
        ({"title__istartswith": "about w"}, ["waits"]),
        ({"title": "about waits"}, []),
        ({"title__iexact": "about waits"}, ["waits"]),
        ({"excerpt__icontains": "short"}, ["waits"]),
        ({"body__icontains": "<p>w"}, ["waits"]),
        ({"slug__in": "waits,locks,none"}, ["waits", "locks"]),
        ({"author__login": "ben"}, ["waits"]),
        ({"author__login__in": "ann,ben"}, ["indexes", "waits", "locks"]),
        ({"author__name__icontains": "AN"}, ["indexes", "locks"]),
        ({"categories__slug": "databases"}, ["locks"]),
        ({"tags__slug__in": "deep,wide"}, ["waits", "locks"]),
        ({"published_at__gte": "2026-01-02T00:00:00Z"}, ["indexes", "waits"]),
        ({"published_at__lt": "2026-01-02T02:00:00+02:00"}, ["locks"]),
        ({"author__login": "ann", "tags__slug": "deep"}, ["locks"]),
        ({"order": "published_at"}, ["locks", "waits", "indexes"]),
        ({"order": "title,-published_at"}, ["indexes", "locks", "waits"]),
    ],
)
def test_published_posts_are_found(query: dict[str, str], found: list[str]) -> None:
    assert search(**query) == found


@pytest.mark.parametrize("status", ["draft", "scheduled", "private"])
def test_no_criterion_reaches_an_unpublished_post(status: str) -> None:
    write("secret", status=status)
    assert search() == search(slug="secret") == search(title__icontains="secret") == []
    assert pointers(f"status={status}") == ["#/status"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("nonsense=1", ["#/nonsense"]),
        ("author__posts__author__login=ann", ["#/author__posts__author__login"]),
        ("comments__author_name=Zoe", ["#/comments__author_name"]),
        ("title__regex=(a%2B)%2B", ["#/title__regex"]),
        ("title__contains=a", ["#/title__contains"]),
        ("_connector=OR", ["#/_connector"]),
        ("_negated=1&title=a", ["#/_negated"]),
        ("pk__in=1", ["#/pk__in"]),
        ("published_at__gte=yesterday", ["#/published_at__gte"]),
        ("published_at__gte=0001-01-01T00:00:00%2B14:00", ["#/published_at__gte"]),
        ("published_at__gte=2026-02-30T00:00:00Z", ["#/published_at__gte"]),
        ("title__icontains=%00", ["#/title__icontains"]),
        ("title__icontains=", ["#/title__icontains"]),
        ("title=a&title=b", ["#/title"]),
        ("title=a&title__exact=b", ["#/title__exact"]),
        ("title__icontains=" + "x" * 201, ["#/title__icontains"]),
        ("slug__in=" + ",".join(["a"] * 101), ["#/slug__in"]),
        ("order=body", ["#/order"]),
        ("order=?", ["#/order"]),
        ("order=title,-title", ["#/order"]),
        ("order=author__login", ["#/order"]),
        ("order=", ["#/order"]),
        ("a=1&b=2&published_at__gt=x", ["#/a", "#/b", "#/published_at__gt"]),
    ],
)
def test_every_wrong_criterion_is_named(query: str, named: list[str]) -> None:
    assert pointers(query) == named


@pytest.mark.parametrize(
    "name", ["title__icontains", "published_at__gte", "slug__in", "order", "cursor", "page_size"]
)
@pytest.mark.parametrize("value", ["%00", "%ff", "%ED%A0%80", "9" * 5_000, "a&" * 1_500, "=&=;"])
def test_a_value_of_any_kind_never_fails(name: str, value: str) -> None:
    answer = APIClient().get(f"/api/posts/search/?{name}={value}")
    assert answer.status_code in (200, 400, 404), answer.content


@pytest.mark.parametrize("order", ["-published_at", "published_at", "title", "-title"])
def test_every_page_is_walked_once_each_way(order: str) -> None:
    for number in range(7):
        write(f"p{number}", days=number // 3, title="Same" if number % 2 else "Other")
    url = f"/api/posts/search/?page_size=2&title__icontains=e&order={order}"
    walked = [post["slug"] for page in pages(APIClient(), url) for post in page]
    assert sorted(walked) == [f"p{number}" for number in range(7)]
    assert walked == search(title__icontains="e", order=order)


def test_a_cursor_of_another_order_is_a_404() -> None:
    for number in range(3):
        write(f"p{number}")
    following = APIClient().get("/api/posts/search/?page_size=2&order=title").json()["next"]
    answer = APIClient().get(following.replace("order=title", "order=-title"))
    assert (answer.status_code, answer.json()["detail"]) == (404, "Invalid cursor")


@pytest.mark.parametrize("rows", [1, 15])
@pytest.mark.django_db(databases="__all__")
def test_a_search_costs_three_queries_however_many_it_finds(rows: int) -> None:
    for number in range(rows):
        write(f"p{number}", login=f"author{number}").tags.add(
            Tag.objects.create(slug=f"t{number}", name="T")
        )
    with queries_by_database() as counted:
        assert APIClient().get("/api/posts/search/?title__icontains=p").status_code == 200
    assert counted == {"default": 3}


def test_a_search_is_read_only(admin_client: APIClient) -> None:
    assert admin_client.post("/api/posts/search/", {}, "application/json").status_code == 405
