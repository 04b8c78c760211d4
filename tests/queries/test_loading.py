"""Batch loading: the traps of loaders by position and of global ones, then ours."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.queries import Loader, load_scope, load_scope_middleware, loader_for
from tests.queries.conftest import SIZE
from tests.testapp.models import Country, Crate, Gadget, Maker, Manual, Part


class Squares:
    """A batch function that notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, keys: list[int]) -> dict[int, int]:
        self.calls.append(keys)
        return {key: key * key for key in reversed(keys) if key >= 0}


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    @load_scope()
    async def scoped() -> Any:
        return await work()

    return asyncio.run(scoped())


class PositionalLoader:
    """What loaders elsewhere do: the nth value belongs to the nth key, and the cache is theirs."""

    def __init__(self, batch: Callable[[list[Any]], list[Any]]) -> None:
        self.batch, self.cache = batch, {}  # type: ignore[var-annotated]

    def load_many(self, keys: list[Any]) -> list[Any]:
        wanted = [key for key in keys if key not in self.cache]
        self.cache.update(zip(wanted, self.batch(wanted), strict=False))
        return [self.cache[key] for key in keys]


@pytest.mark.django_db
def test_values_by_position_go_to_the_wrong_keys_and_by_key_cannot(shop: None) -> None:
    first, second = Maker.objects.order_by("pk")[:2]

    def by_position(keys: list[int]) -> list[Maker]:
        return list(Maker.objects.filter(pk__in=keys).order_by("pk"))

    wrong = PositionalLoader(by_position).load_many([second.pk, first.pk])
    assert wrong == [first, second]  # the harm
    right = loader_for(Maker).load_many([second.pk, first.pk])
    assert list(right.items()) == [(second.pk, second), (first.pk, first)]


@pytest.mark.django_db
def test_a_global_loader_hands_one_requests_rows_to_the_next_and_ours_does_not() -> None:
    row = Country.objects.create(name="before")
    harmful = PositionalLoader(lambda keys: [Country.objects.get(pk=key) for key in keys])
    loader = loader_for(Country)

    @load_scope_middleware
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(loader.load_many([row.pk])[row.pk].name)

    request = RequestFactory().get("/")
    assert (harmful.load_many([row.pk])[0].name, view(request).content) == ("before", b"before")
    Country.objects.update(name="after")
    assert harmful.load_many([row.pk])[0].name == "before"  # the harm
    assert view(request).content == b"after"


def test_the_middleware_gives_async_requests_a_scope() -> None:
    loader = Loader(Squares())

    @load_scope_middleware
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(sum(await asyncio.gather(*map(loader.load, (1, 2, 2))))))

    assert async_to_sync(view)(RequestFactory().get("/")).content == b"9"


def test_loads_of_one_tick_are_one_batch_of_distinct_keys() -> None:
    squares = Squares()
    loader = Loader(squares)

    async def child(key: int) -> int:
        return await loader.load(key)

    async def work() -> list[int]:
        return await asyncio.gather(*map(child, [3, 1, 3, 2]))

    assert run(work) == [9, 1, 9, 4]
    assert squares.calls == [[3, 1, 2]]


def test_a_scope_remembers_and_a_batch_is_no_longer_than_allowed() -> None:
    squares = Squares()
    loader = Loader(squares, max_batch=2)

    async def work() -> None:
        assert await asyncio.gather(*map(loader.load, (1, 2, 3))) == [1, 4, 9]
        assert await loader.load(2) == 4
        assert loader.load_many([3, 4, 5, 6]) == {3: 9, 4: 16, 5: 25, 6: 36}

    run(work)
    assert squares.calls == [[1, 2], [3], [4, 5], [6]]


def test_a_coroutine_may_load() -> None:
    async def batch(keys: list[int]) -> dict[int, int]:
        await asyncio.sleep(0)
        return dict.fromkeys(keys, len(keys))

    loader = Loader(batch)

    async def work() -> list[int]:
        return await asyncio.gather(loader.load(1), loader.load(2))

    assert run(work) == [2, 2]
    with pytest.raises(UsageError, match=r"Loader\(.*batch\) loads in a coroutine"):
        loader.load_many([1])


def test_a_missing_key_fails_those_who_asked_for_it_only() -> None:
    loader = Loader(Squares())

    async def work() -> list[Any]:
        return await asyncio.gather(loader.load(-1), loader.load(2), return_exceptions=True)

    missing, found = run(work)
    assert (type(missing), missing.args, found) == (KeyError, (-1,), 4)
    with pytest.raises(KeyError, match="-1"):
        loader.load_many([2, -1])


def test_a_default_stands_in_for_a_missing_key() -> None:
    loader = Loader(Squares(), default=lambda: 0)
    assert loader.load_many([-1, 2]) == {-1: 0, 2: 4}

    async def work() -> int:
        return await loader.load(-1)

    assert run(work) == 0


def test_a_default_that_fails_fails_the_keys_that_have_no_value_yet() -> None:
    def unlucky() -> int:
        raise ConnectionError("lost")

    loader = Loader(Squares(), default=unlucky)

    async def work() -> list[Any]:
        return await asyncio.gather(loader.load(2), loader.load(-1), return_exceptions=True)

    found, failed = run(work)
    assert (found, type(failed)) == (4, ConnectionError)


def test_a_failing_batch_fails_its_own_awaiters_and_is_tried_again() -> None:
    calls = 0

    def batch(keys: list[int]) -> dict[int, int]:
        nonlocal calls
        calls += 1
        if 13 in keys and calls < 3:
            raise ConnectionError("lost")
        return dict.fromkeys(keys, 7)

    loader = Loader(batch, max_batch=1)

    async def work() -> list[Any]:
        first = await asyncio.gather(loader.load(1), loader.load(13), return_exceptions=True)
        return [*first, await loader.load(13)]

    one, thirteen, again = run(work)
    assert (one, type(thirteen), again) == (7, ConnectionError, 7)


def test_a_list_from_a_batch_is_an_error_for_sync_and_async() -> None:
    loader: Loader[int, int] = Loader(lambda keys: [1 for _ in keys])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must return a dict of values by key, not list"):
        loader.load_many([1])

    async def work() -> int:
        return await loader.load(1)

    with pytest.raises(UsageError, match="must return a dict"):
        run(work)


def test_outside_of_a_scope_nothing_is_shared() -> None:
    squares = Squares()
    loader = Loader(squares)
    assert [loader.load_many([1]), loader.load_many([1])] == [{1: 1}, {1: 1}]
    assert len(squares.calls) == 2
    loader.clear()
    with pytest.raises(UsageError, match="awaited outside of a scope"):
        asyncio.run(loader.load(1))
    with pytest.raises(UsageError, match="primed outside of a scope"):
        loader.prime(1, 1)
    with pytest.raises(UsageError, match="loads nothing"):
        Loader(squares, max_batch=0)


def test_tasks_with_scopes_of_their_own_share_no_batch() -> None:
    squares = Squares()
    loader = Loader(squares)

    @load_scope()
    async def request(key: int) -> int:
        return await loader.load(key)

    async def both() -> list[int]:
        return await asyncio.gather(request(1), request(2))

    assert asyncio.run(both()) == [1, 4]
    assert sorted(squares.calls) == [[1], [2]]


def test_a_scope_serves_two_event_loops() -> None:
    loader = Loader(Squares())
    with load_scope():
        assert [asyncio.run(loader.load(1)), asyncio.run(loader.load(1))] == [1, 1]
        assert asyncio.run(loader.load(2)) == 4


def test_priming_and_clearing() -> None:
    squares = Squares()
    loader = Loader(squares)

    @load_scope()
    def work() -> None:
        loader.clear(1)
        loader.prime(1, 100)
        assert loader.load_many([1, 2, 3]) == {1: 100, 2: 4, 3: 9}
        loader.clear(1, 5)
        assert loader.load_many([1, 2]) == {1: 1, 2: 4}
        loader.clear()
        assert loader.load_many([2]) == {2: 4}

    work()
    assert squares.calls == [[2, 3], [1], [2]]


def test_what_is_under_way_when_it_is_cleared_is_not_kept() -> None:
    stored = {1: "old", 2: "two"}

    async def work() -> None:
        reading, written = asyncio.Event(), asyncio.Event()

        async def batch(keys: list[int]) -> dict[int, str]:
            found = {key: stored[key] for key in keys}
            reading.set()
            await written.wait()
            return found

        loader = Loader(batch)
        early, other = asyncio.ensure_future(loader.load(1)), asyncio.ensure_future(loader.load(2))
        await reading.wait()
        stored[1] = "new"
        loader.clear(1)
        late = asyncio.ensure_future(loader.load(1))
        loader.clear(1)  # the one that waits has read nothing yet
        await asyncio.sleep(0)
        loader.clear(1)
        again = asyncio.ensure_future(loader.load(1))
        written.set()
        assert [await each for each in (early, late, again, other)] == ["old", "new", "new", "two"]
        assert await loader.load(1) == "new"

    run(work)


def test_a_value_primed_meanwhile_wins() -> None:
    async def work() -> None:
        async def batch(keys: list[int]) -> dict[int, str]:
            loader.prime(1, "primed")
            return dict.fromkeys(keys, "read")

        loader = Loader(batch)
        assert await loader.load(1) == "read"
        assert await loader.load(1) == "primed"

    run(work)


def test_cancelling_one_awaiter_leaves_the_others() -> None:
    async def work() -> None:
        loader = Loader(Squares())
        first, second = (asyncio.ensure_future(loader.load(3)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 9
        assert first.cancelled()

    run(work)


def test_the_end_of_a_loop_ends_what_waits() -> None:
    async def work() -> Any:
        async def batch(keys: list[int]) -> dict[int, int]:
            await asyncio.Event().wait()
            raise AssertionError

        loader = Loader(batch)
        waiting = asyncio.ensure_future(loader.load(1))
        for _ in range(3):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:  # type: ignore[arg-type]
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(work)


@pytest.mark.django_db
def test_rows_by_key_and_by_column_in_one_query_each(shop: None) -> None:
    gadgets = list(Gadget.objects.order_by("pk")[:3])
    parts = loader_for(Part.objects.order_by("-name"), by="gadget", many=True)
    with CaptureQueriesContext(connection) as sent, load_scope():
        found = parts.load_many([row.pk for row in gadgets] + [0])
        manuals = loader_for(Manual, by="gadget_id").load_many([row.pk for row in gadgets])
    assert len(sent) == 2
    assert [part.name for part in found[gadgets[0].pk]] == ["part 2", "part 1", "part 0"]
    assert found[0] == []
    assert [manual.gadget_id for manual in manuals.values()] == [row.pk for row in gadgets]


@pytest.mark.django_db
def test_coroutines_load_rows_in_one_query(shop: None) -> None:
    loader = loader_for(Maker)
    keys = list(Maker.objects.values_list("pk", flat=True))

    @load_scope()
    async def names() -> list[str]:
        return [maker.name for maker in await asyncio.gather(*map(loader.load, keys))]

    with CaptureQueriesContext(connection) as sent:
        assert len(set(async_to_sync(names)())) == SIZE
    assert len(sent) == 1


@pytest.mark.django_db
def test_keys_may_be_text_and_nonsense_has_no_row(shop: None) -> None:
    crate = Crate.objects.all()[0]
    crates = loader_for(Crate)
    assert crates.load_many([str(crate.pk), crate.pk]) == {str(crate.pk): crate, crate.pk: crate}
    for key in ("nonsense", None, uuid.uuid4()):
        with pytest.raises(KeyError):
            crates.load_many([key])
    parts = loader_for(Part, by="gadget_id", many=True).load_many(["nonsense", None])
    assert parts == {"nonsense": [], None: []}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: loader_for(Part, by="nowhere", many=True), "no such column. Columns: id, gadget"),
        (lambda: loader_for(Gadget, by="parts", many=True), "no such column"),
        (lambda: loader_for(Gadget, by="badges", many=True), "no such column"),
        (lambda: loader_for(Part, by="gadget"), "Write many=True"),
        (lambda: loader_for(Part.objects.all()[:3]), "is sliced"),
    ],
    ids=["unknown", "reverse", "many-to-many", "not unique", "sliced"],
)
def test_a_wrong_loader_is_an_error_when_it_is_made(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()
