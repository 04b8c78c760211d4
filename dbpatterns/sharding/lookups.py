"""Lookup indexes: a value of a column that is unique over all shards, and finds its row's shard.

    class Member(ShardedModel):
        shard_key = "id"
        email = models.EmailField(unique=True)
        email_index = LookupIndex("email")

The control database has an entry for each value; the shard's own unique constraint stays, and
forbids two rows of one shard. A value counts as the column has it: fold its case before.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from django.db.models import CharField, IntegerField, Model, UUIDField
from django.db.models.expressions import Col
from django.db.models.lookups import Exact, In
from django.db.models.signals import class_prepared, pre_delete
from django.db.models.sql import Query
from django.db.models.sql.where import AND, WhereNode

from dbpatterns.errors import UsageError
from dbpatterns.sharding.keys import end_field, group_of, key_field, telling_columns
from dbpatterns.sharding.shard_map import shard_map
from dbpatterns.sharding.strategies import decode

__all__ = [
    "LookupIndex",
    "claimed",
    "declared",
    "indexes_of",
    "shards_by_lookup",
    "shards_of_entry",
]

LONGEST = 255
"""Characters of a value that an entry has room for."""


class LookupIndex:
    """A column of a sharded model whose values are on one shard each.

    A row that is made costs three statements on the control database and a lock on the shard; one
    that is saved under the same value a read of its row; `get()` by the value a query before its
    own. The control database may have no transaction open then, which could undo an entry alone.
    """

    def __init__(self, field: str, model: type[Model] | None = None) -> None:
        self.field, self._model = field, model

    @property
    def model(self) -> type[Model]:
        """The model that has the column."""
        assert self._model is not None, "an index as it is declared, of no model yet"
        return self._model

    @property
    def label(self) -> str:
        """What its entries are kept under."""
        return f"{self.model._meta.label_lower}.{self.field}"

    @property
    def column(self) -> Any:
        """The field; FieldDoesNotExist when there is none."""
        return self.model._meta.get_field(self.field)

    def text_of(self, value: Any) -> str | None:
        """Return a value as an entry has it; None for what is not entered, NULL.

        Raises: UsageError: it is an expression, which only the shard knows the value of.
        """
        if hasattr(value, "resolve_expression"):
            raise UsageError(
                f"{self.model._meta.label}.{self.field} has a lookup index, and was to be set to "
                f"{value!r}: give it a value, since the entry is made before the row."
            )
        prepared = self.column.get_prep_value(value)
        return None if prepared is None else str(prepared)

    def problem(self, model: type[Model]) -> str | None:
        """Tell why a model cannot have it, if it cannot; no query."""
        column = next((c for c in model._meta.concrete_fields if c.name == self.field), None)
        if column is None:
            return f"{self.field!r} is no column of it"
        if not column.unique:
            return f"{self.field} is not unique, so that two rows of one shard may have one value"
        end = end_field(column)
        if isinstance(end, CharField) and (end.max_length or LONGEST + 1) <= LONGEST:
            return None
        if isinstance(end, IntegerField | UUIDField):
            return None
        return f"{self.field} is no integer, no UUID and no text of {LONGEST} characters at most"


@cache
def indexes_of(model: type[Model]) -> tuple[LookupIndex, ...]:
    """Return the lookup indexes of a model, its own and inherited ones; no query."""
    fields = [each.field for each in declared(model)]
    owners: list[Any] = [model._meta.get_field(name).model for name in fields]
    return tuple(map(LookupIndex, fields, owners))


def declared(model: type[Model]) -> list[LookupIndex]:
    """Return the indexes as a model and its bases declare them; no query."""
    found = (each for base in model.__mro__ for each in vars(base).values())
    return [each for each in found if isinstance(each, LookupIndex)]


def claimed(
    model: type[Model],
    rows: Sequence[Model],
    alias: str,
    *,
    written: Collection[str] | None = None,
    are_new: bool = False,
) -> AbstractContextManager[None]:
    """Write rows in the block, which have their values of lookup indexes to themselves.

    No statement for a model without an index; see `LookupIndex` for what they cost.

    Args:
        written: the columns that are; all if None.
        are_new: no row has been there, so none is asked what it has.
    Raises: ValueTaken: before anything is written. UsageError: the control database has a
        transaction open.
    """
    indexes = [
        each
        for each in indexes_of(model)
        if written is None or {each.field, each.column.attname} & set(written)
    ]
    if not indexes:
        return nullcontext()
    from dbpatterns.sharding.reservations import holding  # models, when they are there

    return holding(indexes, rows, alias, are_new=are_new)


def shards_of_entry(model: type[Model], key: str, shard: str) -> frozenset[str]:
    """Return where an entry's row is: by the map, or on its shard while it has no key. No query."""
    if not key:
        return frozenset((shard,))
    tells = telling_columns(model)[key_field(model).attname]
    return tells(shard_map(group_of(model)), decode(key))


def shards_by_lookup(query: Query) -> frozenset[str] | None:
    """Return the shards of the values of an indexed column that a query names; one query.

    Equality and membership count, beside all other conditions. None when it names none; empty
    when no row has them.
    """
    for index, values in _named(query.where):
        from dbpatterns.sharding.reservations import entries  # models, when they are there

        found = entries(index).filter(value__in=values).values_list("key", "shard")
        told = [shards_of_entry(index.model, key, shard) for key, shard in found]
        return frozenset().union(*told)
    return None


def _named(where: WhereNode) -> Iterator[tuple[LookupIndex, list[str]]]:
    if where.negated or where.connector != AND:
        return
    for node in where.children:
        if isinstance(node, WhereNode):
            yield from _named(node)
        if not isinstance(node, (Exact, In)) or not isinstance(node.lhs, Col):
            continue
        given: Any = node.rhs if isinstance(node, In) else [node.rhs]
        if isinstance(given, (Query, str)) or any(hasattr(e, "resolve_expression") for e in given):
            continue
        for index in indexes_of(node.lhs.target.model):
            if index.column == node.lhs.target:
                texts = map(index.text_of, given)
                yield index, [each for each in texts if each is not None]


def _watch(sender: type[Model], **_: Any) -> None:
    if declared(sender) and not sender._meta.abstract:
        pre_delete.connect(_let_go, sender=sender, dispatch_uid="dbpatterns.sharding.lookups")


class_prepared.connect(_watch, dispatch_uid="dbpatterns.sharding.lookups")


def _let_go(instance: Model, using: str, **_: Any) -> None:
    from dbpatterns.sharding.reservations import release  # models, when they are there

    release(instance, using)
