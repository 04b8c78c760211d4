"""The only module that touches private names of Django; each says when it can go."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps
from django.db import connections
from django.db.models import Model, QuerySet, TextField
from django.db.models.query import RawQuerySet

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

__all__ = ["UpsertQuerySet", "hinted_instance", "loaded_rows", "model_admins"]

M = TypeVar("M", bound=Model)


class UpsertQuerySet(QuerySet[M]):
    """A queryset whose `bulk_create(update_conflicts=True)` learns which rows were inserted.

    Overrides `QuerySet._insert`, which every insert of Django goes through (5.2 to 6.1), to ask
    for more columns back: the primary key, which an updated row keeps from before, and on
    PostgreSQL `xmax`, which is zero for a row version that was inserted and the writer's lock for
    one that replaced another. Can go when a version of Django tells the two apart itself.
    """

    inserted: dict[int, bool]
    """By the object's `id()`, whether its row is new; PostgreSQL only."""

    def _clone(self) -> "UpsertQuerySet[M]":
        made: UpsertQuerySet[M] = super()._clone()  # type: ignore[misc]
        made.inserted = self.inserted  # of one write, whichever of its clones inserts
        return made

    def _insert(self, objs: Sequence[M], fields: Any, **options: Any) -> list[Any]:
        returning = list(options.pop("returning_fields", None) or ())
        keys = [field for field in self.model._meta.pk_fields if field not in returning]
        asked = [*returning, *keys]
        is_postgresql = connections[self.db].vendor == "postgresql"
        if is_postgresql:
            asked.append(_xmax(self.model))
        rows: list[Any] = super()._insert(  # type: ignore[misc]
            objs, fields, returning_fields=asked, **options
        )
        if is_postgresql:
            self.inserted.update(zip(map(id, objs), [row[-1] == "0" for row in rows], strict=True))
        for position, field in enumerate(keys, start=len(returning)):
            for obj, row in zip(objs, rows, strict=True):
                setattr(obj, field.attname, row[position])
        return [row[: len(returning)] for row in rows]


def _xmax(model: type[Model]) -> "TextField[str, str]":
    column: TextField[str, str] = TextField(db_column="xmax")
    column.set_attributes_from_name("xmax")
    column.model = model
    return column


def hinted_instance(queryset: "QuerySet[Any] | RawQuerySet[Any]") -> Model | None:
    """Return the object whose related manager made a queryset, None for a queryset of its own.

    Reads `QuerySet._hints` (5.2 to 6.1), which Django gives to routers as `instance`. Can go when
    a version of Django tells a queryset's owner.
    """
    instance = queryset._hints.get("instance")  # type: ignore[union-attr]
    return instance if isinstance(instance, Model) else None


def loaded_rows(queryset: "QuerySet[Any]") -> list[Any] | None:
    """Return the rows a queryset has read, None before that; never a query.

    Reads `QuerySet._result_cache` (5.2 to 6.1): `len()` of a queryset would query. Can go when a
    version of Django tells whether a queryset has been evaluated.
    """
    return queryset._result_cache


def model_admins() -> "Iterator[ModelAdmin[Any]]":
    """Yield what is registered with any admin site; nothing if there is no admin.

    Reads `all_sites` and `AdminSite._registry` (5.2 to 6.1), as the admin's own checks do. Can go
    when Django lists the sites, or lets checks be added to a ModelAdmin.
    """
    if apps.is_installed("django.contrib.admin"):
        from django.contrib.admin.sites import all_sites

        for site in all_sites:
            yield from site._registry.values()
