"""Prove an index before anybody builds it: what the plans would cost with it, and its size.

# Note [Nobody waits]
HypoPG plans with an index that does not exist. A copy is a TEMP table of the same name, which
hides the real one from this session: reading into it takes what any SELECT takes. Only a real
build takes a lock that writers wait for, so it runs on request, is given up after
`HELD_MS`, and is rolled back.

# Note [A build that lies]
PostgreSQL sets `indcheckxmin` on an index built while an older snapshot could still see other
versions of a row in one HOT chain, and no transaction that began before may use it: this one
neither. The plan does not change then, and that says nothing about the index.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.db import Error, transaction

from dbpatterns.errors import UsageError
from dbpatterns.indexes.catalog import SAMPLE, Table
from dbpatterns.indexes.declaring import Candidate
from dbpatterns.indexes.predicates import numbered
from dbpatterns.statements import Statement

__all__ = ["HELD_MS", "Verdict", "Verification", "verify"]

HELD_MS = 150
"""How long a real build may hold back writers, its plans not included."""
LOCK_MS = 100
"""How long any proof waits for a lock."""
PLAN_MS = 40
PAGE_BYTES = 8_192
DISABLED_COST = 1e10
COPY_SECONDS = 5
COPY_ROWS = 200_000
COPY_BYTES = 64 * 1024**2
BUILD_BYTES = 1024**3
"""A table beyond this is not built on at all."""


_PARAMETER = re.compile(
    r"(?P<text>'(?:[^']|'')*')|(?:(?P<limit>\bLIMIT|\bOFFSET)\s+)?\$(?P<number>\d+)", re.IGNORECASE
)


_CREATE_INDEX = re.compile(r"^(CREATE\s+(?:UNIQUE\s+)?INDEX\s+)", re.IGNORECASE)


class Verification(StrEnum):
    """How to prove an index."""

    AUTO = "auto"
    """HypoPG where it is installed, else a copy."""
    HYPOPG = "hypopg"
    COPY = "copy"
    BUILD = "build"
    """Build it and roll back: exact, and writers wait up to `HELD_MS`."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a proof found."""

    method: Verification
    before: float | None = None
    """Cost of the plans as they are, in the planner's units; None on SQLite, which tells none."""
    after: float | None = None
    """The same with the index; on a sample at most this."""
    size_bytes: int | None = None
    is_used: bool = False
    is_whole: bool = False
    """Measured with every row that the index would have."""
    inconclusive: str = ""
    """Why nothing was proved; empty when something was."""
    plans: tuple[str, str] | None = None
    """SQLite's plan before and after."""


def verify(
    connection: Any,
    candidate: Candidate,
    table: Table,
    statements: Sequence[Statement],
    *,
    how: Verification = Verification.AUTO,
    is_alone: bool = True,
) -> Verdict:
    """Prove a candidate on statements of its table, and leave nothing behind.

    A failure of the database is an inconclusive verdict, never an error; a transaction that is
    open stays usable. `is_alone`: the statements read this table only, each once.
    Raises: UsageError: HypoPG was asked for and is not installed.
    """
    if how is Verification.NONE:
        return Verdict(how, inconclusive="not verified")
    if connection.vendor == "sqlite":
        try:
            return _on_sqlite(connection, candidate, table, statements)
        except Error as error:
            return Verdict(Verification.COPY, inconclusive=str(error))
    prove = _Proof(connection, candidate, table, statements, is_alone)
    if how is Verification.AUTO or how is Verification.HYPOPG:
        has_hypopg = prove.has_hypopg()
        if how is Verification.HYPOPG and not has_hypopg:
            raise UsageError("HypoPG is not installed here: CREATE EXTENSION hypopg, or take copy.")
        # HypoPG knows no GIN, and a partial index that a view reads ends the server (hypopg#116).
        is_risky = candidate.is_trigram or (candidate.conditions and not is_alone)
        how = Verification.HYPOPG if has_hypopg and not is_risky else Verification.COPY
    by = {
        Verification.HYPOPG: prove.with_hypopg,
        Verification.COPY: prove.on_a_copy,
        Verification.BUILD: prove.by_building,
    }
    try:
        return by[how]()
    except Error as error:
        return Verdict(how, inconclusive=" ".join(str(error).split()))
    finally:
        if how is Verification.HYPOPG:  # its indexes outlive a transaction
            with connection.cursor() as cursor:
                cursor.execute("SELECT hypopg_reset()")


@dataclass(frozen=True, slots=True)
class _Proof:
    """One candidate on PostgreSQL."""

    connection: Any
    candidate: Candidate
    table: Table
    statements: Sequence[Statement]
    is_alone: bool

    def has_hypopg(self) -> bool:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT to_regprocedure('hypopg_create_index(text)') IS NOT NULL")
            return bool(cursor.fetchone()[0])

    def with_hypopg(self) -> Verdict:
        with _undone(self.connection, lock_ms=LOCK_MS) as cursor:
            before, _ = self._cost(cursor)
            cursor.execute(
                "SELECT indexrelid, indexname FROM hypopg_create_index(%s)", [self._ddl()]
            )
            oid, name = cursor.fetchone()
            after, is_used = self._cost(cursor, name)
            cursor.execute("SELECT hypopg_relation_size(%s)", [oid])
            (size,) = cursor.fetchone()
        return Verdict(Verification.HYPOPG, before, after, size, is_used, is_whole=True)

    def on_a_copy(self) -> Verdict:
        """See Note [Nobody waits]."""
        quote = self.connection.ops.quote_name
        name, share, where, params = quote(self.table.name), 1.0, [], []
        for condition in self.candidate.conditions:
            sql, values = condition.as_sql(quote)
            where.append(sql)
            params += values
            share *= self.table.part_of(condition) or 1.0
        rows = max(self.table.rows * share, 1)
        row_bytes = self.table.size_bytes / max(self.table.rows, 1)
        part = min(1.0, COPY_ROWS / rows, COPY_BYTES / max(rows * row_bytes, 1))
        sample = f" TABLESAMPLE SYSTEM ({part * 100:.6f}) REPEATABLE (1)" if part < 1 else ""
        with _undone(self.connection, lock_ms=LOCK_MS, seconds=COPY_SECONDS) as cursor:
            before, _ = self._cost(cursor)
            cursor.execute(
                f"CREATE TEMP TABLE {name} ON COMMIT DROP AS"
                f" SELECT * FROM {quote(self.table.schema)}.{name}{sample}"
                f"{' WHERE ' + ' AND '.join(where) if where else ''}",
                params or None,
            )
            # A search path may name pg_temp itself, and then not first.
            cursor.execute(
                "SELECT set_config('search_path',"
                " 'pg_temp, ' || current_setting('search_path'), true)"
            )
            cursor.execute(self._ddl())
            cursor.execute(f"ANALYZE {name}")
            # The copy is smaller than the table, so reading all of it looks cheaper than it is.
            # The planner takes the cheaper of this plan and the one it has now.
            cursor.execute("SET LOCAL enable_seqscan = off")
            after, is_used = self._cost(cursor, self.candidate.name, floor=self._page_cost(cursor))
            size = self._size(cursor)
        return Verdict(
            Verification.COPY,
            before,
            after / part,
            int(size / part),
            is_used,
            is_whole=part == 1 and self.is_alone,
        )

    def by_building(self) -> Verdict:
        """See Note [A build that lies]."""
        if self.table.size_bytes > BUILD_BYTES:
            return Verdict(
                Verification.BUILD,
                inconclusive=f"{self.table.name} has more than {BUILD_BYTES // 1024**2:,} MB",
            )
        with _undone(self.connection, lock_ms=LOCK_MS) as cursor:
            before, _ = self._cost(cursor)
            cursor.execute(f"SET LOCAL statement_timeout = {HELD_MS}")
            cursor.execute(self._ddl())
            cursor.execute(f"SET LOCAL statement_timeout = {PLAN_MS}")
            after, is_used = self._cost(cursor, self.candidate.name)
            size = self._size(cursor)
            cursor.execute(
                "SELECT indcheckxmin FROM pg_index WHERE indexrelid = to_regclass(%s)",
                [self.connection.ops.quote_name(self.candidate.name)],
            )
            (is_hidden,) = cursor.fetchone()
        if is_hidden and not is_used:
            return Verdict(
                Verification.BUILD,
                before,
                size_bytes=size,
                inconclusive="an older transaction hides a new index from this one (indcheckxmin)",
            )
        return Verdict(Verification.BUILD, before, after, size, is_used, is_whole=True)

    def _ddl(self) -> str:
        return _ddl(self.connection, self.candidate)

    def _size(self, cursor: Any) -> int:
        name = self.connection.ops.quote_name(self.candidate.name)
        cursor.execute("SELECT pg_relation_size(to_regclass(%s))", [name])
        size: int = cursor.fetchone()[0]
        return size

    def _page_cost(self, cursor: Any) -> float:
        cursor.execute("SELECT current_setting('random_page_cost')::float")
        cost: float = cursor.fetchone()[0]
        return cost

    def _cost(self, cursor: Any, index: str = "", floor: float = 0) -> tuple[float, bool]:
        """Return the plans' cost by the calls, and whether one of them reads the index.

        `floor` is the least that a row costs which the index finds: rows of a copy stand close
        together, those of the table in a page each, or at worst in all of its pages.
        """
        cost, is_used = 0.0, False
        pages = self.table.size_bytes / PAGE_BYTES
        for each in self.statements:
            plan = self._plan(cursor, each)
            least = min(_fetched(plan, index), pages) * floor
            # Before PostgreSQL 18 a scan that is switched off and has no other way costs 1e10.
            cost += max(plan["Total Cost"] % DISABLED_COST, least) * each.calls
            is_used |= index in _indexes(plan)
        return cost / (sum(each.calls for each in self.statements) or 1), is_used

    def _plan(self, cursor: Any, statement: Statement) -> Any:
        if statement.params is not None:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement.sql}", statement.params)
            return _root(cursor.fetchone()[0])
        sql, count = _with_usual_limits(numbered(statement))
        if not count:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
            return _root(cursor.fetchone()[0])
        with transaction.atomic(using=self.connection.alias):
            cursor.execute(f"PREPARE dbpatterns_advice AS {sql}")
        try:
            with transaction.atomic(using=self.connection.alias):
                cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                nulls = ", ".join(["NULL"] * count)
                cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE dbpatterns_advice({nulls})")
                return _root(cursor.fetchone()[0])
        finally:
            cursor.execute("DEALLOCATE dbpatterns_advice")


def _on_sqlite(
    connection: Any, candidate: Candidate, table: Table, statements: Sequence[Statement]
) -> Verdict:
    name = connection.ops.quote_name(table.name)
    with connection.cursor() as cursor:
        before = _sqlite_plans(cursor, statements)
        # Not in a transaction of ours: with "IMMEDIATE" it would keep writers out.
        cursor.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM main.{name} LIMIT {SAMPLE}")
        try:
            _copy_indexes(cursor, candidate, table)
            empty = _sqlite_bytes(cursor)
            cursor.execute(_ddl(connection, candidate))
            size = _sqlite_bytes(cursor) - empty
            after = _sqlite_plans(cursor, statements)
        finally:
            cursor.execute(f"DROP TABLE temp.{name}")
    return Verdict(
        Verification.COPY,
        size_bytes=int(size * max(table.rows / SAMPLE, 1)),
        is_used=_is_better(before, after, candidate.name),
        is_whole=table.rows <= SAMPLE,
        plans=("; ".join(before), "; ".join(after)),
    )


def _is_better(before: Sequence[str], after: Sequence[str], name: str) -> bool:
    """Tell whether SQLite searches by the index, reads it alone, or need not sort any more.

    To walk over the whole table in its order is no gain.
    """
    uses = [line for line in after if name in line]
    is_found = any(line.startswith("SEARCH") or "COVERING INDEX" in line for line in uses)
    return is_found or (bool(uses) and _sorts(after) < _sorts(before))


def _sorts(plan: Sequence[str]) -> int:
    return sum("USE TEMP B-TREE" in line for line in plan)


def _copy_indexes(cursor: Any, candidate: Candidate, table: Table) -> None:
    """Give the copy the indexes that the table has: the candidate must be better than they are."""
    quote = cursor.db.ops.quote_name
    keys = [[field.column for field in candidate.model._meta.pk_fields]]
    cursor.execute("SELECT name FROM pragma_index_list(%s)", [table.name])
    for (name,) in cursor.fetchall():
        cursor.execute("SELECT sql FROM main.sqlite_master WHERE name = %s", [name])
        (sql,) = cursor.fetchone()
        if sql:
            cursor.execute(_CREATE_INDEX.sub(r"\1temp.", sql, count=1))
        else:  # of a constraint
            cursor.execute("SELECT name FROM pragma_index_info(%s) ORDER BY seqno", [name])
            keys.append([column for (column,) in cursor.fetchall()])
    for number, columns in enumerate(keys):
        cursor.execute(
            f"CREATE UNIQUE INDEX temp.dbpatterns_key_{number} ON {quote(table.name)}"
            f" ({', '.join(map(quote, columns))})"
        )


def _sqlite_plans(cursor: Any, statements: Sequence[Statement]) -> list[str]:
    lines: list[str] = []
    for each in statements:
        sql = each.sql
        if each.params is None:
            sql, _ = _with_usual_limits(numbered(each))
            sql = _PARAMETER.sub(lambda found: found["text"] or "NULL", sql)
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", each.params)
        lines += [row[3] for row in cursor.fetchall()]
    return list(dict.fromkeys(lines))


def _sqlite_bytes(cursor: Any) -> int:
    pages: int = cursor.execute("PRAGMA temp.page_count").fetchone()[0]
    size: int = cursor.execute("PRAGMA temp.page_size").fetchone()[0]
    return pages * size


@contextmanager
def _undone(connection: Any, *, lock_ms: int, seconds: int = 0) -> Iterator[Any]:
    """Run a block of which nothing stays, in a transaction or a savepoint."""
    alias = connection.alias
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {lock_ms}")
        if seconds:
            cursor.execute(f"SET LOCAL statement_timeout = {seconds * 1000}")
        yield cursor
        transaction.set_rollback(True, using=alias)


def _ddl(connection: Any, candidate: Candidate) -> str:
    """Return what Django would run, not concurrently."""
    editor = connection.schema_editor(collect_sql=True)  # not entered: nothing is to run
    return str(candidate.as_index().create_sql(candidate.model, editor))


def _with_usual_limits(sql: str) -> tuple[str, int]:
    """Give unknown limits a usual value, and number what is left anew; return how many are."""
    numbers: dict[str, int] = {}

    def usual(found: re.Match[str]) -> str:
        if found["text"]:
            return found["text"]
        if found["limit"]:
            return f"{found['limit']} {20 if found['limit'].upper() == 'LIMIT' else 0}"
        return f"${numbers.setdefault(found['number'], len(numbers) + 1)}"

    return _PARAMETER.sub(usual, sql), len(numbers)


def _root(answer: Any) -> dict[str, Any]:
    plans = json.loads(answer) if isinstance(answer, str) else answer
    root: dict[str, Any] = plans[0]["Plan"]
    return root


def _indexes(plan: dict[str, Any]) -> set[str]:
    below = (_indexes(each) for each in plan.get("Plans", ()))
    return {plan.get("Index Name", "")}.union(*below)


def _fetched(plan: dict[str, Any], index: str) -> float:
    """Return the rows of the table that a plan reads by an index."""
    if plan.get("Index Name") == index:
        return 0 if plan["Node Type"] == "Index Only Scan" else float(plan["Plan Rows"])
    below = plan.get("Plans", ())
    rows = sum(_fetched(each, index) for each in below)
    is_bounded = plan["Node Type"] == "Limit" and below[0].get("Index Name") == index
    return min(rows, plan["Plan Rows"]) if is_bounded else rows
