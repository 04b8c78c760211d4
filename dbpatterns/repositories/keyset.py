"""Keyset pagination: a page is what comes after a row, never an offset.

One query a page however deep, and no row lost or repeated while others are written. The order
is made total with the primary key; NULLs stand where the order says or the backend puts them.

# Note [Ranges]
"After the row" is a union of ranges of one index, one for each place where the order can first
differ. After (rating 3, id 7) by (rating, id), where NULL ratings come last:

    rating = 3 AND id > 7   |   rating > 3   |   rating IS NULL

One OR of these cannot be one range scan: both backends would walk the index from its start. So
the repository asks for a UNION ALL of the ranges. PostgreSQL wants a limit in each of them, and
seeks by a whole row, `(rating, id) > (3, 7)`, in place of the first two. SQLite takes no limit
there, but merges the ranges as they come and stops at the limit of all; by a row it would seek
the first column only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

from django.core import signing
from django.core.exceptions import ValidationError
from django.db.models import BooleanField, F, Func, Model, Q, Value
from django.db.models.expressions import OrderBy
from django.db.models.lookups import GreaterThan, LessThan

from dbpatterns.errors import UsageError
from dbpatterns.repositories.errors import InvalidCursor
from dbpatterns.repositories.paths import FieldPath, field_path

__all__ = ["Keyset", "OrderTerm", "Page", "Position", "SortKey", "column_of"]

M = TypeVar("M", bound=Model)

OrderTerm = str | F | OrderBy
"""What `order_by` takes: `"-published_at"`, or `F("rating").desc(nulls_last=True)`."""

_SALT = "dbpatterns.repositories.keyset"


@dataclass(frozen=True)
class Page(Generic[M]):
    """A page of rows; reads like Django's own, so templates made for that one work."""

    object_list: list[M]
    next_cursor: str | None = None
    """Where the next page begins, None on the last."""
    previous_cursor: str | None = None
    """Where the page before ends, None on the first. Rows deleted since may leave it empty."""
    total: int | None = None
    """Rows on all pages together, if they were asked for."""

    def has_next(self) -> bool:
        """Tell whether rows come after this page; known without a query."""
        return self.next_cursor is not None

    def has_previous(self) -> bool:
        """Tell whether this page was not the first; known without a query."""
        return self.previous_cursor is not None

    def has_other_pages(self) -> bool:
        """Tell whether there is another page either way."""
        return self.has_next() or self.has_previous()

    def __iter__(self) -> Iterator[M]:
        return iter(self.object_list)

    def __len__(self) -> int:
        return len(self.object_list)

    def __getitem__(self, index: int) -> M:
        return self.object_list[index]


@dataclass(frozen=True, slots=True)
class SortKey:
    """One column of an order."""

    path: FieldPath
    is_descending: bool
    nulls_last: bool | None
    """None where the column has no NULLs or the backend decides."""

    def reversed(self) -> "SortKey":
        """Return the key that sorts the other way round, NULLs included."""
        nulls_last = None if self.nulls_last is None else not self.nulls_last
        return SortKey(self.path, not self.is_descending, nulls_last)

    @property
    def comparison(self) -> str:
        """Return the lookup of the values after one."""
        return "lt" if self.is_descending else "gt"

    def as_order_by(self) -> OrderBy:
        """Return Django's expression for it."""
        return OrderBy(
            F(self.path.name),
            descending=self.is_descending,
            nulls_first=True if self.nulls_last is False else None,
            nulls_last=True if self.nulls_last else None,
        )

    def value_of(self, obj: Model) -> Any:
        """Return the object's value; the relations on the way must be loaded."""
        value: Any = obj
        for each in self.path.fields:
            value = None if value is None else getattr(value, _attribute(each, self.path))
        return value

    def __str__(self) -> str:
        nulls = {None: "", True: " nulls last", False: " nulls first"}[self.nulls_last]
        return f"{'-' if self.is_descending else ''}{self.path.name}{nulls}"


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two rows, and which way to read from it."""

    values: tuple[Any, ...]
    is_backward: bool


@dataclass(frozen=True, slots=True)
class Keyset:
    """A total order over one model's rows."""

    model: type[Model]
    keys: tuple[SortKey, ...]
    relations: tuple[str, ...] = field(default=(), compare=False)
    """Relations to load so that `value_of` finds its values."""

    @classmethod
    def of(cls, model: type[Model], order_by: Sequence[OrderTerm]) -> "Keyset":
        """Read an order as `order_by` takes it, and add the primary key if rows could tie.

        Raises: UnknownField; UsageError: random, an expression, or a relation of many.
        """
        keys = [key for each in order_by for key in _sort_keys(model, each)]
        named = {key.path.target for key in keys if len(key.path.fields) == 1}
        is_total = named.issuperset(model._meta.pk_fields)
        if not is_total and not any(_is_unique(key.path) for key in keys):
            is_descending = bool(keys) and keys[-1].is_descending
            keys += _primary(model, is_descending)
        relations = ("__".join(key.path.name.split("__")[:-1]) for key in keys)
        return cls(model, tuple(keys), tuple(sorted({each for each in relations if each})))

    def reversed(self) -> "Keyset":
        """Return the same rows from the other end."""
        return Keyset(self.model, tuple(key.reversed() for key in self.keys), self.relations)

    def order_by(self) -> list[OrderBy]:
        """Return what goes into `order_by`."""
        return [key.as_order_by() for key in self.keys]

    def ranges(
        self, values: Sequence[Any], *, nulls_largest: bool, by_row: bool = False
    ) -> list[Q]:
        """Return the rows after these values as ranges (see Note [Ranges]).

        Args:
            nulls_largest: where the backend puts NULLs that the order leaves to it.
            by_row: compare whole rows where that says the same in fewer ranges.
        """
        is_one_way = len({key.is_descending for key in self.keys}) == 1
        by_row = by_row and is_one_way and None not in values
        ranges = [self._row_comparison(values)] if by_row else []
        for depth in reversed(range(len(self.keys))):
            key, value, same = self.keys[depth], values[depth], Q()
            for before, its_value in zip(self.keys[:depth], values, strict=False):
                same &= _equals(before, its_value)
            if not by_row and value is not None:
                ranges.append(same & Q((f"{key.path.name}__{key.comparison}", value)))
            if beyond := _null_range(key, value, nulls_largest=nulls_largest):
                ranges.append(same & beyond)
        return ranges

    def cursor(self, obj: Model, *, is_backward: bool) -> str:
        """Return a signed cursor at this row; it tells the row's values to whoever decodes it."""
        values = [_to_text(key, key.value_of(obj)) for key in self.keys]
        payload = [self.model._meta.label, str(self), int(is_backward), values]
        return signing.dumps(payload, salt=_SALT, compress=True)

    def position(self, cursor: str) -> Position:
        """Read a cursor of this model and order.

        Raises: InvalidCursor: it was changed, or made for another model, order or SECRET_KEY.
        """
        try:
            label, order, is_backward, texts = signing.loads(cursor, salt=_SALT)
        except (signing.BadSignature, ValueError) as error:
            raise self._invalid("was changed, or is none of ours") from error
        if label != self.model._meta.label:
            raise self._invalid(f"belongs to {label}")
        if order != str(self):
            raise self._invalid(f"was made for the order {order!r}, not {str(self)!r}")
        try:
            values = [_from_text(*each) for each in zip(self.keys, texts, strict=True)]
        except (ValidationError, ValueError) as error:
            raise self._invalid("has values that the columns no longer hold") from error
        return Position(tuple(values), bool(is_backward))

    def __str__(self) -> str:
        return ", ".join(map(str, self.keys))

    def _row_comparison(self, values: Sequence[Any]) -> Q:
        lookup = LessThan if self.keys[0].is_descending else GreaterThan
        columns = [F(key.path.name) for key in self.keys]
        constants = [
            Value(value, output_field=key.path.target)
            for key, value in zip(self.keys, values, strict=True)
        ]
        return Q(lookup(_Row(*columns), _Row(*constants)))

    def _invalid(self, why: str) -> InvalidCursor:
        return InvalidCursor(
            f"This page cursor of {self.model._meta.label} {why}: start at the first page."
        )


class _Row(Func):
    """A row value: `(a, b) < (1, 2)` is one range of an index on (a, b)."""

    template = "(%(expressions)s)"
    output_field = BooleanField()


def column_of(term: OrderTerm) -> str:
    """Return the column that an order's term names, nothing for an expression or at random."""
    expression: Any = term.expression if isinstance(term, OrderBy) else term
    if isinstance(expression, F):
        expression = expression.name  # type: ignore[attr-defined]  # the stubs lack it
    return expression.removeprefix("-") if isinstance(expression, str) and term != "?" else ""


def _primary(model: type[Model], is_descending: bool) -> list[SortKey]:
    names = [each.name for each in model._meta.pk_fields]
    return [SortKey(field_path(model, name), is_descending, None) for name in names]


def _sort_keys(model: type[Model], order: OrderTerm) -> list[SortKey]:
    """Read a term: one column, but a composite primary key has several."""
    if column_of(order) != "pk" or len(model._meta.pk_fields) == 1:
        return [_sort_key(model, order)]
    if isinstance(order, OrderBy):
        return _primary(model, bool(order.descending))
    return _primary(model, str(order).startswith("-"))


def _sort_key(model: type[Model], order: OrderTerm) -> SortKey:
    column = column_of(order)
    if not column:
        raise UsageError(
            f"Pages of {model._meta.label} cannot be ordered by {order}: name a column, or F() of "
            "one with asc() or desc()."
        )
    path = field_path(model, column)
    if path.is_many or (path.target.is_relation and not _is_attname(path)):
        raise UsageError(
            f"Pages of {model._meta.label} cannot be ordered by the relation {path.name!r}: name a "
            f"column of it, or {path.name + '_id'!r}."
        )
    if not isinstance(order, OrderBy):
        return SortKey(path, str(order).startswith("-"), None)
    nulls_last = True if order.nulls_last else False if order.nulls_first else None
    return SortKey(path, bool(order.descending), nulls_last if path.is_nullable else None)


def _is_attname(path: FieldPath) -> bool:
    return path.name.rpartition("__")[2] in ("pk", getattr(path.target, "attname", None))


def _attribute(each: Any, path: FieldPath) -> str:
    is_last = each is path.target
    name: str = each.attname if is_last and hasattr(each, "attname") else each.name
    return name


def _is_unique(path: FieldPath) -> bool:
    return len(path.fields) == 1 and path.target.unique and not path.is_nullable


def _equals(key: SortKey, value: Any) -> Q:
    return Q((f"{key.path.name}__isnull", True)) if value is None else Q((key.path.name, value))


def _null_range(key: SortKey, value: Any, *, nulls_largest: bool) -> Q | None:
    """Return the range on the other side of NULL, if there is one after the value."""
    name = key.path.name
    nulls_last = nulls_largest != key.is_descending if key.nulls_last is None else key.nulls_last
    if value is None:
        return None if nulls_last else Q((f"{name}__isnull", False))
    return Q((f"{name}__isnull", True)) if nulls_last and key.path.is_nullable else None


def _to_text(key: SortKey, value: Any) -> str | None:
    if value is None:
        return None
    column = key.path.target
    text: str = column.value_to_string(SimpleNamespace(**{column.attname: value}))
    return text


def _from_text(key: SortKey, text: str | None) -> Any:
    return None if text is None else key.path.target.to_python(text)
