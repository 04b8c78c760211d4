"""The last step, on one shard: what is computed from merged numbers, and HAVING.

Databases differ in how they divide, round, compare and convert, and Python from them all. So the
merged groups are sent back to a shard as a table of values, and it computes, without reading any
table of its own. One round trip for each thousand of groups, and none where nothing is to compute.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db import connections, models

from dbpatterns.sharding.fanout.numbers.formulas import Known
from dbpatterns.sharding.fanout.numbers.reach import Reach
from dbpatterns.sharding.fanout.statements import Statement
from dbpatterns.sharding.keys import end_field

__all__ = ["finished"]

CHUNK_ROWS = 1000
TYPES = {bool: "boolean", int: "bigint", float: "double precision", Decimal: "numeric"}
"""What a value is on PostgreSQL, whatever its field: a sum outgrows the integers it is made of."""

Row = Sequence[Any]


def finished(
    groups: Sequence[Row], wanted: Sequence[Any], having: Any, query: Any, reach: Reach
) -> Iterator[Row]:
    """Yield the wanted expressions of each group that meets HAVING, as a database computes them."""
    direct = {at: each.index for at, each in enumerate(wanted) if isinstance(each, Known)}
    if having is None and len(direct) == len(wanted):
        for row in groups:
            yield tuple([row[index] for index in direct.values()])
        return
    alias = reach.home
    computed = [each for at, each in enumerate(wanted) if at not in direct]
    try:
        formula = _Formula(computed, having, query.get_compiler(connection=connections[alias]))
    except EmptyResultSet:  # HAVING that nothing can meet
        return
    for start in range(0, len(groups), formula.size):
        some = groups[start : start + formula.size]
        (answers,) = reach.read([_Computing(formula, some, alias)])
        for at, *values in answers:
            rest = iter(values)
            yield tuple(
                [
                    some[at][direct[index]] if index in direct else next(rest)
                    for index in range(len(wanted))
                ]
            )


class _Formula:
    """What is computed, as SQL over the columns that it needs."""

    def __init__(self, computed: Sequence[Any], having: Any, compiler: Any) -> None:
        selected, params = ["known.at"], list[Any]()
        for each in computed:
            sql, values = each.select_format(compiler, *compiler.compile(each))
            selected.append(sql)
            params += values
        self.select, self.where = ", ".join(selected), ""
        if having is not None:
            try:
                sql, values = compiler.compile(having)
            except FullResultSet:
                pass
            else:
                self.where = f" WHERE {sql}"
        self.before, self.after = tuple(params), tuple(values) if self.where else ()
        columns = {each.index: each for part in (*computed, having) for each in _known(part)}
        self.columns = [columns[index] for index in sorted(columns)]
        most = compiler.connection.features.max_query_params or 65_535
        free = most - len(self.before) - len(self.after)
        self.size = max(1, min(CHUNK_ROWS, free // max(1, len(self.columns))))


class _Computing(Statement):
    """A formula over some groups, as a shard's statement."""

    def __init__(self, formula: _Formula, groups: Sequence[Row], alias: str) -> None:
        self.alias, self.connection, self.is_empty = alias, connections[alias], False
        values = [[row[each.index] for each in formula.columns] for row in groups]
        names = ["column1 AS at"]
        for position, each in enumerate(formula.columns):
            column = f"column{position + 2}"
            if self.connection.vendor == "postgresql":
                column = f"CAST({column} AS {self._type(each, [row[position] for row in values])})"
            names.append(f"{column} AS c{each.index}")
        table = ", ".join(
            f"({', '.join([str(at), *['%s'] * len(row)])})" for at, row in enumerate(values)
        )
        self.sql = (
            f"SELECT {formula.select} FROM (SELECT {', '.join(names)} FROM (VALUES {table})"
            f" AS given) AS known{formula.where}"
        )
        sent = [value for row in values for value in row]
        self.params = (*formula.before, *sent, *formula.after)

    def _type(self, column: Known, values: Sequence[Any]) -> str:
        sample = next((each for each in values if each is not None), None)
        field = end_field(column.output_field)
        if sample is None and isinstance(field, models.DecimalField):
            return "numeric"
        found: str = TYPES.get(type(sample)) or field.cast_db_type(self.connection)
        return found


def _known(expression: Any) -> Iterator[Known]:
    if isinstance(expression, Known):
        yield expression
    for each in getattr(expression, "get_source_expressions", list)():
        if each is not None:
            yield from _known(each)
