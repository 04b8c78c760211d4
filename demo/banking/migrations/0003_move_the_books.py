from typing import Any

from django.db import migrations

from dbpatterns.ledger.transfers import transfer


def book(apps: Any, schema_editor: Any) -> None:
    """Give each account one of the ledger's, and book each transfer again, in its order.

    A transfer that the ledger refuses stops the migration: such books were wrong before.
    """
    alias = schema_editor.connection.alias
    accounts = apps.get_model("banking", "Account").objects.using(alias)
    in_ledger = apps.get_model("dbpatterns_ledger", "Account").objects.using(alias)
    for account in list(accounts.filter(ledger=None).order_by("pk")):
        made = in_ledger.create(
            name=account.number,
            currency=account.currency,
            min_balance=0 if account.kind == "customer" else None,
        )
        accounts.filter(pk=account.pk).update(ledger=made)
    transfers = apps.get_model("banking", "Transfer").objects.using(alias)
    unbooked = transfers.filter(booking=None, entries__isnull=False).distinct().order_by("pk")
    for each in list(unbooked.select_related("payer", "payee")):
        key = each.idempotency_key if each.kind == "standing_order" else None
        if each.kind == "transfer":
            key = f"{each.customer_id}:{each.idempotency_key}"
        booking = transfer(
            each.payer.ledger_id,
            each.payee.ledger_id,
            each.amount,
            idempotency_key=key,
            reference=each.memo,
            using=alias,
        )
        transfers.filter(pk=each.pk).update(booking=booking.pk)
    for account in list(accounts.filter(status="closed").select_related("ledger")):
        in_ledger.filter(pk=account.ledger_id).update(closed_at=account.ledger.created_at)


def unbook(apps: Any, schema_editor: Any) -> None:
    """Write balances and entries down at the bank again; the ledger's own rows stay."""
    alias = schema_editor.connection.alias
    accounts = apps.get_model("banking", "Account").objects.using(alias)
    for account in list(accounts.select_related("ledger")):
        accounts.filter(pk=account.pk).update(balance=account.ledger.balance)
    entries = apps.get_model("banking", "Entry").objects.using(alias)
    booked = apps.get_model("banking", "Transfer").objects.using(alias).exclude(booking=None)
    for each in list(booked.order_by("pk")):
        for account_id, amount in ((each.payer_id, -each.amount), (each.payee_id, each.amount)):
            entries.create(transfer_id=each.pk, account_id=account_id, amount=amount)


class Migration(migrations.Migration):
    """Move balances and entries into the ledger; each shard its own."""

    dependencies = [("banking", "0002_ledger_links")]

    operations = [migrations.RunPython(book, unbook)]
