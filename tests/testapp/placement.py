"""A router of the tests: apps that the demo has on its shards are on `default` as well."""

from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

__all__ = ["AlsoOnDefault"]

LABELS = ("dbpatterns_idempotency", "dbpatterns_ledger")


class AlsoOnDefault:
    """Answers a query that does not say where; tests of the demo do without, to be refused."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Return the instance's database, or `default`."""
        if model._meta.app_label not in LABELS:
            return None
        instance = hints.get("instance")
        return DEFAULT_DB_ALIAS if instance is None else instance._state.db or DEFAULT_DB_ALIAS

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Put the tables on `default`; the next router is asked about the shards."""
        return True if app_label in LABELS and db == DEFAULT_DB_ALIAS else None
