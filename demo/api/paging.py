"""Pages of a list, out of one shard or of all.

Rows are ordered by their UUIDv7 `id`, which is unique over all shards. A page is what comes after
the last row of the page before, never an offset, so rows written meanwhile neither repeat nor hide
another.

Cost of a page: page_size + 1 rows by primary key, of each shard that is asked.
"""

import base64
import uuid
from typing import Any

from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.utils.urls import replace_query_param

__all__ = ["NewestFirst", "OldestFirst"]

_ONWARD, _BACK = b">", b"<"


class OldestFirst(CursorPagination):
    """Cursor pagination over the rows of one model, on one shard or on several.

    The cursor is opaque: a direction and the `id` of a row. It is not signed, because it grants
    nothing: what reads the shards alone decides which rows are seen.
    """

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 100
    ordering = "id"

    _next: str | None = None
    _previous: str | None = None

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """Return one page of a `Listing`, in order.

        Raises: NotFound: the cursor is none of ours.
        """
        size = self.get_page_size(request) or 1
        cursor = request.query_params.get(self.cursor_query_param)
        direction, position = (_ONWARD, None) if cursor is None else self._read(cursor)
        descending = (self.ordering == "-id") != (direction == _BACK)
        if position is not None:
            queryset = queryset.filter(**{"pk__lt" if descending else "pk__gt": position})
        rows = list(queryset.order_by("-pk" if descending else "pk")[: size + 1])
        more, rows = len(rows) > size, rows[:size]
        if direction == _BACK:
            rows.reverse()
        url = request.build_absolute_uri()
        if rows and (more or direction == _BACK):
            self._next = self._link(url, _ONWARD, rows[-1].pk)
        if rows and (more if direction == _BACK else position is not None):
            self._previous = self._link(url, _BACK, rows[0].pk)
        return rows

    def get_next_link(self) -> str | None:
        """Return the address of the page after this one, None at the end."""
        return self._next

    def get_previous_link(self) -> str | None:
        """Return the address of the page before this one, None at the start."""
        return self._previous

    def _link(self, url: str, direction: bytes, position: uuid.UUID) -> str:
        cursor = base64.urlsafe_b64encode(direction + position.bytes).decode("ascii")
        return replace_query_param(url, self.cursor_query_param, cursor)

    def _read(self, cursor: str) -> tuple[bytes, uuid.UUID]:
        try:
            raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
            position = uuid.UUID(bytes=raw[1:])
        except ValueError as error:
            raise NotFound(self.invalid_cursor_message) from error
        if raw[:1] not in (_ONWARD, _BACK):
            raise NotFound(self.invalid_cursor_message)
        return raw[:1], position


class NewestFirst(OldestFirst):
    """The same, latest row first."""

    ordering = "-id"
