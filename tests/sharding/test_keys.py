"""What may be a shard key, and what a row remembers of its own."""

from uuid import UUID

import pytest
from django.db import connections, models
from django.test.utils import CaptureQueriesContext

from dbpatterns.sharding import shard, shard_for, shards
from dbpatterns.sharding.hashing import slot_of
from dbpatterns.sharding.shard_map import ShardMap
from dbpatterns.sharding.strategies import LOWEST, Directory, Geographic, Range, encode
from tests.sharding.operations import ONE
from tests.shop.models import Order


class Region(models.TextChoices):
    NORTH = "north", "North"


class Tier(models.IntegerChoices):
    FIRST = 1, "First"


def test_a_member_of_choices_is_its_value() -> None:
    assert slot_of(Region.NORTH) == slot_of("north")
    assert slot_of(Tier.FIRST) == slot_of(1)
    assert (encode(Region.NORTH), encode(Tier.FIRST)) == ("str:north", "int:1")
    assert shard_for(Region.NORTH) == shard_for("north")
    with shard(Tier.FIRST) as alias:
        assert alias == shard_for(1)


def test_every_strategy_takes_a_member_of_choices() -> None:
    first, last = shards()[0], shards()[-1]
    made = [
        Directory([(0, first)], {"str:north": last}),
        Geographic((), {"str:north": last}),
        Range((), {LOWEST: first, "str:m": last}),
    ]
    for strategy in made:
        placed = ShardMap("bank", 1, strategy)
        assert placed.shard_of(Region.NORTH) == placed.shard_of("north") == last


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("filled")
def test_only_a_row_that_was_read_without_its_key_is_asked_for_it() -> None:
    def queries(order: Order) -> int:
        with CaptureQueriesContext(connections[shard_for(ONE)]) as asked:
            order.save()
        return len(asked)

    rows = Order.objects.filter(buyer=ONE)
    assert queries(rows[0]) == 1
    unknowing = rows.only("number")[0]
    assert queries(unknowing) == 1  # it says nothing of a key, so nothing is asked
    unknowing.buyer_id = ONE
    assert queries(unknowing) == 2
    assert queries(unknowing) == 1  # from now on it knows
    assert queries(Order(id=UUID(int=7), buyer_id=ONE)) == 1
