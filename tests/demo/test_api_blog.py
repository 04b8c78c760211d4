"""The public side of the API: what is published, filtered and paged, at a constant price."""

import datetime

import pytest
from rest_framework.test import APIClient

from demo.blog.models import Author, Category, Comment, Post, Tag
from tests.demo.api_support import pages, queries_by_database

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_fresh_throttles")]

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SHELF_AND_WORD = {"category": "shelf", "tag": "word"}


def write(slug: str, *, days: int = 0, login: str = "ann", **values: object) -> Post:
    author, _ = Author.objects.get_or_create(login=login, defaults={"name": login.title()})
    post = Post.objects.create(
        slug=slug,
        title=f"About {slug}",
        body=f"<p>{slug}</p>",
        author=author,
        **{
            "status": Post.Status.PUBLISHED,
            "published_at": START + datetime.timedelta(days=days),
            **values,
        },
    )
    post.categories.add(Category.objects.get_or_create(slug="shelf", name="Shelf")[0])
    post.tags.add(Tag.objects.get_or_create(slug="word", name="Word")[0])
    return post


def say(post: Post, body: str = "Yes.", **values: object) -> Comment:
    return Comment.objects.create(
        post=post, body=body, created_at=START, **{"is_approved": True, **values}
    )


def slugs(**query: str) -> list[str]:
    answer = APIClient().get("/api/posts/", query)
    assert answer.status_code == 200, answer.content
    return [post["slug"] for post in answer.json()["results"]]


def test_posts_are_listed_newest_first() -> None:
    write("old"), write("new", days=2), write("middle", days=1)
    assert slugs() == ["new", "middle", "old"]


@pytest.mark.parametrize("status", ["draft", "scheduled", "private"])
def test_an_unpublished_post_is_not_there(status: str, admin_client: APIClient) -> None:
    write("secret", status=status)
    assert slugs() == []
    for client in (APIClient(), admin_client):
        assert client.get("/api/posts/secret/").status_code == 404


def test_a_post_shows_body_author_categories_and_tags() -> None:
    write("hello")
    assert APIClient().get("/api/posts/hello/").json() == {
        "slug": "hello",
        "title": "About hello",
        "excerpt": "",
        "body": "<p>hello</p>",
        "published_at": "2026-01-01T00:00:00Z",
        "author": {"login": "ann", "name": "Ann"},
        "categories": [{"slug": "shelf", "name": "Shelf"}],
        "tags": [{"slug": "word", "name": "Word"}],
    }


def test_a_slug_may_be_unicode() -> None:
    write("žluťoučký-kůň")
    assert APIClient().get("/api/posts/žluťoučký-kůň/").json()["slug"] == "žluťoučký-kůň"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"author": "ben"}, ["b"]),
        ({"author": "nobody"}, []),
        ({"category": "shelf"}, ["b", "a"]),
        ({"category": "other"}, ["a"]),
        ({"tag": "word"}, ["b", "a"]),
        ({"tag": "other"}, []),
        ({"published_after": "2026-01-01T00:00:00Z"}, ["b"]),
        ({"published_before": "2026-01-02T00:00:00Z"}, ["a"]),
        ({"search": "ABOUT B"}, ["b"]),
        ({"search": "<p>a"}, ["a"]),
    ],
)
def test_posts_can_be_filtered(query: dict[str, str], found: list[str]) -> None:
    write("a").categories.add(Category.objects.create(slug="other", name="Other"))
    write("b", days=1, login="ben")
    assert slugs(**query) == found


@pytest.mark.parametrize(
    "query",
    [
        {"published_after": "yesterday"},
        {"published_after": "0001-01-01T00:00:00+14:00"},
        {"published_before": "9999-12-31T23:59:59-14:00"},
        {"author": "a\0b"},
        {"search": "x" * 201},
    ],
)
def test_a_filter_that_makes_no_sense_is_named(query: dict[str, str]) -> None:
    answer = APIClient().get("/api/posts/", query)
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{next(iter(query))}"]


def test_every_page_of_posts_is_walked_once_each_also_on_one_date() -> None:
    for number in range(7):
        write(f"p{number}", days=number // 3)
    walked = [
        post["slug"] for page in pages(APIClient(), "/api/posts/?page_size=2") for post in page
    ]
    assert walked == ["p6", "p5", "p4", "p3", "p2", "p1", "p0"]


@pytest.mark.parametrize("path", ["posts", "authors", "comments", "comments/1", "posts/a"])
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_the_blog_is_read_only(path: str, method: str, admin_client: APIClient) -> None:
    say(write("a"), id=1)
    answer = getattr(admin_client, method)(f"/api/{path}/", content_type="application/json")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert Post.objects.count() == Comment.objects.count() == 1


def test_only_approved_comments_of_published_posts_are_shown() -> None:
    post = write("a")
    first = say(post, author_name="Zoe")
    say(post, is_approved=False)
    say(write("draft", status="draft"))
    say(write("b", days=1), body="Elsewhere", parent=None)
    listed = APIClient().get("/api/comments/", {"post": "a"}).json()["results"]
    assert listed == [
        {
            "id": first.pk,
            "post": "a",
            "parent": None,
            "author_name": "Zoe",
            "body": "Yes.",
            "created_at": "2026-01-01T00:00:00Z",
        }
    ]
    assert len(APIClient().get("/api/comments/").json()["results"]) == 2


def test_a_hidden_comment_is_not_there() -> None:
    hidden = say(write("a"), is_approved=False)
    assert APIClient().get(f"/api/comments/{hidden.pk}/").status_code == 404


def test_authors_are_listed_and_found_by_login() -> None:
    Author.objects.create(login="b.c d@e", name="Bee")
    Author.objects.create(login="a", name="Ay")
    listed = APIClient().get("/api/authors/").json()["results"]
    assert listed == [{"login": "a", "name": "Ay"}, {"login": "b.c d@e", "name": "Bee"}]
    assert APIClient().get("/api/authors/b.c%20d@e/").json()["name"] == "Bee"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("posts/", 3), ("posts/p0/", 3), ("authors/", 1), ("comments/", 1)],
)
@pytest.mark.parametrize("rows", [1, 15])
@pytest.mark.django_db(databases="__all__")
def test_many_rows_cost_as_many_queries_as_one(path: str, expected: int, rows: int) -> None:
    for number in range(rows):
        post = write(f"p{number}", login=f"author{number}")
        post.tags.add(Tag.objects.create(slug=f"t{number}", name="T"))
        say(post)
    with queries_by_database() as counted:
        assert APIClient().get(f"/api/{path}").status_code == 200
    assert counted == {"default": expected}


@pytest.mark.parametrize("path", ["posts", "authors", "comments"])
@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!",
        "cD1ub25zZW5zZQ==",
        "cD0wMDAxLTAxLTAxVDAwOjAwOjAwJTJCMTQ6MDA=",
        "\0",
        "é",
        "bz0tMQ==",
    ],
)
def test_a_forged_cursor_never_fails(path: str, cursor: str) -> None:
    say(write("a"))
    answer = APIClient().get(f"/api/{path}/", {"cursor": cursor})
    assert answer.status_code in (200, 404)


def test_a_cursor_with_a_position_of_another_type_is_a_404_problem() -> None:
    write("a")
    answer = APIClient().get("/api/posts/", {"cursor": "cD1ub25zZW5zZQ=="})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Invalid cursor"
