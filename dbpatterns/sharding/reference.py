"""Reference models: small tables that every shard has whole, for joins to stay on one shard.

    class Currency(ReferenceModel):
        code = models.CharField(max_length=3, primary_key=True)

Read from any shard; written to all of them, or to none. So a write within a transaction that is
not on all of them is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Self

from django.db import models

from dbpatterns.sharding.context import current_shard
from dbpatterns.sharding.covering import covered
from dbpatterns.sharding.replicas import for_reading, primary_of
from dbpatterns.sharding.shard_map import shards
from dbpatterns.transactions.several import atomic_on

__all__ = ["ReferenceManager", "ReferenceModel", "ReferenceQuerySet", "is_reference"]
__all__ += ["on_every_shard"]


def is_reference(model: type[models.Model]) -> bool:
    """Tell whether every shard has all rows of a model; no query."""
    return issubclass(model, ReferenceModel)


@contextmanager
def on_every_shard() -> Iterator[tuple[str, ...]]:
    """Hold one transaction on each shard; they are committed together, or undone together.

        with on_every_shard():
            Currency.objects.create(code="EUR")
            Currency.objects.filter(code="DEM").delete()

    A server that is lost between two of the commits leaves the shards different: write the row
    once more.
    """
    with atomic_on(shards()):
        yield shards()


@contextmanager
def _covered(model: type[models.Model]) -> Iterator[tuple[str, ...]]:
    with covered(model._meta.label, shards(), "on each shard, `with on_every_shard():`"):
        yield shards()


class ReferenceQuerySet(models.QuerySet[Any]):
    """Rows that are the same on each shard: one is read, all are written."""

    _db: str | None
    _for_write: bool
    _hints: dict[str, Any]

    def create(self, **values: Any) -> Any:
        """Create a row on every shard, with one key; a statement on each, in a transaction."""
        made = self.model(**values)
        made.save(force_insert=True, using=self._db)
        return made

    def bulk_create(self, objs: Any, *args: Any, **options: Any) -> Any:
        """Create rows on every shard; they need keys of their own."""
        return self._everywhere("bulk_create", list(objs), *args, **options)

    def bulk_update(self, objs: Any, fields: Any, *args: Any, **options: Any) -> int:
        """Change rows on every shard; returns the rows of one."""
        found: int = self._everywhere("bulk_update", list(objs), list(fields), *args, **options)
        return found

    def update_or_create(
        self, defaults: Any = None, create_defaults: Any = None, **values: Any
    ) -> Any:
        """As Django's on one shard, whose row is then written to the others, changed or made."""
        if self._db:
            return super().update_or_create(defaults, create_defaults, **values)
        with _covered(self.model) as (first, *others):
            here: Any = super(ReferenceQuerySet, self.using(first))
            row, is_new = here.update_or_create(defaults, create_defaults, **values)
            for alias in others:
                row.save(using=alias)
        row._state.db = first
        return row, is_new

    def get_or_create(self, defaults: Any = None, **values: Any) -> Any:
        """As Django's; the row is looked for on one shard, by one query if it is there."""
        if self._db:
            return super().get_or_create(defaults, **values)
        self._for_write = True  # as Django's own, which looks where it would write
        with suppress(self.model.DoesNotExist):
            return self.get(**values), False
        with _covered(self.model):  # Django would hold a transaction on one, which covers no others
            return super().get_or_create(defaults, **values)

    def update(self, **values: Any) -> int:
        """Change rows on every shard; returns the rows of one."""
        found: int = self._everywhere("update", **values)
        return found

    def delete(self) -> Any:
        """Delete rows on every shard; returns what one deleted."""
        return self._everywhere("delete")

    def _everywhere(self, method: str, *args: Any, **options: Any) -> Any:
        if self._db:
            return getattr(super(), method)(*args, **options)
        with _covered(self.model) as aliases:
            answers = [
                getattr(super(ReferenceQuerySet, self.using(alias)), method)(*args, **options)
                for alias in aliases
            ]
        return answers[0]

    @property
    def db(self) -> str:
        """The database asked for, the shard of the block, or the first that may be read."""
        if self._db:
            return self._db
        alias = self._near()
        return alias if self._for_write else for_reading(alias)

    def _near(self) -> str:
        instance = self._hints.get("instance")
        near: str | None = None if instance is None else instance._state.db
        if near is not None and near in shards():
            return near
        return current_shard() or shards()[0]


ReferenceManager = models.Manager.from_queryset(ReferenceQuerySet, "ReferenceManager")


class ReferenceModel(models.Model):
    """A small table on every shard; see the module. Its keys are given, not counted.

    What is made anew at each write, a date with `auto_now` or `Now()`, is each shard's own.
    """

    objects: ClassVar[Any] = ReferenceManager()

    class Meta:
        abstract = True
        base_manager_name = "objects"

    def save(self, *, using: str | None = None, **options: Any) -> None:
        """Save to every shard in one go; `using` for one alone, to mend it.

        Raises: UncoveredWrite: a database has a transaction open, and one of the shards none.
        """
        if using is not None:
            super().save(using=using, **options)
            return
        was_new = self._state.adding
        with _covered(type(self)) as aliases:
            for alias in aliases:
                self._state.adding = was_new
                super().save(using=alias, **options)

    def delete(self, using: str | None = None, keep_parents: bool = False) -> Any:
        """Delete from every shard; returns what one deleted."""
        if using is not None:
            return super().delete(using=using, keep_parents=keep_parents)
        key = self.pk
        with _covered(type(self)) as aliases:
            for alias in aliases:
                self.pk = key
                deleted = super().delete(using=alias, keep_parents=keep_parents)
        return deleted

    @classmethod
    def from_db(cls, db: Any, field_names: Any, values: Any, **options: Any) -> Self:
        """Make an instance from a row; it is the shard's, not a replica's."""
        return super().from_db(primary_of(db), field_names, values, **options)
