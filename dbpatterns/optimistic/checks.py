"""System checks of versioned models: what would let a write round the version."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist

from dbpatterns._compat import model_admins
from dbpatterns.optimistic.models import VersionedModel, VersionedQuerySet

__all__ = ["check_versioned_admin", "check_versioned_models"]


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
            if name == field.name and not getattr(field, "editable", False):
                continue
            problem = (
                f"is named {field.name}"
                if name != field.name
                else "is editable, and save() leaves it out: a form would lose what is typed"
            )
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


def check_versioned_admin(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """Report admins (W042) and inlines (W043) that save versioned rows and forget what was shown.

    Django asks the row that it reads for the POST, so its own forms, lists and deletes overwrite
    what was written since the page was made. Touches no database.
    """
    return [
        message
        for model_admin in model_admins()
        if app_configs is None or model_admin.opts.app_config in app_configs
        for message in (*_plain_admins(model_admin), *_plain_inlines(model_admin))
    ]


def _plain_admins(model_admin: Any) -> Iterator[checks.CheckMessage]:
    from dbpatterns.optimistic.admin import VersionedAdmin
    from dbpatterns.optimistic.forms import VersionedModelForm

    if not issubclass(model_admin.model, VersionedModel):
        return
    name = type(model_admin).__name__
    if not isinstance(model_admin, VersionedAdmin):
        yield checks.Warning(
            f"{name} overwrites what was written to {model_admin.opts.label} since its page was "
            "made.",
            hint="Inherit dbpatterns.optimistic.admin.VersionedAdmin.",
            obj=type(model_admin),
            id="dbpatterns.W042",
        )
    elif not issubclass(model_admin.form, VersionedModelForm):
        yield checks.Warning(
            f"The form of {name}, {model_admin.form.__name__}, forgets the version that was shown.",
            hint="Inherit dbpatterns.optimistic.forms.VersionedModelForm.",
            obj=type(model_admin),
            id="dbpatterns.W042",
        )


def _plain_inlines(model_admin: Any) -> Iterator[checks.CheckMessage]:
    from dbpatterns.optimistic.admin import VersionedFormSetMixin
    from dbpatterns.optimistic.forms import VersionedModelForm

    for inline in model_admin.inlines:
        is_whole = issubclass(inline.form, VersionedModelForm) and issubclass(
            inline.formset, VersionedFormSetMixin
        )
        if issubclass(inline.model, VersionedModel) and not is_whole:
            yield checks.Warning(
                f"{inline.__name__} of {type(model_admin).__name__} overwrites what was written to "
                f"{inline.model._meta.label} since its page was made.",
                hint="Put dbpatterns.optimistic.admin.VersionedInlineMixin before its base.",
                obj=inline,
                id="dbpatterns.W043",
            )
