"""Routing by the query itself: from a WHERE clause to the shards that can hold its rows.

AND intersects, OR unites, a negation says nothing. What counts is equality with, or membership
in, values of a column that tells a shard: the shard key, an id that carries a slot, a foreign
key within the group, of this table or of one joined to it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from django.db.models import Model
from django.db.models.expressions import Col
from django.db.models.fields.tuple_lookups import TupleExact, TupleIn
from django.db.models.lookups import Exact, In
from django.db.models.sql import Query
from django.db.models.sql.where import AND, OR, NothingNode, WhereNode

from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import CrossShardError
from dbpatterns.sharding.keys import group_of, is_held, is_sharded, lie_together, telling_columns
from dbpatterns.sharding.plain_queries import PLAIN
from dbpatterns.sharding.reference import is_reference
from dbpatterns.sharding.shard_map import ShardMap, shard_map

__all__ = ["refuse_foreign", "shards_of"]

Shards = frozenset[str] | None
"""None: the condition does not say."""


def shards_of(query: Query) -> Shards:
    """Return the shards that can hold what a query on a sharded model asks for; no query.

    None when the query does not say; empty when nothing can meet it. About 5 µs.
    Raises: UnplacedKey: the map has no shard for a key in it.
    """
    assert query.model is not None
    group_map = shard_map(group_of(query.model))
    if query.combined_queries:
        return _united(query)
    return _of_node(query.where, group_map)


def refuse_foreign(query: Query, alias: str | None, *, is_pinned: bool) -> None:
    """Refuse joins and inner queries that a shard would answer with what happens to be there.

    `alias` is where the query goes, None for all shards. `is_pinned` when the code said so, not
    the query: an inner query without a key is then of that shard too.
    Raises: CrossShardError.
    """
    asking: Any = query.model
    for field, joined in _joined(query):
        _refuse_model(joined, asking, "joins")
        if not (is_reference(joined) or is_held(field)):
            raise CrossShardError(
                asking._meta.label,
                (),
                why=f"joins {joined._meta.label} by {field.name}, which the database does not "
                "hold to one shard: the rows may lie elsewhere. Ask in two queries.",
            )
    for inner in _inner_queries(query):
        assert inner.model is not None
        _refuse_model(inner.model, asking, "has an inner query on")
        if not is_sharded(inner.model):
            continue
        there = shards_of(inner)
        is_here = is_pinned or _is_tied(inner)
        refuse_foreign(inner, alias, is_pinned=is_here)
        if there is None and is_here:
            continue
        if there is None or there - {alias}:
            raise CrossShardError(
                asking._meta.label,
                (there or frozenset()) | (frozenset() if alias is None else {alias}),
                why=f"has an inner query on {inner.model._meta.label} that is not held to the "
                "same shard, and would see the rows of that shard alone. Give both the same key, "
                "or tie the inner to the outer by OuterRef.",
            )


def _of_node(node: Any, group_map: ShardMap) -> Shards:
    if isinstance(node, (Exact, In)) and isinstance(node.lhs, Col):
        tells = _telling(node.lhs, group_map.group)
        if tells is None:
            return None
        if isinstance(node, In):
            if not isinstance(node.rhs, Iterable):  # an inner query
                return None
            return _union(_of_value(tells, each, group_map) for each in node.rhs)
        return _of_value(tells, node.rhs, group_map)
    if isinstance(node, WhereNode):
        if node.negated:
            return None
        if node.connector == AND:
            found: Shards = None
            for child in node.children:
                told = _of_node(child, group_map)
                if told is not None:
                    found = told if found is None else found & told
            return found
        parts = [_of_node(child, group_map) for child in node.children]
        return _union(parts) if node.connector == OR else None
    if isinstance(node, NothingNode):
        return frozenset()
    if isinstance(node, TupleExact):
        return _of_tuple(node.lhs, node.rhs, group_map)
    if isinstance(node, TupleIn):
        if isinstance(node.rhs, Iterable):
            return _union(_of_tuple(node.lhs, each, group_map) for each in node.rhs)
        return None
    return None


def _of_value(tells: Any, value: Any, group_map: ShardMap) -> Shards:
    if hasattr(value, "resolve_expression"):
        return None
    if value is None:
        return frozenset()  # = NULL meets nothing
    told: frozenset[str] = tells(group_map, value)
    return told


def _of_tuple(lhs: Any, values: Any, group_map: ShardMap) -> Shards:
    if not isinstance(values, (tuple, list)):
        return None
    found: Shards = None
    for column, value in zip(lhs, values, strict=False):
        tells = _telling(column, group_map.group)
        told = None if tells is None else _of_value(tells, value, group_map)
        if told is not None:
            found = told if found is None else found & told
    return found


def _telling(column: Col, group: str) -> Any:
    model = column.target.model
    if not is_sharded(model) or group_of(model) != group:
        return None
    return telling_columns(model).get(column.target.attname)


def _union(parts: Iterable[Shards]) -> Shards:
    found: frozenset[str] = frozenset()
    for part in parts:
        if part is None:
            return None
        found |= part
    return found


def _united(query: Query) -> Shards:
    """Return the shards of all sides, which is where UNION, INTERSECT and EXCEPT have to look."""
    if any(each.model is None or not is_sharded(each.model) for each in query.combined_queries):
        return None
    return _union(shards_of(each) for each in query.combined_queries)


def _joined(query: Query) -> Iterator[tuple[Any, type[Model]]]:
    for alias, table in query.alias_map.items():
        field: Any = getattr(table, "join_field", None)
        if field is not None and query.alias_refcount.get(alias):
            yield getattr(field, "field", field), field.related_model
    if isinstance(query.select_related, dict):
        yield from _selected(query.model, query.select_related)


def _selected(model: Any, asked: dict[str, Any]) -> Iterator[tuple[Any, type[Model]]]:
    for name, below in asked.items():
        field = model._meta.get_field(name)
        target = getattr(field, "related_model", None)
        if target is not None:
            yield getattr(field, "field", field), target
            yield from _selected(target, below)


def _refuse_model(model: type[Model], asking: type[Model], verb: str) -> None:
    if is_reference(model):
        return
    group = ShardingSettings.load().group_of(model._meta.app_label)
    if group == group_of(asking):
        return
    where = (
        "is in no group, so its table is not on the shards"
        if group is None
        else (f"is in group {group!r}, whose rows lie elsewhere")
    )
    raise CrossShardError(
        asking._meta.label,
        (),
        why=f"{verb} {model._meta.label}, which {where}. Ask in two queries, or make the other a "
        "reference model.",
    )


def _inner_queries(query: Query) -> Iterator[Query]:
    expressions: list[Any] = [query.where, *query.annotations.values(), *query.order_by]
    while expressions:
        each = expressions.pop()
        if isinstance(each, WhereNode):
            expressions += each.children
            continue
        rhs = getattr(each, "rhs", None)
        if type(rhs) in PLAIN and isinstance(each.lhs, Col):
            continue  # most conditions, so looked at before the others
        inner = each if isinstance(each, Query) else getattr(each, "query", None)
        if isinstance(inner, Query):
            yield inner
            continue
        if isinstance(rhs, Query) or hasattr(rhs, "get_source_expressions"):
            expressions.append(rhs)
        if isinstance(each, Col):
            continue
        sources = getattr(each, "get_source_expressions", None)
        if sources is not None:
            expressions += [one for one in sources() if one is not None and one is not rhs]


def _is_tied(inner: Query) -> bool:
    """Tell whether an inner query sees only rows that lie with the outer row.

    So it is when it is held, by a condition beside all others, to the outer's shard key, or to a
    row that both refer to.
    """
    where = inner.where
    if where.connector != AND:  # the root of a query's conditions is never negated
        return False
    return any(
        isinstance(each, Exact)
        and isinstance(each.lhs, Col)
        and isinstance(each.rhs, Col)
        and each.rhs.alias not in inner.alias_map
        and lie_together(each.lhs.target, each.rhs.target)
        for each in where.children
    )
