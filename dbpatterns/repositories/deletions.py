"""What one soft deletion takes, and what its restoring brings back, as sets.

The walk marks the rows asked for and then, link by link, the children of marked rows, one UPDATE a
link, until nothing more is reached. No row is loaded: what was marked is found again by its mark.
`soft_delete` is the face of this module, and says what on_delete means here.
"""

import uuid
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from django.db import IntegrityError, connections, models, transaction
from django.db.models import (
    F,
    ManyToOneRel,
    ProtectedError,
    Q,
    QuerySet,
    RestrictedError,
    UniqueConstraint,
)
from django.db.models.functions import Cast
from django.utils import timezone

from dbpatterns.errors import DBPatternsError

__all__ = ["RestoreConflict", "SoftDeleteColumns", "delete_rows", "owner_of", "restore_rows"]

# Django 6.1 adds a CASCADE that the database does; softly, it means the same.
_CASCADES = (models.CASCADE, getattr(models, "DB_CASCADE", models.CASCADE))


class RestoreConflict(DBPatternsError, IntegrityError):
    """A constraint holds among live rows and refuses the restored one; nothing was restored."""

    def __init__(self, message: str, *, model: str, constraint: str) -> None:
        super().__init__(message)
        self.model = model
        self.constraint = constraint
        """The constraint's name; empty when the database named none that a model declares."""


class _KeptDateTimeField(models.DateTimeField):  # type: ignore[type-arg]
    """A column that `save()` leaves as the database has it.

    An object read before somebody deleted its row would bring the row back when it is saved.
    """

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return super().pre_save(model_instance, add) if add else F(self.attname)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, kwargs


class _KeptUUIDField(models.UUIDField):  # type: ignore[type-arg]
    """The same for a token."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return super().pre_save(model_instance, add) if add else F(self.attname)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.UUIDField", args, kwargs


class SoftDeleteColumns(models.Model):
    """The columns that a soft deletion writes."""

    deleted_at = _KeptDateTimeField(null=True, editable=False)
    """When the row was deleted; None for a live row. `save()` never changes it."""
    deletion = _KeptUUIDField(null=True, editable=False, db_index=True)
    """Which call deleted the row; the same for all rows that call took. None for a live row."""

    class Meta:
        abstract = True


class _Link(NamedTuple):
    """A relation by which rows of `model` depend on rows of `parent`."""

    model: type[models.Model]
    field: Any
    parent: type[models.Model]
    on_delete: Any

    @property
    def is_soft(self) -> bool:
        return issubclass(self.model, SoftDeleteColumns)

    def rows(self, using: str, **parents: Any) -> QuerySet[Any]:
        """Return the rows that depend on the parents that these criteria describe."""
        found = self.parent._base_manager.using(using).filter(**parents)
        children = self.model._base_manager.using(using)
        if not _is_generic(self.field):
            return children.filter(**{f"{self.field.name}__in": found})
        from django.contrib.contenttypes.models import ContentType  # it need not be installed

        kind = ContentType.objects.db_manager(using).get_for_model(
            self.parent, for_concrete_model=self.field.for_concrete_model
        )
        key: Any = self.model._meta.get_field(self.field.object_id_field_name)
        keys: Any = found.annotate(_key=Cast("pk", key)).values("_key")  # text, often
        native = connections[using].features.has_native_uuid_field
        if isinstance(owner_of(self.parent)._meta.pk, models.UUIDField) and not native:
            # SQLite's cast would leave out the hyphens that the text has.
            keys = [str(each) for each in found.values_list("pk", flat=True)]
        return children.filter(
            **{self.field.content_type_field_name: kind, f"{key.name}__in": keys}
        )


def _is_generic(field: Any) -> bool:
    return hasattr(field, "object_id_field_name")


@cache
def _links(owner: Any) -> tuple[_Link, ...]:
    """Return what depends on this model's rows, and on those of its children's tables."""
    found = []
    for parent in owner._meta.apps.get_models():
        if not issubclass(parent, owner) or parent._meta.proxy:
            continue
        for each in parent._meta.get_fields(include_parents=False, include_hidden=True):
            if _is_generic(each):
                found.append(_Link(each.related_model, each, parent, models.CASCADE))
            elif isinstance(each, ManyToOneRel) and not each.parent_link:
                found.append(_Link(each.related_model, each.field, parent, each.on_delete))
    return tuple(found)


def owner_of(model: type[models.Model]) -> Any:
    """Return the model whose table has the columns: a parent's, in multi-table inheritance."""
    return model._meta.get_field("deleted_at").model._meta.concrete_model


def _spread(
    rows: QuerySet[Any], *, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Counter[Any]:
    """Turn `before` into `after` in these rows and, link by link, in what depends on them.

    `after` is both what to write and how to find again what was written.
    """
    using = rows.db
    counts: Counter[Any] = Counter()
    pending: dict[_Link | None, QuerySet[Any]] = {None: rows}
    while pending:
        reached = pending.pop(next(iter(pending)))
        owner = owner_of(reached.model)
        # The condition stands outside the subquery: PostgreSQL checks it again on a row that it
        # had to wait for, and so the second of two deletions leaves the row to the first.
        changed = (
            owner._base_manager.using(using)
            .filter(**before, pk__in=reached.values("pk"))
            .update(**after)
        )
        if changed:
            counts[owner] += changed
            for link in _links(owner):
                if link.is_soft and link.on_delete in _CASCADES:
                    pending[link] = link.rows(using, **after)
    return counts


def delete_rows(rows: QuerySet[Any]) -> tuple[Counter[Any], Mapping[str, Any]]:
    """Delete these rows softly; return how many rows of which model, and what was written."""
    stamp = {"deleted_at": timezone.now(), "deletion": uuid.uuid4()}
    with transaction.atomic(using=rows.db):
        counts = _spread(rows, before={"deleted_at": None}, after=stamp)
        # Django's PROTECT refuses for rows of the same deletion too, its RESTRICT does not.
        same = Q(deletion=stamp["deletion"])
        _refuse(counts, rows.db, stamp, models.PROTECT, Q(deleted_at=None) | same)
        _refuse(counts, rows.db, stamp, models.RESTRICT, Q(deleted_at=None))
    return counts, stamp


def _refuse(
    counts: Counter[Any], using: str, stamp: Mapping[str, Any], on_delete: Any, among: Q
) -> None:
    blocking: dict[str, set[Any]] = {}
    for owner in counts:
        for link in _links(owner):
            if link.on_delete is on_delete:
                rows = link.rows(using, **stamp)
                if found := set(rows.filter(among) if link.is_soft else rows):
                    blocking[f"'{link.model.__name__}.{link.field.name}'"] = found
    if blocking:
        error, word = {
            models.PROTECT: (ProtectedError, "protected"),
            models.RESTRICT: (RestrictedError, "restricted"),
        }[on_delete]
        raise error(
            f"Cannot delete some instances of model {next(iter(counts)).__name__!r} because they "
            f"are referenced through {word} foreign keys: {', '.join(blocking)}.",
            set().union(*blocking.values()),
        )


def restore_rows(rows: QuerySet[Any]) -> Counter[Any]:
    """Restore the deleted ones of these rows; return how many rows of which model."""
    owner, using = owner_of(rows.model), rows.db
    counts: Counter[Any] = Counter()
    every = owner._base_manager.using(using)
    dead = every.filter(pk__in=rows.values("pk"), deleted_at__isnull=False)
    try:
        with transaction.atomic(using=using):
            for token in list(dead.order_by().values_list("deletion", flat=True).distinct()):
                if token is None:  # deleted by other means: nothing tells what went with it
                    counts[owner] += dead.filter(deletion=None).update(deleted_at=None)
                    continue
                # The token stays until all is reached: it tells these rows from other live ones.
                after = {"deleted_at": None, "deletion": token}
                before = {"deleted_at__isnull": False, "deletion": token}
                restored = _spread(rows, before=before, after=after)
                for each in restored:
                    each._base_manager.using(using).filter(**after).update(deletion=None)
                counts += restored
    except IntegrityError as error:
        raise _conflict(owner, str(error)) from error
    return counts


def _conflict(owner: Any, text: str) -> RestoreConflict:
    for model in owner._meta.apps.get_models():
        for constraint in model._meta.constraints if issubclass(model, SoftDeleteColumns) else ():
            if not isinstance(constraint, UniqueConstraint):
                continue
            names = constraint.fields
            # SQLite names a unique index by its columns: "failed: blog_post.slug".
            columns = [f"{model._meta.db_table}.{model._meta.get_field(n).column}" for n in names]
            if f'"{constraint.name}"' in text or text.endswith(f": {', '.join(columns)}"):
                return RestoreConflict(
                    f"{model._meta.label} cannot be restored: a live row has its "
                    f"{' and '.join(names) or 'value'} already (constraint "
                    f"{constraint.name!r}). Change or "
                    f"delete that row, or change this one, and restore again.",
                    model=model._meta.label,
                    constraint=constraint.name,
                )
    return RestoreConflict(
        f"{owner._meta.label} cannot be restored, for the database refuses: {text}",
        model=owner._meta.label,
        constraint="",
    )
