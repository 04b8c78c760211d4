"""Budgets: a block of code that may send so many queries, read so many rows, take so long.

    @query_budget(max_queries=10, max_ms=50, max_rows=5_000, per_table={"blog_comment": 1})
    def post_list(request): ...

The error says what was spent on what, and from which lines.
"""

import difflib
import re
import time
from asyncio import Task, current_task
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from django.apps import apps
from django.db import connections
from django.db.models import Model

from dbpatterns.errors import DBPatternsError, UsageError
from dbpatterns.queries.callers import awaiting_line, user_line
from dbpatterns.queries.scopes import Execute, F, Scope

__all__ = ["QueryBudgetExceeded", "Spent", "query_budget"]

_CONTROL = re.compile(r"\s*(?:BEGIN|START|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET|PRAGMA)\b", re.I)
_READ = re.compile(r"[\s(]*(?:SELECT|WITH|VALUES|EXPLAIN|FETCH|DECLARE)\b", re.I)
_TABLE = re.compile(
    r'\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?("(?:[^"]|"")+"|`[^`]+`|[\w.$]+)', re.I
)
_VALUES = re.compile(r"%s(?:, ?%s)+")
_TEMPLATES = 200  # templates kept apart; what comes later is counted together
_SHOWN = 5
_LENGTH = 160

Table = str | type[Model]


class QueryBudgetExceeded(DBPatternsError, RuntimeError):
    """A block spent more than its `query_budget`; `spent` has the figures."""

    def __init__(self, message: str, *, spent: "Spent") -> None:
        super().__init__(message)
        self.spent = spent


@dataclass(slots=True)
class Spent:
    """What a block has spent so far; transaction control counts as nothing."""

    queries: int = 0
    ms: float = 0.0
    """In the database, until the first row."""
    rows: int = 0
    """Fetched by reads; only counted when `max_rows` is set."""
    tables: Counter[str] = field(default_factory=Counter)
    """Statements that name each table."""
    templates: dict[str, list[Any]] = field(default_factory=dict)
    """By SQL without its values: times, milliseconds, and the line that sent it first."""


class query_budget(Scope):  # reads as `with query_budget(...):`
    """Raise when a block spends more; `with`, `async with` or a decorator, nested as you like.

    A read raises right after the statement, or while its rows come in; a write only at the next
    read or at the end of the block, so that no write is cut in two and no transaction left open.

    Args:
        max_ms: in the database, in total.
        max_rows: fetched by reads, in total.
        per_table: statements by table; a table's name, "app.Model" or the model.
        using: count on this database only.
    Raises: UsageError: no limit, a negative one, an unknown table or database; at once, as the
        budget is made. QueryBudgetExceeded: in the block.
    """

    def __init__(
        self,
        *,
        max_queries: int | None = None,
        max_ms: float | None = None,
        max_rows: int | None = None,
        per_table: Mapping[Table, int] | None = None,
        using: str | None = None,
    ) -> None:
        super().__init__()
        limits = {"max_queries": max_queries, "max_ms": max_ms, "max_rows": max_rows}
        self._limits: dict[str, float] = {}
        for name, limit in limits.items():
            if limit is not None:
                self._limits[name] = _checked(name, limit, is_whole=name != "max_ms")
        self._per_table = {
            _table(table): int(_checked(f"per_table[{table!r}]", limit))
            for table, limit in (per_table or {}).items()
        }
        if not self._limits and not self._per_table:
            raise UsageError(
                "query_budget() limits nothing: give it max_queries, max_ms, max_rows or per_table."
            )
        if using is not None and using not in connections.settings:
            known = ", ".join(connections.settings)
            raise UsageError(f"query_budget(using={using!r}): no such database. Known: {known}.")
        self._using = using
        self._options: dict[str, Any] = {**limits, "per_table": per_table, "using": using}
        self._where = ""
        self._task: Task[Any] | None = None
        self._has_ended = False
        self.spent = Spent()

    def renewed(self) -> Self:
        """Return the same budget with nothing spent."""
        made = type(self)(**self._options)
        made._where = self._where
        return made

    def see(
        self, execute: Execute, sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        """Run a statement and book what it cost, also when it fails.

        Raises: QueryBudgetExceeded: after a read.
        """
        is_other = self._using not in (None, context["connection"].alias)
        if is_other or _CONTROL.match(sql):
            return execute(sql, params, many, context)
        begun = time.perf_counter()
        try:
            result = execute(sql, params, many, context)
        finally:
            self._book(sql, (time.perf_counter() - begun) * 1e3)
        if _READ.match(sql):
            if "max_rows" in self._limits:
                _count_rows(context["cursor"], self)
            self._check()
        return result

    def __enter__(self) -> Self:
        """Begin with nothing spent."""
        super().__enter__()
        self._where = self._where or user_line()
        return self

    async def __aenter__(self) -> Self:
        """Begin with nothing spent."""
        await super().__aenter__()
        self._task = current_task()
        self._where = self._where or awaiting_line(self._task)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """End.

        Raises: QueryBudgetExceeded: the last writes were too many; never over another error.
        """
        super().__exit__(kind, error, trace)
        self._has_ended = True
        if error is None:
            self._check()

    def __call__(self, function: F) -> F:
        """Give each call a budget of its own."""
        self._where = function.__qualname__
        return super().__call__(function)

    def __str__(self) -> str:
        given = (f"{name}={each!r}" for name, each in self._options.items() if each is not None)
        return f"query_budget({', '.join(given)})"

    def fetched(self, rows: int) -> None:
        """Book rows that a read brought; those that come after the block are not its own.

        Raises: QueryBudgetExceeded: too many.
        """
        if self._has_ended:
            return
        self.spent.rows += rows
        self._check()

    def _book(self, sql: str, ms: float) -> None:
        spent = self.spent
        spent.queries += 1
        spent.ms += ms
        spent.tables.update({each.strip('"`') for each in _TABLE.findall(sql)})
        template = _VALUES.sub("%s, …", " ".join(sql.split()))
        if template not in spent.templates and len(spent.templates) >= _TEMPLATES:
            template = "other statements"
        booked = spent.templates.get(template)
        if booked is None:
            line = user_line() or awaiting_line(self._task)
            booked = spent.templates[template] = [0, 0.0, line]
        booked[0] += 1
        booked[1] += ms

    def _check(self) -> None:
        over = "; ".join(self._exceeded())
        if over:
            listing = "".join(f"\n  {line}" for line in self._lines())
            raise QueryBudgetExceeded(
                f"{self._where or 'A block'} is over its query budget: {over}. "
                f"Fetch more at once, or raise the budget. Spent on:{listing}",
                spent=self.spent,
            )

    def _exceeded(self) -> Iterator[str]:
        spent = self.spent
        figures = {"max_queries": spent.queries, "max_ms": spent.ms, "max_rows": spent.rows}
        units = {"max_queries": "queries", "max_ms": "ms", "max_rows": "rows"}
        for name, limit in self._limits.items():
            if figures[name] > limit:
                yield f"{figures[name]:,.4g} {units[name]}, {limit:,.4g} allowed"
        for table, limit in self._per_table.items():
            if spent.tables[table] > limit:
                yield f"{spent.tables[table]} statements on {table}, {limit} allowed"

    def _lines(self) -> Iterator[str]:
        ranked = sorted(self.spent.templates.items(), key=lambda item: (-item[1][0], -item[1][1]))
        for template, (times, ms, line) in ranked[:_SHOWN]:
            if len(template) > _LENGTH:
                template = f"{template[: _LENGTH // 2]} … {template[-_LENGTH // 2 :]}"
            yield f"{times} times, {ms / times:.1f} ms each  {template}  {line}".rstrip()
        if len(ranked) > _SHOWN:
            yield f"and {len(ranked) - _SHOWN} more"


class _CountedCursor:
    """A driver's cursor that books each row it hands out; one statement's, nothing is patched."""

    def __init__(self, cursor: Any, budget: query_budget) -> None:
        self.cursor, self.budget = cursor, budget

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def __iter__(self) -> Iterator[Any]:
        for row in self.cursor:
            self.budget.fetched(1)
            yield row

    def fetchone(self) -> Any:
        row = self.cursor.fetchone()
        self.budget.fetched(row is not None)
        return row

    def fetchmany(self, *args: Any) -> Any:
        rows = self.cursor.fetchmany(*args)
        self.budget.fetched(len(rows))
        return rows

    def fetchall(self) -> Any:
        rows = self.cursor.fetchall()
        self.budget.fetched(len(rows))
        return rows


def _count_rows(cursor: Any, budget: query_budget) -> None:
    inner = cursor.cursor  # Django's wrapper hands out what its `cursor` does
    while isinstance(inner, _CountedCursor):
        if inner.budget is budget:
            return  # executed again
        inner = inner.cursor
    cursor.cursor = _CountedCursor(cursor.cursor, budget)


def _checked(name: str, limit: Any, *, is_whole: bool = True) -> float:
    kinds = int if is_whole else (int, float)
    if isinstance(limit, bool) or not isinstance(limit, kinds) or not limit >= 0:
        kind = "a whole number" if is_whole else "a number"
        raise UsageError(f"query_budget({name}={limit!r}): must be {kind} from 0 up.")
    return float(limit)


def _table(table: Table) -> str:
    if isinstance(table, type):
        return table._meta.db_table
    models = apps.get_models(include_auto_created=True)
    names = {each._meta.db_table: each._meta.db_table for each in models}
    labels = {each._meta.label_lower: each._meta.db_table for each in models}
    found = names.get(table) or labels.get(table.lower())
    if found is None:
        close = difflib.get_close_matches(table, [*names, *(m._meta.label for m in models)], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"query_budget(per_table={{{table!r}: …}}): no such table.{hint}")
    return found
