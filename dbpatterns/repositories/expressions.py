"""What an expression reads, found by walking it; whatever may carry SQL text is refused.

The list is positive: Django's own functions, aggregates, lookups and a few expressions. Each may
be handed SQL text in ways the walk knows: as extra keywords, through an attribute set on the
instance, as a connector, or as the type of a cast.
"""

from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple, NoReturn

from django.db.models import (
    Case,
    Exists,
    ExpressionWrapper,
    F,
    Field,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.db.models.expressions import (
    Col,
    Combinable,
    CombinedExpression,
    DurationExpression,
    NegatedExpression,
    OrderBy,
    ResolvedOuterRef,
    Star,
    TemporalSubtraction,
)
from django.db.models.query import RawQuerySet
from django.db.models.sql import Query
from django.db.models.sql.where import NothingNode, WhereNode

from dbpatterns.errors import UsageError

__all__ = ["Read", "reads"]

_MODULES = (
    "django.db.models.aggregates",
    "django.db.models.functions.",
    "django.db.models.lookups",
    "django.db.models.fields.",
    "django.contrib.postgres.",
)
_EXPRESSIONS = {
    Case,
    CombinedExpression,
    DurationExpression,
    Exists,
    ExpressionWrapper,
    F,
    NegatedExpression,
    OrderBy,
    Q,
    Star,
    Subquery,
    TemporalSubtraction,
    Value,
    When,
}
_RESOLVED = {Col, NothingNode, OuterRef, ResolvedOuterRef, WhereNode}  # in subqueries only
_CONNECTORS = {None, Q.AND, Q.OR, Q.XOR} | {
    value for name, value in vars(Combinable).items() if name.isupper()
}
_SQL_ATTRIBUTES = {"function", "template", "arg_joiner", "filter_template"}
_CHOSEN = {"STDDEV_SAMP", "STDDEV_POP", "VAR_SAMP", "VAR_POP"}  # by Django, from sample=
_CHOSEN |= {f"{kind}to_tsquery" for kind in ("", "plain", "phrase", "websearch_")}


class Read(NamedTuple):
    """A name that an expression reads."""

    name: str
    is_condition: bool
    """It may end with a lookup, as a keyword of `filter` may."""
    is_negated: bool
    """It stands under a `~`, where a relation to many rows becomes a subquery and no join."""


def reads(node: Any) -> Iterator[Read]:
    """Yield the names that a condition, an expression or a value reads; no query.

    Of a subquery these are its outer references; the rest is about its own model.
    Raises: UsageError: something in it may carry SQL text.
    """
    return _walk(node, negated=False, inside=False)


def _walk(node: Any, *, negated: bool | None, inside: bool) -> Iterator[Read]:
    """`negated` is None where Django joins even under a `~`, `inside` is in a subquery."""
    if isinstance(node, list | tuple | set | frozenset):
        for each in node:
            yield from _walk(each, negated=negated, inside=inside)
        return
    if isinstance(node, QuerySet | Query | RawQuerySet):
        yield from _walk(_parts(getattr(node, "query", node)), negated=None, inside=True)
        return
    is_expression = hasattr(node, "resolve_expression") or hasattr(node, "as_sql")
    if not is_expression or isinstance(node, type):
        return  # a value, sent apart from the statement, or a class of transforms
    _check(node, inside=inside)
    if isinstance(node, F):
        if isinstance(node, OuterRef | ResolvedOuterRef) or not inside:
            yield _read(node.name)  # type: ignore[attr-defined]  # missing in the stubs
    elif isinstance(node, Q):
        below = None if negated is None else negated or node.negated
        for child in node.children:
            if isinstance(child, tuple):
                yield _read(child[0], is_condition=True, is_negated=bool(below))
                yield from _walk(child[1], negated=None, inside=inside)
            else:
                yield from _walk(child, negated=below, inside=inside)
    else:
        yield from _walk(_held(node), negated=None, inside=inside)


def _read(name: Any, *, is_condition: bool = False, is_negated: bool = False) -> Read:
    if not isinstance(name, str):
        _refuse(name)
    return Read(name, is_condition, is_negated)


def _parts(query: Any) -> list[Any]:
    """Return what a subquery is made of, or refuse one that holds text."""
    if type(query) is not Query:  # a RawQuery
        _refuse(query)
    joins = [getattr(each, "filtered_relation", None) for each in query.alias_map.values()]
    if query.combined_queries or any(joins):
        _refuse(query)
    if query.extra or query.extra_tables or query.extra_order_by:
        _refuse(query)
    grouped = query.group_by if isinstance(query.group_by, tuple) else ()
    return [*query.annotations.values(), *query.select, *query.order_by, *grouped, query.where]


def _held(node: Any) -> list[Any]:
    # Not get_source_expressions(): an aggregate's default is none of them. The arguments of the
    # constructor are the same again, and to read both would take exponential time.
    return [value for name, value in vars(node).items() if name != "_constructor_args"]


def _check(node: Any, *, inside: bool) -> None:
    known = type(node) in _EXPRESSIONS or (inside and type(node) in _RESOLVED)
    if not known and not type(node).__module__.startswith(_MODULES):
        _refuse(node)
    if getattr(node, "extra", None) or getattr(node, "connector", None) not in _CONNECTORS:
        _refuse(node)
    for name in _SQL_ATTRIBUTES & vars(node).keys():
        if vars(node)[name] not in (getattr(type(node), name, None), *_CHOSEN):
            _refuse(node)
    if _shadows(node):
        _refuse(node)
    field = vars(node).get("output_field")
    if field is not None and not _is_plain(field):
        _refuse(node)


def _is_plain(field: "Field[Any, Any]") -> bool:
    """Tell whether the type a value is cast to is what its class says, and no text."""
    sizes = [getattr(field, name, None) for name in ("max_length", "max_digits", "decimal_places")]
    return (
        type(field).__module__.startswith("django.db.models.fields")
        and all(size is None or type(size) is int for size in sizes)
        and not _shadows(field)
    )


def _shadows(node: Any) -> bool:
    return any(
        isinstance(getattr(type(node), name, None), FunctionType) or name.startswith("as_")
        for name in vars(node)
    )


def _refuse(node: Any) -> NoReturn:
    raise UsageError(
        f"A {type(node).__name__} with what it holds may carry SQL text, which reports never take: "
        "use Django's own functions, aggregates and lookups, without template=, function= or "
        "extra(), or write this query with a queryset."
    )
