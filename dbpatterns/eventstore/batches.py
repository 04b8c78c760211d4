"""What goes into one append: events within their limits, as columns for the driver."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbpatterns.eventstore.errors import InvalidEvents
from dbpatterns.eventstore.upcasting import current_version
from dbpatterns.exact_json import storable_json

__all__ = ["MAX_BYTES", "MAX_EVENTS", "Batch", "NewEvent"]

MAX_EVENTS = 1_000
"""Events of one append."""
MAX_BYTES = 1_000_000
"""Their data and metadata together, as JSON in UTF-8."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One event to append; its version of the type is the newest that the upcasters know."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    event_id: uuid.UUID = field(default_factory=uuid.uuid4)
    """Give your own, kept with the command, and a repeated append is no second event."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events and their streams as columns."""

    streams: list[str]
    types: list[str]
    type_versions: list[int]
    data: list[str]
    metadata: list[str]
    event_ids: list[uuid.UUID]

    @classmethod
    def of(cls, streams: Sequence[str], events: Sequence[NewEvent]) -> "Batch":
        """Return them, a stream for each event, or raise InvalidEvents."""
        for name in {*streams, *(each.type for each in events)}:
            if not 0 < len(name) <= 255 or "\0" in name or not _is_unicode(name):
                raise InvalidEvents(
                    f"A stream and an event type have 1 to 255 characters of Unicode and no NUL, "
                    f"not {name[:40]!r}."
                )
        if len({each.event_id for each in events}) < len(events):
            raise InvalidEvents("One event id stands twice in the batch: each event has its own.")
        return cls(
            list(streams),
            [each.type for each in events],
            [current_version(each.type) for each in events],
            [_encode(each, each.data) for each in events],
            [_encode(each, each.metadata) for each in events],
            [each.event_id for each in events],
        )

    def require_at_most(self, limit: int, *, stream: str | None = None) -> None:
        """Refuse more bytes of JSON, in UTF-8, than one call takes. Raises: InvalidEvents."""
        size = sum(len(text.encode()) for text in (*self.data, *self.metadata))
        if size > limit:
            raise InvalidEvents(
                f"{len(self.event_ids):,} events have {size:,} bytes of JSON, and one call takes "
                f"{limit:,}: make several, or store large things elsewhere and their names here.",
                stream=stream,
                actual=size,
                limit=limit,
            )

    def as_json(self) -> str:
        """Return a JSON array of arrays: stream, type, its version, data, metadata, id.

        One parameter; arrays of PostgreSQL's cost psycopg twice as much as all else of an append.
        """
        columns = (self.streams, self.types, self.type_versions)
        rows = (
            f'{json.dumps(named)[:-1]},{data},{metadata},"{event_id.hex}"]'
            for *named, data, metadata, event_id in zip(
                *columns, self.data, self.metadata, self.event_ids, strict=True
            )
        )
        return f"[{','.join(rows)}]"


def _is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can say it: SQLite stores half of a surrogate pair and never reads it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode(event: NewEvent, value: Mapping[str, Any]) -> str:
    if not isinstance(value, Mapping):
        raise InvalidEvents(f"{event.type!r} has {type(value).__name__}, not a dict, as data.")
    if not value:
        return "{}"
    try:
        return storable_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvents(f"The data of {event.type!r} is no JSON: {error}.") from error
