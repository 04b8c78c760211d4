"""Several streams at once: one INSERT that appends to each, one SELECT that reads on in each.

    with transaction.atomic():
        lock(payer, payee)
        append_many({"account:1": [debited], "account:2": [credited]})

For what concerns two streams or a thousand, and must not be half told: a transfer, an import.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import chain
from operator import or_
from typing import Any

from django.db import connections, router
from django.db.models import Q

from dbpatterns.errors import UsageError
from dbpatterns.eventstore.batches import Batch, NewEvent
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.reading import RecordedEvent, recorded

__all__ = ["append_many", "read_many"]

# As in `append`, an event takes the transaction id of the version before it where that is the
# higher one: see Note [A stream in its own order].
_POSTGRESQL = """
INSERT INTO {table} (stream, version, type, type_version, data, metadata, event_id, xid)
SELECT e.stream, coalesce(last.version, 0) + row_number() OVER (PARTITION BY e.stream ORDER BY e.n),
    e.type, e.type_version, e.data, e.metadata, e.event_id,
    greatest(last.xid, pg_current_xact_id())
FROM unnest(%s::text[], %s::text[], %s::smallint[], %s::jsonb[], %s::jsonb[], %s::uuid[])
    WITH ORDINALITY AS e(stream, type, type_version, data, metadata, event_id, n)
LEFT JOIN LATERAL (
    SELECT version, xid FROM {table} WHERE stream = e.stream ORDER BY version DESC LIMIT 1
) AS last ON true
ORDER BY e.n
"""

_SQLITE = """
INSERT INTO {table} (stream, version, type, type_version, data, metadata, event_id)
SELECT stream, coalesce((SELECT max(version) FROM {table} AS last WHERE last.stream = e.stream), 0)
        + row_number() OVER (PARTITION BY stream ORDER BY n),
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]')
FROM (SELECT key AS n, value, json_extract(value, '$[5]') AS stream FROM json_each(%s)) AS e
ORDER BY n
"""


def append_many(streams: Mapping[str, Sequence[NewEvent]], *, using: str | None = None) -> None:
    """Append events to each of several streams, after its last version; all or none.

    Needs a transaction, and in it a lock that everyone who appends to one of these streams takes
    first, such as on the row that the stream is about: so nobody can come between. One INSERT, no
    savepoint; nothing for no stream.

    Args:
        streams: each stream's events, the oldest first, within the limits of `append`.
    Raises: InvalidEvents: over a limit or no JSON. UsageError: no transaction. IntegrityError:
        somebody appended without the lock, or an event's id is stored; the transaction is lost.
    """
    alias = using or router.db_for_write(StoredEvent)
    connection = connections[alias]
    if not connection.in_atomic_block:
        raise UsageError(
            f"append_many() needs a transaction on {alias!r}, in which what the streams are about "
            "is locked: open one by atomic()."
        )
    batches = [Batch.of(stream, events) for stream, events in streams.items()]
    if not batches:
        return
    if connection.vendor == "postgresql":
        names = [each.stream for each in batches for _ in each.types]
        columns = zip(*(each.columns for each in batches), strict=True)
        sql, values = _POSTGRESQL, list[Any]([names, *(list(chain(*each)) for each in columns)])
    else:
        rows = chain.from_iterable(each.rows() for each in batches)
        sql, values = _SQLITE, [f"[{','.join(rows)}]"]
    table = connection.ops.quote_name(StoredEvent._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(sql.format(table=table), values)


def read_many(after: Mapping[str, int], *, using: str | None = None) -> list[RecordedEvent]:
    """Return the events of several streams, of each those after a version; one query.

    All of them, so give versions that are not far behind; a stream's in the order of its versions.
    Also those that this transaction has appended.
    """
    if not after:
        return []
    alias = using or router.db_for_read(StoredEvent)
    wanted = reduce(or_, (Q(stream=each, version__gt=last) for each, last in after.items()))
    rows = StoredEvent.objects.using(alias).filter(wanted)
    return [recorded(row) for row in rows.order_by("stream", "version")]
