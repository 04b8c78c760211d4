"""The async twins: the same answers, on the same connections."""

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction

from dbpatterns.sharding import shards
from dbpatterns.sharding.errors import TooManyRows
from tests.sharding.support import BUYERS
from tests.shop.models import Buyer, Order

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]


def test_each_gives_what_its_twin_gives() -> None:
    ours = Order.objects.fanout().order_by("number", "pk")
    expected = [each.pk for each in ours]
    some = expected[:3]

    async def answers() -> None:
        assert [each.pk async for each in ours.all()] == expected
        assert [each.pk async for each in ours.all().aiterator(chunk_size=4)] == expected
        first, last = await ours.afirst(), await ours.alast()
        assert (first.pk, last.pk) == (expected[0], expected[-1])
        assert (await ours.aget(pk=some[1])).pk == some[1]
        with pytest.raises(Order.DoesNotExist):
            await ours.aget(number=77)
        assert await ours.aexists()
        assert not await ours.filter(number=77).aexists()
        assert set(await ours.ain_bulk(some)) == set(some)
        with pytest.raises(TooManyRows):
            assert [each async for each in Order.objects.fanout(max_rows=2)]

    async_to_sync(answers)()


def test_rows_not_committed_yet_are_seen() -> None:
    Buyer.objects.create(id=max(BUYERS) + 1, name="new")
    assert async_to_sync(Buyer.objects.fanout().filter(name="new").aexists)()


def test_a_stream_that_is_left_leaves_no_cursor() -> None:
    async def one() -> Any:
        rows = Order.objects.fanout().order_by("pk").aiterator(chunk_size=2)
        async for each in rows:
            await rows.aclose()
            return each

    with transaction.atomic(using=shards()[0]):
        assert async_to_sync(one)().pk == Order.objects.fanout().first().pk
        if connections[shards()[0]].vendor == "postgresql":
            with connections[shards()[0]].cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_cursors")
                assert cursor.fetchone() == (0,)
