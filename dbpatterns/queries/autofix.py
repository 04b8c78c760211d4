"""Autofix: what one row of a result lacks is fetched for all its peers, on first access.

    with autofixing():
        for post in Post.objects.all():
            print(post.author.name, len(post.comments.all()))  # 3 queries, not 2N + 1

It batches single relations (foreign keys, one-to-one both ways, generic foreign keys), deferred
columns, and the unmodified `.all()` of sets (reverse foreign keys, many-to-many, generic), after
which `.count()` and `.exists()` of that `.all()` are free. Rows brought so are peers in turn.

What it does not batch: a set that is filtered, ordered or only counted, `raw()`, and rows read by
`iterator()` outside of `batched`, which are gone before the next one comes.

A set stays as it was when it was fetched, as with `prefetch_related`, until its manager changes
it. Works on Django 5.2 to 6.1, from 6.1 on as a fetch mode; patches nothing.
"""

from typing import Any, Self, TypeVar

from django.db.models import Model, QuerySet

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.queries._compat import stamp_result, use_peers
from dbpatterns.queries.conf import QueriesSettings
from dbpatterns.queries.scopes import Execute, Scope

__all__ = ["AutofixQuerySet", "autofixing", "batched"]

M = TypeVar("M", bound=Model)


class autofixing(Scope):  # read as a verb
    """Batch for the rows of every query of a block; `with`, `async with` or a decorator.

    Rows stay peers after the block. Costs about 1 µs and 300 bytes a row read, and a look at the
    stack a statement.

    Args:
        max_rows: what one access may fetch at most, `AUTOFIX_MAX_ROWS` when it is not given. A
            longer result is fetched in turns; a set of which not even two owners' rows fit in is
            fetched one by one.
    Raises: UsageError: `max_rows` is below 1. ConfigurationError, when entered: the setting is.
    """

    def __init__(self, *, max_rows: int | None = None) -> None:
        super().__init__()
        if max_rows is not None and max_rows < 1:
            raise UsageError(
                f"autofixing(max_rows={max_rows}) would fetch nothing: take 1 or more."
            )
        self._max_rows = max_rows

    def see(
        self, execute: Execute, sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        """Run a statement; rows that it selects are peers."""
        return stamp_result(execute, sql, params, many, context, max_rows=self._limit)

    def renewed(self) -> Self:
        """Return another one with the same limit."""
        return type(self)(max_rows=self._max_rows)

    def _join_thread(self) -> None:
        self._limit = self._max_rows or _limit_of_settings()  # not before: a decorator is early
        super()._join_thread()

    def __str__(self) -> str:
        return f"autofixing(max_rows={self._max_rows or 'AUTOFIX_MAX_ROWS'})"


def _limit_of_settings() -> int:
    limit = QueriesSettings.load().autofix_max_rows
    if limit < 1:
        raise ConfigurationError(
            f'DBPATTERNS["QUERIES"]["AUTOFIX_MAX_ROWS"] = {limit} would fetch nothing: '
            "take 1 or more."
        )
    return limit


def batched(queryset: QuerySet[M]) -> QuerySet[M]:
    """Return the same query, whose rows are peers wherever they are read; no query.

    `iterator()` keeps 500 rows at once and batches for them.
    """
    chained = queryset.all()
    use_peers(chained)
    return chained


class AutofixQuerySet(QuerySet[M]):
    """A queryset that is always `batched`: `objects = AutofixQuerySet.as_manager()`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_peers(self)
