"""The demo's services: built by injection, replaced in tests, and the only way to the rows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db.models import QuerySet
from django.test import Client
from rest_framework.test import APIClient

import demo
from dbpatterns.services import override, problems, resolve
from demo.banking.overview import OverviewService
from demo.banking.repositories import Shard, Shards
from demo.blog.models import Author, Post
from demo.blog.repositories import PostRepository
from demo.blog.services import BlogService, NotThere
from tests.demo.api_support import Bank

ROOT = Path(demo.__file__).parent
A_QUERY = re.compile(r"\.objects\b|\.(?:filter|exclude|annotate|aggregate|using)\(|\batomic\(")
VIEWS = [
    path
    for folder in ("api", "web")
    for path in sorted((ROOT / folder).glob("*.py"))
    # No views: one makes the log-ins of `manage.py demo`, one pages what it is handed.
    if path.name not in ("log_ins.py", "paging.py")
]


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_view_builds_a_query(path: Path) -> None:
    assert not A_QUERY.findall(path.read_text(encoding="utf-8"))


def test_every_service_can_be_built() -> None:
    assert list(problems()) == []
    assert isinstance(resolve(BlogService), BlogService)


@pytest.mark.django_db
def test_a_page_and_the_api_take_their_rows_from_the_repository_a_test_gives(
    client: Client,
) -> None:
    author = Author.objects.create(login="ann", name="Ann")
    for slug in ("one", "two"):
        Post.objects.create(
            slug=slug, author=author, status="published", published_at="2026-01-01T00:00:00Z"
        )
    with override(PostRepository, OnlyOne()):
        page = client.get("/blog/").content.decode()
        listed = APIClient().get("/api/posts/").json()["results"]
    assert ">one<" in page
    assert ">two<" not in page
    assert [post["slug"] for post in listed] == ["one"]


@pytest.mark.django_db
def test_a_tag_narrows_the_listing_to_its_posts() -> None:
    author = Author.objects.create(login="ann", name="Ann")
    for slug in ("one", "two"):
        Post.objects.create(
            slug=slug, author=author, status="published", published_at="2026-01-01T00:00:00Z"
        )
    Post.objects.get(slug="two").tags.create(slug="deep", name="Deep")
    listing = resolve(BlogService).listing(tag="deep")
    assert [post.slug for post in listing.page] == ["two"]
    with pytest.raises(NotThere, match="no such tag"):
        resolve(BlogService).listing(tag="wide")


class OnlyOne(PostRepository):
    def _queryset(self) -> QuerySet[Post]:
        return super()._queryset().filter(slug="one")


@pytest.mark.django_db(databases="__all__")
def test_a_service_of_the_bank_sees_the_shards_a_test_gives(api_bank: Bank) -> None:
    class Home(Shards):
        def __iter__(self) -> Iterator[Shard]:
            return iter([Shard(api_bank.home)])

    with override(Shards, Home()):
        assert list(resolve(OverviewService).every_shard()) == [api_bank.home]
        assert resolve(OverviewService).find_accounts("carol-1") == []
