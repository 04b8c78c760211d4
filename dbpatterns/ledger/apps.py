"""The ledger app, and its checks: writers that wait on SQLite, guards that are in place."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import connections, router

from dbpatterns.apps import check_settings

__all__ = ["LedgerConfig", "check_guards", "check_immediate"]


class LedgerConfig(AppConfig):
    """Accounts, transfers and their entries."""

    name = "dbpatterns.ledger"
    label = "dbpatterns_ledger"
    verbose_name = "Ledger"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the settings check and the ledger's own."""
        checks.register(check_settings)
        checks.register(check_immediate)
        checks.register(check_guards, checks.Tags.database)


def check_immediate(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of SQLite without IMMEDIATE transactions (dbpatterns_ledger.W001).

    A transfer of its own takes the write lock first whatever the setting; one inside a
    transaction that has read before can only fail with "database is locked".
    """
    return [
        checks.Warning(
            f"SQLite database {alias!r} begins transactions without the write lock: a transfer "
            "after a read in the same transaction may fail at once.",
            hint=f'Set DATABASES[{alias!r}]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".',
            obj=alias,
            id="dbpatterns_ledger.W001",
        )
        for alias in connections
        if connections[alias].vendor == "sqlite"
        and router.allow_migrate(alias, LedgerConfig.label)
        and connections[alias].settings_dict["OPTIONS"].get("transaction_mode") != "IMMEDIATE"
    ]


def check_guards(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **_: Any
) -> list[checks.CheckMessage]:
    """Warn of ledger tables without their triggers or functions (dbpatterns_ledger.W002).

    Runs with `check --database`; one query for each database.
    """
    from dbpatterns.ledger.sql import missing

    return [
        checks.Warning(
            f"The ledger's tables in {alias!r} lack {', '.join(absent)}: nothing guards them.",
            hint="Run `migrate dbpatterns_ledger`; a test database needs migrations too.",
            obj=alias,
            id="dbpatterns_ledger.W002",
        )
        for alias in databases or ()
        if (absent := missing(alias))
    ]
