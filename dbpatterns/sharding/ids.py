"""Ids that carry the slot of their row's shard key, so that an id alone says where its row is.

64 bits, for a bigint column; they sort by the millisecond, and those of one slot as they were made:

    0 | 41 bits: milliseconds since 2026 | 14 bits: slot | 8 bits: sequence

The milliseconds and the sequence together are a tick. The shard's clock (`id_clock`) gives each
tick once. The slot in SQL: `(id >> 8) & 16383`.

A version 7 UUID, for a uuid column; those of one process sort as they were made:

    48 bits: Unix milliseconds | 7 | 12 bits: counter | variant, 2 bits | 14 bits: slot | 48 random

The slot fills what is left of octets 8 and 9 beside the variant, the clock sequence of older
versions: the fourth group of the text. In PostgreSQL:
`('x' || substr(id::text, 20, 4))::bit(16)::int & 16383`. Its 48 random bits make it unique, so it
needs no clock but the process's own.
"""

import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from dbpatterns.errors import UsageError

__all__ = [
    "EPOCH",
    "UUIDMaker",
    "id_of",
    "make_uuid",
    "milliseconds",
    "slot_of_id",
    "slot_of_uuid",
    "tick_at",
    "tick_of_id",
    "time_of_id",
    "time_of_uuid",
]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""When the milliseconds of a 64-bit id begin; they last until 2095."""

_EPOCH_MS = int(EPOCH.timestamp()) * 1000
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SLOT = (1 << 14) - 1


def milliseconds() -> int:
    """Return the machine's time in milliseconds since 1970; it may step back."""
    return time.time_ns() // 1_000_000


def tick_at(unix_ms: int) -> int:
    """Return the first tick of a millisecond."""
    return (unix_ms - _EPOCH_MS) << 8


def id_of(tick: int, slot: int) -> int:
    """Return the id of a tick and a slot.

    Raises: UsageError: the slot is not one of 0 to 16,383.
    """
    return (tick >> 8) << 22 | _checked(slot) << 8 | tick & 255


def tick_of_id(id: int) -> int:
    """Return the tick of an id.

    Raises: UsageError: no such id was ever made, as one that an AutoField counted.
    """
    if type(id) is not int or not 1 << 22 <= id < 1 << 63:
        raise UsageError(
            f"{id!r} ({type(id).__name__}) is no id that carries a slot: those are integers of 23"
            " to 63 bits."
        )
    return (id >> 22) << 8 | id & 255


def slot_of_id(id: int) -> int:
    """Return the slot in a 64-bit id, 0 to 16,383; as `tick_of_id` otherwise."""
    tick_of_id(id)
    return (id >> 8) & _SLOT


def time_of_id(id: int) -> datetime:
    """Return when an id was made, to the millisecond, in UTC; as `tick_of_id` otherwise.

    By the shard's clock, which runs ahead of the machine's for as long as more than 256 ids were
    made in a millisecond, or after the machine's stepped back.
    """
    return EPOCH + (tick_of_id(id) >> 8) * _MILLISECOND


def slot_of_uuid(uuid: UUID) -> int:
    """Return the slot in a UUID of version 7, 0 to 16,383.

    Raises: UsageError: it is of another version. Who made it cannot be seen.
    """
    return _version_7(uuid).clock_seq


def time_of_uuid(uuid: UUID) -> datetime:
    """Return when a UUID of version 7 was made, to the millisecond, in UTC.

    Raises: UsageError: it is of another version.
    """
    return _UNIX + (_version_7(uuid).int >> 80) * _MILLISECOND


def _checked(slot: int) -> int:
    if not 0 <= slot <= _SLOT:
        raise UsageError(f"{slot!r} is no slot: those are 0 to {_SLOT:,}.")
    return slot


def _version_7(uuid: UUID) -> UUID:
    if getattr(uuid, "version", None) != 7:
        raise UsageError(f"{uuid!r} is no UUID of version 7, the one that carries a slot.")
    return uuid


class UUIDMaker:
    """Makes UUIDs with a slot inside, each greater than the one before.

    Milliseconds and counter are one number that only grows: when the clock steps back, or the
    counter's 4,096 are used up, it counts on into the milliseconds to come. Threads share it; a
    forked process has the same number, and random bits of its own. About 2 µs.

    Source: RFC 9562, 5.7 (layout), 6.2 method 1 (dedicated counter, in rand_a) and its rules on
        rollover; 6.9 (unguessable bits).
    """

    def __init__(self, clock: Callable[[], int] = milliseconds) -> None:
        self._clock = clock
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self, slot: int) -> UUID:
        """Return a new UUID for a slot.

        Raises: UsageError: the slot is not one of 0 to 16,383.
        """
        low = 0b10 << 62 | _checked(slot) << 48 | secrets.randbits(48)
        with self._lock:
            self._last = count = max(self._last + 1, self._clock() << 12)
        high = (count >> 12) << 16 | 0x7000 | count & 0xFFF
        return UUID(int=high << 64 | low)


make_uuid = UUIDMaker()
"""The process's own maker: `make_uuid(slot)`."""
