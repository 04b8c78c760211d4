"""The tables: events, the store's epoch, snapshots, and how far each projection has read."""

from typing import Any, ClassVar

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.functions import Now

from dbpatterns.conf import require_installed

require_installed("dbpatterns.eventstore")

__all__ = [
    "EventStoreEpoch",
    "ProjectedModel",
    "ProjectionState",
    "StoredEvent",
    "StreamSnapshot",
    "TransactionId",
    "TransactionIdField",
]


class TransactionId(models.Func):
    """The id of the running transaction on PostgreSQL; 0 on SQLite, which has none."""

    function = "pg_current_xact_id"
    arity = 0

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, tuple[()]]:
        """Return 0: with one writer at a time the position alone is the order."""
        return "0", ()


class TransactionIdField(models.BigIntegerField):  # type: ignore[type-arg]
    """A transaction's id: 64 bits, so it never wraps round as the 32 of `xid` do."""

    def db_type(self, connection: Any) -> str | None:
        """Return `xid8`, where there is one."""
        return "xid8" if connection.vendor == "postgresql" else super().db_type(connection)

    def from_db_value(self, value: Any, *_: Any) -> int | None:
        """Return a number; the driver has text."""
        return None if value is None else int(value)


class StoredEvent(models.Model):
    """One thing that happened. Written by `append`, and never changed."""

    position = models.BigAutoField(primary_key=True)
    stream = models.CharField(max_length=255)
    version = models.BigIntegerField()
    type = models.CharField(max_length=255)
    type_version = models.PositiveSmallIntegerField()
    data = models.JSONField()
    metadata = models.JSONField()
    event_id = models.UUIDField(unique=True)
    xid = TransactionIdField(db_default=TransactionId(), editable=False)
    created_at = models.DateTimeField(db_default=Now())

    objects: ClassVar["models.Manager[StoredEvent]"] = models.Manager()

    class Meta:
        db_table = "dbpatterns_eventstore_event"
        required_db_features = ["supports_json_field"]  # else a check asks each busy SQLite (6.1)
        constraints = [
            models.UniqueConstraint(
                fields=["stream", "version"], name="dbpatterns_eventstore_event_once"
            )
        ]
        indexes = [models.Index(fields=["xid", "position"], name="dbpatterns_eventstore_order")]

    def __str__(self) -> str:
        return f"{self.stream} {self.version} {self.type}"


class EventStoreEpoch(models.Model):
    """One row: which life of the store this is, and the server whose transaction ids it holds."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    epoch = models.UUIDField()
    server = models.CharField(max_length=40)

    objects: ClassVar["models.Manager[EventStoreEpoch]"] = models.Manager()

    class Meta:
        db_table = "dbpatterns_eventstore_epoch"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(id=1), name="dbpatterns_eventstore_epoch_single"
            )
        ]

    def __str__(self) -> str:
        return str(self.epoch)


class StreamSnapshot(models.Model):
    """What a stream's events added up to at one version; a cache, safe to delete."""

    pk = models.CompositePrimaryKey("stream", "kind")
    stream = models.CharField(max_length=255)
    kind = models.CharField(max_length=255)
    version = models.BigIntegerField()
    state = models.JSONField(encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField(db_default=Now())

    objects: ClassVar["models.Manager[StreamSnapshot]"] = models.Manager()

    class Meta:
        db_table = "dbpatterns_eventstore_snapshot"
        required_db_features = ["supports_json_field"]

    def __str__(self) -> str:
        return f"{self.stream} {self.kind} {self.version}"


class ProjectionState(models.Model):
    """How far one generation of a projection has read; moved in the transaction of its rows."""

    name = models.CharField(max_length=255)
    generation = models.PositiveIntegerField()
    is_live = models.BooleanField()
    epoch = models.UUIDField(null=True)
    xid = models.BigIntegerField(default=0)
    position = models.BigIntegerField(default=0)
    events = models.BigIntegerField(default=0)

    objects: ClassVar["models.Manager[ProjectionState]"] = models.Manager()

    class Meta:
        db_table = "dbpatterns_eventstore_projection"
        constraints = [
            models.UniqueConstraint(
                fields=["name", "generation"], name="dbpatterns_eventstore_generation_once"
            ),
            models.UniqueConstraint(
                fields=["name"],
                condition=models.Q(is_live=True),
                name="dbpatterns_eventstore_one_live",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.generation}"


class ProjectedModel(models.Model):
    """Base of the rows a projection writes: two generations of them can lie side by side."""

    generation = models.PositiveIntegerField(editable=False, db_index=True)

    class Meta:
        abstract = True
