"""Conditions and orders over objects in memory, answered exactly as the database would.

    matches(Q(rating__gt=3) & ~Q(writer__name="Ada"), article, profile=profile_of("default"))
    ordered(articles, ["-rating", "pk"], profile=SQLITE)

# Note [Django rewrites, we interpret]
A `Q` is not what the database is asked. Django turns `None` into IS NULL, prepares values by their
fields, drops `None` from IN lists, adds IS NOT NULL inside a negation, makes XOR of sums, and picks
inner or outer joins. Imitating that would drift with each release, so Django does it: the `Q` goes
into a `Query`, no SQL is made, and its tree of lookups over columns is run on the object. What
comes out that has no rules here raises UnsupportedInMemory; nothing is ignored or guessed.

Comparisons know three answers, so "unknown" stays None until the root, where it is no match.
Relations are read from what is loaded on the object: evaluating never queries.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from django.core.exceptions import FieldError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import F, ForeignKey, Model, Q, Transform, Value
from django.db.models.expressions import Col, CombinedExpression, ExpressionList, OrderBy
from django.db.models.lookups import Lookup, YearLookup
from django.db.models.sql import Query
from django.db.models.sql.constants import INNER
from django.db.models.sql.where import XOR, WhereNode

from dbpatterns.repositories.columns import (
    BAD_VALUE,
    POSTGRESQL,
    SQLITE,
    TYPES,
    Column,
    Profile,
    Read,
)
from dbpatterns.repositories.errors import InvalidValue, UnsupportedInMemory
from dbpatterns.repositories.lookups import Operand, Truth, combined, extracted, truth
from dbpatterns.repositories.paths import lookup_path

__all__ = [
    "POSTGRESQL",
    "SQLITE",
    "Profile",
    "compile_order",
    "compile_q",
    "compile_truth",
    "matches",
    "ordered",
    "profile_of",
]

M = TypeVar("M", bound=Model)

_REFUSED_BY_DJANGO = (FieldError, *BAD_VALUE)
_PROFILES = {profile.vendor: profile for profile in (POSTGRESQL, SQLITE)}


def profile_of(using: str | None) -> Profile:
    """Return the rules of a database's backend, of the default one for None; no query.

    Raises: UnsupportedInMemory: a vendor whose rules are not known here.
    """
    connection = connections[using or DEFAULT_DB_ALIAS]
    profile = _PROFILES.get(connection.vendor)
    if profile is None:
        raise UnsupportedInMemory(
            f"The rules of {connection.display_name} are not known in memory, only those of "
            f"{' and '.join(_PROFILES)}: ask the database {connection.alias!r}."
        )
    return profile if connection.timezone_name == "UTC" else replace(profile, is_utc=False)


def matches(q: Q, obj: Model, *, profile: Profile) -> bool:
    """Tell whether a row with the object's values would be found; no query.

    About 0.1 ms, nearly all of it Django's rewriting: for many objects use `compile_q`.
    Raises: as `compile_q`, and UnsupportedInMemory: a relation or column is not loaded.
    """
    return compile_q(type(obj), q, profile=profile)(obj)


def compile_q(model: type[M], q: Q, *, profile: Profile) -> Callable[[M], bool]:
    """Return what tells whether an object matches, for scans; about a microsecond an object.

    Time zone-dependent lookups use the zone that is current now, as a queryset does.
    Raises: UnknownField; InvalidValue; UnsupportedInMemory: see Note [Django rewrites, we
    interpret].
    """
    for name, value in _leaves(model, q):
        _check_leaf(model, name, value)
    query = _built(model, q)
    rows = _Rows(query, profile)
    condition = _node(query.where, rows)
    required = rows.required()

    def answer(obj: M) -> bool:
        return all(row(obj) is not None for row in required) and condition(obj) is True

    return answer


def compile_truth(model: type[M], q: Q, *, profile: Profile) -> Callable[[M], bool | None]:
    """Return what answers a condition on a row's own columns, None for unknown.

    A CHECK constraint asks so: it refuses what is false and lets the unknown pass.
    Raises: as `compile_q`.
    """
    for name, value in _leaves(model, q):
        _check_leaf(model, name, value)
    query = _built(model, q)
    return _node(query.where, _Rows(query, profile))


def ordered(
    objs: Iterable[M], order_by: Sequence[str | F | OrderBy], *, profile: Profile
) -> list[M]:
    """Return the objects, all of one model, in the order that the database would give.

    Ties keep the order given. Raises: as `compile_order`.
    """
    rows = list(objs)
    return compile_order(type(rows[0]), order_by, profile=profile)(rows) if rows else []


def compile_order(
    model: type[M], order_by: Sequence[str | F | OrderBy], *, profile: Profile
) -> Callable[[Iterable[M]], list[M]]:
    """Return what sorts objects; one stable sort for each term. `Meta.ordering` is not added.

    Raises: UnknownField; UnsupportedInMemory: random, an expression, a relation of many, or one
    whose model has an ordering of its own.
    """
    rows = _Rows(Query(model), profile)
    sorts = [_sort(model, each, rows) for each in reversed(order_by)]

    def sort(objs: Iterable[M]) -> list[M]:
        result = list(objs)
        for key, is_descending in sorts:
            result.sort(key=key, reverse=is_descending)
        return result

    return sort


# Reading a Q


def _leaves(model: type[Model], q: Q) -> Iterator[tuple[str, Any]]:
    for child in q.children:
        if isinstance(child, Q):
            yield from _leaves(model, child)
        elif isinstance(child, tuple):
            yield child
        else:
            kind = type(child).__name__  # its repr could run a query
            raise _unsupported(model, kind, "it is an expression of its own")


def _check_leaf(model: type[Model], name: str, value: Any) -> None:
    _check_path(model, name)
    for each in value if isinstance(value, list | tuple | set | frozenset) else (value,):
        for reference in _references(model, name, each):
            _check_path(model, reference)


def _check_path(model: type[Model], name: str) -> None:
    path, _ = lookup_path(model, name)
    if path.is_many:
        raise _unsupported(model, name, "one row leads to many there")


def _references(model: type[Model], name: str, value: Any) -> Iterator[str]:
    """Yield the paths that F() names in a value; refuse expressions that are not known here."""
    if type(value) is F:
        yield value.name  # type: ignore[attr-defined]  # the stubs lack it
    elif type(value) is CombinedExpression:
        yield from _references(model, name, value.lhs)
        yield from _references(model, name, value.rhs)
    elif hasattr(value, "resolve_expression") and type(value) is not Value:
        raise _unsupported(model, name, f"it is compared with a {type(value).__name__}")


def _built(model: type[Model], q: Q) -> Query:
    try:
        return _query(model, q)
    except _REFUSED_BY_DJANGO:
        leaves = list(_leaves(model, q))
        cause, (name, value) = next(filter(None, (_refusal(model, each) for each in leaves)))
    label = model._meta.label
    sentence = " ".join(getattr(cause, "messages", [str(cause)]))
    raise InvalidValue(
        f"{label}: {name} cannot be compared with {value!r}. {sentence}", model=label, field=name
    ) from cause


def _query(model: type[Model], q: Q) -> Query:
    query = Query(model)
    query.add_q(Q(q))
    return query


def _refusal(model: type[Model], leaf: tuple[str, Any]) -> tuple[Exception, tuple[str, Any]] | None:
    try:
        _query(model, Q(leaf))
    except _REFUSED_BY_DJANGO as error:
        return error, leaf
    return None


def _unsupported(model: type[Model], path: str, reason: str) -> UnsupportedInMemory:
    return UnsupportedInMemory(
        f"{path!r} on {model._meta.label} cannot be evaluated in memory: {reason}. "
        "Ask the database."
    )


# Running Django's tree


class _Rows:
    """The columns and joined rows of one query, found from an object of its model."""

    def __init__(self, query: Query, profile: Profile) -> None:
        self.query, self.profile = query, profile
        self.model: type[Model] = query.get_meta().model

    def required(self) -> list[Read]:
        """Return the rows that inner joins ask for: without them there is no match."""
        joins = self.query.alias_map.items()
        inner = [alias for alias, join in joins if join.join_type == INNER]
        return [self._row(each) for each in inner if self.query.alias_refcount[each]]

    def operand(self, expression: Any) -> Operand:
        """Return what reads an expression.

        Raises: UnsupportedInMemory: it is more than columns, constants and plain arithmetic.
        """
        if isinstance(expression, Col):
            name = "__".join([*self._names(expression.alias), expression.target.name])
            column = self._column(expression.target, name)
            return Operand(column, column.reader(self._row_or_none(expression.alias)))
        if isinstance(expression, Transform):
            return extracted(expression, self.operand(expression.lhs))
        if isinstance(expression, CombinedExpression):
            left, right = self.operand(expression.lhs), self.operand(expression.rhs)
            return combined(expression.connector, left, right)
        if type(expression) is Value:
            return self._constant(expression)
        raise _unsupported(self.model, type(expression).__name__, "only the server computes it")

    def _constant(self, expression: Value) -> Operand:
        try:
            column = self._column(expression.output_field, repr(expression))
        except FieldError as error:
            raise _unsupported(self.model, repr(expression), "it has no output_field") from error
        if expression.value is not None and type(expression.value) is not TYPES[column.kind]:
            raise column.unsupported(f"it is cast to {column.kind} by the server")
        value = column.comparable(expression.value)
        return Operand(column, lambda obj: value, is_computed=True)

    def _column(self, field: Any, name: str) -> Column:
        return Column(field, self.profile, name=name, model=self.model._meta.label)

    def _names(self, alias: str | None) -> list[str]:
        join: Any = self.query.alias_map[alias] if alias else None
        if join is None or join.parent_alias is None:
            return []
        return [*self._names(join.parent_alias), join.join_field.name]

    def _row_or_none(self, alias: str | None) -> Read | None:
        is_own = alias is None or self.query.alias_map[alias].parent_alias is None
        return None if is_own else self._row(alias)

    def _row(self, alias: Any) -> Read:
        join: Any = self.query.alias_map[alias]
        if join.parent_alias is None:
            return lambda obj: obj
        parent, field = self._row(join.parent_alias), join.join_field
        path = "__".join(self._names(alias))
        if not isinstance(field, ForeignKey):
            raise _unsupported(self.model, path, "it is no forward relation")
        if field.remote_field.parent_link:  # a child object holds its parent's columns
            return parent
        key = self._column(field, path).reader()

        def row(obj: Model) -> Any:
            holder = parent(obj)
            if holder is None or key(holder) is None:
                return None
            related = field.get_cached_value(holder, default=None)
            if related is None:
                raise _unsupported(self.model, path, "the relation is not loaded on the object")
            return related

        return row


def _node(node: Any, rows: _Rows) -> Truth:
    if not isinstance(node, WhereNode):
        return _lookup(node, rows)
    children = [_node(each, rows) for each in node.children]
    if not children:
        return lambda obj: True  # as Django: an empty condition is no condition, negated or not
    joined = _CONNECTORS[node.connector](children)
    return _negated(joined) if node.negated else joined


def _lookup(lookup: "Lookup[Any]", rows: _Rows) -> Truth:
    is_list = isinstance(lookup.rhs, ExpressionList)  # `truth` refuses it by name
    is_expression = hasattr(lookup.rhs, "as_sql") and not is_list
    right = rows.operand(lookup.rhs) if is_expression else None
    left = lookup.lhs.lhs if isinstance(lookup, YearLookup) else lookup.lhs
    return truth(lookup, rows.operand(left), right)


def _negated(condition: Truth) -> Truth:
    def answer(obj: Model) -> bool | None:
        found = condition(obj)
        return None if found is None else not found

    return answer


def _every(conditions: list[Truth]) -> Truth:
    if len(conditions) == 1:
        return conditions[0]

    def answer(obj: Model) -> bool | None:
        result: bool | None = True
        for condition in conditions:
            found = condition(obj)
            if found is False:
                return False
            if found is None:
                result = None
        return result

    return answer


def _any(conditions: list[Truth]) -> Truth:
    def answer(obj: Model) -> bool | None:
        result: bool | None = False
        for condition in conditions:
            found = condition(obj)
            if found:
                return True
            if found is None:
                result = None
        return result

    return answer


def _odd(conditions: list[Truth]) -> Truth:
    # Neither backend has XOR: Django counts the true ones, and unknown counts as false.
    return lambda obj: sum(condition(obj) is True for condition in conditions) % 2 == 1


_CONNECTORS: dict[str, Callable[[list[Truth]], Truth]] = {
    WhereNode.default: _every,
    "OR": _any,
    XOR: _odd,
}


# Ordering


def _sort(
    model: type[Model], term: str | F | OrderBy, rows: _Rows
) -> tuple[Callable[[Model], Any], bool]:
    if isinstance(term, str):
        name = term.removeprefix("-")
        _check_no_ordering(model, name)
        term = OrderBy(F(name), descending=term.startswith("-"))
    elif isinstance(term, F):
        term = OrderBy(term)
    expression: Any = term.expression
    if type(expression) is not F or expression.name == "?":  # type: ignore[attr-defined]
        raise _unsupported(model, str(term), "an order names columns")
    _check_path(model, expression.name)  # type: ignore[attr-defined]
    try:
        resolved = expression.resolve_expression(rows.query)
    except FieldError as error:
        raise _unsupported(model, str(term), str(error)) from error
    read = rows.operand(resolved).read
    is_descending = bool(term.descending)
    are_last = term.nulls_last or (
        not term.nulls_first and rows.profile.nulls_largest != is_descending
    )
    null = (1 if bool(are_last) != is_descending else -1, None)

    def key(obj: Model) -> Any:
        value = read(obj)
        return null if value is None else (0, value)

    return key, is_descending


def _check_no_ordering(model: type[Model], name: str) -> None:
    """Refuse a relation whose model has an ordering: Django would order by that instead."""
    if name == "?":
        raise _unsupported(model, name, "the order is random")
    path, rest = lookup_path(model, name)
    target = path.target
    is_whole = not rest and target.is_relation and name != "pk"
    is_column = name.rpartition("__")[2] == getattr(target, "attname", None)
    if is_whole and not is_column and target.related_model and target.related_model._meta.ordering:
        raise _unsupported(model, name, "its model has an ordering; name a column of it")
