"""One table in memory: rows as the backend would store them, its keys and its constraints."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DataError, IntegrityError
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models import AutoField, CheckConstraint, Model, Q, UniqueConstraint

from dbpatterns.repositories.errors import UnsupportedInMemory
from dbpatterns.repositories.evaluation import Profile, compile_q, compile_truth

__all__ = ["Row", "Table"]

_INTEGERS = BaseDatabaseOperations.integer_field_ranges
_MUTABLE = (list, dict, set, bytearray)


_Key = tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """What is stored of one object."""

    values: dict[str, Any]
    """By attribute name, one for each column, in their order."""
    related: dict[str, Model] = field(default_factory=dict)
    """The objects its foreign keys were given, by the relation's name."""

    @cached_property
    def mutable(self) -> list[str]:
        """Return the attributes whose values a reader could change in place."""
        return [name for name, value in self.values.items() if isinstance(value, _MUTABLE)]


@dataclass(frozen=True, slots=True)
class _Unique:
    """A unique constraint and who holds which key."""

    name: str
    attnames: tuple[str, ...]
    applies: Callable[[Model], bool] | None
    nulls_are_distinct: bool

    def key(self, values: dict[str, Any], obj: Callable[[], Model]) -> _Key | None:
        """Return the key that a row takes, None if it takes none."""
        key = tuple(values[each] for each in self.attnames)
        if (None in key and self.nulls_are_distinct) or (
            self.applies is not None and not self.applies(obj())
        ):
            return None
        return key


class Table:
    """The rows of one model by primary key, in the order they were first written."""

    def __init__(self, model: type[Model], profile: Profile) -> None:
        """Read the model's constraints.

        Raises: UnsupportedInMemory: one whose rule only the database knows.
        """
        self.model, self.profile = model, profile
        self.label = model._meta.label
        self.columns = list(model._meta.concrete_fields)
        self.attnames = [column.attname for column in self.columns]
        self.pk: Any = model._meta.pk
        self.rows: dict[Any, Row] = {}
        self.uniques: list[_Unique] = []
        self.checks: list[tuple[str, Callable[[Model], bool | None]]] = []
        self._holders: list[dict[_Key, Any]] = []
        self._keys: dict[Any, list[_Key | None]] = {}
        self._next_key = 1
        self._read_constraints()

    # Keys

    def new_key(self) -> int:
        """Return the next generated primary key.

        A sequence of PostgreSQL counts on whatever becomes of the row; SQLite goes on from the
        largest key there ever was.
        """
        key = self._next_key
        if self.profile.vendor != "sqlite":
            self._next_key += 1
        return key

    # Rows

    def check(self, row: Row) -> None:
        """Refuse a row by what it holds itself: NULLs, lengths and CHECK constraints.

        Raises: IntegrityError, DataError: as the database would.
        """
        self.check_sizes(row.values)  # first, as PostgreSQL fits values to their types first
        for column in self.columns:
            is_null = row.values[column.attname] is None and not isinstance(column, AutoField)
            if is_null and not column.null:
                raise IntegrityError(f"{self.label}.{column.name} may not be NULL.")
        if self.checks:
            obj = self.object(row)
            for name, satisfied in self.checks:
                if satisfied(obj) is False:
                    raise IntegrityError(f"Row of {self.label} violates check constraint {name!r}.")

    def put(self, row: Row) -> None:
        """Insert or replace one row that was checked.

        Raises: IntegrityError: another row has one of its unique keys.
        """
        values = row.values
        pk = values[self.pk.attname]
        keys = [unique.key(values, lambda: self.object(row)) for unique in self.uniques]
        for unique, holders, key in zip(self.uniques, self._holders, keys, strict=True):
            if key is not None and holders.get(key, pk) != pk:
                raise IntegrityError(
                    f"Key {key!r} of {self.label} already exists: unique constraint {unique.name}."
                )
        self._release(pk)
        self.rows[pk], self._keys[pk] = row, keys
        for holders, key in zip(self._holders, keys, strict=True):
            if key is not None:
                holders[key] = pk
        if isinstance(self.pk, AutoField) and self.profile.vendor == "sqlite":
            self._next_key = max(self._next_key, pk + 1)

    def remove(self, pk: Any) -> bool:
        """Take a row away; tell whether it was there."""
        if pk not in self.rows:
            return False
        self._release(pk)
        del self.rows[pk]
        return True

    def _release(self, pk: Any) -> None:
        for holders, key in zip(self._holders, self._keys.pop(pk, ()), strict=False):
            if key is not None:
                del holders[key]

    def holder(self, attnames: Sequence[str], key: _Key) -> Row | None:
        """Return the row that has this key of a unique constraint."""
        unique, holders = next(
            each
            for each in zip(self.uniques, self._holders, strict=True)
            if set(each[0].attnames) == set(attnames) and each[0].applies is None
        )
        by_name = dict(zip(attnames, key, strict=True))
        pk = holders.get(tuple(by_name[each] for each in unique.attnames))
        return None if pk is None else self.rows[pk]

    def object(self, row: Row) -> Model:
        """Return a new object of a row."""
        obj = self.model.from_db(DEFAULT_DB_ALIAS, self.attnames, row.values.values())
        for name in row.mutable:
            setattr(obj, name, copy.deepcopy(row.values[name]))
        if row.related:
            obj._state.fields_cache.update(row.related)
        return obj

    def stored(self, column: Any, value: Any) -> Any:
        """Return a value as it would come back from the database.

        Raises: UnsupportedInMemory: an expression. DataError: it does not fit.
        """
        if hasattr(value, "resolve_expression"):
            raise UnsupportedInMemory(
                f"{column.name!r} on {self.label} is to be {value!r}, which only the database "
                "computes."
            )
        value = column.to_python(column.get_prep_value(value))
        kind = column.get_internal_type()
        if kind == "DecimalField" and value is not None:
            return self._rounded(column, value)
        if kind == "DateTimeField" and value is not None and settings.USE_TZ:
            return value.astimezone(UTC)
        return copy.deepcopy(value) if isinstance(value, _MUTABLE) else value

    def _rounded(self, column: Any, value: Decimal) -> Decimal:
        context = Context(prec=column.max_digits, rounding=ROUND_HALF_UP)
        try:
            rounded = value.quantize(Decimal(1).scaleb(-column.decimal_places), context=context)
        except InvalidOperation as error:
            raise DataError(f"{self.label}.{column.name} has no room for {value}.") from error
        if rounded != value and not self.profile.is_native:
            raise UnsupportedInMemory(
                f"{self.label}.{column.name} is to be {value}: SQLite keeps more places than the "
                "column has and shows fewer. Round it before you save it."
            )
        return rounded

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Undo everything when the block fails; generated keys stay used on PostgreSQL."""
        rows, keys = dict(self.rows), dict(self._keys)
        holders = [dict(each) for each in self._holders]
        next_key = self._next_key
        try:
            yield
        except BaseException:
            self.rows, self._keys, self._holders = rows, keys, holders
            if self.profile.vendor == "sqlite":
                self._next_key = next_key
            raise

    # Constraints

    def _read_constraints(self) -> None:
        options = self.model._meta
        if len(options.pk_fields) > 1:
            raise self._unsupported("its primary key is composite")
        if options.parents and not options.proxy:
            raise self._unsupported("it has its columns in more tables than one")
        for column in self.columns:
            if getattr(column, "generated", False):
                raise self._unsupported(f"{column.name!r} is generated by the database")
            if column.unique:
                self._add_unique(column.name, [column.name])
        for names in options.unique_together:
            self._add_unique(f"({', '.join(names)})", names)
        for constraint in options.constraints:
            if isinstance(constraint, UniqueConstraint) and not constraint.expressions:
                self._add_unique(
                    constraint.name,
                    constraint.fields,
                    constraint.condition,
                    constraint.nulls_distinct is not False,
                )
            elif isinstance(constraint, CheckConstraint) and isinstance(constraint.condition, Q):
                condition = compile_truth(self.model, constraint.condition, profile=self.profile)
                self.checks.append((constraint.name, condition))
            else:
                raise self._unsupported(f"{type(constraint).__name__} {constraint.name!r}")

    def _add_unique(
        self,
        name: str,
        fields: Sequence[str],
        condition: Q | None = None,
        nulls_are_distinct: bool = True,
    ) -> None:
        columns: list[Any] = [self.model._meta.get_field(each) for each in fields]
        attnames = tuple(column.attname for column in columns)
        applies = condition and compile_q(self.model, condition, profile=self.profile)
        self.uniques.append(_Unique(name, attnames, applies or None, nulls_are_distinct))
        self._holders.append({})

    def _unsupported(self, what: str) -> UnsupportedInMemory:
        return UnsupportedInMemory(f"{self.label} cannot be kept in memory: {what}.")

    def check_sizes(self, values: Mapping[str, Any]) -> None:
        """Refuse numbers, and where the backend does text, that a column has no room for.

        Raises: DataError; IntegrityError: a negative number in a positive column.
        """
        is_limited = self.profile.vendor == "postgresql"
        for column in self.columns:
            value, kind = values.get(column.attname), column.get_internal_type()
            if kind in _INTEGERS and value is not None:
                self._check_integer(column, value, *_INTEGERS[kind])
            most = column.max_length
            if is_limited and isinstance(value, str) and most is not None and len(value) > most:
                raise DataError(
                    f"{self.label}.{column.name} holds {most} characters, not {len(value)}."
                )

    def _check_integer(self, column: Any, value: int, low: int, high: int) -> None:
        if self.profile.integers is not None:
            high = self.profile.integers[1]  # and Django's CHECK keeps a positive one positive
            low = low if low == 0 else self.profile.integers[0]
        if not low <= value <= high:
            error = IntegrityError if low == 0 and -(2**31) <= value < 0 else DataError
            raise error(f"{self.label}.{column.name} holds {low} to {high}, not {value}.")
