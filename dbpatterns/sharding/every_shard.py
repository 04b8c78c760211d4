"""A queryset over all shards, for code that is given a queryset and asks it: Django's admin.

    rows = every_shard(Order.objects.filter(is_paid=False))
    rows.update(is_paid=True)  # on each shard

`fanout()` is what one writes oneself: it has no `update()`, and refuses what a queryset would do.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from django.db.models import QuerySet

from dbpatterns.sharding._compat import Listed
from dbpatterns.sharding.context import current_shard, enter_all
from dbpatterns.sharding.covering import covered
from dbpatterns.sharding.fanout import FanOut
from dbpatterns.sharding.querysets import ShardedQuerySet
from dbpatterns.sharding.routing import shards_of

__all__ = ["EveryShard", "every_shard"]

T = TypeVar("T")


def every_shard(
    rows: "QuerySet[Any]", *, timeout: float | None = None, missing: dict[str, str] | None = None
) -> "EveryShard":
    """Return a queryset of a sharded model as one over all shards; no query.

    Within `shard(key)`, and with `using()`, it stays on that shard. Methods of its class stay.

    Args:
        timeout: seconds that each shard may take for a read.
        missing: gets the shards that did not answer, and why; their rows are left out. Without it
            they are an error.
    """
    hints = {**rows._hints, "timeout": timeout, "missing": missing}  # type: ignore[attr-defined]
    made = _spread(type(rows))(rows.model, rows.query.chain(), rows._db, hints)  # type: ignore[attr-defined]
    return made.prefetch_related(*rows._prefetch_related_lookups)  # type: ignore[attr-defined, no-any-return]


class EveryShard(Listed, ShardedQuerySet):
    """Rows of all shards, or of those that the conditions name.

    Reads cost and refuse what those of `fanout()` do. `update()` and `delete()` are a statement on
    each shard, in a transaction on each that commit together at the end.
    Raises: UncoveredWrite: another database has one open, and not each of the shards.
    """

    def listed(self) -> list[Any] | None:
        """Return the rows of all shards; None on one shard, where Django's own are right."""
        return self._asked(list) if self._is_spread() else None

    def iterator(self, chunk_size: int | None = None) -> Iterator[Any]:
        """Return the rows without keeping them."""
        if self._is_spread():
            return self.fanout(timeout=self._hints["timeout"]).iterator(chunk_size or 2000)
        return super().iterator(chunk_size)

    def get(self, *args: Any, **values: Any) -> Any:
        """Return the one row that meets the conditions, whatever the other shards answer.

        Raises: ShardUnavailable: it may be on a shard that did not answer.
        """
        if not self._is_spread():
            return super().get(*args, **values)
        every = self.fanout(timeout=self._hints["timeout"], on_error="partial")
        return every.get(*args, **values)

    def count(self) -> int:
        """Return the number of rows; no query of a list that is there."""
        is_asked = self._result_cache is None and self._is_spread()
        return self._asked(FanOut.count) if is_asked else super().count()

    def exists(self) -> bool:
        """Tell whether there is any row; no query of a list that is there."""
        is_asked = self._result_cache is None and self._is_spread()
        return self._asked(FanOut.exists) if is_asked else super().exists()

    def aggregate(self, *args: Any, **named: Any) -> dict[str, Any]:
        """Return aggregates over all rows."""
        if self._is_spread():
            return self._asked(lambda every: every.aggregate(*args, **named))
        found: dict[str, Any] = super().aggregate(*args, **named)
        return found

    def update(self, **values: Any) -> int:
        """Change the rows of each shard; returns how many."""
        if not self._is_spread():
            return super().update(**values)
        with self.parts() as parts:
            return sum(each.update(**values) for each in parts)

    def delete(self) -> Any:
        """Delete the rows of each shard, and what hangs on them there."""
        if not self._is_spread():
            return super().delete()
        of_model = Counter[str]()
        with self.parts() as parts:
            for each in parts:
                of_model.update(each.delete()[1])
        return of_model.total(), dict(of_model)

    @contextmanager
    def parts(self) -> Iterator[list["EveryShard"]]:
        """Hold a transaction on each shard; yields the rows of each as querysets of their shard.

        Raises: UncoveredWrite.
        """
        if not self._is_spread():
            yield [self]
            return
        aliases = enter_all(self.model._meta.label, shards_of(self.query))
        with covered(self.model._meta.label, aliases):
            yield [self.using(alias) for alias in aliases]

    def _asked(self, ask: Callable[[FanOut], T]) -> T:
        """Ask all shards; those that did not answer are told, or are an error."""
        missing = self._hints["missing"]
        every = self.fanout(
            timeout=self._hints["timeout"], on_error="raise" if missing is None else "partial"
        )
        try:
            return ask(every)
        finally:
            if missing is not None:
                missing.update(every.missing_shards)

    def _is_spread(self) -> bool:
        is_placed = self._db or "shard" in self._hints or "instance" in self._hints
        return not is_placed and current_shard() is None


@cache
def _spread(base: "type[QuerySet[Any]]") -> Any:
    return base if issubclass(base, EveryShard) else type(base.__name__, (EveryShard, base), {})
