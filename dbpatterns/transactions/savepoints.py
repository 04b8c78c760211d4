"""Savepoints: a part of a transaction that may fail by itself.

    with atomic():
        for row in rows:
            with savepoint():
                ...

PostgreSQL keeps 64 of a session in memory. In a transaction that our `atomic` began, a warning is
logged from 50 on, and with STRICT_SAVEPOINTS the 65th is refused, unless Django's own makes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from dbpatterns.transactions.blocks import block
from dbpatterns.transactions.guards import require_transaction
from dbpatterns.transactions.options import Options

__all__ = ["savepoint"]


@contextmanager
def savepoint(using: str | None = None) -> Iterator[None]:
    """Undo the block alone when it raises; never a transaction by accident.

    Two statements, SAVEPOINT and RELEASE.
    Raises: TransactionRequiredError: none is open. SubtransactionOverflow: in strict mode.
    """
    require_transaction("savepoint()", using)
    with block(using, Options()):
        yield
