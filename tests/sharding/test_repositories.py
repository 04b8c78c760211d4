"""Repositories of sharded models: many rows go each to its shard, all or none."""

from uuid import UUID

import pytest

from dbpatterns.errors import UsageError
from dbpatterns.repositories import Repository
from dbpatterns.repositories.errors import VanishedRows
from dbpatterns.sharding import shard_for
from dbpatterns.sharding.errors import ShardKeyChanged, ShardKeyRequired
from tests.sharding.operations import ONE, OTHER, SAME
from tests.shop.models import Order

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]

KEYS = (ONE, OTHER, SAME)


class Orders(Repository[Order]):
    """All buyers'."""


def new(turn: int, key: int) -> Order:
    return Order(id=UUID(int=turn << 64), buyer_id=key, number=turn)


def numbers() -> dict[int, list[int]]:
    return {
        key: sorted(Order.objects.filter(buyer=key).values_list("number", flat=True))
        for key in KEYS
    }


def test_many_are_saved_each_on_its_shard() -> None:
    read = [each for key in KEYS for each in Order.objects.filter(buyer=key)]
    for turn, each in enumerate(read):
        each.number = 100 + turn
    made = [new(turn, key) for turn, key in enumerate(KEYS, start=200)]
    assert Orders().save_many([*read, *made]) == [*read, *made]
    assert numbers() == {ONE: [100, 101, 200], OTHER: [102, 103, 201], SAME: [104, 105, 202]}


def test_all_are_saved_or_none() -> None:
    before = numbers()
    gone = Order.objects.filter(buyer=OTHER)[0]
    Order.objects.filter(buyer=OTHER, pk=gone.pk).delete()
    made = new(200, ONE)
    with pytest.raises(VanishedRows):
        Orders().save_many([made, gone])
    assert made._state.adding
    assert numbers() == {**before, OTHER: [each for each in before[OTHER] if each != gone.number]}
    changed = Order.objects.filter(buyer=ONE)[0]
    changed.buyer_id = OTHER
    with pytest.raises(ShardKeyChanged):
        Orders().save_many([changed])
    with pytest.raises(ShardKeyRequired):
        Orders().save_many([Order(number=1)])


def test_shards_are_written_in_one_order() -> None:
    """Two writers of the same shards would otherwise wait for each other, which no server sees."""
    one, other = new(1, ONE), new(2, OTHER)
    for rows in ([one, other], [other, one]):
        assert list(Order.objects.all().by_shard(rows)) == [shard_for(ONE), shard_for(OTHER)]


def test_many_are_upserted_each_on_its_shard() -> None:
    Order.objects.bulk_create([new(200, ONE), new(201, OTHER)])
    rows = [new(200, ONE), new(201, OTHER), new(202, SAME), new(203, OTHER)]
    for each in rows:
        each.number += 100
    found = Orders().upsert_many(rows, match=["id"], update=["number"])
    assert (found.created, found.updated) == (rows[2:], rows[:2])
    assert [set(numbers()[key]) & set(range(200, 400)) for key in KEYS] == [
        {300},
        {301, 303},
        {302},
    ]
    with pytest.raises(UsageError, match="is the shard key"):
        Orders().upsert_many([new(200, SAME)], match=["id"], update=["buyer"])


def test_one_database_is_enough_where_it_is_said() -> None:
    here = Orders(using=shard_for(ONE))
    made = [new(200, ONE), new(201, SAME)]
    here.save_many(made)
    here.upsert_many(made, match=["id"], update=["number"])
    with pytest.raises(UsageError, match="belongs on"):
        here.save_many([new(202, OTHER)])
