"""The ledger in the admin, to look at: money moves by `transfer()` only."""

from django.contrib import admin

from dbpatterns.admin import ReadOnlyAdmin
from dbpatterns.ledger.models import Account, Entry, Transfer

__all__ = ["AccountAdmin", "EntryAdmin", "TransferAdmin"]


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    """Accounts and what they have."""

    list_display = ("id", "name", "currency", "balance", "pending_debits", "closed_at")
    list_filter = ("currency",)
    search_fields = ("=id", "name")


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    """Transfers, the newest first."""

    list_display = ("id", "source_id", "destination_id", "amount", "currency", "status")
    list_filter = ("status",)
    search_fields = ("=id", "=idempotency_key")
    ordering = ("-id",)


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    """Entries, the newest first."""

    list_display = ("id", "account_id", "account_version", "amount", "balance_after")
    search_fields = ("=account__id", "=transfer__id")
    ordering = ("-id",)
