"""What the blog does for its readers, whichever way they come; built by `resolve(BlogService)`."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from django.core.paginator import InvalidPage, Page
from django.db.models import Q

from demo.blog.models import Category, Comment, Post, Tag
from demo.blog.repositories import (
    NEWEST_FIRST,
    CategoryRepository,
    CommentRepository,
    PostRepository,
    TagRepository,
    on_shelves,
    public,
    published,
)
from demo.blog.trees import in_tree_order

__all__ = ["Article", "BlogFigures", "BlogService", "Listing", "NotThere", "Shelf"]

PAGE_SIZE = 10
TAGS_SHOWN = 24
COMMENTS_SHOWN = 500


class NotThere(LookupError):
    """What was asked for does not exist, or not for readers; says what in a sentence."""


@dataclass(frozen=True, slots=True)
class BlogFigures:
    """How much everyone may read."""

    posts: int
    comments: int


@dataclass(frozen=True, slots=True)
class Shelf:
    """A category in its place: how deep it stands and what is on it and below."""

    category: Category
    depth: int
    inside: frozenset[int]
    """The category's own id and those of all below it."""
    has_posts: bool
    """Whether anything published stands on it or below."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of posts, with what they can be narrowed to."""

    page: Page[Post]
    shelf: Shelf | None
    tag: Tag | None
    shelves: Sequence[Shelf]
    tags: Sequence[Tag]


@dataclass(frozen=True, slots=True)
class Article:
    """A post with all that stands around it."""

    post: Post
    comments: Sequence[Comment]
    """Approved, oldest first."""
    has_more_comments: bool
    older: Post | None
    newer: Post | None


class BlogService:
    """Reads what is published."""

    def __init__(
        self,
        posts: PostRepository,
        comments: CommentRepository,
        categories: CategoryRepository,
        tags: TagRepository,
    ) -> None:
        self._posts = posts
        self._comments = comments
        self._categories = categories
        self._tags = tags

    def figures(self) -> BlogFigures:
        """Count published posts and their approved comments; two queries."""
        return BlogFigures(self._posts.count(published), self._comments.count(public))

    def listing(self, *, category: str = "", tag: str = "", page: str = "1") -> Listing:
        """Return a page of posts, newest first; of a category and all below it, or of a tag.

        Five queries, six with a tag, however many posts there are.
        Raises: NotThere: no such category, tag or page.
        """
        spec, shelves = published, self.shelves()
        shelf: Shelf | None = None
        if category:
            shelf = next((each for each in shelves if each.category.slug == category), None)
            if shelf is None:
                raise NotThere("There is no such category.")
            spec &= on_shelves(shelf.inside)
        word: Tag | None = None
        if tag:
            word = self._tags.find_one_by(slug=_readable(tag))
            if word is None:
                raise NotThere("There is no such tag.")
            spec &= Q(tags=word)
        try:
            found = self._posts.numbered_page(spec, page, size=PAGE_SIZE)
        except InvalidPage as error:
            raise NotThere("There is no such page of posts.") from error
        return Listing(
            page=found,
            shelf=shelf,
            tag=word,
            shelves=[each for each in shelves if each.has_posts],
            tags=self._tags.most_used(TAGS_SHOWN),
        )

    def newest(self, limit: int, *, load: Sequence[str] = ()) -> list[Post]:
        """Return the newest posts with the relations of `load`; one query, and theirs."""
        return self._posts.find_by(published, order_by=NEWEST_FIRST, limit=limit, load=load)

    def article(self, slug: str) -> Article:
        """Return one published post with its comments and its neighbours; six queries.

        Raises: NotThere: no such post, or not published.
        """
        post = self._posts.find_one_by(
            published, slug=_readable(slug), load=["author", "categories", "tags"]
        )
        if post is None:
            raise NotThere("There is no such post, or it is not published.")
        comments = self._comments.thread_of(post, limit=COMMENTS_SHOWN + 1)
        older, newer = self._posts.neighbours(post, published)
        return Article(
            post=post,
            comments=comments[:COMMENTS_SHOWN],
            has_more_comments=len(comments) > COMMENTS_SHOWN,
            older=older,
            newer=newer,
        )

    def shelves(self) -> list[Shelf]:
        """Return every category below its parent, alphabetically; one query."""
        published_on = dict(self._categories.with_published_posts())
        filled = {category.pk for category, posts in published_on.items() if posts}
        ordered = list(in_tree_order(list(published_on), attrgetter("parent_id")))
        found = []
        for position, (category, depth) in enumerate(ordered):
            following = ordered[position + 1 :]
            end = next(
                (at for at, each in enumerate(following) if each[1] <= depth), len(following)
            )
            inside = frozenset([category.pk, *(each.pk for each, _ in following[:end])])
            found.append(Shelf(category, depth, inside, has_posts=not inside.isdisjoint(filled)))
        return found


def _readable(slug: str) -> str:
    """Return the slug unless it holds what no slug does: PostgreSQL refuses a NUL."""
    if not slug.isprintable():
        raise NotThere("There is no such address.")
    return slug
