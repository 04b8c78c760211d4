"""Joins and inner queries reach what the database holds to one shard, or what is everywhere."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef
from django.test import override_settings
from django.test.utils import isolate_apps

from dbpatterns.sharding import ShardedModel, shard_for
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired
from dbpatterns.sharding.keys import key_field, lie_together, telling_columns
from tests.parcels.models import Member
from tests.sharding.operations import ONE
from tests.shop.models import Buyer, Country


def with_another_group() -> dict[str, Any]:
    changed: dict[str, Any] = deepcopy(settings.DBPATTERNS)
    changed["SHARDING"]["GROUPS"]["far"] = {"APPS": ["parcels"]}
    changed["SHARDING"]["GROUPS"]["bank"]["APPS"].remove("parcels")
    return changed


@isolate_apps("tests.shop", "tests.testapp", "tests.parcels")
@override_settings(DBPATTERNS=with_another_group())
def test_what_lies_elsewhere_is_not_joined_nor_asked_within() -> None:
    class Seller(models.Model):
        name = models.CharField(max_length=9)

        class Meta:
            app_label = "testapp"

        def __str__(self) -> str:
            return self.name

    class Depot(ShardedModel):
        shard_key = "owner"
        id = models.UUIDField(primary_key=True)
        owner = models.BigIntegerField()

        class Meta:
            app_label = "parcels"

    def loose(model: Any) -> Any:
        return models.ForeignKey(model, models.CASCADE, related_name="+", db_constraint=False)

    class Trip(ShardedModel):
        shard_key = "buyer"
        id = models.UUIDField(primary_key=True)
        buyer = models.ForeignKey(Buyer, models.CASCADE, related_name="+")
        rival = loose(Buyer)
        seller = loose(Seller)
        depot = loose(Depot)

        class Meta:
            app_label = "shop"

    class Stop(ShardedModel):
        shard_key = "buyer"
        id = models.UUIDField(primary_key=True)
        buyer = models.ForeignKey(Buyer, models.CASCADE, related_name="+")
        trip = models.ForeignKey(Trip, models.CASCADE, related_name="+")
        origin = models.ForeignKey(Country, models.PROTECT, related_name="+")
        member = models.ForeignKey(Member, models.CASCADE, related_name="+")

        class Meta:
            app_label = "shop"

    trips, stops = Trip.objects.filter(buyer=ONE), Stop.objects.filter(buyer=ONE)
    loosely = r"joins shop\.Buyer by rival, which the database does not hold"
    nowhere = r"testapp\.Seller, which is in no group, so its table is not on the shards"
    elsewhere = r"parcels\.Depot, which is in group 'far', whose rows lie elsewhere"
    refused: list[tuple[Callable[[], models.QuerySet[Any]], str]] = [
        (lambda: trips.filter(rival__name="x"), loosely),
        (lambda: trips.select_related("rival"), loosely),
        (lambda: stops.select_related("trip__rival"), loosely),
        (lambda: stops.filter(trip__rival__name="x"), loosely),
        (lambda: trips.filter(seller__name="x"), f"joins {nowhere}"),
        (lambda: stops.select_related("trip__seller"), f"joins {nowhere}"),
        (lambda: trips.filter(seller__in=Seller.objects.all()), f"inner query on {nowhere}"),
        (lambda: trips.filter(depot__owner=ONE), f"joins {elsewhere}"),
        (lambda: trips.filter(depot__in=Depot.objects.all()), f"inner query on {elsewhere}"),
    ]
    for ask, why in refused:
        with pytest.raises(CrossShardError, match=why):
            assert ask().db
    with pytest.raises(ShardKeyRequired):  # another group's key tells nothing of this one's map
        assert Trip.objects.filter(depot__owner=ONE).db
    with pytest.raises(ShardKeyRequired):  # nor does a side that is on no shard
        assert trips.values("seller").union(Seller.objects.values("id")).db
    assert set(telling_columns(Trip)) == set(telling_columns(Stop)) == {"buyer_id"}
    assert lie_together(key_field(Trip), key_field(Buyer))
    assert not lie_together(key_field(Trip), key_field(Depot))
    routed = [
        stops.select_related("trip__buyer__country", "origin"),
        stops.filter(trip__buyer__country__name="x", origin__name="y"),
        trips.filter(rival__id=7, seller__id=7),  # columns of its own: nothing is joined
        trips.filter(rival=7).exclude(rival_id=8),
    ]
    assert [each.db for each in routed] == [shard_for(ONE, "bank")] * len(routed)


def test_rows_of_one_key_lie_together_though_neither_refers_to_the_other() -> None:
    buyers = Buyer.objects.filter(pk=ONE)
    members = Member.objects.filter(pk=OuterRef("pk"))
    assert buyers.filter(Exists(members)).db == shard_for(ONE)
    apart = [
        Member.objects.filter(pk=OuterRef("orders__number")),
        Buyer.objects.filter(name=OuterRef("name")),  # of which each shard has one
        Buyer.objects.filter(country=OuterRef("country")),  # which is on each shard
    ]
    for inner in apart:
        with pytest.raises(CrossShardError, match="not held to the same shard"):
            assert buyers.filter(Exists(inner)).db
