"""What the blog's tables refuse, whoever writes."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.db import IntegrityError, transaction
from django.db.models import F, ProtectedError

from demo.blog.models import Author, Category, Comment, Post, Tag
from demo.blog.repositories import NEWEST_FIRST, PostRepository, published

pytestmark = pytest.mark.django_db
DAY = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture
def author() -> Author:
    return Author.objects.create(login="ada", name="Ada")


@pytest.fixture
def post(author: Author) -> Post:
    return Post.objects.create(
        slug="one", author=author, status=Post.Status.PUBLISHED, published_at=DAY, source_id=1
    )


@pytest.fixture
def comment(post: Post) -> Comment:
    return Comment.objects.create(post=post, body="Hello", created_at=DAY, source_id=1)


def refused(write: Callable[[], object]) -> str:
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        write()
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"status": "secret"}, "blog_post_status_known"),
        ({"published_at": None}, "blog_post_published_has_date"),
        ({"status": "scheduled", "published_at": None}, "blog_post_published_has_date"),
        ({"version": 0}, "blog_post_version_positive"),
    ],
)
def test_a_post_outside_the_rules_is_refused(
    post: Post, change: dict[str, object], rule: str
) -> None:
    plain = Post._base_manager  # which writes a version, too
    assert rule in refused(lambda: plain.filter(pk=post.pk).update(**change))


@pytest.mark.parametrize("status", ["draft", "private"])
def test_a_post_nobody_sees_needs_no_date(post: Post, status: str) -> None:
    assert Post.objects.update(status=status, published_at=None) == 1


@pytest.mark.parametrize("same", [{"slug": "one"}, {"source_id": 1}])
def test_two_posts_never_share_a_slug_or_a_source(
    post: Post, author: Author, same: dict[str, object]
) -> None:
    refused(lambda: Post.objects.create(**{"slug": "two", "author": author, **same}))


def test_posts_without_a_source_are_many(author: Author) -> None:
    for slug in ("two", "three"):
        Post.objects.create(slug=slug, author=author)
    assert Post.objects.filter(source_id=None).count() == 2


def test_names_are_known_by_one_key_each(author: Author) -> None:
    refused(lambda: Author.objects.create(login="ada", name="Another"))
    for model in (Category, Tag):
        model.objects.create(slug="same", name="One")
        refused(lambda model=model: model.objects.create(slug="same", name="Two"))


def test_nothing_is_its_own_parent(comment: Comment) -> None:
    Category.objects.create(slug="top", name="Top")
    assert "blog_category_own_parent" in refused(lambda: Category.objects.update(parent_id=F("pk")))
    assert "blog_comment_own_parent" in refused(lambda: Comment.objects.update(parent_id=F("pk")))


def test_two_comments_never_share_a_source(comment: Comment) -> None:
    refused(
        lambda: Comment.objects.create(post=comment.post, body="Again", created_at=DAY, source_id=1)
    )


def test_an_author_with_posts_stays(post: Post) -> None:
    with pytest.raises(ProtectedError):
        post.author.delete()


def test_a_category_leaves_its_children_at_the_top() -> None:
    top = Category.objects.create(slug="top", name="Top")
    Category.objects.create(slug="child", name="Child", parent=top)
    top.delete()
    assert Category.objects.get().parent is None


def test_a_post_takes_its_comments_along(comment: Comment) -> None:
    comment.post.delete()
    assert not Comment.objects.exists()


def test_published_means_public_newest_first(post: Post, author: Author) -> None:
    for slug, status, day in (
        ("newer", Post.Status.PUBLISHED, 6),
        ("later", Post.Status.SCHEDULED, 7),
        ("mine", Post.Status.PRIVATE, 8),
        ("unfinished", Post.Status.DRAFT, 9),
    ):
        Post.objects.create(
            slug=slug, author=author, status=status, published_at=DAY.replace(day=day)
        )
    found = PostRepository().find_by(published, order_by=NEWEST_FIRST)
    assert [each.slug for each in found] == ["newer", "one"]
