"""`FanOut`: a queryset over all shards, or over those that its conditions name."""

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Self

from django.db import models

from dbpatterns.sharding.context import enter_all
from dbpatterns.sharding.errors import ShardUnavailable, TooManyRows
from dbpatterns.sharding.fanout.awaiting import Awaited
from dbpatterns.sharding.fanout.merging import merged
from dbpatterns.sharding.fanout.numbers.counting import groups, size, totals
from dbpatterns.sharding.fanout.numbers.reach import Reach
from dbpatterns.sharding.fanout.reading.failures import Failures
from dbpatterns.sharding.fanout.reading.gathering import gather, read
from dbpatterns.sharding.fanout.reading.streaming import streams
from dbpatterns.sharding.fanout.refusals import is_of_one_shard, is_whole, refuse, refused
from dbpatterns.sharding.fanout.related import relate
from dbpatterns.sharding.fanout.statements import Statement, statements
from dbpatterns.sharding.routing import shards_of

__all__ = ["FanOut"]


def _delegated(name: str) -> Callable[..., Any]:
    def method(self: "FanOut", *args: Any, **values: Any) -> "FanOut":
        return self._over(getattr(self._asked, name)(*args, **values))

    method.__name__ = name
    method.__doc__ = f"As Django's `{name}`; no query."
    return method


class FanOut(Awaited):
    """What a queryset asks, of all its shards; made by `ShardedQuerySet.fanout()`.

    Lazy, as a queryset: each method gives another, and the shards are asked when it is listed.
    A list is kept. With `on_error="partial"`, `missing_shards` has the shards that did not answer
    when it was last asked, and why.
    """

    filter = _delegated("filter")
    exclude = _delegated("exclude")
    order_by = _delegated("order_by")
    reverse = _delegated("reverse")
    annotate = _delegated("annotate")
    alias = _delegated("alias")
    values = _delegated("values")
    values_list = _delegated("values_list")
    distinct = _delegated("distinct")
    select_related = _delegated("select_related")
    only = _delegated("only")
    defer = _delegated("defer")
    fetch_mode = _delegated("fetch_mode")
    all = _delegated("all")

    def __init__(
        self,
        asked: "models.QuerySet[Any]",
        *,
        max_rows: int,
        timeout: float | None,
        is_partial: bool,
        prefetched: tuple[Any, ...],
    ) -> None:
        self._asked = asked
        self._max_rows, self._timeout, self._is_partial = max_rows, timeout, is_partial
        self._prefetched = prefetched
        self._listed: list[Any] | None = None
        self.missing_shards: dict[str, str] = {}

    @property
    def model(self) -> type[models.Model]:
        """The model whose rows are asked for."""
        return self._asked.model

    @property
    def ordered(self) -> bool:
        """Whether the rows have an order."""
        return self._asked.ordered

    def prefetch_related(self, *lookups: Any) -> Self:
        """As Django's; the queries for one shard's rows go to that shard."""
        return self._over(
            self._asked, prefetched=() if lookups == (None,) else self._prefetched + lookups
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list())

    def __len__(self) -> int:
        return len(self._list())

    def __bool__(self) -> bool:
        return bool(self._list())

    def __getitem__(self, which: int | slice) -> Any:
        if self._listed is not None:
            return self._listed[which]
        if isinstance(which, int):
            if which < 0:
                raise ValueError("Negative indexing is not supported.")
            return self._rows_of(self._asked[which : which + 1])[0]
        if which.step is not None:
            return self._rows_of(self._asked[which.start : which.stop])[:: which.step]
        return self._over(self._asked[which])

    def iterator(self, chunk_size: int = 2000) -> Generator[Any, None, None]:
        """Return the rows without keeping them, `chunk_size` of each shard at a time.

        By server-side cursors on PostgreSQL. No cap.
        """
        query: Any = self._asked.query
        if self._is_merged():
            yield from self._list()
            return
        terms, asked = self._terms(), self._statements(query.high_mark)
        with streams(asked, chunk_size, **terms) as (parts, failures):
            rows = merged(asked, parts)
            kept = islice(self._unlike(rows), query.low_mark, query.high_mark)
            if not self._prefetched:
                yield from kept
            while some := list(islice(kept, chunk_size)):
                yield from relate(some, self._prefetched, failures)

    def first(self) -> Any:
        """Return the first row, by the primary key if there is no order; None without one."""
        ordered = self._asked if self.ordered else self._by_pk("pk")
        return next(iter(self._rows_of(ordered[:1])), None)

    def last(self) -> Any:
        """Return the last row, by the primary key if there is no order; None without one."""
        ordered = self._asked.reverse() if self.ordered else self._by_pk("-pk")
        return next(iter(self._rows_of(ordered[:1])), None)

    def get(self, *args: Any, **values: Any) -> Any:
        """Return the one row that meets the conditions; at most two rows of each shard.

        Raises: the model's DoesNotExist and MultipleObjectsReturned. ShardUnavailable: it may be
            on a shard that did not answer.
        """
        found = self._rows_of(self._asked.filter(*args, **values).order_by()[:2])
        label = self.model._meta.object_name
        model: Any = self.model
        if not found:
            self._be_sure()
            raise model.DoesNotExist(f"{label} matching query does not exist on any shard.")
        if len(found) > 1:
            raise model.MultipleObjectsReturned(f"get() returned more than one {label}.")
        return found[0]

    def exists(self) -> bool:
        """Tell whether there is any row; asks each shard for one.

        Raises: ShardUnavailable: there may be one on a shard that did not answer.
        """
        asked: Any = self._asked
        if not asked.query.is_sliced:
            asked = asked.order_by()[:1]
        found = bool(self._rows_of(asked, prefetched=()))
        if not found:
            self._be_sure()
        return found

    def in_bulk(self, id_list: Iterable[Any] | None = None, *, field_name: str = "pk") -> Any:
        """Return rows by their ids; asks the shards that the ids name, all if they name none."""
        asked = self._asked
        if id_list is not None:
            asked = asked.filter(**{f"{field_name}__in": list(id_list)})
        return {getattr(row, field_name): row for row in self._rows_of(asked.order_by())}

    def count(self) -> int:
        """Return the number of rows, without fetching them; one round trip.

        Of unlike rows that shards share, and of merged groups: what a list of them costs.
        """
        if self._listed is not None:
            return len(self._listed)
        if self._is_merged() or self._is_shared():
            return len(self._list())
        return size(self._asked, self._reach())

    def aggregate(self, *args: Any, **named: Any) -> dict[str, Any]:
        """Return aggregates over all rows, as Django's; one round trip.

        Another for what is computed from sums, as `Avg` of exact numbers, and one for each
        aggregate of unlike values that shards share, which are shipped.
        Raises: UsageError: one does not add up. TooManyToMerge.
        """
        for each in args:
            try:
                named[each.default_alias] = each
            except (AttributeError, TypeError):
                raise TypeError("Complex aggregates require an alias") from None
        return totals(self._asked, named, self._reach())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(models.QuerySet, name):
            raise AttributeError(f"'FanOut' object has no attribute {name!r}")
        raise refused(
            self.model,
            f"do {name}()",
            "Ask each shard by `.using(alias)`, or name the key in the query, or use "
            "`with shard(key):`.",
        )

    def _by_pk(self, order: str) -> Any:
        if isinstance(self._asked.query.group_by, tuple):
            raise refused(
                self.model, "take the first or last of groups without an order", "Order them."
            )
        return self._asked.order_by(order)

    def _over(self, asked: Any, **changed: Any) -> Self:
        options = {
            "max_rows": self._max_rows,
            "timeout": self._timeout,
            "is_partial": self._is_partial,
            "prefetched": self._prefetched,
        }
        return type(self)(asked, **{**options, **changed})

    def _rows_of(self, asked: Any, **changed: Any) -> list[Any]:
        """Return the rows of another question, whose missing shards are this one's."""
        other = self._over(asked, **changed)
        try:
            return other._list()
        finally:
            self.missing_shards = other.missing_shards

    def _be_sure(self) -> None:
        if self.missing_shards:
            raise ShardUnavailable.of(self.missing_shards)

    def _terms(self) -> dict[str, Any]:
        """Return what `read` and `streams` are told besides the statements."""
        self.missing_shards = {}
        missing = self.missing_shards if self._is_partial else None
        return {"timeout": self._timeout, "missing": missing}

    def _aliases(self) -> list[str]:
        asked: Any = self._asked
        named = {asked._db} if asked._db else shards_of(asked.query)
        return enter_all(self.model._meta.label, named)

    def _statements(self, limit: int | None) -> list[Statement]:
        refuse(self._asked.query)
        return statements(self._asked, self._aliases(), limit)

    def _reach(self) -> Reach:
        ask = partial(read, **self._terms())
        return Reach(self._aliases(), ask, self._max_rows, self.missing_shards)

    def _is_merged(self) -> bool:
        """Tell whether there are groups that lie on several shards."""
        query = self._asked.query
        return isinstance(query.group_by, tuple) and not is_whole(query)

    def _is_shared(self) -> bool:
        """Tell whether unlike rows are asked for, of which shards may share some."""
        query: Any = self._asked.query
        if not query.distinct or query.default_cols:
            return False
        return not any(is_of_one_shard(each, query) for each in query.select)

    def _list(self) -> list[Any]:
        if self._listed is None:
            query: Any = self._asked.query
            cap = self._max_rows + 1 + query.low_mark
            high = cap if query.high_mark is None else min(query.high_mark, cap)
            if self._is_merged():
                self._listed = self._kept(groups(self._asked, self._reach()), high)
            else:
                self._listed = self._read(high)
        return self._listed

    def _read(self, high: int) -> list[Any]:
        """Return the rows up to `high`, with what hangs on them.

        Where that loses a shard, the rows of the others move up, and theirs is loaded again.
        """
        terms, asked = self._terms(), self._statements(high)
        with Failures(**terms, asked=len(asked)) as failures:
            answers = gather(asked, Statement.send, failures)
            failures.settle()
            while True:
                chunks = [[] if each.alias in failures else [answers[each.alias]] for each in asked]
                kept = self._kept(merged(asked, chunks), high)
                related = relate(kept, self._prefetched, failures)
                if len(related) == len(kept):
                    return related

    def _kept(self, rows: Iterator[Any], high: int) -> list[Any]:
        kept = list(islice(self._unlike(rows), self._asked.query.low_mark, high))
        if len(kept) > self._max_rows:
            raise TooManyRows(self.model._meta.label, self._max_rows)
        return kept

    def _unlike(self, rows: Iterator[Any]) -> Iterator[Any]:
        """Drop what another shard answered as well, where only unlike rows are asked for."""
        if not self._asked.query.distinct:
            return rows
        return _unlike(rows)


def _unlike(rows: Iterator[Any]) -> Iterator[Any]:
    seen = set()
    for row in rows:
        mark = tuple(row.items()) if isinstance(row, dict) else row
        if mark not in seen:
            seen.add(mark)
            yield row
