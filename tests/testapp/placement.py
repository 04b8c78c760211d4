"""A router of the tests: apps that the demo has on its shards are on `default` as well."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model
from django.test import override_settings

__all__ = ["AlsoOnDefault", "on_default_only"]

LABELS = ("dbpatterns_eventstore", "dbpatterns_idempotency", "dbpatterns_ledger")


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


@contextmanager
def on_default_only() -> Iterator[None]:
    """Have one ledger, one event store and one table of keys: the demo's shards have none."""
    patterns: dict[str, Any] = settings.DBPATTERNS
    sharding = {**patterns["SHARDING"], "GROUPS": {"bank": {"APPS": ["banking"]}}}
    with override_settings(DBPATTERNS={**patterns, "SHARDING": sharding}):
        yield
