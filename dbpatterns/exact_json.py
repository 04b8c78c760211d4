"""JSON that keeps what it is given: Django's own encoder cuts moments to milliseconds."""

from datetime import datetime, time
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

__all__ = ["ExactJSONEncoder"]


class ExactJSONEncoder(DjangoJSONEncoder):
    """Django's, with the microseconds of datetimes and times."""

    def default(self, o: Any) -> Any:
        """Write a value that JSON has no word for. Raises: TypeError, ValueError: nor have we."""
        if isinstance(o, datetime):
            return o.isoformat().replace("+00:00", "Z")
        if isinstance(o, time) and o.tzinfo is None:
            return o.isoformat()
        return super().default(o)
