"""The check of admins: a plain one has one database, where rows of several shards are to be."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks

from dbpatterns._compat import model_admins
from dbpatterns.sharding.keys import is_sharded
from dbpatterns.sharding.reference import is_reference

__all__ = ["check_admins"]


def check_admins(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report admins of sharded and of reference models that ask one database. Touches none."""
    return [
        message
        for each in model_admins()
        if app_configs is None or each.opts.app_config in app_configs
        for message in _plain(each)
    ]


def _plain(model_admin: Any) -> Iterator[checks.CheckMessage]:
    from dbpatterns.sharding.reference_admin import ReferenceAdmin  # only where there is an admin
    from dbpatterns.sharding.sharded_admin import ShardedAdmin

    model = model_admin.model
    wanted = ShardedAdmin if is_sharded(model) else ReferenceAdmin if is_reference(model) else None
    if wanted and not isinstance(model_admin, wanted):
        yield checks.Warning(
            f"{type(model_admin).__name__} of {model._meta.label} is no {wanted.__name__}: its "
            "pages ask one database, and Django would not know which.",
            hint=f"Inherit {wanted.__module__}.{wanted.__name__}.",
            obj=type(model_admin),
            id="dbpatterns_sharding.W024",
        )
