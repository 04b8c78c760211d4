"""Row locks, always taken in one order, so that two who lock the same rows never deadlock.

with atomic():
    source, destination = lock_rows(source, destination)
    ...
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router
from django.db.models import Model, QuerySet

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.transactions._compat import without_limits, write_alias
from dbpatterns.transactions.checks import begins_with_lock
from dbpatterns.transactions.errors import LockTimeout
from dbpatterns.transactions.guards import require_transaction
from dbpatterns.transactions.inheritance import own_tables, root_of
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
    parts = [_as_part(target) for target in targets]
    alias = using or _one_of({part.alias for part in parts if part.alias})
    require_transaction("lock_rows()", alias)
    require_lock_at_begin("lock_rows()", alias)
    found: dict[type[Model], dict[object, M]] = {}
    requests = _requests(
        parts, alias, skip_locked=skip_locked, may_wait=not (nowait or skip_locked)
    )
    with local_timeouts(connections[alias], lock=timeout, restore=True):
        for model, queryset in requests:
            if not queryset.query.is_sliced:
                queryset = queryset.order_by(order)
            queryset = queryset.select_for_update(
                nowait=nowait, skip_locked=skip_locked, of=own_tables(model)
            )
            try:
                found[model] = {row.pk: row for row in queryset}
            except DatabaseError as error:
                if sqlstate_of(error) != LOCK_NOT_AVAILABLE:
                    raise
                keys = [key for part in parts for key in part.keys_of(model)]
                label = model._meta.label
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


@dataclass(slots=True)
class _Part:
    """One target: a queryset, or rows; and the keys in the caller's order, once known."""

    alias: str
    queryset: "QuerySet[Any] | None" = None
    rows: Sequence[Any] = ()
    keys: "list[object] | None" = None

    def models(self) -> set[type[Model]]:
        if self.queryset is not None:
            return {_concrete(self.queryset.model)}
        return {_concrete(type(row)) for row in self.rows}

    def keys_of(self, model: type[Model]) -> Iterator[object]:
        if self.queryset is not None:
            if _concrete(self.queryset.model) is model:
                yield from self.keys or ()
            return
        yield from (row.pk for row in self.rows if _concrete(type(row)) is model)

    def pick(self, found: dict[type[Model], dict[object, M]], *, skip_missing: bool) -> Iterator[M]:
        if self.queryset is not None:
            locked = found[_concrete(self.queryset.model)]
            keys = locked if self.keys is None else self.keys
            yield from (locked[key] for key in keys if key in locked)
            return
        for row in self.rows:
            locked = found[_concrete(type(row))]
            if row.pk in locked:
                yield locked[row.pk]
            elif not skip_missing:
                raise type(row).DoesNotExist(
                    f"{row._meta.label} {row.pk!r} was to be locked, and is gone."
                )


def _as_part(target: "QuerySet[Any] | Model | Iterable[Any]") -> _Part:
    if isinstance(target, QuerySet):
        return _Part(write_alias(target), queryset=target)
    rows = [target] if isinstance(target, Model) else list(target)
    known = (row for row in rows if row._state.db)
    return _Part(next((router.db_for_write(type(r), instance=r) for r in known), ""), rows=rows)


def _one_of(aliases: set[str]) -> str:
    if len(aliases) > 1:
        raise UsageError(
            f"lock_rows() was given rows of several databases, {', '.join(sorted(aliases))}, which "
            "have no common order: call it for each, or pass `using`."
        )
    return aliases.pop() if aliases else DEFAULT_DB_ALIAS


# Note [Families]
# A row of a model that inherits a table is a row of each of its tables. Who locks one locks its row
# of the root table first, so only the order of the root's rows can make two wait for each other:
# the rows that one call wants of several such models are locked there all at once, and then again
# with their models, for which nobody has to wait.


def _requests(
    parts: Sequence[_Part], alias: str, *, skip_locked: bool, may_wait: bool
) -> "list[tuple[type[Model], QuerySet[Any]]]":
    """Return what to select of each model, in the order of all."""
    querysets: dict[type[Model], QuerySet[Any]] = {}
    rows: dict[type[Model], list[Any]] = {}
    roots = Counter(map(root_of, {model for part in parts for model in part.models()}))
    families = {root for root, models in roots.items() if models > 1 and may_wait}
    for part in parts:
        for row in part.rows:
            rows.setdefault(_concrete(type(row)), []).append(row)
        if part.queryset is not None:
            model = _concrete(part.queryset.model)
            if model in querysets:
                raise UsageError(
                    f"lock_rows() was given two querysets of {model._meta.label}, which have no "
                    "common order. Give one that has the rows of both."
                )
            needs_keys = root_of(model) in families
            querysets[model] = _by_key(part, alias, skip_locked, needs_keys=needs_keys)
    for model, those in rows.items():
        if model in querysets:
            raise UsageError(
                f"lock_rows() was given a queryset and rows of {model._meta.label}, which have no "
                "common order. Give one queryset that has them all."
            )
        querysets[model] = _with_keys(model, alias, {row.pk for row in those})
    requests = [(_place(model), model, each) for model, each in querysets.items()]
    for root in families:  # Note [Families]
        members = [model for model in querysets if root_of(model) is root]
        keys = {key for part in parts for model in members for key in part.keys_of(model)}
        requests.append(((root._meta.label, ""), root, _with_keys(root, alias, keys)))
    return [(model, each) for _, model, each in sorted(requests, key=itemgetter(0))]


def _place(model: type[Model]) -> tuple[str, str]:
    return root_of(model)._meta.label, model._meta.label


def _with_keys(model: type[Model], alias: str, keys: Iterable[object]) -> "QuerySet[Any]":
    return model._base_manager.using(alias).filter(pk__in=keys)


def _by_key(part: _Part, alias: str, skip_locked: bool, *, needs_keys: bool) -> "QuerySet[Any]":
    """Return the queryset ready to be put in order; its keys are read first if it has its own.

    Not those of the first so many that nobody holds: who skips never waits, and needs no order.
    """
    assert part.queryset is not None
    queryset = part.queryset.using(alias)
    if skip_locked and queryset.query.is_sliced:
        return queryset
    if not queryset.query.is_sliced and not queryset.ordered:
        if not needs_keys:
            return queryset
        queryset = queryset.order_by("pk")
    part.keys = list(queryset.values_list("pk", flat=True))
    return without_limits(queryset).filter(pk__in=part.keys)


def _concrete(model: type[Model]) -> type[Model]:
    return model._meta.concrete_model or model


def require_lock_at_begin(what: str, alias: str) -> None:
    """Refuse to go on where SQLite would lock nothing. Raises: ConfigurationError."""
    if connections[alias].vendor == "sqlite" and not begins_with_lock(alias):
        raise ConfigurationError(
            f"{what} on {alias!r} would lock nothing: SQLite locks at BEGIN or not at all. "
            f'Set DATABASES["{alias}"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".'
        )
