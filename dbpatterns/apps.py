"""The root app: system checks. No tables, no patching, no signal handlers."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks

from dbpatterns import conf, services

__all__ = ["DBPatternsConfig", "check_services", "check_settings"]


def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report what is wrong with `DBPATTERNS` (dbpatterns.E001); touches no database.

    Every app of this package registers it; Django keeps one.
    """
    return [
        checks.Error(
            problem,
            hint="See the settings reference of django-dbpatterns.",
            obj="settings",
            id="dbpatterns.E001",
        )
        for problem in conf.problems()
    ]


def check_services(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report bindings of `dbpatterns.services` that cannot be built (dbpatterns.E002)."""
    return [
        checks.Error(
            problem,
            hint="See the how-to on services of django-dbpatterns.",
            obj="services",
            id="dbpatterns.E002",
        )
        for problem in services.problems()
    ]


class DBPatternsConfig(AppConfig):
    """Optional: installs the checks for those who use libraries only."""

    name = "dbpatterns"
    label = "dbpatterns"
    verbose_name = "Database patterns"

    def ready(self) -> None:
        """Register the checks of the settings, the services and the libraries."""
        from dbpatterns.optimistic.checks import check_versioned_admin, check_versioned_models
        from dbpatterns.repositories.checks import check_fat_repositories, check_soft_delete
        from dbpatterns.transactions.checks import check_sqlite

        checks.register(check_settings)
        checks.register(check_services)
        checks.register(check_fat_repositories)
        checks.register(check_soft_delete)
        checks.register(check_sqlite)
        checks.register(check_versioned_models)
        checks.register(check_versioned_admin)
