"""A shard's clock of 64-bit ids: each tick is given once, whoever asks and whatever the time is.

The next tick is the last one plus one, or the present if that is later: a hybrid logical clock.
So ids never repeat or shrink when the machine's clock steps back, and the 257th of a millisecond
takes the first tick of the next. To wait for it would hold the transaction's locks for nothing:
the tick is what makes an id unique, and the clock is behind again a moment later.

PostgreSQL keeps the last tick in a sequence, SQLite in a table; the function
`dbpatterns_make_id(slot)` moves it on and gives the id. A process cannot count by itself: 8 bits
of sequence are too few to be told apart from another's without asking.
"""

# Note [Letting go of the lock]
# nextval() is atomic and setval() is too, but not the one after the other: between two sessions
# the sequence would go back. The lock that prevents it cannot wait for the transaction's end, and
# a session's lock would stay when an error or a cancel comes before the unlock, for as long as a
# pool keeps the session. A lock taken after a savepoint goes when that is rolled back, and a
# sequence does not: so the block ends by an exception of its own.

import sqlite3
import weakref
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.errors import UsageError
from dbpatterns.sharding.ids import EPOCH, id_of, milliseconds, tick_at, tick_of_id, time_of_id

__all__ = ["MakeId", "add_function", "advance", "install", "make_id", "uninstall"]

_FIRST, _LAST = 256, (1 << 49) - 1
_INSTALL: dict[str, tuple[str, ...]] = {
    "postgresql": (
        f"""
CREATE SEQUENCE IF NOT EXISTS dbpatterns_id_clock AS bigint MINVALUE {_FIRST} MAXVALUE {_LAST}
""",
        f"""
CREATE OR REPLACE FUNCTION dbpatterns_make_id(
    slot integer, at timestamptz DEFAULT clock_timestamp()
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    present bigint := floor(extract(epoch FROM at) * 1000 - {int(EPOCH.timestamp())}000) * 256;
    tick bigint;
BEGIN
    IF slot NOT BETWEEN 0 AND 16383 THEN
        RAISE 'dbpatterns_make_id(%): a slot is 0 to 16383', slot USING ERRCODE = '22003';
    END IF;
    BEGIN
        PERFORM pg_advisory_xact_lock(4923671830615284712);
        tick := nextval('dbpatterns_id_clock');
        IF tick < present THEN
            tick := setval('dbpatterns_id_clock', present);
        END IF;
        RAISE SQLSTATE 'DBP00';
    EXCEPTION WHEN SQLSTATE 'DBP00' THEN
        NULL;  -- the lock is free
    END;
    RETURN ((tick >> 8) << 22) | (slot::bigint << 8) | (tick & 255);
END
$$
""",
    ),
    "sqlite": (
        f"""
CREATE TABLE IF NOT EXISTS dbpatterns_id_clock (
    one integer PRIMARY KEY CHECK (one = 1), tick integer NOT NULL CHECK (tick <= {_LAST})
)
""",
        f"INSERT OR IGNORE INTO dbpatterns_id_clock VALUES (1, {_FIRST - 1})",
    ),
}
_UNINSTALL: dict[str, tuple[str, ...]] = {
    "postgresql": (
        "DROP FUNCTION IF EXISTS dbpatterns_make_id(integer, timestamptz)",
        "DROP SEQUENCE IF EXISTS dbpatterns_id_clock",
    ),
    "sqlite": ("DROP TABLE IF EXISTS dbpatterns_id_clock",),
}
_TAKE = "UPDATE dbpatterns_id_clock SET tick = max(tick + 1, ?) RETURNING tick"


def install(using: str) -> None:
    """Give a database its clock; where it has one, that goes on.

    Raises: UsageError: it is neither PostgreSQL nor SQLite.
    """
    _run(using, _INSTALL)


def uninstall(using: str) -> None:
    """Take a database's clock away; a new one starts at the present."""
    _run(using, _UNINSTALL)


def advance(using: str, past: int) -> None:
    """Move a database's clock past an id; do so before it makes ids of a slot that moved in.

    Its clock may be behind that of the shard which made the slot's ids, and would make some of
    them again. One statement.

    Raises: UsageError: `past` is no id.
    """
    tick = tick_of_id(past)
    with connections[using].cursor() as cursor:
        if connections[using].vendor == "sqlite":
            cursor.execute("UPDATE dbpatterns_id_clock SET tick = max(tick, %s)", [tick])
        else:
            after = time_of_id(past) + timedelta(milliseconds=1)
            cursor.execute("SELECT dbpatterns_make_id(0, %s)", [after])


class MakeId(models.Expression):
    """The next id for a slot, as an expression: made by the database that runs it.

    There is one for each slot, and nothing in it to resolve: a `bulk_create` compiles as many as
    it has rows.
    """

    output_field = models.BigIntegerField()

    def __init__(self, slot: int) -> None:
        super().__init__()
        self.slot = slot

    def resolve_expression(self, *_: Any, **__: Any) -> "MakeId":
        """Return itself: it names no column."""
        return self

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[int]]:
        """Return the call."""
        return "dbpatterns_make_id(%s)", (self.slot,)


make_id = cache(MakeId)
"""The expression for a slot: `make_id(slot)`."""


def add_function(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Let a new SQLite connection make ids; a receiver of `connection_created`."""
    if connection.vendor == "sqlite":
        connection.connection.create_function("dbpatterns_make_id", 1, SQLiteMaker(connection))


class SQLiteMaker:
    """What SQLite calls within an INSERT: takes a tick in the same statement's transaction.

    The file has one writer, which is this one. A rollback takes the clock back, so the connection
    remembers its last tick and gives none twice itself.
    """

    def __init__(
        self, connection: BaseDatabaseWrapper, clock: Callable[[], int] = milliseconds
    ) -> None:
        self._connection = weakref.proxy(connection)  # which keeps this one
        self._clock = clock
        self._last = 0

    def __call__(self, slot: int) -> int:
        """Return a new id."""
        raw: sqlite3.Connection = self._connection.connection
        least = max(self._last + 1, tick_at(self._clock()))
        [(self._last,)] = raw.execute(_TAKE, [least]).fetchall()
        return id_of(self._last, slot)


def _run(using: str, statements: dict[str, tuple[str, ...]]) -> None:
    with connections[using].cursor() as cursor:
        for statement in _of(connections[using], statements):
            cursor.execute(statement)


def _of(connection: BaseDatabaseWrapper, statements: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return statements[connection.vendor]
    except KeyError:
        raise UsageError(
            f"{connection.alias!r} is {connection.display_name}: ids that carry a slot are made on"
            " PostgreSQL and SQLite alone."
        ) from None
