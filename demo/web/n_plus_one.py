"""The page that shows the harm: the same list with an N+1, mended, and mending itself."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from dbpatterns.queries import Allowed, allow, autofixing, guard
from dbpatterns.services import resolve
from demo.blog.models import Post
from demo.blog.services import BlogService

__all__ = ["Measured", "n_plus_one"]

POSTS_SHOWN = 25
LOADED = ("categories",)
HARM = allow(
    "blog.Post.categories",
    at="demo/web/n_plus_one.py",
    reason="the page shows what an N+1 costs, with at most 25 posts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One way to render the list, and what it cost just now."""

    title: str
    code: str
    html: str
    queries: int
    ms: float
    said: str
    """What the guard says; empty when it is silent."""

    @property
    def marks(self) -> range:
        """Return one element a query, to draw."""
        return range(self.queries)


@never_cache
@require_safe
def n_plus_one(request: HttpRequest) -> HttpResponse:
    """Render the newest posts with their categories in three ways, and measure each.

    32 queries at most, by keys and indexes; nothing in the request changes them.
    """
    blog = resolve(BlogService)
    posts = blog.newest(POSTS_SHOWN, load=LOADED)
    ways: list[Measured] = []
    if len(posts) > 1:  # one post makes no N+1
        _render(posts)  # so that the first way pays for no cold cache
        naive = partial(blog.newest, POSTS_SHOWN)
        mended = partial(blog.newest, POSTS_SHOWN, load=LOADED)
        call = f"blog.newest({POSTS_SHOWN})"
        ways = [
            _measure("With the N+1", call, naive, harm=[HARM]),
            _measure("Mended", f'blog.newest({POSTS_SHOWN}, load=["categories"])', mended),
            _measure(
                "Mending itself", f"with autofixing():\n    {call}", naive, fixing=autofixing()
            ),
        ]
    context = {
        "ways": ways,
        "posts": len(posts),
        "is_same": len({each.html for each in ways}) == 1,
    }
    return render(request, "web/n_plus_one.html", context)


def _measure(
    title: str,
    code: str,
    read: Callable[[], Iterable[Post]],
    *,
    harm: Sequence[Allowed] = (),
    fixing: AbstractContextManager[Any] | None = None,
) -> Measured:
    with guard("log", writes="off", allow=harm) as report, fixing or nullcontext():
        started = time.perf_counter()
        html = _render(read())
        ms = (time.perf_counter() - started) * 1000
    found = [*report.allowed, *report.findings]
    return Measured(
        title=title,
        code=code,
        html=html,
        queries=report.queries,
        ms=ms,
        said="\n\n".join(map(str, found)),
    )


def _render(posts: Iterable[Post]) -> str:
    return render_to_string("web/n_plus_one_list.html", {"posts": posts})
