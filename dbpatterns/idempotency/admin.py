"""Keys in the admin, to look at: what was answered is not to be changed."""

from django.contrib import admin

from dbpatterns.admin import ReadOnlyAdmin
from dbpatterns.idempotency.models import IdempotencyKey

__all__ = ["IdempotencyKeyAdmin"]


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnlyAdmin):
    """Keys, the newest first. Answers may be confidential, so the list does not show them.

    None is deleted by hand: without its key a request would run again.
    """

    list_display = ("key", "scope", "created_at", "expires_at")
    search_fields = ("=key", "=scope")
    ordering = ("-id",)
