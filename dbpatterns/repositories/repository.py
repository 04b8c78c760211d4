"""`Repository`: the contract kept over Django's ORM, on PostgreSQL and SQLite.

    class PostRepository(Repository[Post]):
        def drafts_of(self, author: Author) -> list[Post]:
            return self.find_by(status="draft", author=author, order_by=["title"])

    posts = PostRepository()
    page = posts.page(published, size=20, load=["author", "tags"])

A thin object over a manager, cheap to make and to throw away.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Self, TypeVar

from django.core.exceptions import FieldError, ObjectDoesNotExist
from django.db import DatabaseError, DataError, NotSupportedError, connections, router
from django.db.models import AutoField, Manager, Max, Model, Q, QuerySet

from dbpatterns._compat import UpsertQuerySet
from dbpatterns.errors import UsageError
from dbpatterns.repositories.base import PK, BaseRepository
from dbpatterns.repositories.errors import (
    VanishedRows,
)
from dbpatterns.repositories.keyset import Keyset, OrderTerm, Position, column_of
from dbpatterns.repositories.loading import load_plan
from dbpatterns.repositories.managers import RepositoryManager
from dbpatterns.repositories.paths import field_path
from dbpatterns.repositories.selection import (
    BAD_VALUE,
    REFUSED,
    Selection,
    UpsertResult,
    check_one_row_each,
    check_values,
    explained,
    is_many,
    keeping_states,
    meets_many,
    one_row,
)
from dbpatterns.transactions.several import atomic_on

if TYPE_CHECKING:
    from dbpatterns.repositories.evaluation import Profile

__all__ = ["Repository"]

M = TypeVar("M", bound=Model)

_KEYS_PER_QUERY = 200  # an OR of more is too deep an expression for SQLite


class Repository(BaseRepository[M, PK]):
    """Objects of one model in a database.

    Write your own finders with the methods here; `_queryset()` is the way out for what they
    cannot say, and what it finds should leave evaluated.
    """

    def __init__(self, *, using: str | None = None, manager: Manager[M] | None = None) -> None:
        """Keep to one database, or let the routers decide; to one manager, or the model's default.

        No query. A manager decides what exists for the repository: rows it hides are not found.
        """
        if manager is not None:
            self.model = manager.model
        super().__init__()
        self._manager: Manager[M] = self.model._default_manager if manager is None else manager
        self._using = using

    @classmethod
    def for_model(cls, model: type[M], *, using: str | None = None) -> "Repository[M, Any]":
        """Return a repository of a model that needs no class of its own."""
        return _class_for(cls, model)(using=using)

    @classmethod
    def in_memory(cls, *, profile: "Profile | None" = None) -> Self:
        """Return a repository with this class's own methods over a dict; see InMemoryRepository.

        `profile` says whose rules hold, those of the default database if not given.
        """
        from dbpatterns.repositories.memory import InMemoryRepository

        made: Any = type(f"InMemory{cls.__name__}", (InMemoryRepository, cls), {})
        found: Self = made(profile=profile)
        return found

    @classmethod
    def as_manager(cls) -> "RepositoryManager[M, Self]":
        """Return a manager with these methods beside Django's own, for a model's `objects`."""
        made = type(f"{cls.__name__}Manager", (RepositoryManager,), {"repository_class": cls})
        manager: RepositoryManager[M, Self] = made()
        return manager

    @property
    def using(self) -> str | None:
        """Return the database it keeps to, None if the routers decide."""
        return self._using

    def _queryset(self) -> QuerySet[M]:
        """Return all rows, lazily; the only place where a queryset begins."""
        rows = self._manager.get_queryset()
        return rows if self._using is None else rows.using(self._using)

    def _find(self, pk: PK) -> M | None:
        try:
            return self._queryset().get(pk=pk)
        except ObjectDoesNotExist:
            return None
        except REFUSED as error:
            raise explained(self.model, error, Q(pk=pk)) from error

    def _find_many(self, pks: Sequence[PK]) -> dict[PK, M]:
        with self._asking(Q(pk__in=pks)):
            return self._queryset().in_bulk(pks)

    def _rows(self, selection: Selection) -> list[M]:
        rows = self._loading(self._filtered(selection.q, selection.order_by), selection.load)
        with self._asking(selection.q):
            return list(rows if selection.limit is None else rows[: selection.limit])

    def _rows_after(
        self,
        q: Q,
        keyset: Keyset,
        position: Position | None,
        *,
        load: Sequence[str],
        limit: int,
    ) -> list[M]:
        rows, order_by = self._loading(self._filtered(q), load), keyset.order_by()
        rows.query.standard_ordering = True  # a manager's reverse() would turn the pages round
        with self._asking(q):
            return list(self._after(rows, keyset, position, limit).order_by(*order_by)[:limit])

    def _after(
        self, rows: QuerySet[M], keyset: Keyset, position: Position | None, limit: int
    ) -> QuerySet[M]:
        if position is None:
            return rows
        order_by = keyset.order_by()
        features = connections[rows.db].features
        can_limit = features.supports_slicing_ordering_in_compound
        conditions = keyset.ranges(
            position.values, nulls_largest=not features.order_by_nulls_first, by_row=can_limit
        )
        if len(conditions) == 1 or _defers(rows, keyset) or rows.query.select_for_update:
            return rows.filter(reduce(or_, conditions))  # what Django cannot put into a union
        ranges = [rows.filter(each) for each in conditions]
        if can_limit:
            ranges = [each.order_by(*order_by)[:limit] for each in ranges]
        else:
            ranges = [each.order_by() for each in ranges]
        return ranges[0].union(*ranges[1:], all=True)

    def _stream(self, selection: Selection, chunk: int) -> Iterator[M]:
        rows = self._loading(self._filtered(selection.q, selection.order_by), selection.load)
        return self._streamed(rows.iterator(chunk_size=chunk), selection.q)

    def _streamed(self, rows: Iterator[M], q: Q) -> Iterator[M]:
        with self._asking(q):
            yield from rows

    def _exists(self, q: Q) -> bool:
        with self._asking(q):
            return self._filtered(q).exists()

    def _count(self, q: Q) -> int:
        with self._asking(q):
            return self._filtered(q).count()

    def _save(self, obj: M, update_fields: Sequence[str] | None) -> None:
        # Before Django's save, which marks the whole transaction as broken when a value is bad.
        check_values(self.model, [obj], update_fields)
        obj.save(using=self._using, update_fields=update_fields)

    def _save_many(self, objs: Sequence[M], batch: int) -> None:
        new = [obj for obj in objs if obj._state.adding]
        options = self.model._meta
        if new and options.parents and not options.proxy:
            raise self._has_parents("save_many inserts no new ones: save each")
        kept: list[tuple[M, str, object]] = []
        try:
            with keeping_states(new), self._writing(QuerySet, objs) as parts:
                for rows, some in parts:
                    self._save_part(rows, some, batch, kept)
        except REFUSED:
            check_values(self.model, objs)
            raise
        finally:
            for obj, attname, before in kept:  # what the column asked for was the row's own value
                setattr(obj, attname, before)

    def _save_part(
        self, rows: Any, objs: Sequence[M], batch: int, kept: list[tuple[M, str, object]]
    ) -> None:
        new = [obj for obj in objs if obj._state.adding]
        others = [obj for obj in objs if not obj._state.adding]
        left_out = {*getattr(rows, "stamped", ()), *getattr(rows, "fixed", ())}
        columns = [
            each
            for each in self.model._meta.concrete_fields
            if not (each.primary_key or each.generated or each in self.model._meta.pk_fields)
            and each.name not in left_out
        ]
        for obj in others:
            for column in columns:  # `auto_now` and the like, which bulk_update leaves out
                value, before = column.pre_save(obj, False), obj.__dict__.get(column.attname)
                setattr(obj, column.attname, value)
                if hasattr(value, "resolve_expression") and value is not before:
                    kept.append((obj, column.attname, before))
        if new:
            rows.bulk_create(new, batch_size=batch)
        written = 0
        if others:
            if connections[rows.db].features.requires_casted_case_in_updates:
                self._check_lengths(others)
            names = [column.name for column in columns]
            written = rows.bulk_update(others, names, batch_size=batch)
        if written < len({obj.pk for obj in others}):
            raise VanishedRows(
                f"{len(others) - written} of {len(others)} {self._label} to update are "
                "gone: nothing was written."
            )

    def _check_lengths(self, objs: Sequence[M]) -> None:
        # PostgreSQL would cut the text off in silence: bulk_update casts it to varchar(n).
        limited = [each for each in self.model._meta.concrete_fields if each.max_length]
        for obj in objs:
            for column in limited:
                value = getattr(obj, column.attname)
                if isinstance(value, str) and len(value) > (column.max_length or 0):
                    raise DataError(
                        f"{self._label}.{column.name} holds {column.max_length} characters, not "
                        f"{len(value)}: nothing was written."
                    )

    def _upsert_many(
        self, objs: Sequence[M], match: Sequence[str], update: Sequence[str], batch: int
    ) -> UpsertResult[M]:
        if self.model._meta.parents and not self.model._meta.proxy:
            raise self._has_parents("no single INSERT … ON CONFLICT writes them")
        newness: dict[int, Callable[[M], bool]] = {}
        try:
            with keeping_states(objs), self._writing(UpsertQuerySet, objs) as parts:
                for rows, some in parts:
                    rows.inserted = {}
                    newness |= dict.fromkeys(map(id, some), self._newness(rows, some, match))
                    rows.bulk_create(
                        list(some),
                        batch_size=batch,
                        update_conflicts=True,
                        unique_fields=list(match),
                        update_fields=list(update),
                    )
                    check_one_row_each(self.model, some, match)
        except REFUSED:
            check_values(self.model, objs)
            raise
        except DatabaseError as error:
            if isinstance(error, NotSupportedError):
                raise UsageError(
                    f"{self._label} cannot be upserted, for the database does not tell what it "
                    f"inserted and what it updated there: {error}."
                ) from error
            if getattr(error.__cause__, "sqlstate", None) == "21000":  # a row a second time
                raise one_row(self.model, match) from error
            raise
        result: UpsertResult[M] = UpsertResult([], [])
        for obj in objs:
            is_new = newness[id(obj)](obj)
            (result.created if is_new else result.updated).append(obj)
        return result

    def _newness(
        self, rows: UpsertQuerySet[M], objs: Sequence[M], match: Sequence[str]
    ) -> Callable[[M], bool]:
        """Return what tells, once all are written, whether an object's row was created."""
        vendor = connections[rows.db].vendor
        if vendor == "postgresql":
            return lambda obj: rows.inserted[id(obj)]
        is_generated = isinstance(self.model._meta.pk, AutoField)
        if vendor == "sqlite" and is_generated and all(obj.pk is None for obj in objs):
            # One writer at a time, and a generated key is larger than any before it.
            last = self.model._base_manager.using(rows.db).aggregate(last=Max("pk"))["last"] or 0
            return lambda obj: bool(obj.pk > last)
        known = self._existing(rows.db, objs, match)
        return lambda obj: obj.pk not in known

    def _existing(self, alias: str, objs: Sequence[M], match: Sequence[str]) -> set[object]:
        # By key, not by value: the database may round what it compares, or ignore its case.
        found: set[object] = set()
        wanted = [key for key in (self._values(obj, match) for obj in objs) if None not in key]
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            some = wanted[start : start + _KEYS_PER_QUERY]
            keys = reduce(or_, (Q(*zip(match, key, strict=True)) for key in some))
            found.update(
                self.model._base_manager.using(alias).filter(keys).values_list("pk", flat=True)
            )
        return found

    def _values(self, obj: M, names: Sequence[str]) -> tuple[object, ...]:
        columns = [field_path(self.model, name).target for name in names]
        return tuple(each.to_python(getattr(obj, each.attname)) for each in columns)

    def _delete(self, obj_or_pk: M | PK) -> int:
        if isinstance(obj_or_pk, Model):
            _, by_label = obj_or_pk.delete(using=self._using)
        else:
            with self._asking(q := Q(pk=obj_or_pk)):
                _, by_label = self._filtered(q).delete()
        return min(self._own_rows(by_label), 1)  # a cascade may have taken more of them

    def _delete_by(self, q: Q) -> int:
        with self._asking(q):
            _, by_label = self._filtered(q).delete()
        return self._own_rows(by_label)

    def _own_rows(self, by_label: Mapping[str, int]) -> int:
        # A soft deletion counts by the table with its columns: a proxy's, or a parent's.
        labels = (each._meta.label for each in self.model.__mro__ if hasattr(each, "_meta"))
        return next((by_label[each] for each in labels if each in by_label), 0)

    @contextmanager
    def _writing(self, base: Any, objs: Sequence[M]) -> Iterator[list[tuple[Any, Sequence[M]]]]:
        """Yield all rows of each database to write to, and the objects that go there.

        As the manager's kind of queryset, which may stamp them, or know by `by_shard` that they
        go to several databases: the block is a transaction on each.
        """
        rows = self._manager.get_queryset()
        kind = type(rows)
        made = kind if issubclass(kind, base) else _joined(base, kind)
        split = None if self._using else getattr(rows, "by_shard", None)
        parts = split(objs) if split else {self._using or router.db_for_write(self.model): objs}
        with atomic_on(parts):
            yield [(made(self.model, using=alias), some) for alias, some in parts.items()]

    def _has_parents(self, why: str) -> UsageError:
        return UsageError(f"{self._label} has its columns in more tables than one, and {why}.")

    def _filtered(self, q: Q, order_by: Sequence[OrderTerm] = ()) -> QuerySet[M]:
        rows = self._queryset()
        try:
            if meets_many(self.model, q):
                # A join would return a row once for each match; a subquery returns it once.
                rows = rows.filter(pk__in=self._queryset().filter(q).order_by().values("pk"))
            elif q:
                rows = rows.filter(q)
            columns = [column_of(term) for term in order_by if not isinstance(term, str)]
            if columns:
                rows.order_by(*filter(None, columns))  # Django checks only text at once
            for column in filter(None, map(column_of, order_by)):
                if is_many(self.model, column):
                    raise UsageError(
                        f"{self._label} cannot be ordered by {column!r}: a row that leads to "
                        "several there would come back several times."
                    )
            return rows.order_by(*order_by) if order_by else rows
        except (FieldError, *BAD_VALUE) as error:
            raise explained(self.model, error, q, order_by) from error

    def _loading(self, rows: QuerySet[M], names: Sequence[str]) -> QuerySet[M]:
        if not names:
            return rows
        joined, fetched = load_plan(self.model, tuple(names))
        rows = rows.select_related(*joined) if joined else rows
        return rows.prefetch_related(*fetched) if fetched else rows

    @contextmanager
    def _asking(self, q: Q) -> Iterator[None]:
        """Name the field at fault when only the database or its driver refuses a value."""
        try:
            yield
        except REFUSED as error:
            raise explained(self.model, error, q) from error


def _defers(rows: QuerySet[Any], keyset: Keyset) -> bool:
    """Tell whether a column of the order is not selected, as far as the query set says."""
    named, are_deferred = rows.query.deferred_loading
    columns = (key.path for key in keyset.keys if not key.path.target.primary_key)
    return any((path.name in named) == are_deferred for path in columns)


@lru_cache(maxsize=1024)
def _joined(base: type[QuerySet[Any]], kind: type[QuerySet[Any]]) -> type[QuerySet[Any]]:
    return base if kind is QuerySet else type(f"{base.__name__}Of{kind.__name__}", (base, kind), {})


@lru_cache(maxsize=1024)
def _class_for(base: type[Repository[Any, Any]], model: type[Model]) -> type[Repository[Any, Any]]:
    return type(f"{model.__name__}Repository", (base,), {"model": model})
