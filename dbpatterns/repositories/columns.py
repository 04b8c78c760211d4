"""Columns as a backend stores them: what their values compare as, and what they are as text.

What is not in these tables is refused, for a column that is compared *almost* as the database
does it is worse than none.

# Note [Declared differences]
Text is ordered by code point, as SQLite, the locale C and `C.UTF-8` do; a linguistic collation of
PostgreSQL orders otherwise. UPPER() of the PostgreSQL profile maps one character to one, as every
UTF-8 locale of the C library and the builtin provider do: "ß" stays, where ICU makes "SS", and in
the locale C only ASCII changes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models import ForeignKey, Model

from dbpatterns.repositories.errors import InvalidValue, UnsupportedInMemory

__all__ = ["BAD_VALUE", "POSTGRESQL", "SQLITE", "TYPES", "Column", "Kind", "Profile", "Read"]

Read = Callable[[Model], Any]
"""Reads a comparable value of a row, None for NULL."""

BAD_VALUE = (TypeError, ValueError, ArithmeticError, ValidationError)
"""What a field raises for a value that it cannot hold."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules of one backend; see Note [Declared differences]."""

    vendor: str
    nulls_largest: bool
    """Whether ascending order puts NULLs last, and descending order first."""
    is_native: bool
    """Whether decimals, UUIDs and booleans are types of the server, not numbers and text."""
    like_ignores_ascii_case: bool
    """Whether `contains` and its kin find "a" in "A", and the i-lookups no more than that."""
    integers: tuple[int, int] | None
    """What any integer sent must lie between; None where each column has its own range."""
    is_utc: bool = True
    """Whether times are kept in UTC; where not, times are refused, for some come twice a year."""


POSTGRESQL = Profile("postgresql", True, True, False, None)
SQLITE = Profile("sqlite", False, False, True, (-(2**63), 2**63 - 1))


class Kind(StrEnum):
    """What a column holds, as far as comparing goes."""

    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    DATETIME = "datetime"
    TIME = "time"
    DURATION = "duration"
    UUID = "uuid"


TYPES: dict[Kind, type] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.DECIMAL: Decimal,
    Kind.FLOAT: float,
    Kind.BOOLEAN: bool,
    Kind.DATE: date,
    Kind.DATETIME: datetime,
    Kind.TIME: time,
    Kind.DURATION: timedelta,
    Kind.UUID: UUID,
}
"""The type of each kind's values."""

_INSPECTED = frozenset({Kind.DECIMAL, Kind.FLOAT, Kind.DATETIME})  # the type says too little
_DEFERRED = object()
_SQLITE_DIGITS = 15
_TOO_LONG = "SQLite keeps 15 digits of a decimal"
_INTEGERS = BaseDatabaseOperations.integer_field_ranges
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("CharField", "SlugField", "TextField", "FilePathField"), Kind.TEXT),
    **dict.fromkeys(_INTEGERS, Kind.INTEGER),
    "DecimalField": Kind.DECIMAL,
    "FloatField": Kind.FLOAT,
    "BooleanField": Kind.BOOLEAN,
    "DateField": Kind.DATE,
    "DateTimeField": Kind.DATETIME,
    "TimeField": Kind.TIME,
    "DurationField": Kind.DURATION,
    "UUIDField": Kind.UUID,
}
_CONVERSIONS: tuple[str, ...] = (
    *("db_type", "from_db_value", "get_db_prep_save", "get_db_prep_value"),
    *("get_prep_value", "pre_save", "to_python"),
)


class _NaN(float):
    """PostgreSQL's NaN: equal to itself and larger than all else, so that it can be ordered."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isnan(other)

    def __lt__(self, other: float) -> bool:
        return False

    def __gt__(self, other: float) -> bool:
        return not self == other

    def __le__(self, other: float) -> bool:
        return self == other

    def __ge__(self, other: float) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("NaN")


_NAN = _NaN("nan")


class Column:
    """A field as one backend stores and compares it."""

    def __init__(self, field: Any, profile: Profile, *, name: str, model: str) -> None:
        """Learn the field's rules; `name` and `model` go into messages.

        Raises: UnsupportedInMemory: a field of no known kind, or one with its own conversions.
        """
        self.attname: str = field.attname if isinstance(field.name, str) else ""
        self.profile, self.name, self.model = profile, name, model
        while isinstance(field, ForeignKey):
            field = field.target_field
        self.field = field
        kind = _KINDS.get(field.get_internal_type())
        field_class: Any = type(field)
        if kind is None or field.generated or not _is_plain(field_class):
            raise self.unsupported(f"a {type(field).__name__} is not compared as the database does")
        self.kind: Kind = kind
        if getattr(field, "db_collation", None):
            raise self.unsupported(f"its collation {field.db_collation!r} is known to the server")
        if kind is Kind.DATETIME and not profile.is_utc:
            raise self.unsupported("the connection keeps times in a zone other than UTC")
        if kind is Kind.DECIMAL:
            digits, places = field.max_digits, field.decimal_places
            if not profile.is_native and (digits is None or digits > _SQLITE_DIGITS):
                raise self.unsupported(_TOO_LONG)
            self._context = Context(prec=digits, rounding=ROUND_HALF_UP)
            self._unit = None if places is None else Decimal(1).scaleb(-places)

    def unsupported(self, reason: str) -> UnsupportedInMemory:
        """Return the refusal of this column, and why."""
        return UnsupportedInMemory(
            f"{self.name!r} on {self.model} cannot be evaluated in memory: {reason}. "
            "Ask the database."
        )

    def invalid(self, value: object, reason: object = "") -> InvalidValue:
        """Return the refusal of a value, and why."""
        texts = reason.messages if isinstance(reason, ValidationError) else [str(reason)]
        why = " ".join(text for text in texts if text)
        return InvalidValue(
            f"{self.model}: {self.name} cannot be compared with {value!r}.{why and f' {why}'}",
            model=self.model,
            field=self.name,
        )

    def reader(self, row: Read | None = None) -> Read:
        """Return what reads the column of a row, or of the row that `row` leads to."""
        attname, stored = self.attname, self._stored
        as_is = None if self.kind in _INSPECTED else TYPES[self.kind]

        def read(obj: Model) -> Any:
            value = obj.__dict__.get(attname, _DEFERRED)
            return value if value is None or type(value) is as_is else stored(value)

        def read_related(obj: Model) -> Any:
            related = row(obj)  # type: ignore[misc]  # chosen below
            return None if related is None else read(related)

        return read if row is None else read_related

    def _stored(self, value: Any) -> Any:
        if value is _DEFERRED:
            raise self.unsupported("the column is deferred on this object; load it")
        if hasattr(value, "resolve_expression"):
            raise self.unsupported("the object holds an expression that only the database knows")
        try:
            value = self.field.get_prep_value(value)
            if self.kind is Kind.DECIMAL and self.profile.is_native and self._unit is not None:
                return value.quantize(self._unit, context=self._context)
            return self._comparable(value)
        except BAD_VALUE as error:
            raise self.invalid(value, error) from error

    def pattern(self, value: Any) -> str:
        """Return what a pattern lookup makes of its value.

        Raises: InvalidValue: the backend could not be sent it.
        """
        try:
            return self._sendable(str(value))
        except BAD_VALUE as error:
            raise self.invalid(value, error) from error

    def comparable(self, value: Any) -> Any:
        """Turn a value prepared by the field into what rows are compared with.

        Raises: InvalidValue: the backend could not be sent it.
        """
        try:
            return None if value is None else self._comparable(value)
        except BAD_VALUE as error:
            raise self.invalid(value, error) from error

    def _comparable(self, value: Any) -> Any:
        match self.kind:
            case Kind.TEXT:
                return self._sendable(value)
            case Kind.INTEGER:
                allowed = self.profile.integers
                if allowed and not allowed[0] <= value <= allowed[1]:
                    raise ValueError("It has more than 64 bits.")
            case Kind.DECIMAL if not self.profile.is_native:
                if len(value.normalize().as_tuple().digits) > _SQLITE_DIGITS:
                    raise self.unsupported(_TOO_LONG)
            case Kind.FLOAT if math.isnan(value):
                return _NAN if self.profile.is_native else None
            case Kind.DATETIME:
                if (value.tzinfo is None) == settings.USE_TZ:
                    raise ValueError("USE_TZ says whether times have a zone.")
                return value.astimezone(UTC) if settings.USE_TZ else value
            case Kind.DURATION if not isinstance(value, timedelta):
                if self.profile.is_native:
                    raise self.unsupported("the server reads a duration from text")
                raise TypeError("It needs a timedelta.")
            case Kind.DURATION if not self.profile.is_native:
                if not -(2**63) <= value // timedelta(microseconds=1) < 2**63:
                    raise ValueError("It has more microseconds than 64 bits.")
        return value

    def _sendable(self, text: str) -> str:
        if "\0" in text and self.profile.is_native:
            raise ValueError("PostgreSQL takes no NUL in text.")
        text.encode()  # half a surrogate pair cannot be sent
        return str.__str__(text)

    def texts(self) -> Callable[[Any], str]:
        """Return what turns the column's values to the text that pattern lookups see.

        Raises: UnsupportedInMemory: the backend's own format of the kind.
        """
        match self.kind:
            case Kind.TEXT:
                return str
            case Kind.INTEGER:
                return str
            case Kind.BOOLEAN:
                return _lower if self.profile.is_native else _digit
            case Kind.DATE:
                return date.isoformat
            case Kind.UUID:
                return str if self.profile.is_native else _hex
            case Kind.DECIMAL if self.profile.is_native:
                return "{:f}".format
            case Kind.DECIMAL if self.field.decimal_places <= 4:
                return _shortest
        raise self.unsupported(f"the backend has its own text for a {type(self.field).__name__}")


@lru_cache(maxsize=1024)
def _is_plain(field_class: Any) -> bool:
    """Tell whether the attribute's value is the column's: no conversion of somebody's own."""
    methods = (getattr(field_class, name, None) for name in _CONVERSIONS)
    return all(each is None or each.__module__.startswith("django.db.models.") for each in methods)


def _lower(value: object) -> str:
    return str(value).lower()


def _digit(value: bool) -> str:
    return str(int(value))


def _hex(value: UUID) -> str:
    return value.hex


def _shortest(value: Decimal) -> str:
    is_whole = value == value.to_integral_value()
    return str(int(value)) if is_whole else f"{value.normalize():f}"
