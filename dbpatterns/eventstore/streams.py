"""Several streams at once: one INSERT that appends to each, one SELECT that reads on in each.

    with transaction.atomic():
        lock(payer, payee)
        append_many([("account:1", debited), ("account:2", credited)])

For what concerns two streams or a thousand, and must not be half told: a transfer, an import.
"""

import json
from collections.abc import Iterable, Mapping

from django.db import connections, router

from dbpatterns.errors import UsageError
from dbpatterns.eventstore.batches import Batch, NewEvent
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.reading import RecordedEvent, recorded

__all__ = ["append_many", "read_many"]

MAX_BYTES_OF_MANY = 200_000_000
"""Of one call; PostgreSQL's limit for an array of JSON is 268 MB."""

# As in `append`, an event takes the transaction id of the version before it where that is the
# higher one: see Note [A stream in its own order].
_POSTGRESQL = """
INSERT INTO {table} (stream, version, type, type_version, data, metadata, event_id, xid)
SELECT e.stream, coalesce(last.version, 0) + row_number() OVER (PARTITION BY e.stream ORDER BY n),
    value ->> 1, (value -> 2)::smallint, value -> 3, value -> 4, (value ->> 5)::uuid,
    greatest(last.xid, pg_current_xact_id())
FROM (
    SELECT n, value, value ->> 0 AS stream
    FROM jsonb_array_elements(%s) WITH ORDINALITY AS given(value, n)
) AS e
LEFT JOIN LATERAL (
    SELECT version, xid FROM {table} WHERE stream = e.stream ORDER BY version DESC LIMIT 1
) AS last ON true
ORDER BY n
"""

_SQLITE = """
INSERT INTO {table} (stream, version, type, type_version, data, metadata, event_id)
SELECT stream, coalesce((SELECT max(version) FROM {table} AS last WHERE last.stream = e.stream), 0)
        + row_number() OVER (PARTITION BY stream ORDER BY n),
    json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
    json_extract(value, '$[4]'), json_extract(value, '$[5]')
FROM (SELECT key AS n, value, json_extract(value, '$[0]') AS stream FROM json_each(%s)) AS e
ORDER BY n
"""

_READ_POSTGRESQL = """
SELECT event.* FROM unnest(%s::text[], %s::bigint[]) AS asked(stream, version)
JOIN {table} AS event ON event.stream = asked.stream AND event.version > asked.version
ORDER BY event.stream, event.version
"""

_READ_SQLITE = """
SELECT event.* FROM json_each(%s) AS asked
JOIN {table} AS event ON event.stream = asked.key AND event.version > asked.value
ORDER BY event.stream, event.version
"""


def append_many(events: Iterable[tuple[str, NewEvent]], *, using: str | None = None) -> None:
    """Append each event to its stream, after the last version there; all or none.

    Needs a transaction, and in it a lock that everyone who appends to one of these streams takes
    first, such as on the row that the stream is about: so nobody can come between. One INSERT, no
    savepoint; nothing for no event. Positions rise in the given order, over all streams.

    Args:
        events: each with the name of its stream; 200 MB of JSON together.
    Raises: InvalidEvents: a name is too long, data is no JSON, or too much. UsageError: no
        transaction. IntegrityError: somebody appended without the lock, or an event's id is
        stored; the transaction is lost.
    """
    alias = using or router.db_for_write(StoredEvent)
    connection = connections[alias]
    if not connection.in_atomic_block:
        raise UsageError(
            f"append_many() needs a transaction on {alias!r}, in which what the streams are about "
            "is locked: open one by atomic()."
        )
    given = list(events)
    if not given:
        return
    batch = Batch.of([stream for stream, _ in given], [event for _, event in given])
    batch.require_at_most(MAX_BYTES_OF_MANY)
    sql = _POSTGRESQL if connection.vendor == "postgresql" else _SQLITE
    table = connection.ops.quote_name(StoredEvent._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(sql.format(table=table), [batch.as_json()])


def read_many(after: Mapping[str, int], *, using: str | None = None) -> list[RecordedEvent]:
    """Return the events of several streams, of each those after a version; one query.

    All of them, so give versions that are not far behind; a stream's in the order of its versions.
    Also those that this transaction has appended.
    """
    if not after:
        return []
    alias = using or router.db_for_read(StoredEvent)
    connection = connections[alias]
    is_postgresql = connection.vendor == "postgresql"
    sql = _READ_POSTGRESQL if is_postgresql else _READ_SQLITE
    values = [list(after), list(after.values())] if is_postgresql else [json.dumps(dict(after))]
    table = connection.ops.quote_name(StoredEvent._meta.db_table)
    rows = StoredEvent.objects.using(alias).raw(sql.format(table=table), values)
    return [recorded(row) for row in rows]
