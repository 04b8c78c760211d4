"""A request's shard: its views and the parts of its stream work there without naming a key."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.models import Session
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils import timezone

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding import current_shard, shard, shard_for
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired
from dbpatterns.sharding.middleware import ShardMiddleware
from dbpatterns.sharding.shard_map import ShardMap, pinned
from dbpatterns.sharding.strategies import Geographic
from tests.sharding.operations import ONE, OTHER
from tests.shop.models import Order

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]


def key_in_header(request: HttpRequest) -> int | None:
    key = request.headers.get("X-Customer")
    return None if key is None else int(key)


def key_by_query(request: HttpRequest) -> int | None:
    session = Session.objects.first()
    return None if session is None else int(session.session_key)


async def key_later(request: HttpRequest) -> int:
    return ONE


def count(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Order.objects.count()))


async def count_later(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await Order.objects.acount()))


def count_other(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Order.objects.filter(buyer=OTHER).count()))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield ""  # which is not the end
        for _ in range(2):
            yield f"{current_shard()}:{Order.objects.count()} "

    return StreamingHttpResponse(parts())


async def stream_later(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield ""
        for _ in range(2):
            yield f"{current_shard()}:{await Order.objects.acount()} "

    return StreamingHttpResponse(parts())


urlpatterns = [
    path(view.__name__, view)  # type: ignore[arg-type]
    for view in (count, count_later, count_other, stream, stream_later)
]


class NaiveMiddleware:
    """A block around the view alone."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with shard(int(request.headers["X-Customer"])):
            response: HttpResponseBase = self.get_response(request)
        return response


def site(
    middleware: str = "dbpatterns.sharding.middleware.ShardMiddleware", **sharding: Any
) -> Any:
    from django.conf import settings

    given = {"REQUEST_KEY": f"{__name__}.key_in_header", **sharding}
    section = {**settings.DBPATTERNS["SHARDING"], **given}
    return override_settings(
        ROOT_URLCONF=__name__,
        TEMPLATES=[],  # the demo's error pages link to its own
        MIDDLEWARE=[middleware] if middleware else [],
        DBPATTERNS={**settings.DBPATTERNS, "SHARDING": section},
    )


def get(url: str, key: object = ONE) -> Any:
    return Client().get(url, headers={} if key is None else {"X-Customer": str(key)})


def body(response: Any) -> str:
    return str(b"".join(response).decode())


def rows(key: int) -> int:
    return Order.objects.using(shard_for(key)).count()


def test_without_the_middleware_a_view_has_to_name_the_key() -> None:
    with site(""), pytest.raises(ShardKeyRequired):
        get("/count")


def test_a_view_works_on_the_shard_of_its_request() -> None:
    Order.objects.create(buyer_id=ONE)
    assert rows(ONE) != rows(OTHER)
    with site():
        for key in (ONE, OTHER):
            assert get("/count", key).content == str(rows(key)).encode()
        assert get("/count_other").status_code == 200
    assert current_shard() is None


def test_a_request_without_a_key_is_in_no_block() -> None:
    with site(), pytest.raises(ShardKeyRequired):
        get("/count", None)


def test_nought_is_a_key() -> None:
    with site():
        assert get("/count", 0).content == str(rows(0)).encode()


def test_a_key_without_a_shard_is_not_found() -> None:
    nowhere = ShardMap("bank", 1, Geographic((), {}))
    with site(), pinned({"bank": nowhere}):
        assert get("/count", 5).status_code == 404


def test_a_locked_request_touches_no_other_shard() -> None:
    with site(REQUEST_LOCK=True):
        assert get("/count").status_code == 200
        with pytest.raises(CrossShardError):
            get("/count_other")


def test_a_block_around_the_view_alone_is_over_when_a_stream_is_made() -> None:
    with site(f"{__name__}.NaiveMiddleware"), pytest.raises(ShardKeyRequired):
        body(get("/stream"))


def test_each_part_of_a_stream_is_made_on_the_shard() -> None:
    with site():
        response = get("/stream")
        parts = iter(response)
        first = next(parts) + next(parts)
        assert current_shard() is None  # between two parts the server's own code is in no block
        assert (first + b"".join(parts)).decode() == f"{shard_for(ONE)}:{rows(ONE)} " * 2


def test_a_file_is_left_to_the_server() -> None:
    request = RequestFactory().get("/", headers={"X-Customer": str(ONE)})
    with site(), Path(__file__).open("rb") as opened:
        answer: Any = ShardMiddleware(lambda request: FileResponse(opened))(request)
        assert answer.file_to_stream is opened


def test_under_asgi_views_and_streams_stay_on_their_shard_side_by_side() -> None:
    Order.objects.create(buyer_id=ONE)
    expected = {key: str(rows(key)) for key in (ONE, OTHER)}

    async def ask(url: str, key: int) -> str:
        response: Any = await AsyncClient().get(url, headers={"X-Customer": str(key)})
        if not response.streaming:
            return str(response.content.decode())
        return "".join([part.decode() async for part in response])

    async def all_at_once() -> list[str]:
        keys = (ONE, OTHER) * 3
        urls = ("/count_later", "/count", "/stream_later")
        return await asyncio.gather(*(ask(url, key) for url in urls for key in keys))

    with site():
        found = async_to_sync(all_at_once)()
    counts = [expected[key] for key in (ONE, OTHER) * 3]
    streams = [f"{shard_for(key)}:{expected[key]} " * 2 for key in (ONE, OTHER) * 3]
    assert found == [*counts, *counts, *streams]


def test_under_asgi_the_key_may_be_read_from_a_database() -> None:
    Session.objects.create(session_key=str(ONE), session_data="", expire_date=timezone.now())

    async def ask() -> Any:
        return await AsyncClient().get("/count_later")

    with site(REQUEST_KEY=f"{__name__}.key_by_query"):
        assert async_to_sync(ask)().content.decode() == str(rows(ONE))


def test_under_asgi_nought_is_a_key_and_one_without_a_shard_is_not_found() -> None:
    async def ask(key: int) -> Any:
        return await AsyncClient().get("/count_later", headers={"X-Customer": str(key)})

    with site():
        assert async_to_sync(ask)(0).content == str(rows(0)).encode()
        with pinned({"bank": ShardMap("bank", 1, Geographic((), {}))}):
            assert async_to_sync(ask)(5).status_code == 404


def test_under_asgi_too_the_server_is_in_no_block_between_two_parts() -> None:
    async def between() -> list[str | None]:
        response: Any = await AsyncClient().get("/stream_later", headers={"X-Customer": str(ONE)})
        return [current_shard() async for _ in response]

    with site():
        assert async_to_sync(between)() == [None] * 3


@pytest.mark.parametrize("named", ["", "nowhere", f"{__name__}.missing", f"{__name__}.ONE"])
def test_a_setting_that_names_no_function_is_told_at_start(named: str) -> None:
    with site(REQUEST_KEY=named), pytest.raises(ConfigurationError, match="REQUEST_KEY"):
        ShardMiddleware(lambda request: HttpResponse())


def test_a_coroutine_function_is_told_at_start() -> None:
    later = f"{__name__}.key_later"
    with site(REQUEST_KEY=later), pytest.raises(ConfigurationError, match="no plain function"):
        ShardMiddleware(lambda request: HttpResponse())
