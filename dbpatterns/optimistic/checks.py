"""System checks of versioned models: what would let a write round the version."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist

from dbpatterns.optimistic.models import VersionedModel, VersionedQuerySet

__all__ = ["check_versioned_models"]


def check_versioned_models(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """Report exempt fields that a form may edit (E040) and managers without versions (W041).

    Touches no database.
    """
    configs = apps.get_app_configs() if app_configs is None else app_configs
    return [
        message
        for config in configs
        for model in config.get_models()
        if issubclass(model, VersionedModel)
        for message in (*_editable_exempt_fields(model), *_plain_managers(model))
    ]


def _editable_exempt_fields(model: type[VersionedModel]) -> Iterator[checks.CheckMessage]:
    for name in model.version_exempt_fields:
        try:
            field = model._meta.get_field(name)
        except FieldDoesNotExist:
            problem = "does not exist"
        else:
            if not getattr(field, "editable", False):
                continue
            problem = "is editable, and save() leaves it out: a form would lose what is typed"
        yield checks.Error(
            f"{model._meta.label}.{name}, of version_exempt_fields, {problem}.",
            hint="Give the field editable=False, or take it out of version_exempt_fields.",
            obj=model,
            id="dbpatterns.E040",
        )


def _plain_managers(model: type[VersionedModel]) -> Iterator[checks.CheckMessage]:
    for manager in model._meta.managers:
        if not isinstance(manager.get_queryset(), VersionedQuerySet):
            yield checks.Warning(
                f"{model._meta.label}.{manager.name} updates rows without a new version.",
                hint="Make the manager from VersionedQuerySet.",
                obj=model,
                id="dbpatterns.W041",
            )
