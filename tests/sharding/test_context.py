"""Blocks that say on which shard they work, and hold what is in them to it."""

import pytest
from django.db import IntegrityError, connections
from django.test.utils import CaptureQueriesContext

from dbpatterns.sharding import current_shard, shard, shard_for, shards, single_shard
from dbpatterns.sharding.errors import (
    CrossShardError,
    ShardKeyChanged,
    ShardKeyRequired,
    WrongShard,
)
from dbpatterns.sharding.placing import place
from tests.sharding.operations import ONE, OTHER, SAME
from tests.shop.models import Line, Order

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]


def owners(alias: str) -> set[int]:
    return set(Order.objects.using(alias).values_list("buyer_id", flat=True))


def test_a_query_without_a_key_is_the_block_s_shard_s() -> None:
    with pytest.raises(ShardKeyRequired):
        Order.objects.count()
    for key in (ONE, OTHER):
        with shard(key) as alias:
            assert current_shard() == alias == shard_for(key)
            assert set(Order.objects.values_list("buyer_id", flat=True)) == owners(alias)
    assert current_shard() is None


def test_an_inner_query_without_a_key_is_the_block_s_shard_s_too() -> None:
    with shard(ONE) as alias:
        paid = Order.objects.filter(is_paid=True)
        found = Line.objects.filter(order__in=paid)
        assert {each.buyer_id for each in found} == owners(alias)
        with pytest.raises(CrossShardError, match="has an inner query on"):
            Line.objects.filter(order__in=Order.objects.filter(buyer=OTHER)).count()


def test_a_queryset_stays_where_it_was_made() -> None:
    with shard(ONE):
        made = Order.objects.all()
    with shard(OTHER):
        assert {each.buyer_id for each in made} == owners(shard_for(ONE))
        assert made.get_or_create(pk=made[0].pk) == (made[0], False)


def test_a_key_in_the_query_counts_more_than_the_block() -> None:
    with shard(ONE):
        assert Order.objects.filter(buyer=OTHER).count() == 2
        Order.objects.create(buyer_id=OTHER)
        Order.objects.bulk_create([Order(buyer_id=OTHER)])
        Order.objects.get_or_create(buyer_id=OTHER, number=70)
    assert Order.objects.filter(buyer=OTHER).count() == 5


def test_a_locked_block_lets_nothing_out() -> None:
    with shard(ONE, lock=True):
        assert Order.objects.filter(buyer=SAME).count() == 2
        with pytest.raises(CrossShardError, match=f"held to '{shard_for(ONE)}'"):
            Order.objects.filter(buyer=OTHER).count()
        with pytest.raises(CrossShardError), shard(OTHER):
            pass
        with single_shard(), pytest.raises(CrossShardError):
            Order.objects.filter(buyer=OTHER).count()
        with shard(SAME), pytest.raises(CrossShardError):  # an inner block loosens nothing
            Order.objects.create(buyer_id=OTHER)
    assert Order.objects.filter(buyer=OTHER).count() == 2


def test_a_locked_block_lets_no_row_of_another_shard_ask_by_itself() -> None:
    order = Order.objects.filter(buyer=OTHER)[0]
    with shard(ONE, lock=True), pytest.raises(CrossShardError):
        order.lines.count()


def test_a_question_that_nothing_can_meet_stays_in_its_block() -> None:
    for key in (ONE, OTHER):
        with shard(key, lock=True):
            assert not Order.objects.filter(buyer__in=[]).exists()


def test_a_row_that_says_nothing_goes_where_the_code_around_works() -> None:
    here, there = shard_for(ONE), shard_for(OTHER)
    row = Order()
    with pytest.raises(ShardKeyRequired):
        place(row, None)
    with shard(ONE):
        assert place(row, None) == here
        assert place(row, None, near=there) == there
        assert place(row, here, near=there) == here
        row._state.db = there
        assert place(row, None) == there
        assert place(row, None, near=here) == here


def test_a_block_of_one_shard_takes_the_first_it_touches() -> None:
    with single_shard():
        assert Order.objects.filter(buyer=OTHER).count() == 2
        with pytest.raises(CrossShardError):
            Order.objects.filter(buyer=ONE).count()


def test_a_row_is_not_written_to_a_shard_that_is_not_its_key_s() -> None:
    wrong = next(alias for alias in shards() if alias != shard_for(ONE))
    with pytest.raises(WrongShard, match=f"belongs on '{shard_for(ONE)}'"):
        Order(buyer_id=ONE).save(using=wrong)
    with pytest.raises(WrongShard):
        Order.objects.using(wrong).create(buyer_id=ONE)


def test_the_key_of_a_row_made_in_bulk_cannot_be_changed_either() -> None:
    (made,) = Order.objects.bulk_create([Order(buyer_id=ONE)])
    with CaptureQueriesContext(connections[shard_for(ONE)]) as there:
        made.save(update_fields=["number"])
    assert len(there) == 1  # it is known, and not read
    made.buyer_id = OTHER
    with pytest.raises(ShardKeyChanged, match="is the shard key and was changed"):
        made.save()
    assert Order.objects.filter(buyer=OTHER).count() == 2


@pytest.mark.parametrize("first", [ONE, OTHER])
def test_rows_of_two_shards_are_made_in_bulk_or_none_is(first: int) -> None:
    last = OTHER if first == ONE else ONE
    there = Order.objects.filter(buyer=last)[0]
    before = Order.objects.filter(buyer=first).count()
    rows = [Order(buyer_id=first), Order(buyer_id=last, pk=there.pk)]
    with pytest.raises(IntegrityError):
        Order.objects.bulk_create(rows)
    assert Order.objects.filter(buyer=first).count() == before
