"""This app's tables: all on the control database, but for the fences, which are on each shard."""

import uuid

from django.db import models
from django.utils import timezone

from dbpatterns.conf import require_installed

__all__ = [
    "Fence",
    "FencedGroup",
    "LookupEntry",
    "MapChange",
    "PlacedKey",
    "ShardGroup",
    "ShardMigration",
    "SlotRange",
]

require_installed("dbpatterns.sharding")


class ShardGroup(models.Model):
    """Models that lie together by one key, and the number of their map."""

    name = models.CharField(max_length=50, primary_key=True)
    strategy = models.CharField(max_length=20)
    epoch = models.BigIntegerField(default=1)
    """Grows by one with each change of the map; who changes it compares it first."""

    class Meta:
        db_table = "dbpatterns_sharding_group"
        verbose_name = "group"

    def __str__(self) -> str:
        return self.name


class SlotRange(models.Model):
    """Slots of one shard, from the first to the next range's; there is no last to contradict."""

    group = models.ForeignKey(ShardGroup, models.CASCADE, related_name="slot_ranges")
    first_slot = models.IntegerField()
    shard = models.CharField(max_length=100)

    class Meta:
        db_table = "dbpatterns_sharding_slotrange"
        ordering = ["group", "first_slot"]
        constraints = [
            models.UniqueConstraint(
                fields=["group", "first_slot"], name="dbpatterns_sharding_slot_once"
            ),
            models.CheckConstraint(
                condition=models.Q(first_slot__range=(0, 16_383)),
                name="dbpatterns_sharding_slot_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.group_id} from {self.first_slot}: {self.shard}"


class PlacedKey(models.Model):
    """A key, a region or the lower bound of a range, and its shard."""

    group = models.ForeignKey(ShardGroup, models.CASCADE, related_name="placed_keys")
    key = models.CharField(max_length=300, blank=True)
    """Its type and its text; empty for the bound below every key."""
    shard = models.CharField(max_length=100)

    class Meta:
        db_table = "dbpatterns_sharding_placedkey"
        ordering = ["group", "key"]
        constraints = [
            models.UniqueConstraint(fields=["group", "key"], name="dbpatterns_sharding_key_once")
        ]

    def __str__(self) -> str:
        return f"{self.group_id} {self.key}: {self.shard}"


class MapChange(models.Model):
    """What was changed in a map, when; kept for people."""

    group = models.ForeignKey(ShardGroup, models.CASCADE, related_name="changes")
    epoch = models.BigIntegerField()
    change = models.TextField()
    changed_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "dbpatterns_sharding_mapchange"
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["group", "epoch"], name="dbpatterns_sharding_change_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.group_id} {self.epoch}: {self.change}"


class FencedGroup(models.Model):
    """A group of which this shard has ever been closed to a part."""

    name = models.CharField(max_length=50, primary_key=True)
    changes = models.BigIntegerField(default=0)
    """Grows whenever the shard is closed to more; transactions of an older state are refused."""

    class Meta:
        db_table = "dbpatterns_sharding_fencedgroup"

    def __str__(self) -> str:
        return self.name


class Fence(models.Model):
    """Keys that this shard takes no rows of, whoever writes: they are another's."""

    group = models.CharField(max_length=50)
    low = models.CharField(max_length=300)
    """The key, or the lowest of a range, as the text of its column."""
    high = models.CharField(max_length=300, null=True)  # noqa: DJ001 - NULL is no end, "" is a key
    is_range = models.BooleanField(default=False)
    owner = models.CharField(max_length=32)
    """Which change made it."""

    class Meta:
        db_table = "dbpatterns_sharding_fence"
        constraints = [
            models.UniqueConstraint(fields=["group", "low"], name="dbpatterns_sharding_fence_once")
        ]

    def __str__(self) -> str:
        return f"{self.group} {self.low}"


class ShardMigration(models.Model):
    """What `migrate --shards` last did with a migration on a shard; kept for people."""

    class State(models.TextChoices):
        """How far it is; a process that was killed leaves it running."""

        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"

    shard = models.CharField(max_length=100)
    app = models.CharField(max_length=255)
    name = models.CharField(max_length=255)
    state = models.CharField(max_length=10, choices=State)
    error = models.TextField(blank=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "dbpatterns_sharding_shardmigration"
        ordering = ["-started_at", "shard"]
        constraints = [
            models.UniqueConstraint(
                fields=["shard", "app", "name"], name="dbpatterns_sharding_migration_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.shard} {self.app}.{self.name}: {self.state}"


class LookupEntry(models.Model):
    """A value of a lookup index, and the key of its row."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    index = models.CharField(max_length=200)
    value = models.CharField(max_length=255)
    key = models.CharField(max_length=300, blank=True)
    """Its type and its text; empty while the row gets it by its INSERT."""
    shard = models.CharField(max_length=100)
    """Where the row was, or is to be, written."""
    token = models.UUIDField()
    """Who wrote the entry last."""
    is_settled = models.BooleanField(default=False)
    """The row is there; else it may be, or come, or go: look at the shard."""
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "dbpatterns_sharding_lookupentry"
        verbose_name_plural = "lookup entries"
        constraints = [
            models.UniqueConstraint(
                fields=["index", "value"], name="dbpatterns_sharding_value_once"
            )
        ]
        indexes = [
            models.Index(
                fields=["index", "changed_at"],
                condition=models.Q(is_settled=False),
                name="dbpatterns_sharding_pending",
            ),
            models.Index(fields=["token"], name="dbpatterns_sharding_token"),
        ]

    def __str__(self) -> str:
        return f"{self.index} {self.value}: {self.key}"
