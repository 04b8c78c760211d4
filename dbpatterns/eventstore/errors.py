"""What the event store refuses. Nothing was written, and a transaction around it stays usable."""

import uuid
from collections.abc import Collection

from django.db import DatabaseError

from dbpatterns.errors import DBPatternsError

__all__ = [
    "EpochChanged",
    "EventConflict",
    "EventStoreError",
    "InvalidEvents",
    "InvalidState",
    "UnknownEventVersion",
    "WrongExpectedVersion",
]


class EventStoreError(DBPatternsError):
    """Any error of the event store."""


class WrongExpectedVersion(EventStoreError, DatabaseError):
    """Somebody else was faster, or the caller was wrong: read the stream again and decide."""

    def __init__(self, *, stream: str, expected_version: object, actual_version: int) -> None:
        super().__init__(
            f"Stream {stream!r} is at version {actual_version}, and {expected_version} was "
            "expected. Read it again, decide again, and append to the version read."
        )
        self.stream = stream
        self.expected_version = expected_version
        self.actual_version = actual_version


class InvalidEvents(EventStoreError, ValueError):
    """The events cannot be stored: too many, too long, or no JSON.

    Over a limit, `stream`, `actual` and `limit` say which, how many events or bytes, and of how
    many; None otherwise.
    """

    def __init__(
        self,
        message: str,
        *,
        stream: str | None = None,
        actual: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message)
        self.stream = stream
        self.actual = actual
        self.limit = limit


class InvalidState(EventStoreError, ValueError):
    """A stream's state cannot be kept as a snapshot: it is no JSON, or would not come back so."""

    def __init__(self, message: str, *, stream: str, kind: str) -> None:
        super().__init__(message)
        self.stream = stream
        self.kind = kind


class EventConflict(EventStoreError):
    """Some ids of a batch are stored, but not as this batch: other types, data or another order."""

    def __init__(self, *, stream: str, event_ids: Collection[uuid.UUID], events: int) -> None:
        named = ", ".join(sorted(map(str, event_ids))[:3])
        super().__init__(
            f"{len(event_ids)} of {events} event ids are stored already, not as these events of "
            f"stream {stream!r} in this order: {named}. Repeat a batch whole, or give new events "
            "new ids."
        )
        self.stream = stream
        self.event_ids = event_ids


class EpochChanged(EventStoreError):
    """The events were restored from a dump: checkpoints of before mean nothing any more."""


class UnknownEventVersion(EventStoreError):
    """An event was written by newer code than this."""

    def __init__(self, *, type: str, version: int, newest: int) -> None:
        super().__init__(
            f"Event type {type!r} has version {version} in the store, and this code knows "
            f"versions up to {newest}. Deploy the upcaster before what writes the new version."
        )
        self.type = type
        self.version = version
        self.newest = newest
