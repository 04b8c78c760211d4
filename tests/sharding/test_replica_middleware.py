"""The cookie: a browser's next request finds what the last one wrote, wherever it is answered."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path

from dbpatterns.sharding import replica_reads
from dbpatterns.sharding.replicas import seen
from dbpatterns.sharding.replicas.middleware import COOKIE, ReplicaMiddleware
from tests.servers import Standby
from tests.sharding.replica import KEY, OTHER, PRIMARY, REPLICA, following, pause, resume, sharding
from tests.shop.models import Buyer, Order

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.django_db(databases=["default", PRIMARY, OTHER, REPLICA], transaction=True),
]
SAID = "select pg_logical_emit_message(true, 'a', 'by a function')"


@replica_reads()
def count(request: HttpRequest) -> HttpResponse:
    rows = Order.objects.filter(buyer=KEY)
    return HttpResponse(f"{rows.count()} on {rows.db}")


@replica_reads()
async def count_later(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await Order.objects.filter(buyer=KEY).acount()))


def write(request: HttpRequest) -> HttpResponse:
    Order.objects.create(buyer_id=KEY)
    return HttpResponse()


async def write_later(request: HttpRequest) -> HttpResponse:
    await Order.objects.acreate(buyer_id=KEY)
    return HttpResponse()


def write_and_lose(request: HttpRequest) -> HttpResponse:
    Order.objects.create(buyer_id=KEY)
    connections[PRIMARY].close()
    connections[PRIMARY].settings_dict["PORT"] = 1
    return HttpResponse()


def call(request: HttpRequest) -> HttpResponse:
    with connections[PRIMARY].cursor() as cursor:
        cursor.execute(SAID)
    return HttpResponse()


def call_and_count(request: HttpRequest) -> HttpResponse:
    call(request)
    return count(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        with replica_reads():
            found = str(Order.objects.filter(buyer=KEY).count())
        yield found

    return StreamingHttpResponse(parts())


async def stream_later(request: HttpRequest) -> StreamingHttpResponse:
    @sync_to_async
    def found() -> str:
        with replica_reads():
            return str(Order.objects.filter(buyer=KEY).count())

    async def parts() -> AsyncIterator[str]:
        yield await found()

    return StreamingHttpResponse(parts())


VIEWS = (count, count_later, write, write_later, write_and_lose, call, call_and_count)
VIEWS += (stream, stream_later)
urlpatterns = [path(view.__name__, view) for view in VIEWS]  # type: ignore[arg-type]


@pytest.fixture
def replica(standby: Standby, transactional_db: None) -> Iterator[None]:
    """A shard whose replica has stopped a moment ago, when it had everything."""
    with following(), override_settings(ROOT_URLCONF=__name__):
        Buyer.objects.create(id=KEY, name="Eva")
        resume()
        pause()
        yield


@pytest.fixture
def middleware() -> Iterator[None]:
    with override_settings(
        MIDDLEWARE=["dbpatterns.sharding.replicas.middleware.ReplicaMiddleware"]
    ):
        yield


def get(client: Any, view: str) -> str:
    """Return the answer to a request that another process gets, which knows nothing."""
    with seen.begin(seen.Seen()):
        return client.get(f"/{view}").content.decode()  # type: ignore[no-any-return]


def post(client: Any, view: str) -> Any:
    with seen.begin(seen.Seen()):
        return client.post(f"/{view}")


@override_settings(MIDDLEWARE=[])
def test_the_harm_the_page_after_the_form_is_without_it(replica: None, client: Client) -> None:
    post(client, "write")
    assert get(client, "count") == f"0 on {REPLICA}"


@pytest.mark.usefixtures("middleware")
class TestRequests:
    def test_the_page_after_the_form_has_it(self, replica: None, client: Client) -> None:
        post(client, "write")
        assert get(client, "count") == f"1 on {PRIMARY}"
        resume()
        assert get(client, "count") == f"1 on {REPLICA}"

    def test_another_browser_s_page_may_be_without_it(self, replica: None, client: Client) -> None:
        post(client, "write")
        assert get(Client(), "count") == f"0 on {REPLICA}"

    def test_async_views_too(self, replica: None) -> None:
        async def pages() -> bytes:
            client = AsyncClient()
            with seen.begin(seen.Seen()):
                await client.post("/write_later")
            with seen.begin(seen.Seen()):
                answer = await client.get("/count_later")
            return bytes(answer.content)

        assert async_to_sync(pages)() == b"1"

    @pytest.mark.parametrize("view", ["stream", "stream_later"])
    def test_the_parts_of_a_stream_too(self, replica: None, view: str, client: Client) -> None:
        post(client, "write")

        async def parts() -> bytes:
            browser = AsyncClient()
            browser.cookies = client.cookies
            with seen.begin(seen.Seen()):
                answer: Any = await browser.get(f"/{view}")
                return b"".join([part async for part in answer.streaming_content])

        if view == "stream":
            answer: Any = client.get(f"/{view}")
            with seen.begin(seen.Seen()):  # the server's own, which is outside of the middleware
                assert b"".join(answer.streaming_content) == b"1"
        else:
            assert async_to_sync(parts)() == b"1"

    def test_what_the_cookie_is(self, replica: None, client: Client) -> None:
        cookie = post(client, "write").cookies[COOKIE]
        assert cookie["max-age"] == 11
        assert cookie["httponly"]
        assert not cookie["secure"]
        assert cookie["samesite"] == "Lax"
        assert cookie.value.startswith(f"{PRIMARY}=")
        with override_settings(SESSION_COOKIE_SECURE=True):
            assert post(client, "write").cookies[COOKIE]["secure"]
        with sharding(REPLICAS={PRIMARY: [REPLICA]}, REPLICA_MAX_LAG_SECONDS=0.5):
            assert post(client, "write").cookies[COOKIE]["max-age"] == 2

    def test_a_cookie_that_was_tampered_with_is_none(self, replica: None, client: Client) -> None:
        client.cookies[COOKIE] = f"{PRIMARY}=ffffffffffff:1wXyZ0:{'A' * 43}"
        assert get(client, "count") == f"0 on {REPLICA}"

    def test_a_cookie_of_shards_without_replicas_is_none(
        self, replica: None, client: Client
    ) -> None:
        post(client, "write")
        with sharding(REPLICAS={}):
            assert get(client, "count") == f"1 on {PRIMARY}"

    def test_a_cookie_is_kept_for_the_shards_that_are_not_written_now(
        self, replica: None, client: Client
    ) -> None:
        client.cookies[COOKIE] = signed(f"{PRIMARY}=7fffffffffffffff")
        assert post(client, "write").cookies[COOKIE].value.startswith(f"{PRIMARY}=7fffffffffffffff")

    def test_a_cookie_keeps_what_other_shards_have(self, replica: None, client: Client) -> None:
        client.cookies[COOKIE] = signed(f"{OTHER}=7f")
        with sharding(REPLICAS={PRIMARY: [REPLICA], OTHER: ["its_replica"]}):
            value = post(client, "write").cookies[COOKIE].value
        assert value.startswith(f"{OTHER}=7f,{PRIMARY}=")

    def test_a_request_that_reads_has_no_cookie_and_costs_nothing(
        self, replica: None, client: Client
    ) -> None:
        with CaptureQueriesContext(connections[PRIMARY]) as here:
            answer = client.get("/count")
        assert COOKIE not in answer.cookies
        assert len(here) <= 1  # of replica_reads, once a second

    def test_a_cookie_is_not_given_anew_for_reads(self, replica: None, client: Client) -> None:
        post(client, "write")
        with seen.begin(seen.Seen()):
            assert COOKIE not in client.get("/count").cookies

    def test_a_write_counts_by_any_method(self, replica: None, client: Client) -> None:
        with seen.begin(seen.Seen()):
            assert COOKIE in client.get("/write").cookies

    def test_a_write_costs_one_statement(self, replica: None, client: Client) -> None:
        with CaptureQueriesContext(connections[PRIMARY]) as here:
            client.post("/write")
        assert [each["sql"].split()[0] for each in here.captured_queries] == ["INSERT", "SELECT"]

    def test_a_function_that_writes_counts_by_the_method(
        self, replica: None, client: Client
    ) -> None:
        assert COOKIE in post(client, "call").cookies
        for safe in (client.get, client.head, client.options, client.trace):
            with seen.begin(seen.Seen()):
                assert COOKIE not in safe("/call").cookies

    def test_a_function_that_writes_counts_before_a_read_of_a_replica(
        self, replica: None, client: Client
    ) -> None:
        assert COOKIE in post(client, "call_and_count").cookies

    def test_a_primary_that_went_down_is_not_asked_of_its_replicas(
        self, replica: None, client: Client
    ) -> None:
        port = connections[PRIMARY].settings_dict["PORT"]
        try:
            post(client, "write_and_lose")
        finally:
            connections[PRIMARY].settings_dict["PORT"] = port
        assert get(client, "count") == f"1 on {PRIMARY}"


def signed(value: str) -> str:
    response = HttpResponse()
    response.set_signed_cookie(COOKIE, value, salt=COOKIE)
    return response.cookies[COOKIE].value


def test_it_is_async_when_what_it_wraps_is() -> None:
    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(b"async")

    got = ReplicaMiddleware(answer)(RequestFactory().get("/"))
    assert asyncio.run(got).content == b"async"
