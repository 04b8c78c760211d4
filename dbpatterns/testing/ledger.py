"""The ledger in tests: without its guards, to damage rows or to empty the tables.

On SQLite the guards refuse what Django's `flush` does after a `TransactionTestCase`; call
`empty_ledger()` before it, in `tearDown` or in a fixture.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from dbpatterns.ledger import sql

__all__ = ["empty_ledger", "unguarded_ledger"]


@contextmanager
def unguarded_ledger(using: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """Take the ledger's triggers and functions off for a block, and put them back after it."""
    sql.run(connections[using], 0)
    try:
        yield
    finally:
        sql.run(connections[using], sql.CURRENT)


def empty_ledger(using: str = DEFAULT_DB_ALIAS) -> None:
    """Delete every entry, transfer and account."""
    with (
        transaction.atomic(using=using),
        unguarded_ledger(using),
        connections[using].cursor() as cursor,
    ):
        for table in ("entry", "transfer", "account"):
            cursor.execute(f"DELETE FROM dbpatterns_ledger_{table}")
