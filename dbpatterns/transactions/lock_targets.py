"""What `lock_rows` is given, and what it selects of each model, in the one order of all."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from django.db import DEFAULT_DB_ALIAS, router
from django.db.models import Model, QuerySet

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import without_limits, write_alias
from dbpatterns.transactions.inheritance import root_of

__all__ = ["Request", "Target", "as_target", "only_alias", "requests"]


@dataclass(slots=True)
class Target:
    """A queryset, or rows."""

    alias: str
    queryset: "QuerySet[Any] | None" = None
    rows: Sequence[Any] = ()
    keys: "list[object] | None" = None
    """In the caller's order, if that is not `order`."""
    read: Sequence[object] = ()
    """For the sake of Note [Families], of a queryset in no order of its own."""

    def models(self) -> set[type[Model]]:
        """Return the models whose tables have the rows."""
        if self.queryset is not None:
            return {_concrete(self.queryset.model)}
        return {_concrete(type(row)) for row in self.rows}

    def keys_of(self, model: type[Model]) -> Iterator[object]:
        """Yield the keys that are known of a model."""
        if self.queryset is not None:
            if _concrete(self.queryset.model) is model:
                yield from self.read if self.keys is None else self.keys
            return
        yield from (row.pk for row in self.rows if _concrete(type(row)) is model)

    def pick(
        self, found: "dict[type[Model], dict[object, Any]]", *, skip_missing: bool
    ) -> Iterator[Any]:
        """Yield the rows out of those locked, in the caller's order. Raises: DoesNotExist."""
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


def as_target(target: "QuerySet[Any] | Model | Iterable[Any]") -> Target:
    """Return what the caller gave as one of these."""
    if isinstance(target, QuerySet):
        return Target(write_alias(target), queryset=target)
    rows = [target] if isinstance(target, Model) else list(target)
    known = (row for row in rows if row._state.db)
    return Target(next((router.db_for_write(type(r), instance=r) for r in known), ""), rows=rows)


def only_alias(aliases: set[str]) -> str:
    """Return the database that all rows are in, or the default one. Raises: UsageError."""
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


@dataclass(slots=True)
class Request:
    """What to select of one model."""

    model: type[Model]
    queryset: "QuerySet[Any]"
    order: str
    keys: Sequence[object]
    """Those known, to tell of."""


def requests(
    targets: Sequence[Target], alias: str, *, order: str, skip_locked: bool, may_wait: bool
) -> list[Request]:
    """Return what to select of each model, in the order of all. Raises: UsageError."""
    querysets: dict[type[Model], QuerySet[Any]] = {}
    rows: dict[type[Model], list[Any]] = {}
    roots = Counter(map(root_of, {model for target in targets for model in target.models()}))
    families = {root for root, models in roots.items() if models > 1 and may_wait}
    for target in targets:
        for row in target.rows:
            rows.setdefault(_concrete(type(row)), []).append(row)
        if target.queryset is not None:
            model = _concrete(target.queryset.model)
            if model in querysets:
                raise UsageError(
                    f"lock_rows() was given two querysets of {model._meta.label}, which have no "
                    "common order. Give one that has the rows of both."
                )
            needs_keys = root_of(model) in families
            querysets[model] = _by_key(target, alias, skip_locked, needs_keys=needs_keys)
    for model, those in rows.items():
        if model in querysets:
            raise UsageError(
                f"lock_rows() was given a queryset and rows of {model._meta.label}, which have no "
                "common order. Give one queryset that has them all."
            )
        querysets[model] = _with_keys(model, alias, {row.pk for row in those})
    asked = {model: [key for each in targets for key in each.keys_of(model)] for model in querysets}
    placed = [
        ((root_of(model)._meta.label, model._meta.label), Request(model, each, order, asked[model]))
        for model, each in querysets.items()
    ]
    for root in families:  # Note [Families]
        keys = [key for model in querysets if root_of(model) is root for key in asked[model]]
        request = Request(root, _with_keys(root, alias, set(keys)), "pk", keys)
        placed.append(((root._meta.label, ""), request))
    return [request for _, request in sorted(placed, key=itemgetter(0))]


def _with_keys(model: type[Model], alias: str, keys: Iterable[object]) -> "QuerySet[Any]":
    return model._base_manager.using(alias).filter(pk__in=keys)


def _by_key(target: Target, alias: str, skip_locked: bool, *, needs_keys: bool) -> "QuerySet[Any]":
    """Return the queryset ready to be put in order; its keys are read first if it has its own.

    Not those of the first so many that nobody holds: who skips never waits, and needs no order.
    """
    assert target.queryset is not None
    queryset = target.queryset.using(alias)
    if skip_locked and queryset.query.is_sliced:
        return queryset
    if queryset.query.is_sliced or queryset.ordered:
        target.keys = list(queryset.values_list("pk", flat=True))
        return without_limits(queryset).filter(pk__in=target.keys)
    if needs_keys:
        target.read = list(queryset.order_by("pk").values_list("pk", flat=True))
        return queryset.filter(pk__in=target.read)
    return queryset


def _concrete(model: type[Model]) -> type[Model]:
    return model._meta.concrete_model or model
