"""Row locks, always taken in one order, so that two who lock the same rows never deadlock.

with atomic():
    source, destination = lock_rows(source, destination)
    ...
"""

from collections.abc import Iterable
from typing import TypeVar

from django.db import DatabaseError, connections
from django.db.models import Model, QuerySet

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.transactions.checks import begins_with_lock
from dbpatterns.transactions.errors import LockTimeout
from dbpatterns.transactions.guards import require_transaction
from dbpatterns.transactions.inheritance import own_tables
from dbpatterns.transactions.lock_targets import as_target, only_alias, requests
from dbpatterns.transactions.options import check_seconds
from dbpatterns.transactions.sqlstates import sqlstate_of
from dbpatterns.transactions.timeouts import local_timeouts

__all__ = ["LOCK_NOT_AVAILABLE", "lock_rows", "require_lock_at_begin"]

M = TypeVar("M", bound=Model)
LOCK_NOT_AVAILABLE = "55P03"


def lock_rows(
    *targets: "QuerySet[M] | M | Iterable[M]",
    order: str = "pk",
    nowait: bool = False,
    skip_locked: bool = False,
    timeout: float | None = None,
    using: str | None = None,
) -> list[M]:
    """Lock rows for update until the transaction ends; return them freshly read, in your order.

    One SELECT FOR UPDATE for each model, models by label and rows by `order`; one query more for
    a queryset with a limit or an order of its own, and two for `timeout`. A model that inherits
    another's table has that one's place; of several such models in one call the common parent's
    rows are locked first, by one query more, and another to read the keys of each queryset. Lock
    all you need in one call: two calls have two orders. Rows of a queryset that no longer match
    when they are locked are left out. On SQLite the transaction has locked everything at BEGIN.

    Args:
        targets: querysets, rows or lists of rows, of one model or of several.
        order: a unique field, the same for all who lock these rows; the primary key.
        nowait: do not wait at all.
        skip_locked: leave out rows that another holds.
        timeout: seconds to wait for each row.
        using: the database; the one that the targets are written to if None.
    Raises: TransactionRequiredError: nothing would hold the locks. LockTimeout: with `nowait` or
        `timeout`; the transaction is lost, unless a savepoint is around the call. DoesNotExist: a
        row given is gone. UsageError: a contradiction, one model in two querysets, or rows of two
        databases.
    """
    if nowait + skip_locked + (timeout is not None) > 1:
        raise UsageError("lock_rows(): nowait, skip_locked and timeout exclude each other.")
    check_seconds("timeout", timeout)
    parts = [as_target(target) for target in targets]
    alias = using or only_alias({part.alias for part in parts if part.alias})
    require_transaction("lock_rows()", alias)
    require_lock_at_begin("lock_rows()", alias)
    found: dict[type[Model], dict[object, M]] = {}
    ordered = requests(
        parts, alias, order=order, skip_locked=skip_locked, may_wait=not (nowait or skip_locked)
    )
    with local_timeouts(connections[alias], lock=timeout, restore=True):
        for each in ordered:
            queryset = each.queryset
            if not queryset.query.is_sliced:
                queryset = queryset.order_by(each.order)
            queryset = queryset.select_for_update(
                nowait=nowait, skip_locked=skip_locked, of=own_tables(each.model)
            )
            try:
                found[each.model] = {row.pk: row for row in queryset}
            except DatabaseError as error:
                if sqlstate_of(error) != LOCK_NOT_AVAILABLE:
                    raise
                keys, label = each.keys, each.model._meta.label
                raise LockTimeout(
                    f"Rows of {label} are locked by another transaction"
                    f"{'' if timeout is None else f', waited for {timeout:g} s each'}"
                    f"{f': {keys[:5]}' if keys else ''}. See `manage.py transaction_report` for "
                    "who holds them; put a savepoint() around lock_rows() to go on without.",
                    model=label,
                    keys=keys,
                    timeout=timeout,
                ) from error
    return [row for part in parts for row in part.pick(found, skip_missing=skip_locked)]


def require_lock_at_begin(what: str, alias: str) -> None:
    """Refuse to go on where SQLite would lock nothing. Raises: ConfigurationError."""
    if connections[alias].vendor == "sqlite" and not begins_with_lock(alias):
        raise ConfigurationError(
            f"{what} on {alias!r} would lock nothing: SQLite locks at BEGIN or not at all. "
            f'Set DATABASES["{alias}"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".'
        )
