"""System checks of models: what undoes a pattern before a row is written."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks
from django.db.models import Field, Model, OneToOneField, UniqueConstraint

from dbpatterns.errors import ConfigurationError
from dbpatterns.repositories.base import BaseRepository
from dbpatterns.repositories.conf import RepositoriesSettings
from dbpatterns.repositories.repository import Repository
from dbpatterns.repositories.soft_delete import (
    LiveManager,
    LiveOneToOneField,
    SoftDeleteModel,
    SoftDeleteQuerySet,
)

__all__ = ["check_fat_repositories", "check_soft_delete"]


def check_fat_repositories(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """Report repositories that add more public methods than FAT_REPOSITORY_METHODS (W010).

    Touches no database; sees the classes that are imported.
    """
    try:
        most = RepositoriesSettings.load().fat_repository_methods
    except ConfigurationError:
        return []  # dbpatterns.E001 says it
    return [
        checks.Warning(
            f"{repository.__module__}.{repository.__qualname__} adds {len(added)} public methods; "
            f"more than {most} are hard to know.",
            hint="Name conditions as Specs and pass them to find_by(), or split it by use case.",
            obj=repository,
            id="dbpatterns.W010",
        )
        for repository in _descendants(BaseRepository)
        if len(added := _added(repository)) > most
    ]


def _descendants(parent: type[Any]) -> Iterator[type[Any]]:
    for child in parent.__subclasses__():
        yield child
        yield from _descendants(child)


def _added(repository: type[Any]) -> set[str]:
    """Return the public methods that the class and its own bases add to the contract."""
    contract = {"model", *dir(BaseRepository), *dir(Repository)}
    return {
        name
        for name in dir(repository)
        if not name.startswith("_") and name not in contract and callable(getattr(repository, name))
    }


def check_soft_delete(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """Report SoftDeleteModels whose deleted rows hold unique values (W011) or leak (E012).

    Touches no database. A primary key, and a LiveOneToOneField, may well stay taken.
    """
    configs = apps.get_app_configs() if app_configs is None else app_configs
    return [
        message
        for config in configs
        for model in config.get_models()
        if issubclass(model, SoftDeleteModel)
        for message in (*_taken_values(model), *_leaking_managers(model))
    ]


def _taken_values(model: type[Model]) -> Iterator[checks.CheckMessage]:
    meta = model._meta
    if meta.proxy:
        return
    for field in meta.local_fields:
        if field.unique and not field.primary_key and not isinstance(field, LiveOneToOneField):
            yield _warning(
                model, f"{field.name} is unique", _one_to_one_hint(field), (field.name,), field
            )
    for fields in meta.unique_together:
        yield _warning(model, f"unique_together has {tuple(fields)}", "", tuple(fields), model)
    for constraint in meta.constraints:
        if isinstance(constraint, UniqueConstraint) and constraint.condition is None:
            yield _warning(
                model,
                f"the constraint {constraint.name!r} has no condition",
                "",
                constraint.fields or ("…",),
                model,
            )


def _one_to_one_hint(field: "Field[Any, Any]") -> str:
    if not isinstance(field, OneToOneField):
        return ""
    return (
        "Use a LiveOneToOneField, whose reverse side hides a deleted row that keeps its place; "
        "for a new row to take the place, make it a ForeignKey and then: "
    )


def _warning(
    model: type[Model], what: str, hint: str, fields: Sequence[str], obj: Any
) -> checks.CheckMessage:
    names = ", ".join(f'"{name}"' for name in fields)
    return checks.Warning(
        f"{model._meta.label}: {what}, so a deleted row keeps its value taken.",
        hint=f"{hint}Put unique_among_live({names}, name=…) into Meta.constraints instead.",
        obj=obj,
        id="dbpatterns.W011",
    )


def _leaking_managers(model: type[Model]) -> Iterator[checks.CheckMessage]:
    default, base = model._default_manager, model._base_manager
    if not isinstance(default, LiveManager) or not isinstance(
        default.get_queryset(), SoftDeleteQuerySet
    ):
        yield checks.Error(
            f"{model._meta.label}: its default manager {default.name!r} is no LiveManager over a "
            f"SoftDeleteQuerySet, so related managers show deleted rows or delete for good.",
            hint="Declare `objects = LiveManager()`, or LiveManager.from_queryset(…)() over a "
            "query set derived from SoftDeleteQuerySet, before the other managers, and name no "
            "other Meta.default_manager_name.",
            obj=model,
            id="dbpatterns.E012",
        )
    if isinstance(base, LiveManager):
        yield checks.Error(
            f"{model._meta.label}: its base manager hides deleted rows, so save() would insert "
            f"a deleted row again and a foreign key to it would raise DoesNotExist.",
            hint="Remove Meta.base_manager_name, or name a manager that does not filter.",
            obj=model,
            id="dbpatterns.E012",
        )
