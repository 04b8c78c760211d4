"""Rows whose ids carry their slot, each kind of key once."""

from django.db import models

from dbpatterns.sharding import LookupIndex, ShardedIdField, ShardedModel, ShardedUUIDField

__all__ = [
    "Badge",
    "Consignment",
    "Courier",
    "Depot",
    "Member",
    "Parcel",
    "Scan",
    "Station",
    "Stranger",
]


class Courier(ShardedModel):
    """The owner of a shard key, with an id from elsewhere."""

    shard_key = "id"
    id = models.BigIntegerField(primary_key=True)

    def __str__(self) -> str:
        return str(self.id)


class Parcel(ShardedModel):
    """A 64-bit id, by a plain column."""

    shard_key = "customer_id"
    id = ShardedIdField()
    customer_id = models.BigIntegerField()
    label = models.CharField(max_length=50, blank=True)

    def __str__(self) -> str:
        return self.label


class Consignment(ShardedModel):
    """A UUID, by a foreign key."""

    shard_key = "courier"
    id = ShardedUUIDField()
    courier = models.ForeignKey(Courier, models.CASCADE)

    def __str__(self) -> str:
        return str(self.id)


class Scan(ShardedModel):
    """Hangs on a row whose own id carries the slot."""

    shard_key = "parcel"
    id = ShardedIdField()
    parcel = models.ForeignKey(Parcel, models.CASCADE, related_name="scans")

    def __str__(self) -> str:
        return str(self.id)


class Depot(ShardedModel):
    """Its own key, which is made for it."""

    shard_key = "id"
    id = ShardedIdField()
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Stranger(ShardedModel):
    """One address on each shard."""

    shard_key = "id"
    id = models.BigIntegerField(primary_key=True)
    email = models.EmailField(unique=True)

    def __str__(self) -> str:
        return self.email


class Member(ShardedModel):
    """One address over all shards."""

    shard_key = "id"
    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50, blank=True)
    email = models.EmailField(unique=True, null=True, blank=True)
    email_index = LookupIndex("email")

    def __str__(self) -> str:
        return self.email or ""


class Badge(ShardedModel):
    """A member's, and goes with her."""

    shard_key = "member"
    id = ShardedUUIDField()
    member = models.ForeignKey(Member, models.CASCADE)
    code = models.CharField(max_length=20, unique=True)
    code_index = LookupIndex("code")

    def __str__(self) -> str:
        return self.code


class Station(ShardedModel):
    """Gets its key by its INSERT."""

    shard_key = "id"
    id = ShardedIdField()
    number = models.IntegerField(unique=True)
    number_index = LookupIndex("number")

    def __str__(self) -> str:
        return str(self.number)
