from typing import Any

from django.db import migrations

from dbpatterns.eventstore.batches import NewEvent
from dbpatterns.eventstore.streams import append_many

BATCH = 500


def record(apps: Any, schema_editor: Any) -> None:
    """Append an event for each entry on a customer's account, in the ledger's order."""
    alias = schema_editor.connection.alias
    entries = apps.get_model("banking", "Entry").objects.using(alias)
    own = entries.filter(account__kind="customer").order_by("pk")
    own = own.select_related("account", "transfer__payer", "transfer__payee")
    last = 0
    while batch := list(own.filter(pk__gt=last)[:BATCH]):
        append_many(
            [
                (f"account:{each.account.number}", NewEvent("MoneyMoved", _data(each)))
                for each in batch
            ],
            using=alias,
        )
        last = batch[-1].pk


def _data(entry: Any) -> dict[str, object]:
    made = entry.transfer
    other = made and (made.payer if made.payee_id == entry.account_id else made.payee)
    return {
        "amount": entry.amount,
        "kind": made.kind if made else "balance_set",
        "counterparty": other.number if other else "",
        "memo": made.memo if made else "",
        "at": entry.created_at.isoformat(),
    }


def forget(apps: Any, schema_editor: Any) -> None:
    """Delete the events; the books have all that they say."""
    alias = schema_editor.connection.alias
    events = apps.get_model("dbpatterns_eventstore", "StoredEvent").objects.using(alias)
    events.filter(stream__startswith="account:").delete()
    states = apps.get_model("dbpatterns_eventstore", "ProjectionState").objects.using(alias)
    states.filter(name="statements").delete()


class Migration(migrations.Migration):
    """Give the books that were kept before the events their events; each shard its own."""

    dependencies = [
        ("banking", "0005_statement_lines"),
        ("dbpatterns_eventstore", "0001_initial"),
    ]

    operations = [migrations.RunPython(record, forget)]
