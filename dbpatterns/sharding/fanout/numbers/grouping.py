"""Groups whose rows lie on several shards: taken apart, asked for, and merged.

Each shard is asked for its own groups, with the parts of each aggregate; HAVING, ORDER BY and
LIMIT are left out, since they are about the whole of a group. One round trip; another for each
aggregate whose unlike values have to be shipped. All groups are held in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db import models
from django.db.models.expressions import Expression, Ref, Subquery
from django.db.models.sql import Query
from django.db.models.sql.where import AND, WhereNode

from dbpatterns.sharding.errors import TooManyToMerge
from dbpatterns.sharding.fanout.numbers.aggregates import Split, Unlike, refuse_unlike, split
from dbpatterns.sharding.fanout.numbers.formulas import Known
from dbpatterns.sharding.fanout.numbers.reach import Reach, Rows
from dbpatterns.sharding.fanout.numbers.sums import same
from dbpatterns.sharding.fanout.refusals import refused

__all__ = ["Grouping"]


class Grouping:
    """The groups of one query.

    `keys` are what it groups by, None for the one group of all rows. `over` takes expressions in;
    then `merged` asks the shards.
    """

    def __init__(self, query: Query, compiler: Any, where: Any, keys: Sequence[Any] | None) -> None:
        self._query, self._compiler = query, compiler
        self._where = WhereNode() if where is None else where
        self._is_whole = keys is None
        self._keys: dict[Any, tuple[Any, Known]] = {}
        self._splits: list[Split] = []
        self._taken: dict[Any, Any] = {}
        self._width = 0
        for each in keys or ():
            key = _bare(each)
            mark = self._mark(key)
            if mark not in self._keys:
                assert query.model is not None
                refuse_unlike(key, query.model)
                self._keys[mark] = key, self._known(key.output_field)

    def over(self, expression: Any) -> Any:
        """Return an expression of the query as one over what is known of the merged groups.

        Raises: UsageError: a part of it does not add up.
        """
        if isinstance(expression, Ref):
            return self.over(*expression.get_source_expressions())
        if isinstance(expression, models.Aggregate):
            return self._aggregate(expression)
        if isinstance(expression, (Subquery, Query)):
            raise refused(
                self._model,
                "compare merged groups by an inner query",
                "Ask it first, and give its answer as a value.",
            )
        if isinstance(expression, Expression) and self._keys:
            found = self._keys.get(self._mark(expression))
            if found is not None:
                return found[1]
        parts: list[Any] = getattr(expression, "get_source_expressions", list)()
        if not parts:
            return expression
        copied = expression.copy()
        copied.set_source_expressions([each and self.over(each) for each in parts])
        return copied

    def merged(self, reach: Reach) -> list[Sequence[Any]]:
        """Return what is known of each group; asks the shards.

        Raises: TooManyToMerge.
        """
        parts = reach.answers(self._parts(reach.max_rows)) if self._asks_parts else {}
        unlike = [
            {} if each.unlike is None else reach.answers(self._unlike(each.unlike, reach.max_rows))
            for each in self._splits
        ]
        for missing in reach.missing:  # of one that was lost on the way nothing is counted
            for answers in (parts, *unlike):
                answers.pop(missing, None)
        width = len(self._keys)
        groups: dict[Any, tuple[Any, list[Any]]] = {(): ((), [])} if self._is_whole else {}
        for rows in parts.values():
            for row in rows:
                _, found = groups.setdefault(_marks(row[:width]), (row[:width], []))
                found.append(row[width:])
            if len(groups) > reach.max_rows:
                raise TooManyToMerge(self._label, reach.max_rows, what="groups")
        shipped = [self._shipped(each.values(), reach.max_rows) for each in unlike]
        return [
            (*key, *self._values(mark, answers, shipped)) for mark, (key, answers) in groups.items()
        ]

    @property
    def _asks_parts(self) -> bool:
        """Whether there is a column to ask for: not where all is computed from unlike values."""
        return bool(self._keys) or any(each.asked for each in self._splits)

    @property
    def _model(self) -> Any:
        return self._query.model

    @property
    def _label(self) -> str:
        label: str = self._model._meta.label
        return label

    def _mark(self, expression: Any) -> Any:
        try:
            sql, params = self._compiler.compile(expression)
        except (EmptyResultSet, FullResultSet):
            return id(expression)
        return sql, tuple(map(repr, params))

    def _known(self, field: Any) -> Known:
        self._width += 1
        return Known(self._width - 1, field)

    def _aggregate(self, aggregate: Any) -> Any:
        found = split(aggregate, self._query, self._compiler.connection.vendor)
        mark = self._mark(aggregate)
        if mark not in self._taken:
            self._splits.append(found)
            columns = [self._known(field) for field in found.fields]
            self._taken[mark] = found.finish(*columns) if found.finish else columns[0]
        return self._taken[mark]

    def _parts(self, max_rows: int) -> Any:
        asked = [part for each in self._splits for part in each.asked]
        query = self._asking([*(key for key, _ in self._keys.values()), *asked])
        if not self._is_whole:
            query.group_by = tuple(key for key, _ in self._keys.values())
            query.set_limits(high=max_rows + 1)
        return query

    def _unlike(self, unlike: Unlike, max_rows: int) -> Any:
        query = self._asking([*(key for key, _ in self._keys.values()), unlike.source])
        if unlike.condition is not None:
            query.where.add(unlike.condition, AND)
        query.distinct = True
        query.set_limits(high=max_rows + 1)
        return query

    def _shipped(self, answers: Iterable[Rows], max_rows: int) -> dict[Any, Any]:
        """Return the unlike values of each group."""
        found: dict[Any, dict[Any, Any]] = {}
        count = 0
        for rows in answers:
            for *key, value in rows:
                if value is not None:
                    values = found.setdefault(_marks(key), {})
                    count += same(value) not in values
                    values[same(value)] = value
            if count > max_rows:
                raise TooManyToMerge(self._label, max_rows, what="distinct values")
        return {key: list(values.values()) for key, values in found.items()}

    def _asking(self, columns: Sequence[Any]) -> Any:
        query: Any = self._query.clone()
        query.where = self._where.clone()
        query.clear_ordering(force=True)
        query.clear_limits()
        query.distinct = query.select_related = query.default_cols = False
        query.select = query.values_select = ()
        query.selected = None
        query.annotations = {f"c{index}": each for index, each in enumerate(columns)}
        query.set_annotation_mask(None)
        query.group_by = None
        return query

    def _values(self, mark: Any, answers: list[Any], shipped: list[Any]) -> Iterator[Any]:
        start = 0
        for each, values in zip(self._splits, shipped, strict=True):
            if each.unlike is not None:
                yield from each.merge([each.unlike.answer(values.get(mark, ()))])
                continue
            end = start + len(each.asked)
            yield from each.merge([answer[start:end] for answer in answers])
            start = end


def _marks(key: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(map(same, key))


def _bare(expression: Any) -> Any:
    """Return an expression without references to the columns of its query."""
    if isinstance(expression, Ref):
        return _bare(*expression.get_source_expressions())
    parts: list[Any] = getattr(expression, "get_source_expressions", list)()
    if not any(parts):
        return expression
    copied = expression.copy()
    copied.set_source_expressions([each and _bare(each) for each in parts])
    return copied
