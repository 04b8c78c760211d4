"""What a statement asks of each of its tables: what an index of it would have to offer.

Parsing is sqlglot's; a statement it cannot read is left out, never guessed at.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dbpatterns.errors import ConfigurationError
from dbpatterns.statements import Statement

__all__ = ["Access", "Condition", "Key", "accesses", "numbered"]

_PLACEHOLDER = re.compile(r"'(?:[^']|'')*'|%%|%s")
_PREFIX = re.compile(r"^[^%_\\]")


@dataclass(frozen=True, slots=True)
class Key:
    """A column, or UPPER or LOWER of it, and how the statement sorts by it."""

    column: str
    function: str = ""
    is_descending: bool = False
    nulls_first: bool | None = None
    """None where the statement leaves NULLs to the backend."""

    def unsorted(self) -> "Key":
        """Return the key without its direction."""
        return Key(self.column, self.function)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a partial index may be limited to: a constant, or NULL or not."""

    column: str
    value: str | int | bool | None
    """None is NULL."""
    is_negated: bool = False
    """`IS NOT NULL`; with a value, never."""

    def as_sql(self, quote: Any) -> tuple[str, list[Any]]:
        """Return it as SQL with its parameters; `quote` quotes a name."""
        column = quote(self.column)
        if self.value is None:
            return f"{column} IS {'NOT ' if self.is_negated else ''}NULL", []
        if isinstance(self.value, bool):
            return column if self.value else f"NOT {column}", []
        return f"{column} = %s", [self.value]


@dataclass(frozen=True, slots=True)
class Access:
    """How one statement reads one table."""

    table: str
    equals: frozenset[Key] = frozenset()
    ranges: frozenset[Key] = frozenset()
    prefixes: frozenset[Key] = frozenset()
    """`LIKE 'x%'`."""
    patterns: frozenset[Key] = frozenset()
    """`LIKE '%x%'`, or a pattern that is not known."""
    conditions: frozenset[Condition] = frozenset()
    order: tuple[Key, ...] = ()
    columns: frozenset[str] | None = frozenset()
    """All that the statement needs of the table; None for `*`."""
    is_alone: bool = True
    """The statement reads no other table, and this one once."""

    def is_selective(self) -> bool:
        """Tell whether an index could help at all."""
        return bool(
            self.equals
            or self.ranges
            or self.prefixes
            or self.patterns
            or self.conditions
            or self.order
        )


def accesses(statement: Statement) -> list[Access] | None:
    """Return what a statement asks of each table; None where it is not one that can be read.

    Raises: ConfigurationError: sqlglot is not installed.
    """
    sqlglot = _sqlglot()
    if ";" in statement.sql:
        return None  # it is going to be explained, and what stands behind would be run
    try:
        tree = sqlglot.parse_one(numbered(statement), read="postgres")
        return list(_Reader(sqlglot, statement.params).read(tree))
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None


def numbered(statement: Statement) -> str:
    """Return the SQL with `$1`, `$2`, … for its placeholders."""
    count = 0
    has_values = statement.params is not None

    def number(match: re.Match[str]) -> str:
        nonlocal count
        if match[0] == "%%":
            return "%" if has_values else "%%"
        if match[0] != "%s":
            return match[0].replace("%%", "%") if has_values else match[0]
        count += 1
        return f"${count}"

    return _PLACEHOLDER.sub(number, statement.sql)


def _sqlglot() -> Any:
    try:
        import sqlglot
        import sqlglot.optimizer.scope
    except ImportError as error:
        raise ConfigurationError(
            "The index advisor reads SQL with sqlglot, which is not installed: "
            'pip install "django-dbpatterns[advisor]".'
        ) from error
    return sqlglot


class _Reader:
    """Walks one statement's tree."""

    def __init__(self, sqlglot: Any, params: tuple[Any, ...] | None) -> None:
        self.sqlglot, self.exp, self.params = sqlglot, sqlglot.exp, params

    def read(self, tree: Any) -> Iterator[Access]:
        exp = self.exp
        tree = tree.transform(self._bound)
        if isinstance(tree, exp.Update | exp.Delete) and tree.args.get("where"):
            tree = exp.select("1").from_(tree.this).where(tree.args["where"].this)
        if not isinstance(tree, exp.Query):
            return
        used = [each.name for each in tree.find_all(exp.Table)]
        for scope in self.sqlglot.optimizer.scope.traverse_scope(tree):
            if not isinstance(scope.expression, exp.Select):
                continue
            tables = {
                alias: source.name
                for alias, source in scope.sources.items()
                if isinstance(source, exp.Table)
            }
            for alias, table in tables.items():
                access = self._access(scope.expression, alias, table, is_only=len(tables) == 1)
                yield replace(access, is_alone=len(used) == 1)

    def _bound(self, node: Any) -> Any:
        exp = self.exp
        if not isinstance(node, exp.Parameter) or not self.params:
            return node
        place = int(node.name) - 1
        value = self.params[place] if node.name.isdecimal() and place < len(self.params) else node
        if isinstance(value, bool | str | int):
            return exp.convert(value)
        return node

    def _access(self, select: Any, alias: str, table: str, *, is_only: bool) -> Access:
        exp = self.exp
        found = _Found(exp, lambda each: each.table == alias or (is_only and not each.table))
        if where := select.args.get("where"):
            found.add(where.this)
        for join in select.args.get("joins") or ():
            if on := join.args.get("on"):
                found.add(on)
        order: list[Key] = []
        if select.args.get("order") and not select.args.get("group"):
            terms = [(found.key(each.this), each) for each in select.args["order"].expressions]
            order = [_sorted(key, each) for key, each in terms if key]
            if len(order) < len(terms):
                order = []  # sorted by another table too: no index has that order
        columns = {each.name for each in select.find_all(exp.Column) if found.is_mine(each)}
        return Access(
            table,
            frozenset(found.equals),
            frozenset(found.ranges),
            frozenset(found.prefixes),
            frozenset(found.patterns),
            frozenset(found.conditions),
            tuple(order),
            None if select.is_star else frozenset(columns),
        )


class _Found:
    """What the AND-ed terms of a WHERE or ON say about one table."""

    def __init__(self, exp: Any, is_mine: Callable[[Any], bool]) -> None:
        self.exp, self.is_mine = exp, is_mine
        self.equals: set[Key] = set()
        self.ranges: set[Key] = set()
        self.prefixes: set[Key] = set()
        self.patterns: set[Key] = set()
        self.conditions: set[Condition] = set()

    def add(self, node: Any) -> None:
        """Note one term; an OR, and what no index could serve, says nothing."""
        exp = self.exp
        node = node.unnest()
        if isinstance(node, exp.And):
            self.add(node.this)
            self.add(node.expression)
        elif isinstance(node, exp.Escape):
            self.add(node.this)
        elif isinstance(node, exp.EQ):
            self._equal(node.this, node.expression)
            self._equal(node.expression, node.this)
        elif isinstance(node, exp.Column):
            self._constant(node, True)
        elif isinstance(node, exp.In):
            self._in(node)
        elif isinstance(node, exp.Is | exp.Not):
            self._null_or_not(node)
        elif isinstance(node, exp.Between):
            self._range(node.this, node.args["low"])
        elif isinstance(node, exp.GT | exp.GTE | exp.LT | exp.LTE):
            self._range(node.this, node.expression)
            self._range(node.expression, node.this)
        elif isinstance(node, exp.Like | exp.ILike):
            self._like(node)

    def key(self, node: Any) -> Key | None:
        """Return the column, or the UPPER or LOWER of one, that a node is."""
        exp, node = self.exp, node.unnest()
        function = {exp.Upper: "UPPER", exp.Lower: "LOWER"}.get(type(node), "")
        if function:
            node = node.this.unnest()
            if isinstance(node, exp.Cast):
                node = node.this.unnest()
        if isinstance(node, exp.Column) and self.is_mine(node):
            return Key(node.name, function)
        return None

    def _is_free(self, node: Any) -> bool:
        return not any(self.is_mine(each) for each in node.find_all(self.exp.Column))

    def _equal(self, left: Any, right: Any) -> None:
        key = self.key(left)
        if key is None or not self._is_free(right):
            return
        right = right.unnest()
        if isinstance(right, self.exp.Literal | self.exp.Boolean) and not key.function:
            self._constant(left.unnest(), right.to_py())
        else:
            self.equals.add(key)

    def _constant(self, column: Any, value: Any) -> None:
        if self.is_mine(column):
            self.equals.add(Key(column.name))
            if isinstance(value, bool | int | str):  # a float is no constant to build on
                self.conditions.add(Condition(column.name, value))

    def _null_or_not(self, node: Any) -> None:
        exp, is_negated = self.exp, isinstance(node, self.exp.Not)
        if is_negated:
            node = node.this.unnest()
        if isinstance(node, exp.Column):
            self._constant(node, False)
        elif isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            is_negated ^= bool(node.args.get("negate"))
            key = self.key(node.this)
            if key and not key.function:
                self.conditions.add(Condition(key.column, None, is_negated))
                if not is_negated:
                    self.equals.add(key)

    def _in(self, node: Any) -> None:
        key = self.key(node.this)
        values = [*node.expressions, *filter(None, [node.args.get("query")])]
        if key and all(map(self._is_free, values)):
            self.equals.add(key)

    def _range(self, left: Any, right: Any) -> None:
        left = left.unnest()
        sides = left.expressions if isinstance(left, self.exp.Tuple) else [left]
        key = self.key(sides[0])
        if key and self._is_free(right):
            self.ranges.add(key)  # a row comparison is a range of its first column

    def _like(self, node: Any) -> None:
        exp, left = self.exp, node.this.unnest()
        if isinstance(left, exp.Cast):
            left = left.this
        key = self.key(left)
        if key is None or not self._is_free(node.expression):
            return
        literal = node.expression.find(exp.Literal, exp.Parameter)
        is_known = isinstance(node, exp.Like) and isinstance(literal, exp.Literal)
        is_prefix = is_known and _PREFIX.match(literal.name)
        (self.prefixes if is_prefix else self.patterns).add(key)


def _sorted(key: Key, ordered: Any) -> Key:
    is_descending, nulls_first = bool(ordered.args.get("desc")), ordered.args.get("nulls_first")
    # As PostgreSQL has it: NULLs are the largest.
    return replace(
        key,
        is_descending=is_descending,
        nulls_first=None if bool(nulls_first) == is_descending else bool(nulls_first),
    )
