"""The contract of a repository: what it reads (`ReadRepository`) and what it writes.

`Repository` keeps it over the ORM and `InMemoryRepository` over a dict; `RepositoryContract` in
`dbpatterns.testing` holds both to it. What comes back is evaluated: no queryset leaves.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from django.db.models import Model, Q

from dbpatterns.errors import UsageError
from dbpatterns.repositories.errors import EmptyCriteria, UnsavedObject
from dbpatterns.repositories.reading import PK, ReadRepository, twin
from dbpatterns.repositories.selection import (
    Condition,
    UpsertResult,
    check_columns,
    check_distinct,
    check_upsert,
    condition,
    is_empty,
    key_values,
    refuse_below_one,
    refuse_text,
)

__all__ = ["PK", "BaseRepository"]

M = TypeVar("M", bound=Model)


class BaseRepository(ReadRepository[M, PK]):
    """Objects of one model, found, saved and deleted."""

    def save(self, obj: M, *, update_fields: Sequence[str] | None = None) -> M:
        """Insert or update one object, as Django's `save` does, signals included; return it.

        Raises: UnsavedObject: `update_fields` of an object without a row.
        """
        self._own([obj])
        refuse_text(update_fields=update_fields)
        check_columns(self.model, update_fields or (), may_be_key=False)
        if update_fields and None in key_values(obj):
            raise UnsavedObject(f"This {self._label} was never saved: no row to update.")
        self._save(obj, update_fields)
        return obj

    def save_many(self, objs: Iterable[M], *, batch: int = 500) -> list[M]:
        """Insert the new objects and update the others, all or none; return them.

        One transaction, one INSERT a batch of new ones and one UPDATE a batch of others, which
        writes every column. Sends no signals, as Django's bulk methods do not.
        Raises: VanishedRows: one to be updated is gone. DuplicateKeys: a row stands twice.
        """
        refuse_below_one(batch=batch)
        listed = self._own(objs)
        check_distinct(self.model, listed)
        if listed:
            self._save_many(listed, batch)
        return listed

    def upsert_many(
        self,
        objs: Iterable[M],
        *,
        match: Sequence[str],
        update: Sequence[str],
        batch: int = 2000,
    ) -> UpsertResult[M]:
        """Insert each object, or update the row that has its `match` values; all or none.

        One INSERT … ON CONFLICT a batch on PostgreSQL, which itself tells the created from the
        updated; elsewhere one query more a batch, in the same transaction. Sends no signals.

        Args:
            match: the fields of one unique constraint; an object with a None in them is new.
            update: the columns an existing row takes from the object; others keep their values.
        Raises: DuplicateKeys: two of the objects have the same `match` values.
        """
        refuse_below_one(batch=batch)
        refuse_text(match=match, update=update)
        listed = self._own(objs)
        check_upsert(self.model, listed, match=match, update=update)
        return self._upsert_many(listed, match, update, batch) if listed else UpsertResult([], [])

    def delete(self, obj_or_pk: M | PK) -> int:
        """Delete one object by itself or its primary key; return 1, or 0 if it was gone.

        As Django's `delete` does: cascades and signals included, and a soft-deleting model's own.
        Raises: UnsavedObject.
        """
        if isinstance(obj_or_pk, Model):
            self._own([cast(M, obj_or_pk)])
            by_default = obj_or_pk._state.adding and self.model._meta.pk.has_default()
            if None in key_values(obj_or_pk) or by_default:
                raise UnsavedObject(f"This {self._label} was never saved: no row to delete.")
            return self._delete(obj_or_pk)
        return self._delete(self._key(obj_or_pk))

    def delete_by(
        self, spec: Condition | None = None, /, *, allow_all: bool = False, **criteria: Any
    ) -> int:
        """Delete what matches; return how many of the model's own rows went.

        As `QuerySet.delete` does: set-based unless signals or cascades need the rows.
        Raises: EmptyCriteria: nothing was named, which would be every row.
        """
        q = condition(spec, criteria)
        if is_empty(q) and not allow_all:
            raise EmptyCriteria(
                f"delete_by on {self._label} was given no criteria, which is every row: name some, "
                "or say allow_all=True."
            )
        return self._delete_by(q)

    # Async twins

    asave = twin(save)
    asave_many = twin(save_many)
    aupsert_many = twin(upsert_many)
    adelete = twin(delete)
    adelete_by = twin(delete_by)

    # What a way to run provides

    @abstractmethod
    def _save(self, obj: M, update_fields: Sequence[str] | None) -> None: ...

    @abstractmethod
    def _save_many(self, objs: Sequence[M], batch: int) -> None: ...

    @abstractmethod
    def _upsert_many(
        self, objs: Sequence[M], match: Sequence[str], update: Sequence[str], batch: int
    ) -> UpsertResult[M]: ...

    @abstractmethod
    def _delete(self, obj_or_pk: M | PK) -> int: ...

    @abstractmethod
    def _delete_by(self, q: Q) -> int: ...

    # Checks

    def _own(self, objs: Iterable[M]) -> list[M]:
        listed = list(objs)
        for obj in listed:
            if not isinstance(obj, self.model):
                raise UsageError(
                    f"{type(self).__name__} keeps {self._label}, not {type(obj).__name__}."
                )
        return listed
