"""Reports: select, join, where, having, order and limit over Django expressions, never SQL text.

    @dataclass(frozen=True)
    class Productivity:
        writer: str
        articles: int

    report = (
        Report(Article)
        .join("writer")
        .where(is_live=True)
        .select(writer_name="writer__name", articles=Count("pk"))
        .having(Q(articles__gt=3))
        .order("-articles")
        .limit(10)
    )
    report.rows()  # [{"writer_name": "Eva", "articles": 7}, …]

What is selected and is no aggregate is grouped by. Relations are joined by name before they are
used, because a join to many rows multiplies what the other aggregates count; where that would
make a number wrong the report is refused. Each step returns a new, checked report and makes no
query; `rows` makes one.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar, overload

from django.core.exceptions import FieldError, ValidationError
from django.db import connections
from django.db.models import Aggregate, Count, F, Max, Min, Model, Q, QuerySet, Value
from django.db.models.constants import LOOKUP_SEP
from django.db.models.expressions import OrderBy

from dbpatterns.errors import UsageError
from dbpatterns.repositories.conf import RepositoriesSettings
from dbpatterns.repositories.errors import TooManyRows, UnknownField
from dbpatterns.repositories.expressions import Read, reads
from dbpatterns.repositories.paths import FieldPath, field_path, lookup_path, suggestion
from dbpatterns.repositories.specifications import Spec

__all__ = ["Report"]

M = TypeVar("M", bound=Model)
T = TypeVar("T")

_NAME = re.compile(r"[a-z](_?[a-z0-9])*", re.IGNORECASE | re.ASCII)
_TOTAL = "_total"  # no name of a column, see _NAME


@dataclass(frozen=True, slots=True, eq=False)
class Report(Generic[M]):
    """A query on one model that is built step by step; immutable, so that steps can be shared."""

    model: type[M]
    using: str | None = field(default=None, kw_only=True)
    """The database; the router's choice when not given."""
    _joined: frozenset[str] = field(default=frozenset(), kw_only=True, repr=False)
    _where: Q = field(default_factory=Q, kw_only=True, repr=False)
    _selected: Mapping[str, Any] = field(default_factory=dict, kw_only=True, repr=False)
    _having: Q = field(default_factory=Q, kw_only=True, repr=False)
    _order: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
    _limit: int | None = field(default=None, kw_only=True, repr=False)

    def join(self, *relations: str) -> Self:
        """Allow paths through these relations and the ones on the way to them.

        A relation is joined once and only if a path uses it; rows without a related one stay,
        unless `where` asks something of it.
        Raises: UnknownField: with what was probably meant. UsageError: no relation.
        """
        joined = set(self._joined)
        for name in relations:
            path = field_path(self.model, name)
            if not path.target.is_relation:
                raise UsageError(f"{self}: {name!r} is a column; join names relations.")
            parts = name.split(LOOKUP_SEP)
            joined |= {LOOKUP_SEP.join(parts[: end + 1]) for end in range(len(parts))}
        return dataclasses.replace(self, _joined=frozenset(joined))

    def where(self, condition: "Q | Spec[M] | None" = None, /, **criteria: Any) -> Self:
        """Keep the rows that meet the condition, before they are grouped; joined by AND.

        A condition on a joined relation to many rows keeps the joined rows that meet it.
        """
        q = condition.to_q() if isinstance(condition, Spec) else condition or Q()
        added = _own(Q(q, *criteria.items()))  # pairs: `Q` takes some keywords as orders
        return dataclasses.replace(self, _where=self._where & added)

    def select(self, *columns: str, **named: Any) -> Self:
        """Add columns: paths, and by a name of your own paths, aggregates or other expressions.

        With an aggregate among them, the rest are what is grouped by; with aggregates only, the
        report is one row.
        """
        selected = dict(self._selected)
        for name in columns:
            if not isinstance(name, str):
                raise UsageError(f"{self}: give the expression {name!r} a name: select(name=…).")
            selected[name] = name
        for name, column in named.items():
            if not _NAME.fullmatch(name) or len(name) > 63:
                raise UsageError(
                    f"{self}: {name[:63]!r} cannot name a column: use at most 63 letters, digits "
                    "and single underscores."
                )
            if name in self._names_of_fields():
                raise UsageError(
                    f"{self}: {name!r} is a field of the model and cannot name another column: "
                    f"name it {name + '_value'!r}, for example."
                )
            if name in selected:
                raise UsageError(f"{self}: {name!r} is selected already.")
            selected[name] = _own(column)
        return dataclasses.replace(self, _selected=selected)

    def having(self, condition: Q) -> Self:
        """Keep the groups that meet the condition on the selected names; joined by AND."""
        return dataclasses.replace(self, _having=self._having & _own(condition))

    def order(self, *names: str) -> Self:
        """Order by selected names, `-` for descending; replaces an earlier order.

        NULLs come last in both directions on each database. What is left equal is ordered by the
        grouped columns, or by the key, so that a limit always cuts at the same row.
        """
        return dataclasses.replace(self, _order=names)

    def limit(self, rows: int) -> Self:
        """Return at most this many rows; needs an order."""
        if type(rows) is not int or rows < 1:
            raise UsageError(f"{self}: a limit is at least one row, not {rows!r}.")
        return dataclasses.replace(self, _limit=rows)

    @overload
    def rows(self) -> list[dict[str, Any]]: ...
    @overload
    def rows(self, *, into: type[T]) -> list[T]: ...
    def rows(self, *, into: type[Any] | None = None) -> list[Any]:
        """Return the rows as dicts in the order of `select`, or as dataclass objects; one query.

        Raises: TooManyRows: there is no limit and they are more than MAX_ROWS. UsageError:
            nothing is selected, a limit without an order, or `into` has other fields.
        """
        return self._shaped(list(self._bounded(into)), into)

    @overload
    async def arows(self) -> list[dict[str, Any]]: ...
    @overload
    async def arows(self, *, into: type[T]) -> list[T]: ...
    async def arows(self, *, into: type[Any] | None = None) -> list[Any]:
        """Return what `rows` returns."""
        return self._shaped([row async for row in self._bounded(into)], into)

    def explain(self, *, analyze: bool = False, format: str | None = None) -> str:
        """Return the database's plan for what `rows` would run.

        `analyze=True` runs the SELECT to measure it, with all its cost; PostgreSQL only.
        """
        plan: str = self._bounded(None).explain(format=format, **self._explained(analyze))
        return plan

    async def aexplain(self, *, analyze: bool = False, format: str | None = None) -> str:
        """Return what `explain` returns."""
        plan: str = await self._bounded(None).aexplain(format=format, **self._explained(analyze))
        return plan

    def __str__(self) -> str:
        return f"Report on {self.model._meta.label}"

    def __post_init__(self) -> None:
        """Refuse unknown names, SQL text and multiplied rows; then let Django resolve it."""
        where = self._many(reads(self._where), where=True)
        groups, aggregates = self._parts()
        self._refuse_multiplied(where, groups, aggregates)
        for each in list(reads(self._having)):
            if each.name.split(LOOKUP_SEP)[0] not in self._named():
                raise self._unknown("having", each.name, self._named())
        for name in self._order:
            if name.removeprefix("-") not in self._selected:
                raise self._unknown("order", name.removeprefix("-"), self._selected)
        try:
            self._queryset()
        except (FieldError, TypeError, ValueError, ValidationError) as error:
            raise UsageError(f"{self}: {error}") from error

    def _parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is grouped by and what is aggregated, by name; paths as `F`."""
        groups: dict[str, Any] = {}
        aggregates: dict[str, Any] = {}
        for name, column in self._selected.items():
            expression = F(column) if isinstance(column, str) else column
            self._many(reads(expression))
            if not hasattr(expression, "resolve_expression"):
                raise UsageError(
                    f"{self}: {name!r} is {type(column).__name__} and no path or expression: "
                    "wrap a constant in Value()."
                )
            (aggregates if _aggregates_in(expression) else groups)[name] = expression
        return groups, aggregates

    def _many(self, names: Iterable[Read], *, where: bool = False) -> set[str]:
        """Check paths; return the relations to many rows that they join."""
        many: set[str] = set()
        for read in names:
            if read.is_condition:
                path, _ = lookup_path(self.model, read.name)
            else:
                path = field_path(self.model, read.name)
            for relation, each in _relations(path):
                if relation not in self._joined:
                    raise UsageError(
                        f"{self}: {read.name!r} goes through {relation!r}, which is not joined: "
                        f"add .join({relation!r}) before it."
                    )
                if (each.one_to_many or each.many_to_many) and not (where and read.is_negated):
                    many.add(relation)
        return many

    def _refuse_multiplied(
        self, where: set[str], groups: Mapping[str, Any], aggregates: Mapping[str, Any]
    ) -> None:
        grouped = self._many(reads(list(groups.values())))
        if not aggregates:
            if self._selected and where - grouped:
                raise UsageError(
                    f"{self}: where joins {_listed(where - grouped)}, so a row comes back once "
                    "for each related one: select a column of it, or use where(pk__in=…)."
                )
            return
        joined = where | grouped | self._many(reads(list(aggregates.values())))
        for expression in groups.values():
            if type(expression) is F:
                for read in reads(expression):
                    joined -= _keyed(field_path(self.model, read.name))
        for name, expression in aggregates.items():
            for each in _aggregates_in(expression):
                if isinstance(each, Min | Max) or (each.distinct and isinstance(each, Count)):
                    continue  # the same rows again change nothing
                if others := joined - self._many(reads(each.source_expressions)):
                    raise UsageError(
                        f"{self}: {name!r} would be multiplied by the rows of {_listed(others)}. "
                        "Count with distinct=True, group by the key of that relation too, or "
                        "make two reports."
                    )

    def _queryset(self) -> QuerySet[M, dict[str, Any]]:
        groups, aggregates = self._parts()
        plain = [name for name in groups if name not in self._named()]
        named = {name: groups[name] for name in groups if name not in plain}
        if not groups:  # without a column Django would group by all of them
            named = {_TOTAL: Value(1)}
        rows = self.model._default_manager.using(self.using).filter(self._where)
        if rows.query.where.contains_aggregate:
            raise UsageError(f"{self}: where is about rows: ask for aggregates in .having(…).")
        ordered = [_ordering(name) for name in self._order]
        if self._order:
            chosen = {name.removeprefix("-") for name in self._order}
            ordered += [_ordering(name) for name in groups if name not in chosen]
            ordered += [] if aggregates else [_ordering("pk")]
        found: QuerySet[M, dict[str, Any]] = rows.order_by().values(*plain, **named)
        found = found.annotate(**aggregates).filter(self._having)
        return found.order_by(*ordered)

    def _bounded(self, into: type[Any] | None) -> QuerySet[M, dict[str, Any]]:
        if not self._selected:
            raise UsageError(f"{self}: nothing is selected: add .select(…).")
        if self._limit is not None and not self._order:
            raise UsageError(
                f"{self}: a limit without an order returns any rows: add .order(…) before it."
            )
        if into is not None:
            self._check_into(into)
        bound = self._limit or RepositoriesSettings.load().max_rows + 1
        return self._queryset()[:bound]

    def _check_into(self, into: Any) -> None:
        if not (isinstance(into, type) and dataclasses.is_dataclass(into)):
            raise UsageError(f"{self}: into= takes a dataclass, not {into!r}.")
        fields = {each.name: each for each in dataclasses.fields(into) if each.init}
        for name in self._selected:
            if name not in fields:
                raise self._unknown(into.__name__, name, fields)
        for name, each in fields.items():
            optional = each.default is not each.default_factory  # both are MISSING otherwise
            if name not in self._selected and not optional:
                raise UsageError(
                    f"{self}: {into.__name__} needs {name!r}, which is not selected."
                    f"{suggestion(name, self._selected)}"
                )

    def _shaped(self, found: list[dict[str, Any]], into: type[Any] | None) -> list[Any]:
        most = RepositoriesSettings.load().max_rows
        if self._limit is None and len(found) > most:
            raise TooManyRows(
                f"{self} has more than {most} rows (MAX_ROWS): add .order(…).limit(…)."
            )
        rows = ({name: row[name] for name in self._selected} for row in found)
        return [row if into is None else into(**row) for row in rows]

    def _explained(self, analyze: bool) -> dict[str, bool]:
        database = self._queryset().db
        if analyze and connections[database].vendor != "postgresql":
            raise UsageError(f"{self}: {database!r} cannot measure a plan: leave analyze=True out.")
        return {"analyze": True} if analyze else {}

    def _named(self) -> list[str]:
        return [name for name, column in self._selected.items() if name != column]

    def _names_of_fields(self) -> set[str]:
        fields = self.model._meta.get_fields()
        return {"pk", *(each.name for each in fields)} | {
            each.attname for each in self.model._meta.concrete_fields
        }

    def _unknown(self, step: str, name: str, known: Iterable[str]) -> UnknownField:
        return UnknownField(
            f"{self}: {step} has no {name!r}.{suggestion(name, known)} "
            f"Known: {', '.join(known) or 'nothing yet'}.",
            model=self.model._meta.label,
            field=name,
        )


def _own(node: T) -> T:
    """Copy what the caller may still change, once it is known to hold no SQL text."""
    list(reads(node))
    return deepcopy(node)


def _ordering(name: str) -> OrderBy:
    column = F(name.removeprefix("-"))
    if name.startswith("-"):
        return column.desc(nulls_last=True)
    return column.asc(nulls_last=True)


def _aggregates_in(expression: Any) -> list[Any]:
    if isinstance(expression, Aggregate):
        return [expression]
    if not hasattr(expression, "get_source_expressions"):
        return []
    return [found for each in expression.get_source_expressions() for found in _aggregates_in(each)]


def _relations(path: FieldPath) -> Iterable[tuple[str, Any]]:
    """Yield the relations that a path joins; a foreign key at its end is a column."""
    parts = path.name.split(LOOKUP_SEP)
    for end, each in enumerate(path.fields, start=1):
        if each.is_relation and (end < len(parts) or not path.is_column):
            yield LOOKUP_SEP.join(parts[:end]), each


def _keyed(path: FieldPath) -> set[str]:
    """Return the relation to many rows of which each group has one row, if the path names it."""
    relations = list(_relations(path))
    if not relations:
        return set()
    name, relation = relations[-1]
    through = getattr(relation, "through", None) or getattr(relation.remote_field, "through", None)
    if through is not None and not through._meta.auto_created:
        return set()  # may hold a pair twice
    is_key = path.name == name or (path.target.unique and not path.target.null)
    return {name} if is_key else set()


def _listed(names: Iterable[str]) -> str:
    return " and ".join(repr(each) for each in sorted(names))
