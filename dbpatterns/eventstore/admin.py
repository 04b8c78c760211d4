"""Events in the admin, to look at: what happened is not to be changed."""

from django.contrib import admin

from dbpatterns.admin import ReadOnlyAdmin
from dbpatterns.eventstore.models import ProjectionState, StoredEvent

__all__ = ["ProjectionStateAdmin", "StoredEventAdmin"]


@admin.register(StoredEvent)
class StoredEventAdmin(ReadOnlyAdmin):
    """Events, the newest first."""

    list_display = ("position", "stream", "version", "type", "created_at")
    search_fields = ("=stream", "=event_id")
    ordering = ("-position",)


@admin.register(ProjectionState)
class ProjectionStateAdmin(ReadOnlyAdmin):
    """How far each projection has read; `rebuild_projection` makes one again."""

    list_display = ("name", "generation", "is_live", "events", "position")
    ordering = ("name", "generation")
