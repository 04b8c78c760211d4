"""Where autofix touches private names of Django; nothing of Django is patched.

# Note [How rows learn of each other]
While a select runs, an execute wrapper finds its compiler in the stack and puts `_Stamping` in
place of the model in that compiler's own `klass_info`: rows are then made by `_Stamping.from_db`,
which tells each of its peers. The same for the rows that `select_related` makes.

# Note [How a row tells us what it lacks]
Django 6.1 asks the row's fetch mode. Before, a missing relation is a missing key of the row's own
`fields_cache`, so a dict with `__missing__` does; a deferred column is refreshed by
`refresh_from_db`, which first asks whether the column is in the row's own prefetch cache. A set of
related rows is a missing key of the prefetch cache in every version. Each has to know who asks,
since `.filter()` and assignments look there too, hence the frames: they have the row, so that a
dict need not know it. A copy of a row, which Django gives the same prefetch cache, has a state
without peers and is nobody's peer.

`_LazyFields` and `_LazySets.__contains__` can go with Django 6.0; the rest when `QuerySet` has a
public default of the fetch mode, and fetch modes reach sets.

# Note [What a row costs]
At most two small dicts and a weak reference, half a microsecond. More, on each of 10,000 rows, is
what one sees in the benchmark: so the making of fresh rows is written out flat, with what the
documentation of `from_db` shows in it, a row whose model has no sets gets no cache for them, and
what a batch fetches is made its own peers at once.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from itertools import chain, islice
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import ref

import django
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model, QuerySet
from django.db.models.fields.related_descriptors import ReverseManyToOneDescriptor
from django.db.models.query import ModelIterable
from django.db.models.query_utils import DeferredAttribute
from django.db.models.signals import post_init
from django.db.models.sql.compiler import SQLCompiler

from dbpatterns.queries.conf import MAX_ROWS
from dbpatterns.queries.peers import (
    Peers,
    fetch_column,
    fetch_relation,
    fetch_sets,
    relation_of,
)

if TYPE_CHECKING:
    from dbpatterns.queries.scopes import Execute

__all__ = ["HAS_FETCH_MODES", "PeersIterable", "stamp", "stamp_result", "use_peers"]

HAS_FETCH_MODES = django.VERSION >= (6, 1)
_FROM_DB = Model.from_db.__func__  # type: ignore[attr-defined]
_EXECUTE_SQL = SQLCompiler.execute_sql.__code__
_DEPTH = 24  # frames from an execute wrapper to its compiler, other wrappers between
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CHUNK = 500  # rows that `iterator()` keeps at once, so that they are peers


def stamp(row: Model, peers: Peers) -> None:
    """Make a row one of these peers: what it lacks is fetched for all of them."""
    attributes = row.__dict__
    state: Any = attributes["_state"]
    if HAS_FETCH_MODES:  # pragma: no cover - Django 6.1
        state.peers, state.fetch_mode = peers, STAMPED
    else:
        fields = state.fields_cache
        if type(fields) is not _LazyFields:
            fields = state.fields_cache = _LazyFields(fields)
        fields.peers = peers
    kind: Any = type(row)
    if _asks_sets(kind) or not _columns(kind) <= attributes.keys():
        sets = attributes.get("_prefetched_objects_cache", ())
        if type(sets) is not _LazySets:
            sets = attributes["_prefetched_objects_cache"] = _LazySets(sets)
            sets.loaded = _NOTHING
    if len(peers) >= peers.prune_at:
        peers.prune()
    peers.append(ref(row))


def stamp_result(
    execute: "Execute",
    sql: str,
    params: Any,
    many: bool,
    context: dict[str, Any],
    max_rows: int = MAX_ROWS,
    peers: Peers | None = None,
) -> Any:
    """Run a statement; if it selects models, make its rows peers (an execute wrapper).

    Of these peers where some are given, which then win over an outer wrapper's.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame is None or frame.f_code is _EXECUTE_SQL:
            break
        frame = frame.f_back
    if frame is not None and frame.f_code is _EXECUTE_SQL:
        compiler = frame.f_locals["self"]
        info = compiler.klass_info
        if info and (peers is not None or type(info["model"]) is not _Stamping):
            compiler.klass_info = _stamping(info, Peers(max_rows) if peers is None else peers)
    return execute(sql, params, many, context)


def use_peers(queryset: QuerySet[Any]) -> None:
    """Make the rows of a queryset of models, and of what is made from it, peers."""
    if queryset._iterable_class is ModelIterable:
        queryset._iterable_class = PeersIterable


class PeersIterable(ModelIterable):  # type: ignore[type-arg]
    """Rows that are peers; `iterator()` keeps 500 at once."""

    def __iter__(self) -> Iterator[Model]:
        """Yield the rows: those that a batch brought, or what the database has."""
        queryset: Any = self.queryset
        batch: _Batch | None = vars(queryset).get("_dbpatterns_batch")
        if batch and not self.chunked_fetch:
            children = batch.children(queryset.db)
            if children is not None:
                queryset._prefetch_done = True
                yield from children
                return
        rows = super().__iter__()
        with connections[queryset.db].execute_wrapper(stamp_result):
            first = list(islice(rows, 1))
        rows = chain(first, rows)
        if not self.chunked_fetch:
            yield from rows
        while chunk := list(islice(rows, _CHUNK)):
            yield from chunk


class _Stamping:
    """Stands for a model while one select makes its rows (see the first Note)."""

    def __init__(self, model: type[Model], peers: Peers) -> None:
        self.model = model
        self._meta = model._meta
        self.__qualname__ = model.__qualname__
        self.from_db = _stamper(model, peers)


def _stamper(model: type[Model], peers: Peers) -> Callable[..., Model]:
    make: Any = model.from_db
    if make.__func__ is not _FROM_DB or post_init.has_listeners(model):
        return _careful_stamper(model, peers)
    append, prune = peers.append, peers.prune
    size, asks_sets = len(model._meta.concrete_fields), _asks_sets(model)

    def from_db(db: str, names: Any, values: Any, fetch_mode: Any = None) -> Model:
        # Nobody has seen the row: as `stamp`, without a look at what is there.
        is_whole = len(values) == size
        row: Model = model(*values) if is_whole else make(db, names, values)
        attributes = row.__dict__
        state = attributes["_state"]
        state.adding, state.db = False, db
        if HAS_FETCH_MODES:  # pragma: no cover - Django 6.1
            if fetch_mode not in STAMPS:
                state.fetch_mode = fetch_mode
                return row
            state.peers, state.fetch_mode = peers, STAMPED
        else:
            fields = state.fields_cache = _LazyFields()
            fields.peers = peers
        if asks_sets or not is_whole:
            sets = attributes["_prefetched_objects_cache"] = _LazySets()
            sets.loaded = _NOTHING
        if len(peers) >= peers.prune_at:
            prune()
        append(ref(row))
        return row

    from_db.__func__ = _FROM_DB  # type: ignore[attr-defined]  # Django 6.1 looks whose it is
    return from_db


def _careful_stamper(model: type[Model], peers: Peers) -> Callable[..., Model]:
    """Return the same for a model that makes its rows itself, or whose signals see them."""

    def from_db(db: str, names: Any, values: Any, fetch_mode: Any = None) -> Model:
        if HAS_FETCH_MODES:  # pragma: no cover - Django 6.1
            row: Model = _get_from_db(model, fetch_mode)(db, names, values)
            if fetch_mode not in STAMPS:
                return row
        else:
            row = model.from_db(db, names, values)
        stamp(row, peers)
        return row

    from_db.__func__ = _FROM_DB  # type: ignore[attr-defined]
    return from_db


def _stamping(info: dict[str, Any], peers: Peers) -> dict[str, Any]:
    related = [
        _stamping(each, Peers(peers.max_rows)) for each in info.get("related_klass_infos", ())
    ]
    model = info["model"].model if type(info["model"]) is _Stamping else info["model"]
    return {**info, "model": _Stamping(model, peers), "related_klass_infos": related}


class _Seam(dict[str, Any]):
    """A dict of a row that copies and pickles as a plain one."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _LazyFields(_Seam):
    """A row's related rows by cache name, before Django 6.1."""

    __slots__ = ("peers",)
    peers: Peers

    def __missing__(self, name: str) -> Any:
        asking = sys._getframe(2)  # the descriptor's; between is `get_cached_value`
        if asking.f_code.co_name == "__get__":  # not `__set__`, nor `save`
            asked, descriptor = _local(asking, "instance"), _local(asking, "self")
            if (
                isinstance(asked, Model)
                and asked._state.fields_cache is self
                and not _is_on_ancestor(descriptor, asked)
            ):
                _fetch_relation(descriptor, asked, self.peers)
                if name in self:
                    return self[name]
        raise KeyError(name)


class _LazySets(_Seam):
    """A row's sets of related rows, which `.all()` of a related manager looks up."""

    __slots__ = ("loaded",)
    loaded: Mapping[str, Any]
    """What a batch brought: a list, or the queryset made from it. Not in the dict itself, where
    Django would hand it to any manager of the relation."""

    def __missing__(self, name: str) -> Any:
        manager = _local(sys._getframe(1), "self")
        peers = _peers_of(getattr(manager, "instance", None), self)
        if peers is None or not _is_default_manager(manager):
            raise KeyError(name)
        found = self.loaded.get(name)
        if isinstance(found, QuerySet):
            return found
        # What the manager's `get_queryset` does without a cache; here the cache is asking.
        unfiltered: Any = super(type(manager), manager)
        queryset: Any = manager._apply_rel_filters(unfiltered.get_queryset())
        use_peers(queryset)
        if found is not None:
            queryset._result_cache, queryset._prefetch_done = found, True
            self.keep(name, queryset)
        elif queryset._iterable_class is PeersIterable:
            queryset._dbpatterns_batch = _Batch(manager, name, peers)
        if HAS_FETCH_MODES:  # pragma: no cover - Django 6.1
            queryset._fetch_mode = FETCH_ONE  # its rows get ours, and a list that is pruned
        return queryset

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        asking = sys._getframe(1)
        if asking.f_code.co_name != "refresh_from_db":
            return False
        asked = _local(asking, "self")
        peers = _peers_of(asked, self)
        if peers is None:
            return False
        if name in self.loaded:
            return True
        if (
            HAS_FETCH_MODES
            or name in vars(asked)
            or name not in _columns(type(asked))  # type: ignore[arg-type]  # hashable
            or _local(asking, "using") is not None
            or _local(asking, "from_queryset") is not None
        ):
            return False
        fetch_column(str(name), asked, peers)
        return name in vars(asked)

    def __delitem__(self, name: str) -> None:
        self.pop(name, None)

    def pop(self, name: str, *default: Any) -> Any:
        """Forget a set, as a related manager does when it changes it."""
        if name in self.loaded:
            self.loaded = {each: self.loaded[each] for each in self.loaded if each != name}
            default = default or (None,)
        return super().pop(name, *default)

    def keep(self, name: str, related: Any) -> None:
        """Have a set's rows at hand, for the relation's own manager only."""
        self.loaded = {**self.loaded, name: related}


class _Batch:
    """What an unmodified `.all()` fetches when it is read; a queryset made from it has none."""

    def __init__(self, manager: Any, name: str, peers: Peers) -> None:
        self._manager, self._name, self._peers = manager, name, peers

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of the queryset reads its own rows

    def children(self, database: str) -> list[Model] | None:
        name, owner = self._name, self._manager.instance
        if not _lacks(owner, name):  # refreshed, or brought in the meantime
            return None
        children: list[Model] | None = None
        with _as_peers(database, self._peers.max_rows):
            pairs = fetch_sets(self._manager, name, self._peers, lambda row: _lacks(row, name))
        for row, related in pairs:
            vars(row)["_prefetched_objects_cache"].keep(name, related)
            if row is owner:
                children = related
        return children


def _fetch_relation(descriptor: Any, owner: Model, peers: Peers) -> None:
    with _as_peers(owner._state.db or DEFAULT_DB_ALIAS, peers.max_rows):
        fetch_relation(descriptor, owner, peers)


def _as_peers(database: str, max_rows: int) -> AbstractContextManager[None]:
    """Make all rows that the block selects each other's peers."""
    stamping = partial(stamp_result, peers=Peers(max_rows))
    return connections[database].execute_wrapper(stamping)


def _lacks(row: Model, name: str) -> bool:
    sets = vars(row).get("_prefetched_objects_cache")
    return (
        isinstance(sets, _LazySets)
        and not dict.__contains__(sets, name)
        and (name not in sets.loaded)
    )


def _peers_of(row: Any, sets: _LazySets) -> Peers | None:
    """Return the peers of a row whose sets these are; None for anything else, or a copy."""
    if not isinstance(row, Model) or vars(row).get("_prefetched_objects_cache") is not sets:
        return None
    peers = getattr(row._state if HAS_FETCH_MODES else row._state.fields_cache, "peers", None)
    return peers if isinstance(peers, Peers) else None


def _local(frame: FrameType, name: str) -> Any:
    return frame.f_locals.get(name)


def _is_on_ancestor(descriptor: Any, owner: Model) -> bool:
    field = relation_of(descriptor)
    link: Any = field.concrete and owner._meta.get_ancestor_link(field.model)
    return bool(link) and link.is_cached(owner)


def _is_default_manager(manager: Any) -> bool:
    return manager._db is None and type(manager) in _default_managers(
        type(manager.instance)  # type: ignore[arg-type]  # hashable
    )


@lru_cache(maxsize=1024)
def _default_managers(model: type[Model]) -> frozenset[type]:
    return frozenset(
        each.related_manager_cls
        for parent in model.__mro__
        for each in vars(parent).values()
        if isinstance(each, ReverseManyToOneDescriptor)
    )


@lru_cache(maxsize=1024)
def _asks_sets(model: type[Model]) -> bool:
    """Tell whether a model has sets of related rows, which look into a row's prefetch cache."""
    return bool(_default_managers(model))


@lru_cache(maxsize=1024)
def _columns(model: type[Model]) -> frozenset[str]:
    return frozenset(field.attname for field in model._meta.concrete_fields)


if HAS_FETCH_MODES:  # pragma: no cover - Django 6.1
    from django.db.models.fetch_modes import FETCH_ONE, FetchMode
    from django.db.models.query import _get_from_db  # type: ignore[attr-defined]

    class Autofix(FetchMode):
        """Fetch for all peers what one of them lacks, in chunks and up to a number of rows."""

        __slots__ = ()
        track_peers = True  # for those who name it in `.fetch_mode()`; our own rows bring theirs

        def fetch(self, fetcher: Any, instance: Model) -> None:
            """Load what a descriptor was asked for."""
            peers: Any = instance._state.peers
            if not isinstance(peers, Peers):
                peers = Peers(MAX_ROWS, peers)  # Django's own list, or a copy's empty tuple
            if isinstance(fetcher, DeferredAttribute):
                fetch_column(fetcher.field.attname, instance, peers)
                is_done = fetcher.field.attname in vars(instance)
            else:
                _fetch_relation(fetcher, instance, peers)
                is_done = relation_of(fetcher).is_cached(instance)
            if not is_done:
                fetcher.fetch_one(instance)

        def __reduce__(self) -> str:
            return "AUTOFIX"

    class Stamped(Autofix):
        """The mode of rows that have their peers from us: Django would bring others."""

        __slots__ = ()
        track_peers = False

        def __reduce__(self) -> str:
            return "STAMPED"

    AUTOFIX, STAMPED = Autofix(), Stamped()
    STAMPS = (FETCH_ONE, AUTOFIX, STAMPED)
    """The modes whose rows are stamped; another one was asked for, and stays."""
