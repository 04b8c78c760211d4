"""The page that shows an N+1 beside its cures: real queries, real messages, bounded."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.test import Client

from dbpatterns.queries import guard
from demo.blog.models import Author, Category, Post
from demo.blog.sample import load_sample_blog
from demo.web.n_plus_one import HARM, POSTS_SHOWN
from tests.demo.api_support import queries_by_database

pytestmark = pytest.mark.django_db(databases="__all__")
URL = "/n-plus-one/"
COST = re.compile(r'<p class="cost"><strong[^>]*>(\d+)</strong>')


def make_posts(count: int) -> None:
    author = Author.objects.create(login="ada", name="Ada Marsh")
    shelf = Category.objects.create(slug="shelf", name="Shelf")
    for number in range(count):
        Post.objects.create(
            slug=f"post-{number}",
            status=Post.Status.PUBLISHED,
            published_at=datetime(2026, 3, 1 + number, tzinfo=UTC),
            author=author,
        ).categories.add(shelf)


def costs(page: str) -> list[int]:
    return [int(each) for each in COST.findall(page)]


def text(client: Client) -> str:
    answer = client.get(URL)
    assert answer.status_code == 200
    return answer.content.decode()


def test_one_more_query_a_post_stands_beside_two(client: Client) -> None:
    load_sample_blog()
    page = text(client)
    assert costs(page) == [1 + POSTS_SHOWN, 2, 2]
    assert "byte for byte" in page


@pytest.mark.parametrize("posts", [2, 7])
def test_the_figures_are_of_the_posts_there_are(client: Client, posts: int) -> None:
    make_posts(posts)
    with queries_by_database() as queries:
        page = text(client)
    assert costs(page) == [1 + posts, 2, 2]
    assert queries == {"default": 2 + (1 + posts) + 2 + 2}  # the first two warm up
    assert f"N+1: {posts} queries for Post.categories " in page


def test_the_message_is_the_guard_s_own(client: Client) -> None:
    make_posts(3)
    page = text(client)
    assert "(template demo/web/templates/web/n_plus_one_list.html:3)" in page
    assert ".prefetch_related(&quot;categories&quot;)      2 queries instead of 4" in page
    line = int(re.findall(r"demo/web/n_plus_one.py:(\d+) in _render", page)[0])
    source = Path("demo/web/n_plus_one.py").read_text().splitlines()
    assert "render_to_string(" in source[line - 1]
    assert page.count("The guard found an N+1") == 1
    assert page.count("The guard is silent") == 2


def test_the_harm_is_allowed_for_its_reason_alone(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    make_posts(3)
    with guard("log") as report:
        text(client)
    assert list(report) == []
    assert "N+1" not in caplog.text
    assert HARM.reason


@pytest.mark.parametrize("posts", [0, 1])
def test_too_few_posts_are_told_and_not_measured(
    client: Client, posts: int, caplog: pytest.LogCaptureFixture
) -> None:
    make_posts(posts)
    page = text(client)
    assert costs(page) == []
    assert "two published posts" in page
    assert caplog.text == ""


def test_it_costs_the_same_whatever_is_asked(client: Client) -> None:
    load_sample_blog()
    with queries_by_database() as queries:
        answer = client.get(URL, {"page": "9", "posts": "10000"})
    assert queries == {"default": 32}
    assert "no-store" in answer.headers["Cache-Control"]
    assert client.post(URL).status_code == 405


def test_the_front_page_and_every_other_lead_to_it(client: Client) -> None:
    assert client.get("/login/").content.decode().count(f'href="{URL}"') == 1
