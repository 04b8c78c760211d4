"""One shard's statement: what Django compiles, with the sort keys beside the columns.

Sending and reading are apart, so that all shards work while one thread waits. Django's own
iterables make the rows, from an answer that is already there. Shards of one kind share what was
compiled for the first of them, which is most of what a statement costs.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from functools import cache
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections, models
from django.db.models.expressions import OrderBy
from django.db.models.sql import Query

from dbpatterns.sharding.fanout.kinds import Noting, kind_of
from dbpatterns.sharding.fanout.ordering import SortKey, comparable, sort_key

__all__ = ["Statement", "statements"]


def statements(
    rows: "models.QuerySet[Any]", aliases: Iterable[str], limit: int | None
) -> list["Statement"]:
    """Return a queryset as each shard's statement, but where nothing can be found; no query."""
    made: list[Statement] = []
    for alias in aliases:
        kind = kind_of(connections[alias])
        like = next((each for each in made if kind is not None and each.kind == kind), None)
        made.append(Statement(rows, alias, limit, kind=kind, like=like))
    return [each for each in made if not each.is_empty]


class _Answered(Query):
    """A query whose compiler has the answer."""

    compiler: Any

    def get_compiler(self, *_: Any, **__: Any) -> Any:
        """Return the compiler of the statement that was sent."""
        return self.compiler


@cache
def _keyed(compiler: Any) -> Any:
    """Return a database's compiler that selects what it sorts by.

    `get_extra_select` is where Django's own adds columns, for DISTINCT; they stand after
    `col_count`.
    """

    class Keyed(compiler):  # type: ignore[misc]
        keys: list[SortKey]

        def get_order_by(self) -> Any:
            """Return Django's, each part comparable, the primary key last to part ties."""
            vendor, query = self.connection.vendor, self.query
            orders = [order for order, _ in super().get_order_by()]
            if orders and not query.distinct and not isinstance(query.group_by, tuple):
                table = query.get_initial_alias()
                orders += [
                    OrderBy(field.get_col(table), descending=not query.standard_ordering)
                    for field in query.model._meta.pk_fields
                ]
            found: dict[Any, Any] = {}
            for order in orders:
                order = comparable(order, query.model, vendor)
                sql, params = self.compile(order)
                by = self.compile(order.expression)
                found.setdefault((by[0], tuple(by[1])), (order, (sql, params, False)))
            return list(found.values())

        def get_extra_select(self, order_by: Any, select: Any) -> Any:
            """Return the columns to sort by that are not selected."""
            there = {
                (sql, tuple(params)): index for index, (_, (sql, params), _) in enumerate(select)
            }
            extra: list[Any] = []
            self.keys = []
            for order, _ in order_by:
                sql, params = self.compile(order.expression)
                index = there.get((sql, tuple(params)))
                if index is None:
                    index = len(select) + len(extra)
                    extra.append((order.expression, (sql, params), None))
                self.keys.append(
                    sort_key(
                        order,
                        index,
                        self.query,
                        nulls_are_largest=self.connection.features.nulls_order_largest,
                    )
                )
            return extra

    return Keyed


class Statement:
    """A queryset as one shard's statement, compiled as another's if it is `like` that; no query."""

    sql: str = ""
    params: Any = ()
    is_empty: bool = False

    def __init__(
        self,
        rows: "models.QuerySet[Any]",
        alias: str,
        limit: int | None,
        *,
        kind: object = None,
        like: "Statement | None" = None,
    ) -> None:
        self.alias, self.connection = alias, connections[alias]
        self.rows = rows.using(alias)
        query: Any = self.rows.query  # its own, by using()
        query.__class__ = _Answered  # as `Query.chain(klass)`; assigned anew it would give dicts
        query.clear_limits()
        query.set_limits(high=limit)
        if like is None:
            noting = Noting(self.connection)
            compiler: Any = self.connection.ops.compiler("SQLCompiler")
            self.compiler = _keyed(compiler)(query, noting, None)
            self.compile()
            self.kind = kind if noting.is_alike else None
        else:
            self.compiler, self.kind = copy(like.compiler), kind
            self.sql, self.params, self.is_empty = like.sql, like.params, like.is_empty
            self.compiler.query = query
        self.compiler.connection, self.compiler.using = self.connection, alias
        query.compiler = self.compiler

    def compile(self) -> None:
        """Make the SQL, or note that nothing can meet the conditions."""
        try:
            self.sql, self.params = self.compiler.as_sql()
        except EmptyResultSet:
            self.is_empty = True

    @property
    def keys(self) -> list[SortKey]:
        """What the rows are sorted by."""
        found: list[SortKey] = self.compiler.keys
        return found

    def send(self, *, streamed: bool = False) -> Any:
        """Send the statement; returns its cursor. `streamed` leaves the rows on the server."""
        connection: Any = self.connection
        cursor = connection.chunked_cursor() if streamed else connection.cursor()
        cursor.execute(self.sql, self.params)
        return cursor

    def made(self, chunks: Iterable[list[Any]]) -> Iterator[Any]:
        """Return what the queryset makes of a cursor's rows: instances, dicts, tuples."""
        width = self.compiler.col_count
        cut = (
            ([row[:width] for row in rows] for rows in chunks)
            if self.compiler.has_extra_select
            else chunks
        )
        self.compiler.execute_sql = lambda *_, **__: cut
        return self.rows.iterator(chunk_size=2000)
