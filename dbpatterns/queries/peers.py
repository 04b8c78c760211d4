"""Fetching for all rows of a result what one of them was asked for.

Called by the seams in `_compat`: each function loads a relation, a column or a set for the row
that was asked and for its peers, and returns. What it could not load the row fetches itself,
as it would have without us, with the same error if there is one.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar
from weakref import ReferenceType

from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.models import Model, QuerySet
from django.db.models.fields.related_descriptors import (
    ForwardManyToOneDescriptor,
    ForwardOneToOneDescriptor,
    ReverseOneToOneDescriptor,
)

from dbpatterns.queries.conf import MAX_ROWS

__all__ = ["Peers", "fetch_column", "fetch_relation", "fetch_sets", "relation_of"]

T = TypeVar("T")

_PRUNE_AT = 1_024
_SET_PARENTS = 500
_BAD_VALUES = (AttributeError, TypeError, ValueError, ValidationError)
"""What one row's odd value raises: it must fail that row only, so all go one by one."""


class Peers(list["ReferenceType[Model]"]):
    """The rows of one result, weakly; those that are gone are forgotten now and then."""

    __slots__ = ("_turns", "max_rows", "prune_at", "refused", "set_parents")

    def __init__(self, max_rows: int, references: Iterable["ReferenceType[Model]"] = ()) -> None:
        super().__init__(references)
        self.max_rows = max_rows
        self.refused: set[str] = set()
        """Names that are fetched one by one."""
        self.set_parents: dict[str, int] = {}
        """By a set's name, for how many rows at once it can be fetched."""
        self._turns: dict[str, int] = {}
        self.prune_at = _PRUNE_AT
        """The length from which `prune` is to be called before another row is taken in."""

    def prune(self) -> None:
        """Forget the rows that are gone; linear over the life of a result, however long."""
        self[:] = [each for each in self if each() is not None]
        self.prune_at = max(_PRUNE_AT, 2 * len(self))

    def of(self, owner: Model, name: str, is_missing: Callable[[Model], bool]) -> Iterator[Model]:
        """Yield the owner and then the others of its class and database that miss a name as well.

        From where the last turn for this name ended, so that all turns together look at each row
        once or twice.
        """
        yield owner
        kind, database, key = type(owner), owner._state.db, owner._meta.pk.attname
        start, size, last = self._turns.get(name, 0), len(self), None
        try:
            for index, each in enumerate(chain(self[start:], self[:start]), start):
                row = each()
                if (
                    row is not None
                    and row is not owner
                    and type(row) is kind
                    and row._state.db == database
                    and is_missing(row)
                    and row.__dict__.get(key, row) is not None  # several columns' is not there
                ):
                    last = index
                    yield row
        finally:  # also when nobody asks for more
            if last is not None:
                self._turns[name] = last % size


def relation_of(descriptor: Any) -> Any:
    """Return the field, or the reverse of one, that a descriptor stands for."""
    if isinstance(descriptor, ReverseOneToOneDescriptor):
        return descriptor.related
    return getattr(descriptor, "field", descriptor)  # a generic foreign key is its own (< 6.1)


def fetch_column(attname: str, owner: Model, peers: Peers) -> None:
    """Load a deferred column for the owner and its peers; one query a chunk of keys."""
    rows = list(
        islice(peers.of(owner, attname, lambda row: attname not in vars(row)), peers.max_rows)
    )
    if len(rows) < 2:
        return
    queryset = type(owner)._base_manager.db_manager(hints={"instance": owner}).order_by()
    for chunk in _chunks(rows, _keys_at_once(queryset.db)):
        found = dict(queryset.filter(pk__in=[row.pk for row in chunk]).values_list("pk", attname))
        for row in chunk:
            if row.pk in found:
                setattr(row, attname, found[row.pk])


def fetch_relation(descriptor: Any, owner: Model, peers: Peers) -> None:
    """Load a single related row for the owner and its peers.

    One query a chunk of keys; for a generic foreign key, one a chunk and type.
    """
    relation = relation_of(descriptor)
    name: str = relation.cache_name
    if name in peers.refused:
        return
    is_forward = type(descriptor) in (ForwardManyToOneDescriptor, ForwardOneToOneDescriptor)
    if is_forward and relation.remote_field.parent_link:
        return  # a copy of what the child holds: no query
    try:
        if is_forward and len(relation.related_fields) == 1:
            _fetch_forward(descriptor, owner, peers)
        else:
            _fetch_as_prefetch(descriptor, relation, owner, peers)
    except _BAD_VALUES:
        peers.refused.add(name)


def _fetch_forward(descriptor: Any, owner: Model, peers: Peers) -> None:
    # Not Django's own prefetch: on SQLite that of 5.2 fails above about 1,000 parents.
    field = descriptor.field
    ((local, remote),) = field.related_fields
    name: str = field.cache_name
    by_key: dict[Any, list[Model]] = {}
    for row in peers.of(owner, name, lambda row: name not in row._state.fields_cache):
        key = getattr(row, local.attname)
        if key is None:
            continue
        if key not in by_key and len(by_key) == peers.max_rows:
            break
        by_key.setdefault(key, []).append(row)
    if len(by_key) < 2 and sum(map(len, by_key.values())) < 2:
        return
    queryset = descriptor.get_queryset(instance=owner).order_by()
    for chunk in _chunks(list(by_key), _keys_at_once(queryset.db)):
        for found in queryset.filter(**{f"{remote.name}__in": chunk}):
            for row in by_key.get(getattr(found, remote.attname), ()):
                field.set_cached_value(row, found)
                if not field.remote_field.multiple:
                    field.remote_field.set_cached_value(found, row)


def _fetch_as_prefetch(descriptor: Any, relation: Any, owner: Model, peers: Peers) -> None:
    name: str = relation.cache_name
    missing = peers.of(owner, name, lambda row: name not in row._state.fields_cache)
    rows = list(islice(missing, peers.max_rows))
    if len(rows) < 2:
        return
    is_forward = isinstance(descriptor, ForwardManyToOneDescriptor)
    for chunk in _chunks(rows, _keys_at_once(owner._state.db)):
        found, key_of_found, key_of_row, *_ = descriptor.get_prefetch_querysets(chunk)
        by_key = {key_of_found(each): each for each in found}
        keep, value_of = relation.set_cached_value, by_key.get
        for row in chunk:
            value = value_of(key_of_row(row))
            if value is not None or not is_forward:  # a dangling key fails when its row is asked
                keep(row, value)


def fetch_sets(
    manager: Any, name: str, peers: Peers, is_missing: Callable[[Model], bool]
) -> list[tuple[Model, list[Model]]]:
    """Load a set of related rows for the manager's owner and its peers; return both in pairs.

    One query for up to 500 owners. Where so many have more than `max_rows` together it is tried
    with fewer, and one by one for good when two owners alone have more.
    """
    if name in peers.refused:
        return []
    owners = islice(peers.of(manager.instance, name, is_missing), peers.max_rows)
    first = list(islice(owners, 2))
    if len(first) < 2:
        return []
    try:
        pairs = _fetch_sets(manager, name, chain(first, owners), peers)
    except _BAD_VALUES:
        pairs = []
    if not pairs:
        peers.refused.add(name)
    return pairs


def _fetch_sets(
    manager: Any, name: str, owners: Iterator[Model], peers: Peers
) -> list[tuple[Model, list[Model]]]:
    size = peers.set_parents.get(name, _SET_PARENTS)
    pairs: list[tuple[Model, list[Model]]] = []
    fetched = 0
    chunk = list(islice(owners, size))
    while chunk and size > 1 and 2 * fetched <= peers.max_rows:
        queryset, key_of_found, key_of_owner = _set_query(manager, chunk)
        left = peers.max_rows - fetched
        found = list(queryset[: left + 1])
        if len(found) > left:
            if pairs:
                break  # the rest has its turn when it is asked
            size = peers.set_parents[name] = len(chunk) // 4
            owners = chain(chunk[size:], owners)
            chunk = chunk[:size]
            continue
        by_key: dict[Hashable, list[Model]] = {}
        for each in found:
            by_key.setdefault(key_of_found(each), []).append(each)
        for row in chunk:
            pairs.append((row, by_key.get(key_of_owner(row), [])))
        fetched += len(found)
        chunk = list(islice(owners, size))
    return pairs


def _set_query(
    manager: Any, chunk: list[Model]
) -> tuple[QuerySet[Model], Callable[[Model], Hashable], Callable[[Model], Hashable]]:
    field = getattr(manager, "field", None)
    if field is None:  # many-to-many or generic
        queryset, key_of_found, key_of_owner, *_ = manager.get_prefetch_querysets(chunk)
        return queryset, key_of_found, key_of_owner
    # Not `get_prefetch_querysets`: it reads all rows before one can set a limit.
    using = router.db_for_read(manager.model, instance=chunk[0])
    queryset = super(type(manager), manager).get_queryset().using(using)
    by_key = {field.get_foreign_related_value(row): row for row in chunk}

    def link(row: Model) -> Hashable:
        key: Hashable = field.get_local_related_value(row)
        field.set_cached_value(row, by_key[key])
        return key

    chosen = queryset.filter(**{f"{field.name}__in": chunk})
    return chosen, link, field.get_foreign_related_value


def _keys_at_once(database: str | None) -> int:
    limit = connections[database or DEFAULT_DB_ALIAS].features.max_query_params
    return min(limit, MAX_ROWS) if limit else MAX_ROWS


def _chunks(rows: Sequence[T], size: int) -> Iterable[list[T]]:
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
