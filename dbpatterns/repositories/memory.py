"""`InMemoryRepository`: the same contract over a dict, for tests that need no database.

    posts = PostRepository.in_memory()      # PostRepository's own finders included
    posts = InMemoryRepository(Post)        # or of any model

It answers as the chosen backend would (`profile`, the default database's if not given): unique,
check and NOT NULL constraints, generated keys, three-valued logic, order and case. What it cannot
answer as the database would it refuses with `UnsupportedInMemory`; it never ignores a filter.

Declared differences: nothing cascades, no foreign key is checked and no signal is sent, since a
repository knows one model only; what is related is what was related when it was saved. Not for
several threads. A `save()` of the model's own runs. What deletes or writes in bulk in a way of its
own would not, so it is refused, as is a model whose default manager hides rows.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any, NoReturn, TypeVar, cast

from django.db import DEFAULT_DB_ALIAS, DatabaseError, IntegrityError
from django.db.models import AutoField, ForeignKey, Model, Q, QuerySet

from dbpatterns.repositories.base import BaseRepository
from dbpatterns.repositories.errors import UnsupportedInMemory, VanishedRows
from dbpatterns.repositories.evaluation import Profile, compile_order, compile_q, profile_of
from dbpatterns.repositories.keyset import Keyset, OrderTerm, Position
from dbpatterns.repositories.loading import load_plan
from dbpatterns.repositories.paths import field_path
from dbpatterns.repositories.reading import PK
from dbpatterns.repositories.selection import (
    Selection,
    UpsertResult,
    check_one_row_each,
    check_values,
    columns_of,
    keeping_states,
)
from dbpatterns.repositories.table import Row, Table

__all__ = ["InMemoryRepository"]

M = TypeVar("M", bound=Model)


class InMemoryRepository(BaseRepository[M, PK]):
    """Objects of one model in a dict; a get costs about five microseconds, a scan one a row."""

    def __init__(self, model: type[M] | None = None, *, profile: Profile | None = None) -> None:
        """Start empty, with the rules of a backend.

        Raises: UnsupportedInMemory: the model has a constraint or a generated column whose rule
        only the database knows, a key or a table in several parts, or a manager that hides rows.
        """
        if model is not None:
            self.model = model
        BaseRepository.__init__(self)
        if self.model._default_manager.get_queryset().query.where:
            raise UnsupportedInMemory(
                f"{self._label} cannot be kept in memory: its default manager hides rows."
            )
        self._profile = profile_of(None) if profile is None else profile
        self._table = Table(self.model, self._profile)
        self._using = None  # what `using` of the repository it stands in for answers

    def _queryset(self) -> NoReturn:
        raise UnsupportedInMemory(
            f"{type(self).__name__} has no queryset of {self._label}: what uses _queryset() needs "
            "the database."
        )

    # Reading

    def _find(self, pk: PK) -> M | None:
        row = self._table.rows.get(self._key(pk))
        return None if row is None else self._object(row)

    def _find_many(self, pks: Sequence[PK]) -> dict[PK, M]:
        rows = self._table.rows
        return {pk: self._object(rows[pk]) for pk in pks if pk in rows}

    def _rows(self, selection: Selection) -> list[M]:
        rows = self._sorted(self._matching(selection.q), selection.order_by)
        self._check_loaded(rows[: selection.limit], selection.load)
        return rows[: selection.limit]

    def _rows_after(
        self,
        q: Q,
        keyset: Keyset,
        position: Position | None,
        *,
        load: Sequence[str],
        limit: int,
    ) -> list[M]:
        if position is not None:
            nulls_largest = self._profile.nulls_largest
            q = q & reduce(or_, keyset.ranges(position.values, nulls_largest=nulls_largest))
        return self._rows(Selection(q, keyset.order_by(), load, limit))

    def _stream(self, selection: Selection, chunk: int) -> Iterator[M]:
        return iter(self._rows(selection))

    def _exists(self, q: Q) -> bool:
        return bool(self._matching(q))

    def _count(self, q: Q) -> int:
        return len(self._matching(q))

    def _object(self, row: Row) -> M:
        return cast(M, self._table.object(row))

    def _matching(self, q: Q) -> list[M]:
        satisfied = compile_q(self.model, q, profile=self._profile)
        objs = (self._object(row) for row in self._table.rows.values())
        return [obj for obj in objs if satisfied(obj)]

    def _sorted(self, rows: list[M], order_by: Sequence[OrderTerm]) -> list[M]:
        terms: Sequence[Any] = order_by or self.model._meta.ordering or ()
        return compile_order(self.model, terms, profile=self._profile)(rows)

    def _check_loaded(self, rows: Sequence[M], names: Sequence[str]) -> None:
        joined, fetched = load_plan(self.model, tuple(names))
        if fetched:
            raise self._unsupported(f"load={fetched[0]!r}, a relation of many")
        for path in joined:
            for row in rows:
                related: Any = row
                for relation in field_path(self.model, path).fields:
                    if getattr(related, relation.attname) is None:
                        break
                    if not relation.is_cached(related):
                        raise self._unsupported(
                            f"load={path!r} for an object saved without it (primary key {row.pk})"
                        )
                    related = getattr(related, relation.name)

    # Writing

    def _save(self, obj: M, update_fields: Sequence[str] | None) -> None:
        check_values(self.model, [obj], update_fields)
        # The model's own save() runs, and ends here where it would go to the database.
        obj.__dict__["save_base"] = partial(self._save_base, obj)
        try:
            obj.save(using=DEFAULT_DB_ALIAS, update_fields=update_fields)
        finally:
            del obj.__dict__["save_base"]

    def _save_base(self, obj: M, *, update_fields: Collection[str] | None, **_: Any) -> None:
        by_default = obj._state.adding and self._table.pk.has_default()
        existing = None if obj.pk is None else self._table.rows.get(self._key(obj.pk))
        names = None if update_fields is None else list(update_fields)
        if existing is not None and not by_default:
            self._update(existing, obj, names)
        elif names:
            self._table.check_sizes(self._row(obj, adding=False, names=names).values)
            # Django 6.1 has an error of the model's own for it, which is a DatabaseError too.
            error = getattr(self.model, "NotUpdated", DatabaseError)
            raise error(f"Saving {names} of {self._label} found no row to update.")
        else:
            self._insert(obj)

    def _save_many(self, objs: Sequence[M], batch: int) -> None:
        self._refuse_own_rows("bulk_create")
        self._refuse_own_rows("bulk_update")
        check_values(self.model, objs)
        new = [obj for obj in objs if obj._state.adding]
        others = [obj for obj in objs if not obj._state.adding]
        with self._table.all_or_none(), keeping_states(new):
            for obj in new:
                self._insert(obj)
            for obj in others:
                existing = self._table.rows.get(obj.pk)
                if existing is None:
                    raise VanishedRows(
                        f"{self._label} {obj.pk!r} to update is gone: nothing was written."
                    )
                self._update(existing, obj, None)

    def _upsert_many(
        self, objs: Sequence[M], match: Sequence[str], update: Sequence[str], batch: int
    ) -> UpsertResult[M]:
        self._refuse_own_rows("bulk_create")
        check_values(self.model, objs)
        columns = [field_path(self.model, name).target for name in match]
        result: UpsertResult[M] = UpsertResult([], [])
        with self._table.all_or_none(), keeping_states(objs):
            for obj in objs:
                row = self._row(obj, adding=True)
                self._table.check(row)  # as the database does before it looks for a conflict
                key = tuple(row.values[each.attname] for each in columns)
                existing = self._table.holder([each.attname for each in columns], key)
                if existing is None:
                    self._insert(obj)
                    result.created.append(obj)
                else:
                    if self._profile.vendor == "postgresql" and self._generates_keys:
                        self._table.new_key()  # the sequence counts before the conflict is met
                    self._update(existing, obj, update, adding=True)
                    result.updated.append(obj)
            check_one_row_each(self.model, objs, match)
        return result

    def _delete(self, obj_or_pk: M | PK) -> int:
        if not isinstance(obj_or_pk, Model):
            self._refuse_own_rows("delete")
            return int(self._table.remove(self._key(obj_or_pk)))
        self._refuse_own(type(obj_or_pk), Model, "delete")
        was_there = self._table.remove(obj_or_pk.pk)
        obj_or_pk.pk = None  # as Django leaves it
        return int(was_there)

    def _delete_by(self, q: Q) -> int:
        self._refuse_own_rows("delete")
        return sum(self._table.remove(obj.pk) for obj in self._matching(q))

    def _refuse_own_rows(self, method: str) -> None:
        self._refuse_own(type(self.model._default_manager.get_queryset()), QuerySet, method)

    def _refuse_own(self, kind: type, base: type, method: str) -> None:
        if getattr(kind, method) is not getattr(base, method):
            raise UnsupportedInMemory(
                f"{self._label} cannot {method} in memory: {kind.__name__}.{method}() is its own, "
                "which only the database can run."
            )

    @property
    def _generates_keys(self) -> bool:
        return isinstance(self._table.pk, AutoField)

    def _insert(self, obj: M) -> None:
        key = obj.pk
        if key is None and self._generates_keys:
            obj.pk = self._table.new_key()
        try:
            row = self._row(obj, adding=True)
            self._table.check(row)
            if obj.pk in self._table.rows:
                raise IntegrityError(f"Primary key {obj.pk!r} of {self._label} already exists.")
            self._table.put(row)
        except BaseException:
            obj.pk = key
            raise
        obj._state.adding, obj._state.db = False, DEFAULT_DB_ALIAS

    def _update(
        self, existing: Row, obj: M, names: Sequence[str] | None, *, adding: bool = False
    ) -> None:
        new = self._row(obj, adding=adding, names=names)
        values, related = {**existing.values, **new.values}, {**existing.related, **new.related}
        values[self._table.pk.attname] = pk = existing.values[self._table.pk.attname]
        changed = Row(values, related)
        self._table.check(changed)
        self._table.put(changed)
        obj.pk, obj._state.adding, obj._state.db = pk, False, DEFAULT_DB_ALIAS

    def _row(self, obj: M, *, adding: bool, names: Sequence[str] | None = None) -> Row:
        columns = columns_of(self.model, names)
        for column in columns:
            if isinstance(column, ForeignKey):
                self._take_key(obj, column)
        values = {
            column.attname: self._table.stored(column, column.pre_save(obj, adding))
            for column in columns
        }
        related = {
            column.name: column.get_cached_value(obj)
            for column in columns
            if isinstance(column, ForeignKey) and column.is_cached(obj)
        }
        return Row(values, {name: each for name, each in related.items() if each is not None})

    def _take_key(self, obj: M, relation: Any) -> None:
        """Take the key that a related object got since it was assigned, as Django's save does."""
        related = relation.get_cached_value(obj, default=None)
        if related is None or getattr(obj, relation.attname) is not None:
            return
        setattr(obj, relation.attname, getattr(related, relation.target_field.attname))

    def _unsupported(self, what: str) -> UnsupportedInMemory:
        return UnsupportedInMemory(
            f"{self._label} in memory cannot answer {what}: it knows one model. Ask the database."
        )
