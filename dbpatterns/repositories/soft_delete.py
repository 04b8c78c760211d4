"""Soft deletion: a row that goes out of sight, with what depends on it, and comes back whole.

    class Post(SoftDeleteModel):
        slug = models.SlugField()

        class Meta:
            constraints = [unique_among_live("slug", name="blog_post_slug")]

    post.delete()            # an UPDATE of the post and, by CASCADE, of its soft-deletable children
    Post.objects             # live rows only, as are all related managers and prefetches
    Post.everything          # every row; post.comments(manager="everything") does it for a relation
    post.restore()           # exactly what that deletion took
    post.hard_delete()       # Django's own deletion

`deletion` is one token for all that one call deleted, because two instants may be equal (a frozen
clock, another process) and a restore must not guess. The walk along the relations is set-based:
it marks the children of marked rows, one UPDATE a relation, until nothing more is reached.

# Note [Who still sees a deleted row]
Django forbids a base manager that filters: `save()` would INSERT the row a second time. So what
reads through the base manager sees deleted rows, and should: `comment.post` and a generic
`content_object` (ask `is_deleted`), `refresh_from_db`, a hard deletion, which must take them too.
So do the joins of `filter(posts__title=…)`, of aggregates and of `select_related`, and a
many-to-many relation whose *through* row is deleted; `Q` objects of `live("posts")` mend these.
The admin's confirmation page lists what a hard deletion would take; its buttons delete softly.

# Note [What on_delete means for a soft deletion]
CASCADE deletes soft-deletable children softly and leaves others, for their reference stays valid.
PROTECT and RESTRICT raise Django's own errors for every row that is not deleted itself. SET_NULL,
SET_DEFAULT, SET and DO_NOTHING leave the reference, which a restore could not bring back. A child
that another transaction adds to a row while that is being deleted stays live.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import models, router
from django.db.models import Q, QuerySet, UniqueConstraint
from django.db.models.fields.related_descriptors import ReverseOneToOneDescriptor

from dbpatterns.repositories.deletions import (
    RestoreConflict,
    SoftDeleteColumns,
    delete_rows,
    owner_of,
    restore_rows,
)
from dbpatterns.repositories.errors import UnsavedObject

__all__ = [
    "LiveManager",
    "LiveOneToOneField",
    "RestoreConflict",
    "SoftDeleteModel",
    "SoftDeleteQuerySet",
    "live",
    "unique_among_live",
]

_M = TypeVar("_M", bound=models.Model, covariant=True)
_F = TypeVar("_F", bound=Callable[..., Any])
_Deleted = tuple[int, dict[str, int]]  # what Django's `delete` returns: rows, and rows by model


def _writes(method: _F) -> _F:
    """Keep templates from calling it, and a manager from offering `objects.delete()`."""
    method.alters_data = method.queryset_only = True  # type: ignore[attr-defined]
    return method


def unique_among_live(*fields: str, name: str) -> UniqueConstraint:
    """Return a UniqueConstraint of live rows only: a deleted row gives its value free.

    One partial index, which also serves look-ups of live rows by these fields. As it is
    partial, it cannot be the target of `bulk_create(update_conflicts=True)`.
    """
    return UniqueConstraint(fields=fields, condition=Q(deleted_at=None), name=name)


def live(*paths: str) -> Q:
    """Return a condition for joins: every relation named leads to a row that is not deleted.

    Use it in the same `filter()` as the other conditions on the relation, or in an aggregate:
    `Author.objects.filter(live("posts"), posts__title="x")`,
    `Author.objects.annotate(n=Count("posts", filter=live("posts")))`.
    """
    condition = Q()
    for path in paths:  # without a related row there is a NULL as well, and it must not count
        condition &= Q(**{f"{path}__deleted_at": None, f"{path}__isnull": False})
    return condition


class SoftDeleteQuerySet(QuerySet[_M]):
    """Rows that are deleted and restored as sets; what else writes them is Django's."""

    def live(self) -> "SoftDeleteQuerySet[_M]":
        """Leave out deleted rows."""
        return self.filter(deleted_at=None)

    def deleted(self) -> "SoftDeleteQuerySet[_M]":
        """Leave out live rows."""
        return self.filter(deleted_at__isnull=False)

    @_writes
    def delete(self) -> _Deleted:
        """Delete these rows softly, with their soft-deletable children, in one transaction.

        Queries: one UPDATE for the rows, one for each CASCADE relation from a soft-deletable model
        to a model reached (a tree: one a level), one SELECT for each PROTECT or RESTRICT; no row
        is loaded and the number of rows does not matter. Of concurrent deletions the first wins
        a row. Sends no signals. Objects in memory do not change.

        Returns: how many rows this call deleted, in all and by model.
        Raises: ProtectedError, RestrictedError: as Django; nothing was deleted.
        """
        counts, _ = delete_rows(_whole(self, "delete"))
        return _summary(counts)

    @_writes
    def restore(self) -> _Deleted:
        """Bring back the deleted rows among these, each with what its deletion took.

        Start from `everything`: the default manager has no deleted rows. Queries: one SELECT,
        and for each deletion among the rows one UPDATE for them, one for each CASCADE relation
        and one for each model restored. Sends no signals. Live rows are left alone.

        Returns: how many rows came back, in all and by model.
        Raises: RestoreConflict: a live row has taken a unique value; nothing was restored.
        """
        return _summary(restore_rows(_whole(self, "restore")))

    @_writes
    async def arestore(self) -> _Deleted:
        """Do what `restore` does, in a thread."""
        return await sync_to_async(self.restore)()

    @_writes
    def hard_delete(self) -> _Deleted:
        """Delete these rows as Django does: signals, on_delete, and deleted children as well."""
        return super().delete()

    @_writes
    async def ahard_delete(self) -> _Deleted:
        """Do what `hard_delete` does, in a thread."""
        return await sync_to_async(self.hard_delete)()


_Everything = models.Manager.from_queryset(SoftDeleteQuerySet)


class LiveManager(_Everything[_M]):
    """A manager that has no deleted rows.

    With a query set of your own, derived from ours: `LiveManager.from_queryset(PostQuerySet)()`.
    """

    def get_queryset(self) -> SoftDeleteQuerySet[_M]:
        """Return the live rows."""
        rows = super().get_queryset()
        assert isinstance(rows, SoftDeleteQuerySet)
        return rows.live()


class SoftDeleteModel(SoftDeleteColumns):
    """A model whose rows are deleted softly: by `delete()`, by query sets and by the admin.

    Declare own managers under the names `objects` (a LiveManager) and `everything`; the first
    manager of a class is what related managers use, so it must be a LiveManager (E012). An index
    on `deleted_at` only serves a purge of old rows; indexes for live rows are better partial:
    `models.Index(fields=[…], condition=Q(deleted_at=None), name=…)`.
    """

    objects = LiveManager()
    everything = _Everything()

    class Meta:
        abstract = True

    @property
    def is_deleted(self) -> bool:
        """Tell whether the row was deleted when it was read; no query."""
        return self.deleted_at is not None

    @_writes
    def delete(self, using: str | None = None, keep_parents: bool = False) -> _Deleted:
        """Delete this row softly; see `SoftDeleteQuerySet.delete`.

        A row that somebody deleted first stays theirs: (0, {}), and one query reads what they
        wrote. `keep_parents` changes nothing, for every row is kept.

        Raises: UnsavedObject: there is no row. ProtectedError, RestrictedError: as Django.
        """
        rows = _row(self, using)
        counts, stamp = delete_rows(rows)
        self._take(rows, stamp if counts else None)
        return _summary(counts)

    @_writes
    def restore(self, using: str | None = None) -> _Deleted:
        """Bring this row back, with what its deletion took; see `SoftDeleteQuerySet.restore`.

        A parent that is deleted stays so. Of a live row: (0, {}).

        Raises: UnsavedObject: there is no row. RestoreConflict: a unique value is taken.
        """
        rows = _row(self, using)
        counts = restore_rows(rows)
        self._take(rows, {"deleted_at": None, "deletion": None} if counts else None)
        return _summary(counts)

    @_writes
    async def arestore(self, using: str | None = None) -> _Deleted:
        """Do what `restore` does, in a thread."""
        return await sync_to_async(self.restore)(using)

    @_writes
    def hard_delete(self, using: str | None = None, keep_parents: bool = False) -> _Deleted:
        """Delete this row as Django does: signals, on_delete, and deleted children as well."""
        return super().delete(using, keep_parents)

    @_writes
    async def ahard_delete(self, using: str | None = None, keep_parents: bool = False) -> _Deleted:
        """Do what `hard_delete` does, in a thread."""
        return await sync_to_async(self.hard_delete)(using, keep_parents)

    def _take(self, rows: QuerySet[Any], stamp: Mapping[str, Any] | None) -> None:
        stamp = stamp or rows.values("deleted_at", "deletion").first() or {}
        for name, value in stamp.items():
            setattr(self, name, value)


class _LiveReverseOneToOne(ReverseOneToOneDescriptor):  # type: ignore[type-arg]
    def __get__(self, instance: Any, cls: Any = None) -> Any:
        found: Any = super().__get__(instance, cls)
        # Not in the query: a row from `select_related`, or deleted since, is in a cache.
        if instance is not None and found.is_deleted:
            raise self.RelatedObjectDoesNotExist(
                f"{type(instance).__name__} has no {self.related.accessor_name}: it is deleted."
            )
        return found


class LiveOneToOneField(models.OneToOneField):  # type: ignore[type-arg]
    """A OneToOneField of a SoftDeleteModel whose reverse side has no deleted row.

    Django's reads through the base manager, which has them all. The column stays unique: a
    deleted row keeps its place, to be restored or hard-deleted. For a new row to take the place,
    use a ForeignKey with `unique_among_live`. In migrations it is Django's own field.
    """

    related_accessor_class = _LiveReverseOneToOne

    def deconstruct(self) -> Any:
        """Name Django's field, whose column it is."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.OneToOneField", args, kwargs


def _row(instance: SoftDeleteModel, using: str | None) -> QuerySet[Any]:
    if instance.pk is None:
        raise UnsavedObject(
            f"This {instance._meta.label} has no primary key, so there is no row: save it first."
        )
    using = using or router.db_for_write(type(instance), instance=instance)
    rows: QuerySet[Any] = owner_of(type(instance))._base_manager.using(using)
    return rows.filter(pk=instance.pk)


def _whole(rows: Any, method: str) -> QuerySet[Any]:
    if rows._fields is not None:
        raise TypeError(f"Cannot call {method}() after .values() or .values_list()")
    rows = rows.filter().order_by()  # as Django, these refuse a union and a slice
    rows._for_write = True
    found: QuerySet[Any] = rows
    return found


def _summary(counts: Counter[Any]) -> _Deleted:
    return counts.total(), {model._meta.label: count for model, count in counts.items()}
