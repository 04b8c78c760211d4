"""Writes that a transaction around them seems to cover, and does not: it is another database's.

    with transaction.atomic():  # of the default database
        Order.objects.create(buyer_id=7)  # on a shard, where it is committed at once

A transaction of the shard's own, within the other or around it, is what such code has to say.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import connections

from dbpatterns.sharding.errors import UncoveredWrite
from dbpatterns.transactions import in_transaction
from dbpatterns.transactions.several import atomic_on

__all__ = ["covered", "open_elsewhere", "refuse_uncovered"]

ON_ITS_SHARD = "on the shard too, `with transaction.atomic(using=shard_for(key)):`"


def refuse_uncovered(model: str, alias: str, remedy: str = ON_ITS_SHARD) -> None:
    """Refuse a write to a shard without a transaction, while another database has one open.

    Raises: UncoveredWrite.
    """
    open_on = open_elsewhere(alias)
    if open_on:
        raise UncoveredWrite(model, shard=alias, open_on=open_on, remedy=remedy)


@contextmanager
def covered(model: str, aliases: Sequence[str], remedy: str = ON_ITS_SHARD) -> Iterator[None]:
    """Hold a transaction on each of these shards, for a write to all of them.

    Raises: UncoveredWrite: another database has one open, and not each of these.
    """
    for alias in aliases:
        refuse_uncovered(model, alias, remedy)
    with atomic_on(aliases):
        yield


def open_elsewhere(alias: str) -> list[str]:
    """Return the databases with a transaction open, if this one has none.

    No query; 2 µs in a transaction of this one, as many for each connection of this thread
    outside. The transactions of a TestCase do not count.
    """
    if in_transaction(alias):
        return []
    known = [each.alias for each in connections.all(initialized_only=True)]
    return [each for each in known if each != alias and in_transaction(each)]
