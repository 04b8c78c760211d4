"""`ReplicaMiddleware`: the next request finds what this one has written, sync and async."""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.replicas.seen import Seen, begin
from dbpatterns.sharding.streaming import parts_within

__all__ = ["COOKIE", "ReplicaMiddleware"]

Handler = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]

COOKIE = "dbpatterns_replicas"
SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")


class ReplicaMiddleware:
    """Give each request what its browser has seen, and a signed cookie with what it has written.

    Put it first, so that nothing writes outside of it. Without a write there is no cookie and no
    statement; with one, a statement on each shard that was written. A SELECT that calls a function
    counts as a write unless the method is GET, HEAD, OPTIONS or TRACE. The cookie lasts as long as
    a replica may be behind. A streaming response reads by what the request has seen; what it
    writes itself is not carried on, since its head has gone by then.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Handler) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Answer a request, and carry on what it has seen."""
        if iscoroutinefunction(self):
            return self._answer(request)
        work = Seen(_carried(request))
        with begin(work):
            response = cast(HttpResponseBase, self._get_response(request))
        _carry(request, response, work)
        return parts_within(response, partial(begin, work))

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        answer = cast(Callable[[HttpRequest], Awaitable[HttpResponseBase]], self._get_response)
        work = Seen(_carried(request))
        with begin(work):
            response = await answer(request)
        await sync_to_async(_carry)(request, response, work)
        return parts_within(response, partial(begin, work))


def _carried(request: HttpRequest) -> dict[str, int]:
    """Return the positions of the cookie; none where it is missing or not ours."""
    said = request.get_signed_cookie(COOKIE, default="", salt=COOKIE) or ""
    known = ShardingSettings.load().replicas
    pairs = (each.partition("=") for each in said.split(","))
    return {shard: int(position, 16) for shard, _, position in pairs if shard in known}


def _carry(request: HttpRequest, response: HttpResponseBase, work: Seen) -> None:
    positions = work.written(counts_reads=request.method not in SAFE)
    if positions:
        response.set_signed_cookie(
            COOKIE,
            ",".join(f"{shard}={position:x}" for shard, position in positions.items()),
            salt=COOKIE,
            max_age=math.ceil(ShardingSettings.load().replica_max_lag_seconds) + 1,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
