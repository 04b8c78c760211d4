"""Lookups in memory: each of Django's, as the backend answers it on one row.

`evaluation` has Django rewrite a condition, so that what arrives here is prepared: values are of
the field's type, `None` is `isnull` already, and a negation has its `IS NOT NULL`.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Context
from typing import Any

from django.conf import settings
from django.core.exceptions import FullResultSet
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models import Model, functions
from django.db.models.lookups import IntegerFieldOverflow, Lookup, YearLookup
from django.utils import timezone

from dbpatterns.repositories.columns import BAD_VALUE, Column, Kind, Profile, Read

__all__ = ["Operand", "Truth", "combined", "extracted", "truth"]

Truth = Callable[[Model], "bool | None"]
"""Answers a condition on a row, None for unknown."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A side of a comparison: what it reads of a row, and the rules of its column."""

    column: Column
    read: Read
    is_computed: bool = False
    """Whether it is made of columns rather than one itself, which only numbers survive."""


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "exact": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_PATTERNS: dict[str, Callable[[str, str], bool]] = {
    "contains": operator.contains,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "iexact": operator.eq,
}
_SENSITIVE = frozenset({"contains", "startswith", "endswith"})
_EXACT = Context(prec=1000)


def truth(lookup: "Lookup[Any]", left: Operand, right: Operand | None) -> Truth:
    """Return what answers the lookup on a row.

    Args:
        right: the value to compare with where that is an expression.
    Raises: UnsupportedInMemory: a lookup of somebody else, or whose rules are the server's alone;
    InvalidValue: the backend could not be asked this.
    """
    name = str(lookup.lookup_name)
    column = left.column
    if not type(lookup).__module__.startswith("django.db.models."):
        raise column.unsupported(f"the lookup {name!r} is not Django's own")
    if right is None and hasattr(lookup.rhs, "resolve_expression"):
        raise column.unsupported(f"{name!r} is given expressions")
    if isinstance(lookup, YearLookup) and right is None:
        return _year(name, left, lookup.rhs, is_iso=lookup.lhs.lookup_name == "iso_year")
    if name == "isnull":
        return _isnull(left, lookup.rhs)
    if name in _OPERATORS and not isinstance(lookup, YearLookup):
        return _comparison(lookup, left, right)
    if name.removeprefix("i") in _PATTERNS or name in _PATTERNS:
        return _pattern(name, left, lookup.rhs, right)
    if name in ("in", "range") and right is None:
        values = [column.comparable(each) for each in lookup.rhs]
        return _among(left, values) if name == "in" else _between(left, values)
    raise column.unsupported(f"the rules of {name!r} are the server's")


def _isnull(left: Operand, expected: object) -> Truth:
    if not isinstance(expected, bool):
        raise left.column.invalid(expected, "isnull is True or False.")
    read = left.read
    if expected:
        return lambda obj: read(obj) is None
    return lambda obj: read(obj) is not None


def _comparison(lookup: "Lookup[Any]", left: Operand, right: Operand | None) -> Truth:
    read, compare = left.read, _OPERATORS[str(lookup.lookup_name)]
    if right is not None:
        return _column_comparison(left, compare, right)
    if isinstance(lookup, IntegerFieldOverflow):
        low, high = _range_of(lookup.lhs.output_field, left.column.profile)
        if not low <= lookup.rhs <= high:  # Django answers, NULLs included
            edge = lookup.underflow_exception if lookup.rhs < low else lookup.overflow_exception
            answer = edge is FullResultSet
            return lambda obj: answer
    value = left.column.comparable(lookup.rhs)

    def answer_of(obj: Model) -> bool | None:
        found = read(obj)
        return None if found is None or value is None else compare(found, value)

    return answer_of


def _column_comparison(left: Operand, compare: Callable[[Any, Any], bool], right: Operand) -> Truth:
    kinds = {left.column.kind, right.column.kind}
    if len(kinds) > 1 and kinds != {Kind.INTEGER, Kind.DECIMAL}:
        raise left.column.unsupported(f"{' and '.join(sorted(kinds))} are cast by the server")

    def answer_of(obj: Model) -> bool | None:
        found, other = left.read(obj), right.read(obj)
        return None if found is None or other is None else compare(found, other)

    return answer_of


def _range_of(field: Any, profile: Profile) -> tuple[int, int]:
    kind: str = field.get_internal_type()
    if profile.integers is None:
        return BaseDatabaseOperations.integer_field_ranges[kind]
    low, high = profile.integers
    return 0 if kind.startswith("Positive") else low, high


def _among(left: Operand, values: list[Any]) -> Truth:
    read, known = left.read, frozenset(each for each in values if each is not None)
    if not known:
        return lambda obj: False  # Django's answer, NULLs included

    def answer_of(obj: Model) -> bool | None:
        found = read(obj)
        return None if found is None else found in known

    return answer_of


def _between(left: Operand, values: list[Any]) -> Truth:
    if len(values) != 2:
        raise left.column.invalid(values, "A range has two ends.")
    read, (low, high) = left.read, values

    def answer_of(obj: Model) -> bool | None:
        found = read(obj)
        if found is None:
            return None
        above = None if low is None else found >= low
        below = None if high is None else found <= high
        return False if above is False or below is False else above and below

    return answer_of


def _pattern(name: str, left: Operand, value: Any, right: Operand | None) -> Truth:
    column, profile = left.column, left.column.profile
    if left.is_computed:
        raise column.unsupported(f"{name!r} of a computed value is the server's text of it")
    text = column.texts()
    is_sensitive = name in _SENSITIVE
    matches = _PATTERNS.get(name) or _PATTERNS[name[1:]]
    fold: Callable[[str], str] = str if is_sensitive else _upper
    if profile.like_ignores_ascii_case:
        fold = _like
    if right is not None:
        if name == "iexact" or {column.kind, right.column.kind} != {Kind.TEXT}:
            raise column.unsupported(f"{name!r} is given an expression")
        needle_of = right.read
    else:
        needle = _needle(name, column, value)
        folded = fold(needle)

        def constant(obj: Model) -> bool | None:
            found = left.read(obj)
            return None if found is None else matches(fold(text(found)), folded)

        return constant

    def answer_of(obj: Model) -> bool | None:
        found, needle = left.read(obj), needle_of(obj)
        if found is None or needle is None:
            return None
        if "\0" in needle:
            raise column.unsupported("LIKE reads a pattern up to its NUL")
        return matches(fold(text(found)), fold(needle))

    return answer_of


def _needle(name: str, column: Column, value: Any) -> str:
    is_native = column.profile.is_native
    if name == "iexact" and is_native and not isinstance(value, str):
        raise column.invalid(value, "PostgreSQL has UPPER() of text only.")
    needle = column.pattern(value)
    if "\0" in needle:
        raise column.unsupported("LIKE reads a pattern up to its NUL")
    return needle.replace("-", "") if column.kind is Kind.UUID and not is_native else needle


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _like(text: str) -> str:
    """Fold text as SQLite's LIKE reads it: ASCII without case, up to a NUL."""
    return text.partition("\0")[0].translate(_ASCII_LOWER)


def _upper(text: str) -> str:
    """Map each character to one, as towupper() does: "ß" has no single capital, "ᾳ" has."""
    return text.upper() if text.isascii() else "".join(map(_upper_character, text))


def _upper_character(character: str) -> str:
    for mapped in (character.upper(), character.title()):
        if len(mapped) == 1:
            return mapped
    return character


def _year(name: str, left: Operand, year: Any, *, is_iso: bool) -> Truth:
    try:
        first, last = _year_bounds(year, is_iso=is_iso, is_date=left.column.kind is Kind.DATE)
    except BAD_VALUE as error:
        raise left.column.invalid(year, error) from error
    if name == "exact":
        return _between(left, [first, last])
    edge, compare = (last if name in ("gt", "lte") else first), _OPERATORS[name]

    def answer_of(obj: Model) -> bool | None:
        found = left.read(obj)
        return None if found is None else compare(found, edge)

    return answer_of


def _year_bounds(year: int, *, is_iso: bool, is_date: bool) -> tuple[Any, Any]:
    """Return a year's first and last instant, as Django does to let an index serve."""
    if is_iso:
        first = date.fromisocalendar(year, 1, 1)
        last = date.fromisocalendar(year + 1, 1, 1) - timedelta(days=1)
    else:
        first, last = date(year, 1, 1), date(year, 12, 31)
    if is_date:
        return first, last
    start = datetime(first.year, first.month, first.day)
    end = datetime(last.year, last.month, last.day, 23, 59, 59, 999_999)
    if not settings.USE_TZ:
        return start, end
    return timezone.make_aware(start).astimezone(UTC), timezone.make_aware(end).astimezone(UTC)


_PARTS: dict[type, Callable[[Any], Any]] = {
    functions.ExtractYear: operator.attrgetter("year"),
    functions.ExtractIsoYear: lambda value: value.isocalendar().year,
    functions.ExtractMonth: operator.attrgetter("month"),
    functions.ExtractDay: operator.attrgetter("day"),
    functions.ExtractWeek: lambda value: value.isocalendar().week,
    functions.ExtractWeekDay: lambda value: value.isoweekday() % 7 + 1,
    functions.ExtractIsoWeekDay: datetime.isoweekday,
    functions.ExtractQuarter: lambda value: (value.month + 2) // 3,
    functions.ExtractHour: operator.attrgetter("hour"),
    functions.ExtractMinute: operator.attrgetter("minute"),
    functions.ExtractSecond: operator.attrgetter("second"),
    functions.TruncDate: datetime.date,
    functions.TruncTime: datetime.time,
}


def extracted(transform: Any, inner: Operand) -> Operand:
    """Return a part of a date or time, in the time zone that is current now.

    Raises: UnsupportedInMemory: any other transform.
    """
    column, part = inner.column, _PARTS.get(type(transform))
    if part is None:
        raise column.unsupported(f"the transform {transform.lookup_name!r} is the server's")
    zone = timezone.get_current_timezone()
    is_local = column.kind is Kind.DATETIME and settings.USE_TZ

    def read(obj: Model) -> Any:
        value = inner.read(obj)
        if value is None:
            return None
        try:
            return part(value.astimezone(zone) if is_local else value)
        except OverflowError as error:
            raise column.unsupported("a time is out of the calendar in its zone") from error

    name = f"{column.name}__{transform.lookup_name}"
    result = Column(transform.output_field, column.profile, name=name, model=column.model)
    return Operand(result, read, is_computed=True)


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
_EXACT_ARITHMETIC = {"+": _EXACT.add, "-": _EXACT.subtract, "*": _EXACT.multiply}
_NUMBERS = [(kind, kind) for kind in (Kind.INTEGER, Kind.FLOAT)]
_DECIMALS = [
    (Kind.DECIMAL, Kind.DECIMAL),
    (Kind.DECIMAL, Kind.INTEGER),
    (Kind.INTEGER, Kind.DECIMAL),
]
_TIMES = [(Kind.DURATION, Kind.DURATION), (Kind.DATETIME, Kind.DURATION)]


def combined(connector: str, left: Operand, right: Operand) -> Operand:
    """Return `left + right` and its like, where that is exact and the same on every backend.

    Raises: UnsupportedInMemory.
    """
    first, second = left.column, right.column
    kinds = (first.kind, second.kind)
    compute = _ARITHMETIC.get(connector)
    if kinds in _DECIMALS and first.profile.is_native:
        compute = _EXACT_ARITHMETIC.get(connector)
    elif kinds in _TIMES:
        compute = None if connector == "*" else compute
    elif kinds not in _NUMBERS:
        compute = None
    if compute is None:
        raise first.unsupported(f"{kinds[0]} {connector} {kinds[1]} is the server's arithmetic")
    is_fine = _guard(connector, first, second)

    def read(obj: Model) -> Any:
        one, other = left.read(obj), right.read(obj)
        if one is None or other is None:
            return None
        try:
            result = compute(one, other)
        except OverflowError:
            result = None
        if result is None or not is_fine(result, one, other):
            raise first.unsupported(f"{one!r} {connector} {other!r} is out of its type's range")
        return result

    return Operand(second if kinds in _DECIMALS[2:] else first, read, is_computed=True)


def _guard(connector: str, first: Column, second: Column) -> Callable[[Any, Any, Any], bool]:
    """Return what tells a result that the server computes too from one that it may refuse."""
    if first.kind is second.kind is Kind.INTEGER:
        limit = min(_range_of(each.field, each.profile)[1] for each in (first, second))
        return lambda result, *_: -limit - 1 <= result <= limit
    if first.kind is Kind.FLOAT:
        return _is_product if connector == "*" else _is_sum
    if first.kind is Kind.DURATION:
        most = timedelta(microseconds=2**63 - 1)
        return lambda result, *_: -most <= result <= most
    return lambda *_: True


def _is_sum(result: float, one: float, other: float) -> bool:
    return math.isfinite(result) or (math.isinf(result) and math.inf in (abs(one), abs(other)))


def _is_product(result: float, one: float, other: float) -> bool:
    underflows = result == 0 and 0 not in (one, other)  # an error on PostgreSQL
    return not underflows and _is_sum(result, one, other)
