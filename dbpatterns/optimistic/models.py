"""Optimistic locking: a save writes the row that was read, or says that it is another by now.

    class Post(VersionedModel):
        title = models.CharField(max_length=200)
        views = models.PositiveIntegerField(default=0, editable=False)
        version_exempt_fields = ("views",)

    post.save()     # UPDATE … SET version = 8 WHERE id = 5 AND version = 7, or StaleObjectError

No lock is held between reading and writing, so it fits what a person edits for minutes.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Self, TypeVar, cast
from weakref import ref

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections, models, router, transaction
from django.db.models import Case, F, QuerySet, Value, When
from django.db.models.functions import Cast

from dbpatterns.errors import UsageError
from dbpatterns.optimistic._compat import GuardedSaves, write_alias
from dbpatterns.optimistic.errors import StaleObjectError, UnknownVersion
from dbpatterns.optimistic.fields import VersionField
from dbpatterns.transactions import after_rollback

__all__ = ["VersionedManager", "VersionedModel", "VersionedQuerySet"]

M = TypeVar("M", bound="VersionedModel")


class VersionedQuerySet(QuerySet[M]):
    """A queryset whose writes raise the version, so that whoever read before them is told."""

    def update(self, **kwargs: Any) -> int:
        """Write the rows and raise their versions; one statement, as Django's own.

        Not the version of rows whose `version_exempt_fields` alone change. Where the version is
        in a parent's table: a select and two statements, in one transaction.
        Raises: UsageError: `version` is among the values.
        """
        if "version" in kwargs:
            raise UsageError(
                f"update() of {self.model.__name__} sets version, which it raises itself: leave it "
                "out."
            )
        if set(kwargs) <= set(self.model.version_exempt_fields):
            return super().update(**kwargs)
        owner = owner_of_version(self.model)
        if owner is self.model._meta.concrete_model:
            return super().update(**kwargs, version=F("version") + 1)
        alias = write_alias(self)
        with transaction.atomic(using=alias):
            pks = list(self.values_list("pk", flat=True))
            _rows(owner, alias).filter(pk__in=pks).update(version=F("version") + 1)
            return _rows(self.model, alias).filter(pk__in=pks).update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_update(
        self, objs: Iterable[M], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """Write these fields of all the objects, or of none if one of them is stale.

        One statement for each batch, at most what the driver takes, in one transaction; one more
        for fields of another table than the version's. Raises every object's version.
        Returns: the number of rows written.
        Raises: StaleObjectError: `pks` lists the stale ones. UnknownVersion. UsageError: a row
            twice, or `version` among the fields.
        """
        rows, names = list(objs), list(fields)
        meta, alias = self.model._meta, write_alias(self)
        columns: list[Any] = [meta.get_field(name) for name in names]
        if not rows or not columns or any(not c.concrete or c in meta.pk_fields for c in columns):
            return super().bulk_update(rows, names, batch_size)  # which says what is wrong
        expected = {row.pk: expected_version(row) for row in rows}
        if len(expected) < len(rows) or "version" in names:
            raise UsageError(
                f"bulk_update() of {self.model.__name__} takes each row once, and raises version "
                "itself: leave out what is there twice, and the version."
            )
        owner = owner_of_version(self.model)
        elsewhere = [c.name for c in columns if c.model is not owner]
        here = [c for c in columns if c.model is owner]
        most = connections[alias].ops.bulk_batch_size(["pk"] * (3 + 2 * len(names)), rows)
        size = min(batch_size or most, most)
        stale: dict[Any, int] = {}
        with transaction.atomic(using=alias):
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                held = _rows(owner, alias).filter(pk__in=[row.pk for row in batch])
                versions = _by_pk(batch, VersionField(), lambda row: expected[row.pk])
                values = {c.attname: _by_pk(batch, c, attrgetter(c.attname)) for c in here}
                written = held.filter(version=versions).update(version=F("version") + 1, **values)
                if written < len(batch):
                    # Which ones is seen only once those of the batch that were not are as before.
                    stale = expected
                    transaction.set_rollback(True, using=alias)
                    break
            if elsewhere and not stale:
                _rows(self.model, alias).bulk_update(rows, elsewhere, batch_size)
        if stale:
            raise _stale_rows(self.model, alias, expected)
        for row in rows:
            set_version(row, expected[row.pk] + 1, alias)
        return len(rows)

    bulk_update.alters_data = True  # type: ignore[attr-defined]


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

        Raises: StaleObjectError: it was changed, or deleted. UnknownVersion: without a query.
        """
        if update_fields is not None:
            update_fields = frozenset(update_fields)
        if update_fields is None or "version" in update_fields:
            expected_version(self)  # or Django would read one that was deferred
        super().save(
            *args,
            force_insert=force_insert,
            force_update=force_update,
            using=using,
            update_fields=update_fields,
        )

    save.alters_data = True  # type: ignore[attr-defined]

    def delete(self, using: str | None = None, keep_parents: bool = False) -> Any:
        """Delete the row if it is as it was read; one statement more than Django's, which locks it.

        Raises: StaleObjectError: it was changed, or deleted. UnknownVersion.
        """
        alias = using or router.db_for_write(type(self), instance=self)
        if self.pk is None:
            return super().delete(using=alias, keep_parents=keep_parents)  # which refuses
        pk, expected = self.pk, expected_version(self)
        with transaction.atomic(using=alias):
            held = _rows(owner_of_version(type(self)), alias).filter(pk=pk, version=expected)
            if not held.update(version=F("version") + 1):
                raise _stale_row(self, alias, expected)
            after_rollback(partial(_restore, ref(self), pk=pk), using=alias)
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
        rows = _rows(type(self), alias).filter(version=expected)
        try:
            self.refresh_from_db(using=alias, from_queryset=rows)
        except type(self).DoesNotExist as error:
            raise _stale_row(self, alias, expected) from error

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
        if exempt and not update_fields:
            values = [v for v in values if v[0].name not in exempt or _is_computed(v[0])]
        if table is not field.model or (update_fields and set(update_fields) <= set(exempt)):
            results = send(values)
            if not results and not is_new:
                raise _stale_row(self, base_qs.db, expected_version(self))  # it would be inserted
            return results
        expected = expected_version(self)
        values = [v for v in values if v[0] is not field]
        values.append((field, None, expected + 1))
        results = send(values, field, expected)
        if results:
            set_version(self, expected + 1, base_qs.db)
        elif not is_new:
            raise _stale_row(self, base_qs.db, expected)
        return results

    def _inserted(self, using: str | None) -> None:
        after_rollback(partial(_restore_adding, ref(self), self._state.adding), using=using)


def owner_of_version(model: type[VersionedModel]) -> type[VersionedModel]:
    """Return the model whose table has the column: this one, or one of its parents."""
    owner: Any = model._meta.get_field("version").model
    return cast("type[VersionedModel]", owner)


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
            rows = _rows(owner, alias).filter(pk__in=batch, version=shown)
            held += rows.update(version=F("version") + 1)
        if held == len(pks):
            return queryset.delete()
        transaction.set_rollback(True, using=alias)
    raise _stale_rows(model, alias, versions)


def stored_row(row: M) -> M:
    """Read a row anew, as it is stored where the object came from; one query.

    Raises: DoesNotExist: it has been deleted.
    """
    return _rows(type(row), row._state.db).get(pk=row.pk)


def expected_version(row: VersionedModel) -> int:
    """Return the version an object was read at; never a query.

    Raises: UnknownVersion: it was deferred, or is no number.
    """
    version = row.__dict__.get("version")
    if type(version) is not int:
        why = "was deferred" if "version" not in row.__dict__ else f"is {version!r}"
        raise UnknownVersion(
            f"The version of this {row._meta.label} {row.pk!r} {why}, so nobody can tell whether "
            "the row has changed since. Read the object with its version."
        )
    return version


def set_version(row: VersionedModel, version: int, alias: str | None) -> None:
    """Give an object its new version, and the old one again if that is rolled back."""
    if connections[alias or DEFAULT_DB_ALIAS].in_atomic_block:
        after_rollback(partial(_restore, ref(row), version=row.version), using=alias)
    row.version = version


def _restore(reference: "ref[VersionedModel]", **values: Any) -> None:
    row = reference()
    if row is not None:
        for name, value in values.items():
            setattr(row, name, value)


def _restore_adding(reference: "ref[VersionedModel]", was_adding: bool) -> None:
    row = reference()
    if row is not None:
        row._state.adding = was_adding


def _rows(model: type[M], alias: str | None) -> "QuerySet[M]":
    """Return all the rows, with Django's own `update`, whatever the model's managers hide."""
    return QuerySet(model, using=alias)


def _by_pk(rows: Sequence[M], field: Any, value_of: Callable[[M], Any]) -> Any:
    cases = []
    for row in rows:
        value = value_of(row)
        is_expression = hasattr(value, "resolve_expression")
        cases.append(
            When(pk=row.pk, then=value if is_expression else Value(value, output_field=field))
        )
    return Cast(Case(*cases, output_field=field), output_field=field)


def _is_computed(field: Any) -> bool:
    return bool(getattr(field, "auto_now", False))


def _stale_row(row: VersionedModel, alias: str | None, expected: int) -> StaleObjectError:
    return _stale_rows(type(row), alias, {row.pk: expected})


def _stale_rows(
    model: type[VersionedModel], alias: str | None, expected: dict[Any, int]
) -> StaleObjectError:
    """Make the error of the rows that are not as expected; one query."""
    owner = owner_of_version(model)
    found = _rows(owner, alias).filter(pk__in=list(expected)).values_list("pk", "version")
    stored = dict(found)
    pks = [pk for pk, version in expected.items() if stored.get(pk) != version] or list(expected)
    version, now = expected[pks[0]], stored.get(pks[0])
    label = model._meta.label
    if len(expected) > 1:
        listed = ", ".join(map(repr, pks[:10])) + (", …" if len(pks) > 10 else "")
        what = f"{len(pks)} of {len(expected)} {label} are not as they were read: {listed}."
    elif now is None:
        what = f"{label} {pks[0]!r} was read at version {version}, and has been deleted since."
    elif now < version:
        what = (
            f"{label} {pks[0]!r} is at version {now}, and {version} was expected, which it never "
            "had, or had in a transaction that was rolled back."
        )
    else:
        what = f"{label} {pks[0]!r} was read at version {version}, and is at {now} by now."
    return StaleObjectError(
        f"{what} Nothing was written. Call refresh_from_db() and decide again.",
        model=label,
        pks=pks,
        expected_version=version,
        stored_version=now,
    )
