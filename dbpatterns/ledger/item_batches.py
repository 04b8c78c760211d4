"""Batches whose items are committed or undone one by one: "bisect" and "savepoint".

What has been committed is never run again. A hook that raises after the commit is logged, by
`dbpatterns.ledger`, as Django logs robust hooks: the results of its batch are not lost for it.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError, connections, transaction

from dbpatterns.ledger import errors
from dbpatterns.ledger.batch_results import Item, ItemResult
from dbpatterns.ledger.payments import Payment
from dbpatterns.ledger.transfers import transfer
from dbpatterns.transactions._compat import is_aborted
from dbpatterns.transactions.hooks import Committed, committed_flag
from dbpatterns.transactions.running import KEPT_IN_MEMORY, savepoints_made

__all__ = ["bisect", "with_savepoints"]


def bisect(alias: str, items: Sequence[Item]) -> list[ItemResult]:
    """Run a chunk in one transaction, and if something in it fails, again in halves."""
    results: list[ItemResult] = []
    while left := items[len(results) :]:
        made: list[ItemResult] = []
        try:
            with _chunk(alias):
                room = _Room(alias)
                for each in left:
                    made.append(_run(alias, each))
                    if room.is_used_up():
                        break
        except (OperationalError, InterfaceError):
            raise  # the server's trouble, which halving would only repeat
        except Exception as error:
            half = len(left) // 2
            if not half:
                made = [_failure(error)]
            else:
                made = bisect(alias, left[:half]) + bisect(alias, left[half:])
        results += made
    return results


def with_savepoints(alias: str, items: Sequence[Item]) -> list[ItemResult]:
    """Run a chunk in one transaction, each item in a savepoint."""
    results: list[ItemResult] = []
    while left := items[len(results) :]:
        with _chunk(alias):
            room = _Room(alias)
            for each in left:
                try:
                    with transaction.atomic(using=alias):
                        results.append(_run(alias, each))
                except (OperationalError, InterfaceError):
                    raise
                except Exception as error:
                    results.append(_failure(error))
                if room.is_used_up():
                    break
    return results


logger = logging.getLogger("dbpatterns.ledger")


@contextmanager
def _chunk(alias: str) -> Iterator[None]:
    committed = Committed()
    try:
        with transaction.atomic(using=alias):
            committed = committed_flag(alias)
            yield
    except Exception as error:
        if not committed.is_true:
            raise
        logger.error("A hook raised after a chunk of a batch was committed.", exc_info=error)


class _Room:
    """What a transaction has left for savepoints, those of the items' own code included."""

    def __init__(self, alias: str) -> None:
        self._connection = connections[alias]
        self._first = self._last = savepoints_made(self._connection)
        self._most = 0

    def is_used_up(self) -> bool:
        """Tell, after an item, whether another as large as the largest is one too many."""
        made = savepoints_made(self._connection)
        self._most = max(self._most, made - self._last)
        self._last = made
        return made - self._first + self._most > KEPT_IN_MEMORY


def _run(alias: str, item: Item) -> ItemResult:
    if not isinstance(item, Payment):
        value = item()
        connection = connections[alias]
        if connection.needs_rollback or is_aborted(connection):
            raise transaction.TransactionManagementError(
                "The item caught an error that undoes its transaction: put an atomic() block "
                "around what may fail."
            )
        return ItemResult("made", value=value)
    made = transfer(
        item.source,
        item.destination,
        item.amount,
        currency=item.currency,
        idempotency_key=item.idempotency_key,
        pending=item.pending,
        expires_in=item.expires_in,
        reference=item.reference,
        using=alias,
    )
    return ItemResult("replayed" if made.is_replay else "made", made.pk)


def _failure(error: Exception) -> ItemResult:
    code = error.code if isinstance(error, errors.TransferError) else "failed"
    return ItemResult(code, error=error)
