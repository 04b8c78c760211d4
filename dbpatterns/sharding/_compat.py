"""The only module of the package that touches private names of Django; each says when it can go."""

from contextlib import suppress
from typing import Any

__all__ = ["Listed", "ReturnedByInsert", "move_cursor"]


class ReturnedByInsert:
    """A field whose value the INSERT makes and returns, as an AutoField's.

    `Field.db_returning` (5.2 to 6.1) is Django's own name for it. Can go when a value that
    `pre_save` makes an expression is read back, as one assigned to the attribute is since 6.0.
    """

    db_returning = True


class Listed:
    """Mixed in before a QuerySet: its rows are those of `listed()`, where that has any.

    `QuerySet._fetch_all`, `_result_cache` and `_prefetch_done` (5.2 to 6.1) are Django's own names
    for its rows. Can go when a queryset may be given them.
    """

    _result_cache: list[Any] | None

    def listed(self) -> list[Any] | None:
        """Return the rows, with what was to be prefetched; None to leave it to Django."""
        raise NotImplementedError

    def _fetch_all(self) -> None:
        if self._result_cache is None:
            self._result_cache = self.listed()
            self._prefetch_done = self._result_cache is not None
        super()._fetch_all()  # type: ignore[misc]


def move_cursor(cursor: Any, connection: Any) -> None:
    """Let a cursor ask another database; no query.

    `CursorWrapper.cursor` and `.db` (5.2 to 6.1) are Django's own names for what it wraps. Can go
    when an execute wrapper may return the cursor that has the answer.
    """
    before = cursor.cursor
    opened = connection.chunked_cursor() if getattr(before, "name", None) else connection.cursor()
    with suppress(Exception):  # its server may be gone
        before.close()
    cursor.cursor, cursor.db = opened.cursor, opened.db
