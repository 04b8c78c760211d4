"""The idempotency app."""

from django.apps import AppConfig
from django.core import checks

from dbpatterns.apps import check_settings

__all__ = ["IdempotencyConfig"]


class IdempotencyConfig(AppConfig):
    """Keys, and the answer that each was given."""

    name = "dbpatterns.idempotency"
    label = "dbpatterns_idempotency"
    verbose_name = "Idempotency keys"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the settings check."""
        checks.register(check_settings)
