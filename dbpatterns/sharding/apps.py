"""The sharding app: maps are made with the control database's tables, and the set-up is checked."""

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, pre_migrate

from dbpatterns.apps import check_settings
from dbpatterns.sharding.conf import ShardingSettings

__all__ = ["ShardingConfig", "refuse_broken_settings"]


class ShardingConfig(AppConfig):
    """Rows on several databases, by one key and a map."""

    name = "dbpatterns.sharding"
    label = "dbpatterns_sharding"
    verbose_name = "Sharding"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, guard `migrate`, make the maps after it; serve connections."""
        from dbpatterns.sharding.admin_checks import check_admins  # these read models
        from dbpatterns.sharding.checks import check_models, check_sharding
        from dbpatterns.sharding.id_clock import add_function
        from dbpatterns.sharding.replicas.watching import watch

        checks.register(check_settings)
        checks.register(check_sharding)
        checks.register(check_models)
        checks.register(check_admins)
        pre_migrate.connect(refuse_broken_settings, dispatch_uid="dbpatterns.sharding")
        post_migrate.connect(_make_maps, sender=self, dispatch_uid="dbpatterns.sharding.maps")
        post_migrate.connect(
            _restore_fences, sender=self, dispatch_uid="dbpatterns.sharding.fences"
        )
        connection_created.connect(add_function, dispatch_uid="dbpatterns.sharding.ids")
        connection_created.connect(watch, dispatch_uid="dbpatterns.sharding.replicas")


def refuse_broken_settings(**_: Any) -> None:
    """Stop `migrate --skip-checks` too: it would record migrations that make no table.

    Raises: ConfigurationError.
    """
    ShardingSettings.load()


def _make_maps(using: str, **_: Any) -> None:
    from dbpatterns.sharding.map_store import make_first_maps  # models, which are there by now

    make_first_maps(using)


def _restore_fences(using: str, **_: Any) -> None:
    from dbpatterns.sharding.fences import restore

    restore(using)
