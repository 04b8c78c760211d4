"""The sample blog: the same everywhere, and written once."""

from typing import Any

import factory.random
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from demo.blog.markup import sanitize_html
from demo.blog.models import Author, Category, Comment, Post, Tag
from demo.blog.sample import load_sample_blog

pytestmark = pytest.mark.django_db


def content() -> list[Any]:
    """Everything the blog says, without the ids that differ from run to run."""
    return [
        list(Author.objects.order_by("login").values_list("login", "name")),
        list(Category.objects.order_by("slug").values_list("slug", "name", "parent__slug")),
        list(Tag.objects.order_by("slug").values_list("slug", "name")),
        [
            (
                *(post.slug, post.title, post.body, post.status, post.published_at),
                *(post.author.login, post.version),
                [each.slug for each in post.categories.all()],
                [each.slug for each in post.tags.all()],
            )
            for post in Post.objects.order_by("slug")
        ],
        list(
            Comment.objects.order_by("post__slug", "created_at").values_list(
                "post__slug", "author_name", "body", "is_approved", "created_at", "parent__body"
            )
        ),
    ]


def test_the_blog_has_something_of_everything() -> None:
    rows = load_sample_blog()
    tables = (Author, Category, Tag, Post, Comment)
    counts = [each._default_manager.count() for each in tables]
    assert counts[:4] == [5, 8, 12, 60]
    assert sum(counts) == rows
    assert set(Post.objects.values_list("status", flat=True)) == set(Post.Status.values)
    assert Category.objects.get(slug="indexes").parent == Category.objects.get(slug="postgresql")
    assert Comment.objects.filter(parent__parent__isnull=False).exists()
    assert not Post.objects.filter(categories=None).exists()
    assert all(sanitize_html(post.body) == post.body for post in Post.objects.all())


def test_a_second_call_writes_nothing() -> None:
    load_sample_blog()
    before = content()
    assert load_sample_blog() == 0
    assert content() == before


def test_two_machines_get_the_same_blog() -> None:
    load_sample_blog()
    first = content()
    Post.objects.all().delete()
    for model in (Author, Category, Tag):
        model._default_manager.all().delete()
    factory.random.reseed_random(1)
    load_sample_blog()
    assert content() == first


def test_what_is_missing_comes_back_and_what_was_edited_stays() -> None:
    load_sample_blog()
    before = content()
    slug = Post.objects.filter(status="published").exclude(comments=None)[0].slug
    Post.objects.get(slug=slug).delete()
    load_sample_blog()
    assert content() == before
    Post.objects.filter(slug=slug).update(title="Edited")
    assert load_sample_blog() == 0
    assert Post.objects.get(slug=slug).title == "Edited"


def test_answers_stay_under_their_post_and_come_later() -> None:
    load_sample_blog()
    answers = Comment.objects.exclude(parent=None).select_related("parent")
    assert answers
    for each in answers:
        assert each.parent is not None
        assert each.post_id == each.parent.post_id
        assert each.created_at > each.parent.created_at


def test_it_is_written_in_a_few_statements_and_leaves_randomness_alone() -> None:
    state = factory.random.get_random_state()
    with CaptureQueriesContext(connection) as queries:
        load_sample_blog()
    assert len(queries) <= 20
    assert factory.random.get_random_state() == state
