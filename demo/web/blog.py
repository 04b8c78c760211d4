"""The blog's pages: a list with filters, and a post with its comments."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dbpatterns.services import resolve
from demo.blog.models import Comment
from demo.blog.services import BlogService, NotThere
from demo.blog.trees import in_tree_order

__all__ = ["ThreadedComment", "post_detail", "post_list", "thread"]


@dataclass(frozen=True, slots=True)
class ThreadedComment:
    """A comment in reading order, below the one it answers."""

    comment: Comment
    answers: Comment | None
    depth: int


@require_safe
def post_list(request: HttpRequest) -> HttpResponse:
    """Show published posts, newest first; `?category=` (and all below it), `?tag=`, `?page=`.

    Five queries, six with a tag, however many posts there are.
    """
    asked = request.GET
    try:
        listing = resolve(BlogService).listing(
            category=asked.get("category", ""),
            tag=asked.get("tag", ""),
            page=asked.get("page", "1"),
        )
    except NotThere as error:
        raise Http404(str(error)) from error
    page = listing.page
    context = {
        "page": page,
        "page_numbers": page.paginator.get_elided_page_range(
            page.number, on_each_side=1, on_ends=1
        ),
        "shelf": listing.shelf,
        "tag": listing.tag,
        "shelves": listing.shelves,
        "tags": listing.tags,
    }
    return render(request, "web/post_list.html", context)


@require_safe
def post_detail(request: HttpRequest, slug: str) -> HttpResponse:
    """Show one published post and its approved comments; six queries."""
    try:
        article = resolve(BlogService).article(slug)
    except NotThere as error:
        raise Http404(str(error)) from error
    context = {
        "post": article.post,
        "categories": article.post.categories.all(),
        "tags": article.post.tags.all(),
        "comments": thread(article.comments),
        "has_more_comments": article.has_more_comments,
        "older": article.older,
        "newer": article.newer,
    }
    return render(request, "web/post_detail.html", context)


def thread(comments: Sequence[Comment]) -> list[ThreadedComment]:
    """Put each comment below the one it answers; no query."""
    known = {each.pk: each for each in comments}
    return [
        ThreadedComment(each, known.get(each.parent_id or 0) if depth else None, depth)
        for each, depth in in_tree_order(comments, attrgetter("parent_id"))
    ]
