"""JSON that keeps what it is given: Django's own encoder cuts moments, Python's rewrites keys."""

import json
import re
from datetime import datetime, time
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

__all__ = ["ExactJSONEncoder", "exact_json", "storable_json"]

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


def exact_json(value: object, **options: Any) -> str:
    """Return a value as JSON; `options` are those of `json.dumps`.

    Raises: TypeError, ValueError, RecursionError: it has NaN, an infinity, a key that is not text
        (which Python would make text: 1 and "1" one key), or what JSON has no word for.
    """
    text = json.dumps(value, cls=ExactJSONEncoder, allow_nan=False, **options)
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            for key in each:
                if not isinstance(key, str):
                    raise TypeError(f"the key {key!r} is not text")
            left += each.values()
        elif isinstance(each, list | tuple):
            left += each
    return text


def storable_json(value: object) -> str:
    """Return a value as JSON that every database stores: text in UTF-8 and without a NUL.

    Raises: TypeError, ValueError, RecursionError: as `exact_json`.
    """
    text = exact_json(value, ensure_ascii=False, separators=(",", ":"))
    text.encode()
    if _NUL.search(text):
        raise ValueError("it has a NUL, which jsonb cannot store")
    return text
