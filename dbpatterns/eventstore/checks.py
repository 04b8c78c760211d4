"""Checks of what is registered; they touch no database."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks

from dbpatterns.eventstore.models import ProjectedModel
from dbpatterns.eventstore.projections import registered
from dbpatterns.eventstore.upcasting import gaps

__all__ = ["check_projections", "check_upcasters"]


def check_upcasters(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report event types whose chain of upcasters has a gap (dbpatterns_eventstore.E001)."""
    return [
        checks.Error(
            f"Nothing upcasts version {version} of event type {type!r} to {version + 1}.",
            hint=f'Write a function for it: @upcaster("{type}", from_version={version}).',
            obj=type,
            id="dbpatterns_eventstore.E001",
        )
        for type, version in gaps()
    ]


def check_projections(
    app_configs: Sequence[AppConfig] | None, **_: Any
) -> list[checks.CheckMessage]:
    """Report projections whose rows have no generation (dbpatterns_eventstore.E002)."""
    return [
        checks.Error(
            f"{projection.model.__name__}, which projection {name!r} writes, is no "
            "ProjectedModel: it could not be rebuilt beside the rows in use.",
            hint="Derive the model from dbpatterns.eventstore.models.ProjectedModel.",
            obj=projection.model,
            id="dbpatterns_eventstore.E002",
        )
        for name, projection in sorted(registered().items())
        if not issubclass(projection.model, ProjectedModel)
    ]
