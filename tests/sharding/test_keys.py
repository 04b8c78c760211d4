"""What may be a shard key, and what a row remembers of its own."""

from uuid import UUID

import pytest
from django.db import connections, models
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard, shard_for, shards
from dbpatterns.sharding.errors import ShardKeyChanged
from dbpatterns.sharding.hashing import slot_of
from dbpatterns.sharding.shard_map import ShardMap
from dbpatterns.sharding.strategies import LOWEST, Directory, Geographic, Range, encode
from demo.banking.models import Account, Customer
from tests.sharding.maps import key_on
from tests.sharding.operations import ONE, OTHER
from tests.shop.models import Buyer, Order


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


@pytest.mark.django_db(databases="__all__")
def test_a_row_without_a_key_gets_one_of_its_shard_only() -> None:
    here, there = shards()[:2]
    owners = {alias: Customer.objects.create(id=key_on(alias), name="Eva") for alias in shards()}
    account = Account.objects.using(here).create(number="1", kind=Account.Kind.OPENING)

    def given(alias: str) -> Account:
        read = Account.objects.using(here).get(pk=account.pk)
        read.kind, read.customer_id = Account.Kind.CUSTOMER, owners[alias].pk
        return read

    with pytest.raises(ShardKeyChanged, match=f"from None to {owners[there].pk}"):
        given(there).save()
    assert not Account.objects.using(there).exists()  # a second row, had it been let
    given(here).save()
    assert Account.objects.get(customer=owners[here]).pk == account.pk


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("filled")
def test_a_row_that_is_gone_may_come_again_under_another_key() -> None:
    gone = Order.objects.filter(buyer=ONE).defer("buyer")[0]
    Order.objects.filter(buyer=ONE, pk=gone.pk).delete()
    gone.buyer_id = OTHER
    gone.save()
    assert Order.objects.get(buyer=OTHER, pk=gone.pk).number == gone.number


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("key", [2**63, -(2**63) - 1])
def test_a_number_that_no_column_holds_is_nobody_s_key(key: int) -> None:
    """As in Django, where it meets no row: it may come from an address."""
    assert not Buyer.objects.filter(pk=key).exists()
    assert not Buyer.objects.fanout().filter(pk=key).exists()
    with pytest.raises(Buyer.DoesNotExist):
        Buyer.objects.get(pk=key)
    with pytest.raises(UsageError):
        Buyer.objects.create(pk=key)
    edge = 2**63 - 1 if key > 0 else -(2**63)
    assert Buyer.objects.filter(pk=edge).db == shard_for(edge)
