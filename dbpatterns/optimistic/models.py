"""Optimistic locking: a save writes the row that was read, or says that it is another by now.

    class Post(VersionedModel):
        title = models.CharField(max_length=200)
        views = models.PositiveIntegerField(default=0, editable=False)
        version_exempt_fields = ("views",)

    post.save()     # UPDATE … SET version = 8 WHERE id = 5 AND version = 7, or StaleObjectError

No lock is held between reading and writing, so it fits what a person edits for minutes.
"""

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any, ClassVar, Self, TypeVar
from weakref import ref

from asgiref.sync import sync_to_async
from django.db import connections, models, router, transaction
from django.db.models import Case, F, QuerySet, Value, When

from dbpatterns.optimistic._compat import GuardedSaves, write_alias
from dbpatterns.optimistic.fields import VersionField
from dbpatterns.optimistic.querysets import VersionedQuerySet
from dbpatterns.optimistic.versions import (
    all_rows,
    expected_version,
    owner_of_version,
    restored_after_rollback,
    set_version,
    stale_row,
    stale_rows,
    version_read,
)
from dbpatterns.transactions import after_rollback

__all__ = ["VersionedManager", "VersionedModel", "VersionedQuerySet"]

M = TypeVar("M", bound="VersionedModel")

_Versioned = models.Manager.from_queryset(VersionedQuerySet)


class VersionedManager(_Versioned[M]):
    """The manager of a VersionedModel; one of your own is made from VersionedQuerySet."""


class VersionedModel(GuardedSaves):
    """A model that writes a row only at the version it was read at.

    Inherit it, and keep `objects` a manager made from VersionedQuerySet. The database decides, in
    the UPDATE itself, so it holds between threads, processes and hosts, at any isolation.
    """

    version = VersionField()
    version_exempt_fields: ClassVar[Collection[str]] = ()
    """Names of columns that may change without a new version: counters, "seen at".

    `update()` and `save(update_fields=…)` of these alone leave the version, and are not guarded.
    A whole `save()` leaves them to those (except a date with `auto_now`), since it would write
    what they were when the row was read. So no form may edit them: dbpatterns.E040.
    """
    _is_whole = False  # of a save: Django names the fields itself where some are deferred

    objects: ClassVar["VersionedManager[Self]"] = VersionedManager()

    class Meta:
        abstract = True

    def save(
        self,
        *args: Any,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Write the row at the version it was read at; one UPDATE, or an INSERT if it is new.

        Raises: StaleObjectError: it was changed, or deleted. UnknownVersion: without a query; also
            for a new object that is to be an UPDATE.
        """
        if update_fields is not None:
            update_fields = frozenset(update_fields)
        if update_fields is None or "version" in update_fields:
            expected_version(self)  # or Django would read one that was deferred
        outer, self._is_whole = self._is_whole, update_fields is None and not any(args[3:])
        try:
            super().save(
                *args,
                force_insert=force_insert,
                force_update=force_update,
                using=using,
                update_fields=update_fields,
            )
        finally:
            self._is_whole = outer

    save.alters_data = True  # type: ignore[attr-defined]

    def delete(self, using: str | None = None, keep_parents: bool = False) -> Any:
        """Delete the row if it is as it was read; one statement more than Django's, which locks it.

        Raises: StaleObjectError: it was changed, or deleted. UnknownVersion.
        """
        alias = using or router.db_for_write(type(self), instance=self)
        if self.pk is None:
            return super().delete(using=alias, keep_parents=keep_parents)  # which refuses
        pk, expected = self.pk, version_read(self)
        with transaction.atomic(using=alias):
            held = all_rows(owner_of_version(type(self)), alias).filter(pk=pk, version=expected)
            if not held.update(version=F("version") + 1):
                raise stale_row(self, alias, expected)
            restored_after_rollback(self, alias, pk=pk)
            return super().delete(using=alias, keep_parents=keep_parents)

    delete.alters_data = True  # type: ignore[attr-defined]

    def force_increment(self, using: str | None = None) -> None:
        """Raise the version and write nothing else: what belongs to the row has changed.

        One UPDATE. Raises: StaleObjectError. UnknownVersion.
        """
        self.save(using=using, update_fields=["version"])

    force_increment.alters_data = True  # type: ignore[attr-defined]

    async def aforce_increment(self, using: str | None = None) -> None:
        """Do as `force_increment`."""
        await sync_to_async(self.force_increment)(using=using)

    aforce_increment.alters_data = True  # type: ignore[attr-defined]

    def refresh_or_raise(self, using: str | None = None) -> None:
        """Read the row again if it is still at the object's version; one query.

        Raises: StaleObjectError: the object is as it was. UnknownVersion.
        """
        expected = expected_version(self)
        alias = using or self._state.db or router.db_for_read(type(self), instance=self)
        rows = all_rows(type(self), alias).filter(version=expected)
        try:
            self.refresh_from_db(using=alias, from_queryset=rows)
        except type(self).DoesNotExist as error:
            raise stale_row(self, alias, expected) from error

    async def arefresh_or_raise(self, using: str | None = None) -> None:
        """Do as `refresh_or_raise`."""
        await sync_to_async(self.refresh_or_raise)(using=using)

    def _guarded_update(
        self, base_qs: Any, values: Any, update_fields: Any, forced_update: Any, send: Any
    ) -> Any:
        field, table = self._meta.get_field("version"), base_qs.model
        is_new = self._state.adding and not forced_update
        if is_new and table is self._meta.concrete_model:
            return []  # nobody has read the row it might be, so it is not overwritten: INSERT
        exempt = self.version_exempt_fields
        is_exempt = bool(update_fields) and set(update_fields) <= set(exempt)
        if forced_update and not is_exempt:
            version_read(self)
        if exempt and (self._is_whole or not update_fields):
            values = [v for v in values if v[0].name not in exempt or _is_computed(v[0])]
        if table is not field.model or is_exempt:
            results = send(values)
            if not results and not is_new:
                raise stale_row(self, base_qs.db, expected_version(self))  # it would be inserted
            return results
        expected = expected_version(self)
        values = [v for v in values if v[0] is not field]
        values.append((field, None, expected + 1))
        results = send(values, field, expected)
        if results:
            set_version(self, expected + 1, base_qs.db)
        elif not is_new:
            raise stale_row(self, base_qs.db, expected)
        return results

    def _inserted(self, using: str | None) -> None:
        after_rollback(partial(_restore_adding, ref(self), self._state.adding), using=using)


def delete_as_read(queryset: "QuerySet[Any]", versions: dict[Any, int]) -> Any:
    """Delete these rows if all are at these versions, in one transaction; one UPDATE a batch more.

    Raises: StaleObjectError: `pks` lists those that were changed or deleted; all are as they were.
    """
    model, alias = queryset.model, write_alias(queryset)
    owner, field, pks = owner_of_version(model), VersionField(), list(versions)
    size = connections[alias].ops.bulk_batch_size(["pk"] * 3, pks)
    with transaction.atomic(using=alias):
        held = 0
        for start in range(0, len(pks), size):
            batch = pks[start : start + size]
            shown = Case(*(When(pk=pk, then=Value(versions[pk], field)) for pk in batch))
            rows = all_rows(owner, alias).filter(pk__in=batch, version=shown)
            held += rows.update(version=F("version") + 1)
        if held == len(pks):
            return queryset.delete()
        transaction.set_rollback(True, using=alias)
    raise stale_rows(model, alias, versions)


def _restore_adding(reference: "ref[VersionedModel]", was_adding: bool) -> None:
    row = reference()
    if row is not None:
        row._state.adding = was_adding


def _is_computed(field: Any) -> bool:
    return bool(getattr(field, "auto_now", False))
