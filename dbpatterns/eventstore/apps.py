"""The event store's app: it finds the projections of each app and checks them."""

from django.apps import AppConfig
from django.core import checks
from django.utils.module_loading import autodiscover_modules

from dbpatterns.apps import check_settings

__all__ = ["EventStoreConfig"]


class EventStoreConfig(AppConfig):
    """Events, snapshots and how far each projection has read."""

    name = "dbpatterns.eventstore"
    label = "dbpatterns_eventstore"
    verbose_name = "Event store"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import `projections` of every app, as the admin does `admin`; register the checks."""
        from dbpatterns.eventstore.checks import check_projections, check_upcasters

        autodiscover_modules("projections")
        checks.register(check_settings)
        checks.register(check_projections)
        checks.register(check_upcasters)
