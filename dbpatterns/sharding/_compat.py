"""The only module of the package that touches private names of Django; each says when it can go."""

from contextlib import suppress
from typing import Any

__all__ = ["ReturnedByInsert", "move_cursor"]


class ReturnedByInsert:
    """A field whose value the INSERT makes and returns, as an AutoField's.

    `Field.db_returning` (5.2 to 6.1) is Django's own name for it. Can go when a value that
    `pre_save` makes an expression is read back, as one assigned to the attribute is since 6.0.
    """

    db_returning = True


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
