"""What optimistic locking refuses, each with its facts as attributes."""

from collections.abc import Sequence

from django.db import DatabaseError

from dbpatterns.errors import DBPatternsError, UsageError

__all__ = ["StaleObjectError", "UnknownVersion"]


class StaleObjectError(DBPatternsError, DatabaseError):
    """The row is not at the version the object was read at; nothing was written.

    Attributes:
        model: the label of the model.
        pk: the object's key; of `bulk_update` the first of `pks`.
        pks: all the keys that are stale.
        expected_version: what the object was read at.
        stored_version: what the row is at, None if it is deleted or was not looked up.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str,
        pks: Sequence[object],
        expected_version: int,
        stored_version: int | None,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.pks = tuple(pks)
        self.pk = self.pks[0]
        self.expected_version = expected_version
        self.stored_version = stored_version


class UnknownVersion(UsageError):
    """The object has no version to compare: it was deferred, or set to something else."""
