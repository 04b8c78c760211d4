"""What a repository refuses, each with its facts as attributes.

`UsageError`s are mistakes in the calling code. `InvalidCursor` and `InvalidCriteria` are what
strangers send: they are Django's `BadRequest`, so a view that catches nothing answers 400.
"""

from collections.abc import Mapping, Sequence

from django.core.exceptions import BadRequest, FieldError
from django.db import DatabaseError

from dbpatterns.errors import DBPatternsError, UsageError

__all__ = [
    "DuplicateKeys",
    "EmptyCriteria",
    "InvalidCriteria",
    "InvalidCursor",
    "InvalidValue",
    "TooManyRows",
    "UnknownField",
    "UnsavedObject",
    "UnsupportedInMemory",
    "VanishedRows",
]


class UnknownField(UsageError, FieldError):
    """A field, relation or lookup that the model does not have."""

    def __init__(self, message: str, *, model: str, field: str) -> None:
        super().__init__(message)
        self.model = model
        self.field = field


class InvalidValue(UsageError, ValueError):
    """A value that the field cannot hold or be compared with."""

    def __init__(self, message: str, *, model: str, field: str) -> None:
        super().__init__(message)
        self.model = model
        self.field = field


class EmptyCriteria(UsageError, ValueError):
    """A delete that names no rows; say `allow_all=True` to mean every row."""


class UnsavedObject(UsageError, ValueError):
    """An object without a row where a row is needed."""


class DuplicateKeys(UsageError, ValueError):
    """Objects of one upsert with the same key: which of them should win?"""

    def __init__(self, message: str, *, keys: Sequence[tuple[object, ...]]) -> None:
        super().__init__(message)
        self.keys = keys


class TooManyRows(UsageError):
    """A read without a limit met more rows than MAX_ROWS."""


class UnsupportedInMemory(UsageError, NotImplementedError):
    """What the in-memory twin cannot answer as the database would; it never guesses."""


class VanishedRows(DBPatternsError, DatabaseError):
    """Rows that were to be updated are gone; nothing was written."""


class InvalidCursor(DBPatternsError, BadRequest):
    """A page cursor that was tampered with, or made for another model or order."""


class InvalidCriteria(DBPatternsError, BadRequest):
    """Criteria from outside that are not allowed; `problems` says why, by the name sent."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(" ".join(problems.values()))
        self.problems = dict(problems)
