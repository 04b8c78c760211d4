"""Which databases have a table."""

from django.db import connections, router
from django.db.models import Model

__all__ = ["databases_of"]


def databases_of(model: type[Model]) -> list[str]:
    """Return where the routers let a model's table be, in the order of the settings; no query."""
    return [each for each in connections if router.allow_migrate_model(each, model)]
