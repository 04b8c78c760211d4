"""Buyers and their orders, which lie together by the buyer; countries are everywhere."""

import uuid
from typing import Any

from django.db import models

from dbpatterns.optimistic.models import VersionedModel, VersionedQuerySet
from dbpatterns.sharding import ReferenceModel, ShardedModel
from dbpatterns.sharding.querysets import ShardedManager, ShardedQuerySet

__all__ = ["Buyer", "Country", "Line", "Mark", "Marking", "Order", "Regular", "Sale", "Ticket"]


class Country(ReferenceModel):
    """The same on every shard."""

    code = models.CharField(max_length=2, primary_key=True)
    name = models.CharField(max_length=30)

    def __str__(self) -> str:
        return self.name


class Buyer(ShardedModel):
    """Her own key."""

    shard_key = "id"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=30)
    country = models.ForeignKey(Country, models.PROTECT, null=True, related_name="buyers")

    def __str__(self) -> str:
        return self.name


class Regular(Buyer):
    """The same rows by another class."""

    class Meta:
        proxy = True

    def __str__(self) -> str:
        return f"regular {self.name}"


class Mark(ReferenceModel):
    """What an order may be marked with."""

    name = models.CharField(max_length=20, primary_key=True)

    def __str__(self) -> str:
        return self.name


class Order(ShardedModel):
    """A buyer's."""

    shard_key = "buyer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    buyer = models.ForeignKey(Buyer, models.CASCADE, related_name="orders")
    number = models.IntegerField(default=0)
    is_paid = models.BooleanField(default=False)
    marks: "models.ManyToManyField[Mark, Marking]" = models.ManyToManyField(
        Mark, through="Marking", related_name="orders"
    )

    def __str__(self) -> str:
        return f"order {self.number}"


class Marking(ShardedModel):
    """One mark of an order."""

    shard_key = "buyer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    buyer = models.ForeignKey(Buyer, models.CASCADE, related_name="+")
    order = models.ForeignKey(Order, models.CASCADE)
    mark = models.ForeignKey(Mark, models.PROTECT)

    def __str__(self) -> str:
        return f"{self.order_id}: {self.mark_id}"


class Line(ShardedModel):
    """A line of an order, with the buyer beside it."""

    shard_key = "buyer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    buyer = models.ForeignKey(Buyer, models.CASCADE, related_name="lines")
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    amount = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.amount}"


class Sale(ShardedModel):
    """What has a column of each type that is counted with."""

    shard_key = "buyer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    buyer = models.ForeignKey(Buyer, models.CASCADE, related_name="+")
    price = models.DecimalField(max_digits=30, decimal_places=2, null=True)
    weight = models.FloatField(null=True)
    took = models.DurationField(null=True)
    units = models.BigIntegerField(null=True)
    at = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    note = models.CharField(max_length=30, null=True)  # noqa: DJ001

    def __str__(self) -> str:
        return f"{self.price}"


class TicketQuerySet(ShardedQuerySet, VersionedQuerySet[Any]):
    """Finds the shard, and raises the version there."""


class Ticket(ShardedModel, VersionedModel):
    """What several people work on: on its buyer's shard, and written as it was read or not."""

    shard_key = "buyer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    buyer = models.ForeignKey(Buyer, models.CASCADE, related_name="+")
    text = models.CharField(max_length=30)

    objects = ShardedManager.from_queryset(TicketQuerySet)()

    def __str__(self) -> str:
        return self.text
