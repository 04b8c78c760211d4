"""JSON that keeps what it is given: Django's own encoder cuts moments, Python's rewrites keys."""

import json
import re
from collections.abc import Collection
from datetime import datetime, time
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

__all__ = ["ExactJSONEncoder", "exact_json", "storable_json"]

_ARRAYS = (list, tuple)
_SCALARS = frozenset({str, int, float, bool, type(None)})
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class ExactJSONEncoder(DjangoJSONEncoder):
    """Django's, with the microseconds of datetimes and times."""

    def default(self, o: Any) -> Any:
        """Write a value that JSON has no word for. Raises: TypeError, ValueError: nor have we."""
        if isinstance(o, datetime):
            return o.isoformat().replace("+00:00", "Z")
        if isinstance(o, time) and o.tzinfo is None:
            return o.isoformat()
        return super().default(o)


_ENCODE = ExactJSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def exact_json(value: object, *, sort_keys: bool = False) -> str:
    """Return a value as JSON in ASCII.

    Raises: TypeError, ValueError, RecursionError: it has NaN, an infinity, a key that is not text
        (which Python would make text: 1 and "1" one key), or what JSON has no word for.
    """
    text = json.dumps(value, cls=ExactJSONEncoder, allow_nan=False, sort_keys=sort_keys)
    _check_keys(value)
    return text


def storable_json(value: object) -> str:
    """Return a value as JSON that every database stores: text in UTF-8 and without a NUL.

    Raises: TypeError, ValueError, RecursionError: as `exact_json`.
    """
    text = _ENCODE(value)
    _check_keys(value)
    text.encode()
    if "\\u0000" in text and _NUL.search(text):
        raise ValueError("it has a NUL, which jsonb cannot store")
    return text


def _check_keys(value: object) -> None:
    left = [value]
    for each in left:
        if isinstance(each, dict):
            for key in each:
                if not isinstance(key, str):
                    raise TypeError(f"the key {key!r} is not text")
            inner: Collection[Any] = each.values()
        elif isinstance(each, _ARRAYS):
            inner = each
        else:
            continue
        if not _SCALARS.issuperset(map(type, inner)):  # no loop of ours over what most events have
            left += inner
