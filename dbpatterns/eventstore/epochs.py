"""The life of a store: transaction ids are a server's own, and a dump restored elsewhere lies."""

import uuid
from typing import Any

from django.db import connections, router, transaction
from django.db.models import CharField, Value
from django.db.models.expressions import RawSQL

from dbpatterns.eventstore.errors import EpochChanged
from dbpatterns.eventstore.models import EventStoreEpoch, StoredEvent

__all__ = ["epoch_of", "new_epoch"]


def new_epoch(*, using: str | None = None) -> uuid.UUID:
    """Declare that the events were restored from a dump, and return the new epoch.

    Their transaction ids are the old server's, so they are set to 0: their order is that of their
    positions from now on, and checkpoints of before are refused: rebuild the projections.
    Rewrites the table under a lock that keeps out all who append.
    """
    alias = using or router.db_for_write(StoredEvent)
    connection = connections[alias]
    epoch = uuid.uuid4()
    with transaction.atomic(using=alias):
        if connection.vendor == "postgresql":
            table = connection.ops.quote_name(StoredEvent._meta.db_table)
            with connection.cursor() as cursor:
                cursor.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                cursor.execute(f"UPDATE {table} SET xid = '0' WHERE xid <> '0'")
        EventStoreEpoch.objects.using(alias).update_or_create(
            defaults={"epoch": epoch, "server": _server(alias)}, id=1
        )
    return epoch


def epoch_of(alias: str) -> uuid.UUID:
    """Return the store's epoch, made when first asked for; one query."""
    rows = EventStoreEpoch.objects.using(alias).annotate(here=_server(alias))
    row = rows.first()
    if row is None:
        first = EventStoreEpoch(epoch=uuid.uuid4(), server=_server(alias))
        made = EventStoreEpoch.objects.using(alias)
        made.bulk_create([first], ignore_conflicts=True)  # of two readers, one makes it
        row = rows.get()
    if row.server != row.here:
        raise EpochChanged(
            f"The events in {alias!r} were written on another server ({row.server}, here is "
            f"{row.here}): their transaction ids mean nothing here. After a restore or an upgrade "
            "by dump, call new_epoch() once."
        )
    epoch: uuid.UUID = row.epoch
    return epoch


def _server(alias: str) -> Any:
    """Return what a server that was restored from a dump does not share with the old one."""
    if connections[alias].vendor != "postgresql":
        return Value("", output_field=CharField())
    identity = "SELECT system_identifier::text FROM pg_control_system()"
    return RawSQL(identity, (), output_field=CharField())
