"""Numbers and groups of all shards, as `FanOut` asks for them."""

from collections.abc import Iterator, Mapping
from typing import Any

from django.db import connections, models
from django.db.models.expressions import Ref

from dbpatterns.sharding.fanout.numbers.finishing import finished
from dbpatterns.sharding.fanout.numbers.grouping import Grouping
from dbpatterns.sharding.fanout.numbers.reach import Asked, Reach
from dbpatterns.sharding.fanout.ordering import merging
from dbpatterns.sharding.fanout.refusals import refuse, refused
from dbpatterns.sharding.fanout.statements import Statement

__all__ = ["groups", "size", "totals"]


def groups(asked: "models.QuerySet[Any]", reach: Reach) -> Iterator[Any]:
    """Return merged groups in their order, as the queryset makes them: dicts, tuples.

    Raises: UsageError: a part of it does not add up. TooManyToMerge.
    """
    refuse(asked.query)
    statement = Statement(asked, reach.home, None)
    if statement.is_empty:
        return iter(())
    compiler = statement.compiler
    extra, order_by, _ = compiler.pre_sql_setup()
    selected = [each for each, _, _ in (*compiler.select, *extra)]
    grouping = Grouping(
        asked.query, compiler, compiler.where, _keys(asked.query, compiler, selected, order_by)
    )
    wanted = [grouping.over(each) for each in selected]
    having = None if compiler.having is None else grouping.over(compiler.having)
    rows = list(finished(grouping.merged(reach), wanted, having, asked.query, reach))
    if statement.keys:
        how = merging(statement.keys)
        rows.sort(key=how.key, reverse=how.reverse)
    return statement.made([rows])


def _keys(query: Any, compiler: Any, selected: list[Any], order_by: list[Any]) -> list[Any]:
    """Return what Django groups by: what it is told, and what SELECT, ORDER BY and HAVING need.

    An expression that it is told is a key as it stands; of another its columns are.
    """
    found = [
        each if hasattr(each, "as_sql") else query.resolve_ref(each) for each in query.group_by
    ]
    told = [each.get_source_expressions()[0] for each in found if isinstance(each, Ref)]
    ordering = [each.expression for each, (_, _, is_reference) in order_by if not is_reference]
    having = [] if compiler.having is None else [compiler.having]
    for each in (*selected, *ordering, *having):
        if each not in told:
            found += each.get_group_by_cols()
    return found


def totals(
    asked: "models.QuerySet[Any]", aggregates: Mapping[str, Any], reach: Reach
) -> dict[str, Any]:
    """Return aggregates over all rows.

    Raises: UsageError: a part of them does not add up.
    """
    query: Any = asked.query.clone()
    query.clear_ordering(force=True)
    if (
        query.is_sliced
        or query.distinct
        or query.group_by is not None
        or query.where.contains_aggregate
    ):
        raise refused(
            query.model,
            "aggregate a slice, unlike rows, or aggregates",
            "List them and compute it in Python, or aggregate all rows.",
        )
    for name, each in aggregates.items():
        query.check_alias(name)
        made = each.resolve_expression(query, allow_joins=True, reuse=None)
        if not made.contains_aggregate:
            raise TypeError(f"{name} is not an aggregate expression")
        query.annotations[name] = made
        query.append_annotation_mask([name])
    refuse(query)
    found = [query.annotations[name] for name in aggregates]
    compiler = query.get_compiler(connection=connections[reach.home])
    grouping = Grouping(query, compiler, query.where, None)
    wanted = [grouping.over(each) for each in found]
    (row,) = finished(grouping.merged(reach), wanted, None, query, reach)
    converters = compiler.get_converters(found)
    (converted,) = compiler.apply_converters([row], converters)
    return dict(zip(aggregates, converted, strict=True))


def size(asked: "models.QuerySet[Any]", reach: Reach) -> int:
    """Return how many rows there are, none of which is alike on two shards."""
    query: Any = asked.query.clone()
    refuse(query)
    query.select_related = False
    query.clear_ordering(force=True)
    low: int = query.low_mark
    high: int | None = query.high_mark
    query.clear_limits()
    query.set_limits(high=high)
    counts = reach.read(
        [each for each in (_Size(query, alias) for alias in reach.aliases) if not each.is_empty]
    )
    found: int = sum(count for rows in counts for (count,) in rows)  # none of a missing shard
    return max(0, (found if high is None else min(found, high)) - low)


class _Size(Asked):
    """How many rows a query has on one shard."""

    def __init__(self, query: Any, alias: str) -> None:
        super().__init__(query, alias)
        if not self.is_empty:
            self.sql = f"SELECT COUNT(*) FROM ({self.sql}) AS counted"
