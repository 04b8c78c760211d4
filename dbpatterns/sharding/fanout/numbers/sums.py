"""Merging numbers of several shards: exact sums, the least and the greatest, the spread."""

import json
from collections.abc import Iterable
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from math import sqrt
from typing import Any

__all__ = ["added", "greatest", "least", "listed", "same", "spread"]

EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
"""Python's own context rounds to 28 digits; PostgreSQL's numbers have more."""
_NAN = object()


def same(value: Any) -> Any:
    """Return what two values have in common that a database takes for one; NaN equals NaN."""
    return value if value == value else _NAN


def added(values: Iterable[Any]) -> Any:
    """Return the sum of those that are not NULL, without rounding; NULL for none."""
    total = None
    for value in values:
        if value is None:
            continue
        if total is None:
            total = value
        elif isinstance(value, Decimal) or isinstance(total, Decimal):
            total = EXACT.add(total, value)
        else:
            total = total + value
    return total


def least(values: Iterable[Any]) -> Any:
    """Return the least of those that are not NULL; NaN is the greatest."""
    return min((each for each in values if each is not None), key=_place, default=None)


def greatest(values: Iterable[Any]) -> Any:
    """Return the greatest of those that are not NULL; NaN is."""
    return max((each for each in values if each is not None), key=_place, default=None)


def _place(value: Any) -> tuple[bool, Any]:
    return (False, value) if value == value else (True, 0)


def listed(values: Iterable[Any]) -> str | None:
    """Return texts as a list in JSON, for a database to choose from; NULL for none."""
    texts = [each for each in values if each is not None]
    return json.dumps(texts) if texts else None


def spread(answers: Iterable[tuple[int, Any, Any]], *, sample: bool, root: bool) -> float | None:
    """Return the variance, or its root, of counts, means and variances.

    By pairs (Chan, Golub and LeVeque, 1979): the sum of squares of floats that lie close together
    loses all its digits to their mean's.
    """
    count, mean, squares = 0, 0.0, 0.0
    for size, average, variance in answers:
        if not size:
            continue
        gap, both = float(average) - mean, count + size
        squares += float(variance) * size + gap * gap * count * size / both
        mean += gap * size / both
        count = both
    if count <= sample:
        return None
    found = squares / (count - sample)
    return sqrt(found) if root else found
