"""Locks held by somebody else, for the length of a block.

with hold_lock(Account.objects.filter(pk=1)):
    with pytest.raises(LockTimeout):
        lock_rows(account, nowait=True)
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from django.db import connections, transaction
from django.db.models import QuerySet

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import without_limits, write_alias
from dbpatterns.transactions.inheritance import own_tables

__all__ = ["hold_lock"]


@contextmanager
def hold_lock(queryset: "QuerySet[Any]") -> Iterator[None]:
    """Have another connection lock the rows, as SELECT FOR UPDATE does, until the block ends.

    It reads them on the database that they are written to, in one SELECT, or two for a slice, and
    locks no row that it joins. On SQLite that is the whole database. The rows must have been
    committed, so a TestCase, whose rows only it sees, cannot use this.
    Raises: UsageError: the other connection sees no such row.
    """
    alias, model = write_alias(queryset), queryset.model
    has_begun, may_end = threading.Event(), threading.Event()
    held: list[Any] = []

    def hold() -> None:
        try:
            with transaction.atomic(using=alias):
                rows = queryset.using(alias)
                if rows.query.is_sliced:
                    keys = list(rows.values_list("pk", flat=True))
                    rows = without_limits(rows).filter(pk__in=keys)
                held.extend(rows.order_by("pk").select_for_update(of=own_tables(model)))
                if not held:
                    raise UsageError(
                        f"hold_lock(): another connection to {alias!r} sees no such row of "
                        f"{model._meta.label}. Commit it first: use a TransactionTestCase."
                    )
                has_begun.set()
                may_end.wait()
        finally:
            has_begun.set()
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        try:
            has_begun.wait()
            if held:
                yield
        finally:
            may_end.set()
        holder.result()
