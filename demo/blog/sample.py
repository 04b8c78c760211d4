"""A small blog to look at: the same one on every machine, without a file or a network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TypeVar

import factory
from django.db import transaction
from factory.random import get_random_state, randgen, reseed_random, set_random_state

from demo.blog.markup import make_slug
from demo.blog.models import Author, Category, Comment, Post, Tag

__all__ = ["load_sample_blog"]

_SEED = 20_260_105
_FIRST_DAY = datetime(2026, 1, 5, 9, tzinfo=UTC)
_FAR_DAY = datetime(2035, 1, 1, 9, tzinfo=UTC)
_POSTS = 60
_AUTHORS = ("Ada Marsh", "Bruno Keller", "Chiara Vela", "Dev Anand", "Esra Yildiz")
_CATEGORIES = {
    "Databases": "",
    "PostgreSQL": "Databases",
    "SQLite": "Databases",
    "Indexes": "PostgreSQL",
    "Operations": "",
    "Backups": "Operations",
    "Monitoring": "Operations",
    "Kitchen notes": "",
}
_TAGS = (
    *("transactions", "locks", "caching", "sharding", "migrations", "queries"),
    *("latency", "testing", "deadlocks", "outages", "sourdough", "coffee"),
)
_OPENINGS = (
    "What I learned about",
    "A quiet week with",
    "Five mistakes with",
    "How we stopped fearing",
    "Notes on",
    "The case for",
    "Another look at",
)
_SUBJECTS = (
    *("slow queries", "long transactions", "nightly backups", "the second shard"),
    *("a cold cache", "foreign keys", "the missing index", "connection pools", "rye bread"),
)
_SENTENCES = (
    "We measured before we changed anything.",
    "The old query read every row to find three.",
    "Nobody had looked at the plan for a year.",
    "It worked on a laptop and failed on the first busy Monday.",
    "The fix was one line; finding it took two days.",
    "We wrote a test that fails without it.",
    "A lock held for a second is long when a thousand people wait.",
    "The numbers below come from our own machines.",
    "Since then the graph has been flat.",
    "If you try this, keep the old path for a week.",
)
_REPLIES = (
    "This saved me an afternoon, thank you.",
    "Which version was that on?",
    "We saw the same and ended up with a smaller pool.",
    "I do not think the second paragraph holds under load.",
    "Could you share the query plan?",
    "It is on version 18, and 15 behaves alike.",
)

Row = TypeVar("Row", Author, Category, Tag)


class _PostFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Post

    title = factory.Sequence(
        lambda n: f"{_OPENINGS[n % len(_OPENINGS)]} {_SUBJECTS[n % len(_SUBJECTS)]}"
    )
    slug = factory.LazyAttribute(lambda post: make_slug(post.title))
    excerpt = factory.LazyFunction(lambda: randgen.choice(_SENTENCES))
    body = factory.LazyFunction(
        lambda: "".join(f"<p>{' '.join(randgen.sample(_SENTENCES, 4))}</p>" for _ in range(3))
    )
    status = factory.Sequence(
        lambda n: {
            7: Post.Status.DRAFT,
            8: Post.Status.SCHEDULED,
            9: Post.Status.PRIVATE,
        }.get(n % 10, Post.Status.PUBLISHED)
    )

    published_at = factory.LazyAttributeSequence(lambda post, n: _moment(post.status, n))


class _CommentFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Comment

    author_name = factory.LazyFunction(lambda: randgen.choice(["Mia", "Noor", "Oskar", "Pia", ""]))
    body = factory.LazyFunction(lambda: randgen.choice(_REPLIES))
    is_approved = factory.LazyFunction(lambda: randgen.random() < 0.9)


@transaction.atomic
def load_sample_blog() -> int:
    """Write 5 authors, 8 categories, 12 tags, 60 posts and their comments; return the new rows.

    What is there (by login or slug) stays as it is, so a second call writes nothing. One
    transaction of about 15 statements. Not for several threads at once: factory-boy has one random
    generator, which is put back as it was.
    """
    authors, new_authors = _named(Author, "login", _AUTHORS)
    categories, new_categories = _named(Category, "slug", tuple(_CATEGORIES))
    tags, new_tags = _named(Tag, "slug", _TAGS)
    for category in new_categories:
        if parent := _CATEGORIES[category.name]:
            category.parent = categories[make_slug(parent)]
    Category.objects.bulk_update(new_categories, ["parent"])
    with _seeded():
        posts = _PostFactory.build_batch(_POSTS)
        threads = [_thread(post) for post in posts]
    there = Post.objects.in_bulk([post.slug for post in posts], field_name="slug")
    new = [number for number, post in enumerate(posts) if post.slug not in there]
    for number in new:
        posts[number].author = _turn(authors, number + number // 10)
    Post.objects.bulk_create([posts[number] for number in new])
    post_categories, post_tags = Post.categories.through, Post.tags.through
    post_categories._default_manager.bulk_create(
        post_categories(post_id=posts[number].pk, category_id=_turn(categories, number).pk)
        for number in new
    )
    post_tags._default_manager.bulk_create(
        post_tags(post_id=posts[number].pk, tag_id=_turn(tags, number * 3 + step).pk)
        for number in new
        for step in range(number % 4)
    )
    comments = 0
    for level in zip(*(threads[number] for number in new), strict=True):
        comments += len(Comment.objects.bulk_create(chain.from_iterable(level)))
    return len(new_authors) + len(new_categories) + len(new_tags) + len(new) + comments


def _named(model: type[Row], key: str, names: Sequence[str]) -> tuple[dict[str, Row], list[Row]]:
    """Return the rows of these names by key, those missing written, and which were missing."""
    keys = {make_slug(name): name for name in names}
    there: dict[str, Row] = model._default_manager.in_bulk(list(keys), field_name=key)
    new = [model(**{key: each, "name": keys[each]}) for each in keys if each not in there]
    model._default_manager.bulk_create(new)
    rows = there | {getattr(row, key): row for row in new}
    return {each: rows[each] for each in keys}, new


def _thread(post: Post) -> list[list[Comment]]:
    """Return a published post's comments in three levels, each answering the one above."""
    levels: list[list[Comment]] = [[], [], []]
    moment = post.published_at
    if moment is None or post.status != Post.Status.PUBLISHED:
        return levels
    for depth, level in enumerate(levels):
        above = levels[depth - 1] if depth else [None]
        for _ in range(randgen.randint(0, 3 - depth) if above else 0):
            moment += timedelta(minutes=randgen.randint(5, 600))
            parent = randgen.choice(above)
            level.append(_CommentFactory.build(post=post, parent=parent, created_at=moment))
    return levels


def _moment(status: str, number: int) -> datetime | None:
    if status == Post.Status.DRAFT:
        return None
    first = _FAR_DAY if status == Post.Status.SCHEDULED else _FIRST_DAY
    return first + timedelta(days=number)


def _turn(rows: Mapping[str, Row], number: int) -> Row:
    return list(rows.values())[number % len(rows)]


@contextmanager
def _seeded() -> Iterator[None]:
    state = get_random_state()
    reseed_random(_SEED)
    _PostFactory.reset_sequence(0)
    try:
        yield
    finally:
        set_random_state(state)
