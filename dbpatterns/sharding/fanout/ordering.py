"""Ordering that Python can follow: what a merge compares is what each server has sorted by.

Text is sorted by code point, `COLLATE "C"` on PostgreSQL and `BINARY` on SQLite, since Python
knows no server's collation. NULLs stay where the server puts them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import total_ordering
from operator import itemgetter
from typing import Any

from django.db import models
from django.db.models.expressions import OrderBy, Ref
from django.db.models.functions import Collate, Random

from dbpatterns.sharding.fanout.refusals import refused

__all__ = ["Merging", "SortKey", "comparable", "merging", "sort_key"]

BINARY = {"postgresql": "C", "sqlite": "BINARY"}
NUMBERS = (models.IntegerField, models.AutoField, models.DecimalField, models.FloatField)
TEXTS = (models.CharField, models.TextField)
OTHERS = (
    models.BooleanField,
    models.DateField,  # and DateTimeField
    models.TimeField,
    models.DurationField,
    models.UUIDField,
)

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class SortKey:
    """One part of an ordering: where its value stands in a row, and how it is compared."""

    index: int
    descending: bool
    nulls_first: bool
    is_plain: bool
    """Never NULL and never NaN, so that values compare as they are."""

    def of(self, row: Row) -> Any:
        """Return what to compare: NULLs and NaN are placed as the servers do."""
        value = row[self.index]
        if value is None:
            return (0,) if self.nulls_first else (3,)
        if value != value:  # NaN, which PostgreSQL holds to be the greatest
            return (1,) if self.descending else (2.5,)
        return (2, _Descending(value)) if self.descending else (2, value)


@total_ordering
class _Descending:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.value == other.value

    def __lt__(self, other: "_Descending") -> bool:
        return bool(other.value < self.value)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Merging:
    """What to compare rows by, and in which direction."""

    key: Callable[[Row], Any]
    reverse: bool


def merging(keys: Sequence[SortKey]) -> Merging:
    """Return how to compare rows; the columns as they are where no value needs a look."""
    descending = {key.descending for key in keys}
    if len(descending) == 1 and all(key.is_plain for key in keys):
        return Merging(itemgetter(*(key.index for key in keys)), descending == {True})
    return Merging(lambda row: tuple([key.of(row) for key in keys]), False)


def comparable(order: OrderBy, model: type[models.Model], vendor: str) -> OrderBy:
    """Return an ORDER BY part whose values Python compares as the server does.

    Raises: UsageError: by chance, by a collation, or by a type that Python does not compare so.
    """
    expression: Any = order.expression
    if isinstance(expression, Ref):
        (expression,) = expression.get_source_expressions()
    if isinstance(expression, Random):
        raise refused(model, "order by chance", "Order the rows in Python.")
    field = getattr(expression, "target", None) or expression.output_field
    while isinstance(field, models.ForeignKey):
        field = field.target_field
    if isinstance(field, TEXTS):
        collation = getattr(expression, "collation", None)
        if collation is None:
            expression = Collate(expression, BINARY[vendor])
        elif collation != BINARY[vendor]:
            raise refused(
                model,
                f"order by the collation {collation!r}, which Python cannot follow",
                "Order by the column, which goes by code point, or sort the rows in Python.",
            )
    elif not isinstance(field, (*NUMBERS, *OTHERS)):
        raise refused(
            model,
            f"order by a {type(field).__name__}, which Python does not compare as the database",
            "Order by another column, or sort the rows in Python.",
        )
    copied = order.copy()
    copied.set_source_expressions([expression])
    return copied


def sort_key(order: OrderBy, index: int, query: Any, *, nulls_are_largest: bool) -> SortKey:
    """Return how one part of a statement's ORDER BY is compared."""
    if order.nulls_first or order.nulls_last:
        nulls_first = bool(order.nulls_first)
    else:
        nulls_first = bool(order.descending) == nulls_are_largest
    expression: Any = order.expression
    if isinstance(expression, Collate):
        expression = expression.get_source_expressions()[0]
    field: Any = getattr(expression, "target", None)
    is_plain = (
        field is not None
        and not field.null
        and not isinstance(field, (models.FloatField, models.DecimalField))
        and query.alias_map[expression.alias].join_type != "LEFT OUTER JOIN"
    )
    return SortKey(index, bool(order.descending), nulls_first, is_plain)
