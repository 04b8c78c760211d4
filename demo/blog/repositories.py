"""Where the blog's rows come from: conditions with a name, and a repository for each table."""

from collections.abc import Collection

from django.core.paginator import Page, Paginator
from django.db.models import Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from dbpatterns.repositories import Repository, Spec
from dbpatterns.repositories.keyset import Keyset
from demo.blog.models import Author, Category, Comment, Post, Tag

__all__ = [
    "NEWEST_FIRST",
    "AuthorRepository",
    "CategoryRepository",
    "CommentRepository",
    "PostRepository",
    "TagRepository",
    "approved",
    "on_shelves",
    "public",
    "published",
]

NEWEST_FIRST = ("-published_at", "-pk")

published = Spec[Post]("published", status=Post.Status.PUBLISHED)
"""Posts that everyone may read."""
approved = Spec[Comment]("approved", is_approved=True)
"""Comments that somebody let through."""
public = approved & Q(post__status=Post.Status.PUBLISHED)
"""Comments that everyone may read."""
_PUBLISHED_ON_IT = Count("posts", filter=Q(posts__status=Post.Status.PUBLISHED))


def on_shelves(categories: Collection[int]) -> Spec[Post]:
    """Return the condition for posts in any of the categories with these keys."""
    shelved = Post.categories.through._default_manager.filter(category__in=categories)
    return Spec("on these shelves", pk__in=shelved.values("post"))


class AuthorRepository(Repository[Author]):
    """Who writes."""


class CategoryRepository(Repository[Category]):
    """Shelves."""

    def with_published_posts(self) -> list[tuple[Category, int]]:
        """Return every category by name, with the published posts directly on it; one query."""
        rows = self._queryset().annotate(published=_PUBLISHED_ON_IT)
        return [(each, each.published) for each in rows]


class TagRepository(Repository[Tag]):
    """Words."""

    def most_used(self, limit: int) -> list[Tag]:
        """Return the tags of the most published posts, those first; one query."""
        used = self._queryset().annotate(published=_PUBLISHED_ON_IT).filter(published__gt=0)
        return list(used.order_by("-published", "name")[:limit])


class PostRepository(Repository[Post]):
    """Posts, published or not: readers' finders start from `published`."""

    def numbered_page(self, spec: Spec[Post], number: int | str, *, size: int) -> Page[Post]:
        """Return a page for people, who like to jump: newest first, with a count of all.

        Each post has its author, its categories and `approved_comments`. Three queries.
        Raises: InvalidPage: there is no such page.
        """
        answers = Comment._default_manager.filter(approved.to_q(), post=OuterRef("pk")).order_by()
        counted = answers.values("post").annotate(rows=Count("pk")).values("rows")
        rows = (
            self._queryset()
            .filter(spec.to_q())
            .select_related("author")
            .prefetch_related("categories")
            .annotate(approved_comments=Coalesce(Subquery(counted), 0))
            .order_by(*NEWEST_FIRST)
        )
        paginator: Paginator[Post] = Paginator(rows, size)
        page = paginator.page(number)
        page.object_list = list(page.object_list)
        return page

    def neighbours(self, post: Post, spec: Spec[Post]) -> tuple[Post | None, Post | None]:
        """Return the next older and the next newer post that match; two queries."""
        keyset = Keyset.of(Post, NEWEST_FIRST)
        found = [
            self.page(
                spec,
                size=1,
                order_by=NEWEST_FIRST,
                cursor=keyset.cursor(post, is_backward=is_newer),
            )
            for is_newer in (False, True)
        ]
        older, newer = (next(iter(page), None) for page in found)
        return older, newer


class CommentRepository(Repository[Comment]):
    """What readers said, approved or not."""

    def thread_of(self, post: Post, *, limit: int) -> list[Comment]:
        """Return the post's first approved comments, oldest first; one query."""
        return self.find_by(approved, post=post, order_by=["created_at", "pk"], limit=limit)
