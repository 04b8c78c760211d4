"""Fences: triggers by which a shard refuses writes to keys that it has given away.

A process with an old map writes to the shard it knows. The shard's own table `Fence` says what is
not its any more, and triggers made from it refuse the row, whoever writes it. They are made only
where something was given away, so a shard that never gave costs nothing, and their condition
names the part, so that other rows pay a comparison.

Making a trigger waits for the writers of the table and keeps new ones out until the commit: what
was written before is seen by who makes it, what comes later meets it. No lease, no grace period.

On SQLite the condition calls a function of the connection, which `connect` gives to Django's. A
connection without it cannot write to a fenced table, which is the safe side.
"""

from typing import Any

from django.db import DatabaseError

from dbpatterns.sharding.hashing import slot_of
from dbpatterns.transactions.sqlstates import sqlstate_of

__all__ = ["REFUSED", "connect", "is_refusal"]

REFUSED = "DBS01"
"""The SQLSTATE of a refusal; on SQLite its text begins with it."""


def is_refusal(error: DatabaseError) -> bool:
    """Tell whether a shard refused a write because the key is another's."""
    return sqlstate_of(error) == REFUSED or str(error).startswith(REFUSED)


def connect(connection: Any, **_: Any) -> None:
    """Give an SQLite connection the function of the fences; a receiver of `connection_created`."""
    if connection.vendor == "sqlite":
        connection.connection.create_function("dbpatterns_slot", 1, slot_of, deterministic=True)
