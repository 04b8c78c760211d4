"""Text from outside, cleaned by the kind of the field it is compared with.

Stricter than a field's own `to_python`, which takes any script's digits, `1_000`, NaN and what
the column of one backend holds and the other's does not. Each kind also says which lookups
strangers may use on it: none that reads a pattern as a program or casts every row to text.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import models
from django.db.backends.base.operations import BaseDatabaseOperations
from django.utils import dateparse, timezone

from dbpatterns.errors import UsageError
from dbpatterns.repositories.paths import FieldPath

__all__ = ["TEXT", "Kind", "Refused", "boolean", "kind_of", "shown"]

T = TypeVar("T")

_SHOWN = 60
_EARLIEST = datetime.min.replace(tzinfo=UTC) + timedelta(days=1)
_LATEST = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
_MAX_DURATION = timedelta(microseconds=2**63 - 1)  # SQLite's column counts microseconds

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_DECIMAL = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?")
_FLOAT = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?([eE][+-]?[0-9]{1,3})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

_EQUAL = frozenset({"exact", "in", "isnull"})
_ORDERED = _EQUAL | {"gt", "gte", "lt", "lte", "range"}
_PATTERNS = frozenset(
    f"{case}{name}" for name in ("contains", "startswith", "endswith") for case in ("", "i")
)


class Refused(Exception):
    """Why something sent is refused: the rest of a sentence that starts with its name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What strangers may send for a field: in words, by which lookups, and how it is cleaned."""

    noun: str
    lookups: frozenset[str]
    clean: Callable[[Any, str], Any]
    """Takes the field and the text; raises Refused, or ValueError or ArithmeticError when it
    `must be` the noun."""


def _text(field: Any, text: str) -> str:
    if "\0" in text:
        raise ValueError("PostgreSQL takes no NUL")
    text.encode()  # half a surrogate pair cannot be sent to any database
    return text


def boolean(field: Any, text: str) -> bool:
    """Read `true`, `false`, `1` or `0`, and nothing that looks like them."""
    if text not in _BOOLEANS:
        raise Refused(f"must be true or false, not {shown(text)}.")
    return _BOOLEANS[text]


def _integer(field: Any, text: str) -> int:
    ranges = BaseDatabaseOperations.integer_field_ranges
    low, high = ranges.get(field.get_internal_type(), ranges["BigIntegerField"])
    value = int(_fully(_INTEGER, text))
    if not low <= value <= high:
        raise Refused(f"must be between {low} and {high}, not {shown(text)}.")
    return value


def _decimal(field: Any, text: str) -> Decimal:
    value = Decimal(_fully(_DECIMAL, text))
    places = len(text.partition(".")[2])
    digits = len(text.lstrip("-").partition(".")[0].lstrip("0"))
    if field.decimal_places is not None and places > field.decimal_places:
        raise Refused(f"has at most {field.decimal_places} decimal places, not {places}.")
    if field.max_digits is not None and digits > field.max_digits - (field.decimal_places or 0):
        raise Refused(f"has more digits than its column: {shown(text)}.")
    return value


def _float(field: Any, text: str) -> float:
    value = float(_fully(_FLOAT, text))
    if not math.isfinite(value):
        raise ValueError("infinite")
    return value


def _uuid(field: Any, text: str) -> UUID:
    return UUID(_fully(_UUID, text))


def _date(field: Any, text: str) -> date:
    return _known(dateparse.parse_date(_ascii(text)))


def _time(field: Any, text: str) -> time:
    return _known(dateparse.parse_time(_ascii(text)))


def _duration(field: Any, text: str) -> timedelta:
    value = _known(dateparse.parse_duration(_ascii(text)))
    if abs(value) > _MAX_DURATION:
        raise ValueError("out of range")
    return value


def _datetime(field: Any, text: str) -> datetime:
    value = _known(dateparse.parse_datetime(_ascii(text)))
    if timezone.is_naive(value):
        value = timezone.make_aware(value)
    value = value.astimezone(UTC)  # PostgreSQL knows no offset of 16 hours or more
    if not _EARLIEST <= value <= _LATEST:
        raise ValueError("a connection's zone would carry it out of the calendar")
    return value if settings.USE_TZ else timezone.make_naive(value)


TEXT = Kind("valid text", _ORDERED | _PATTERNS | {"iexact"}, _text)
_KINDS: "tuple[tuple[type[models.Field[Any, Any]], Kind], ...]" = (
    (models.CharField, TEXT),
    (models.TextField, TEXT),
    (models.BooleanField, Kind("true or false", _EQUAL, boolean)),
    (models.IntegerField, Kind("a whole number", _ORDERED, _integer)),
    (models.DecimalField, Kind("a decimal number", _ORDERED, _decimal)),
    (models.FloatField, Kind("a finite number", _ORDERED, _float)),
    (models.DateTimeField, Kind("a time like 2026-05-01T12:00:00Z", _ORDERED, _datetime)),
    (models.DateField, Kind("a date like 2026-05-01", _ORDERED, _date)),
    (models.TimeField, Kind("a time like 12:00", _ORDERED, _time)),
    (models.DurationField, Kind("a duration like PT1H30M", _ORDERED, _duration)),
    (models.UUIDField, Kind("a UUID", _EQUAL, _uuid)),
)


def kind_of(path: FieldPath) -> tuple[Any, Kind]:
    """Return the field whose values are sent, for a relation the key it points at, and its kind.

    Raises: UsageError: no kind of text is safe for it, as for JSON.
    """
    field = path.target
    while field is not None and field.is_relation:  # an inherited model's key is one again
        field = _key(field)
    for field_class, kind in _KINDS:
        if isinstance(field, field_class):
            return field, Kind(kind.noun, _EQUAL, kind.clean) if path.target.is_relation else kind
    raise UsageError(
        f"{path.name!r} of {path.model._meta.label} is a {type(path.target).__name__}, which no "
        "text from outside is cleaned for: filter by it in your own code."
    )


def _key(relation: Any) -> Any:
    if isinstance(relation, models.ForeignKey):
        return relation.target_field
    return relation.related_model and relation.related_model._meta.pk


def _fully(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError("not the pattern")
    return text


def _ascii(text: str) -> str:
    return text.encode("ascii").decode()  # the parsers' \d would take any script's digits


def _known(value: T | None) -> T:
    if value is None:
        raise ValueError("not the format")
    return value


def shown(value: object) -> str:
    """Show a value in a message: text as its short, escaped `repr`, all else by its type."""
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}…"
