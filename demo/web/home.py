"""The front page: what the demo shows, with live figures of every database."""

import logging

from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dbpatterns.services import resolve
from dbpatterns.sharding import shards
from dbpatterns.sharding.hashing import SLOTS
from demo.banking.overview import OverviewService, ShardFigures
from demo.blog.services import BlogFigures, BlogService

__all__ = ["blog_figures", "home", "shard_figures"]

logger = logging.getLogger("demo.web")


def blog_figures() -> BlogFigures:
    """Count what everyone may read in the blog; two queries."""
    return resolve(BlogService).figures()


def shard_figures(alias: str) -> ShardFigures:
    """Count what is on one shard and add up its books; four queries on that shard."""
    return resolve(OverviewService).figures(alias)


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Show the front page, also while databases are empty, bare or away.

    Two queries on `default` and four on each shard, all of them counts and sums.
    """
    blog: BlogFigures | None = None
    try:
        blog = blog_figures()
    except Error:
        logger.warning("The front page has no figures of the blog.", exc_info=True)
    by_shard: dict[str, ShardFigures | None] = {}
    for alias in shards():
        try:
            by_shard[alias] = shard_figures(alias)
        except Error:
            logger.warning("The front page has no figures of %s.", alias, exc_info=True)
            by_shard[alias] = None
    return render(
        request,
        "web/home.html",
        {
            "blog": blog,
            "by_shard": by_shard,
            "slots": SLOTS,
            "is_empty": not any(each and each.customers for each in by_shard.values()),
        },
    )
