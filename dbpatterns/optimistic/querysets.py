"""Writes of many versioned rows in one statement, each row's version raised with it."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from django.db import connections, transaction
from django.db.models import Case, F, QuerySet, Value, When
from django.db.models.functions import Cast

from dbpatterns.errors import UsageError
from dbpatterns.optimistic._compat import take_related_keys, write_alias
from dbpatterns.optimistic.fields import VersionField
from dbpatterns.optimistic.versions import (
    all_rows,
    owner_of_version,
    set_version,
    stale_rows,
    version_read,
)
from dbpatterns.transactions import after_rollback

if TYPE_CHECKING:
    from dbpatterns.optimistic.models import VersionedModel

__all__ = ["VersionedQuerySet"]

M = TypeVar("M", bound="VersionedModel")


class VersionedQuerySet(QuerySet[M]):
    """A queryset whose writes raise the version, so that whoever read before them is told."""

    def update(self, **kwargs: Any) -> int:
        """Write the rows and raise their versions; one statement, as Django's own.

        Not the version of rows whose `version_exempt_fields` alone change. Where the version is
        in a parent's table: a select and two statements, in one transaction; rows that no longer
        match by the last one are not written, but have a new version.
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
            all_rows(owner, alias).filter(pk__in=pks).update(version=F("version") + 1)
            # Those rows are locked by now: do they still match?
            return super(VersionedQuerySet, self.filter(pk__in=pks)).update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[M], *args: Any, **options: Any) -> list[M]:
        """Insert rows as Django does; after a rollback the objects are new again."""
        rows = list(objs)
        alias = write_alias(self)
        if connections[alias].in_atomic_block:
            new = [ref(row) for row in rows if row._state.adding]
            after_rollback(partial(_make_new, new), using=alias)
        return super().bulk_create(rows, *args, **options)

    bulk_create.alters_data = True  # type: ignore[attr-defined]

    def bulk_update(
        self, objs: Iterable[M], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """Write these fields of all the objects, or of none if one of them is stale.

        One statement for each batch, at most what the driver takes, in one transaction; one more
        for fields of another table than the version's. Raises every object's version. An object
        whose row the queryset's own filter leaves out is stale.
        Returns: the number of rows written.
        Raises: StaleObjectError: `pks` lists the stale ones. UnknownVersion. UsageError: a row
            twice, or `version` among the fields.
        """
        rows, names = list(objs), list(fields)
        meta, alias = self.model._meta, write_alias(self)
        columns: list[Any] = [meta.get_field(name) for name in names]
        if not rows or not columns or any(not c.concrete or c in meta.pk_fields for c in columns):
            return super().bulk_update(rows, names, batch_size)  # which says what is wrong
        if names == ["_order"]:  # of set_…_order(), whose objects hold nothing else
            return super().bulk_update(rows, names, batch_size)
        expected = {row.pk: version_read(row) for row in rows}
        if len(expected) < len(rows) or "version" in names:
            raise UsageError(
                f"bulk_update() of {self.model.__name__} takes each row once, and raises version "
                "itself: leave out what is there twice, and the version."
            )
        for row in rows:
            take_related_keys(row, columns)
        within = self.order_by() if self.query.where else None
        owner = owner_of_version(self.model)
        elsewhere = [c.name for c in columns if c.model is not owner]
        here = [c for c in columns if c.model is owner]
        is_cast = connections[alias].features.requires_casted_case_in_updates
        most = connections[alias].ops.bulk_batch_size(["pk"] * (3 + 2 * len(names)), rows)
        size = min(batch_size or most, most)
        stale: dict[Any, int] = {}
        with transaction.atomic(using=alias):
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                held = all_rows(owner, alias).filter(pk__in=[row.pk for row in batch])
                if within is not None:
                    held = held.filter(pk__in=within.values("pk"))
                versions = _by_pk(batch, VersionField(), lambda row: expected[row.pk], is_cast)
                values = {c.attname: _by_pk(batch, c, attrgetter(c.attname), is_cast) for c in here}
                written = held.filter(version=versions).update(version=F("version") + 1, **values)
                if written < len(batch):
                    # Which ones is seen only once those of the batch that were not are as before.
                    stale = expected
                    transaction.set_rollback(True, using=alias)
                    break
            if elsewhere and not stale:
                all_rows(self.model, alias).bulk_update(rows, elsewhere, batch_size)
        if stale:
            raise stale_rows(self.model, alias, expected, within)
        for row in rows:
            set_version(row, expected[row.pk] + 1, alias)
        return len(rows)

    bulk_update.alters_data = True  # type: ignore[attr-defined]


def _make_new(references: Iterable["ref[M]"]) -> None:
    for reference in references:
        row = reference()
        if row is not None:
            row._state.adding = True


def _by_pk(rows: Sequence[M], field: Any, value_of: Callable[[M], Any], is_cast: bool) -> Any:
    cases = []
    for row in rows:
        value = value_of(row)
        is_expression = hasattr(value, "resolve_expression")
        cases.append(
            When(pk=row.pk, then=value if is_expression else Value(value, output_field=field))
        )
    case = Case(*cases, output_field=field)
    return Cast(case, output_field=field) if is_cast else case
