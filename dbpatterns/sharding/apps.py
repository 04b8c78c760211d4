"""The sharding app: it checks that the shards exist and that the router is in place."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.db.models.signals import pre_migrate

from dbpatterns.apps import check_settings
from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import ShardingSettings

__all__ = ["ShardingConfig", "check_sharding", "refuse_broken_settings"]

ROUTER = "dbpatterns.sharding.router.ShardRouter"


class ShardingConfig(AppConfig):
    """Rows on several databases, by the hash of one key."""

    name = "dbpatterns.sharding"
    label = "dbpatterns_sharding"
    verbose_name = "Sharding"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the settings check and the sharding check, and guard `migrate`."""
        checks.register(check_settings)
        checks.register(check_sharding)
        pre_migrate.connect(refuse_broken_settings, dispatch_uid="dbpatterns.sharding")


def refuse_broken_settings(**_: Any) -> None:
    """Stop `migrate --skip-checks` too: it would record migrations that make no table.

    Raises: ConfigurationError.
    """
    ShardingSettings.load()


def check_sharding(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report shards that are not databases, apps that do not exist and a missing router.

    Touches no database. Ids: dbpatterns_sharding.E001 to E004.
    """
    try:
        sharding = ShardingSettings.load()
    except ConfigurationError:
        return []  # dbpatterns.E001 says it
    found: list[checks.CheckMessage] = []
    for alias in sharding.shards:
        if alias not in settings.DATABASES:
            found.append(
                checks.Error(
                    f"Shard {alias!r} is not a database.",
                    hint=f"Add {alias!r} to DATABASES, or take it out of SHARDS.",
                    id="dbpatterns_sharding.E001",
                )
            )
    if len(set(sharding.shards)) < len(sharding.shards):
        found.append(
            checks.Error(
                "A database stands in SHARDS twice.",
                hint="Name each shard once: the hash counts them.",
                id="dbpatterns_sharding.E002",
            )
        )
    labels = {config.label for config in apps.get_app_configs()}
    for label in sharding.apps:
        if label not in labels:
            found.append(
                checks.Error(
                    f"Sharded app {label!r} is not installed.",
                    hint=f"Use an app label: {', '.join(sorted(labels))}.",
                    id="dbpatterns_sharding.E003",
                )
            )
    if sharding.apps and ROUTER not in settings.DATABASE_ROUTERS:
        found.append(
            checks.Error(
                "Apps are sharded, but the router is missing: their rows would go to 'default'.",
                hint=f'Add "{ROUTER}" to DATABASE_ROUTERS.',
                id="dbpatterns_sharding.E004",
            )
        )
    return found
