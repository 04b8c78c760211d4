"""What the database knows of a table: its size, its columns' values and its indexes.

Reads catalogs and statistics only; on SQLite, which keeps none, the first rows of the table.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbpatterns.indexes.predicates import Condition

__all__ = ["Column", "ExistingIndex", "Table", "plain", "read_table"]

SAMPLE = 50_000
"""Rows of a SQLite table that stand for all."""

_CAST = re.compile(
    r'::(?:"[^"]*"|character varying|double precision|timestamp with(?:out)? time zone|\w+)'
    r"(?:\(\d+\))?(?:\[\])?"
)


@dataclass(frozen=True, slots=True)
class Column:
    """Statistics of a column."""

    distinct: float
    """Different values; an estimate."""
    null_part: float
    common: Mapping[str, float] = field(default_factory=dict)
    """The commonest values as text, and the part of the rows that has each."""
    width_bytes: int = 0
    """Of a value on average; 0 where nobody counted."""


@dataclass(frozen=True, slots=True)
class ExistingIndex:
    """An index that is there."""

    name: str
    keys: tuple[str, ...]
    """Columns or expressions, see `plain`."""
    descending: tuple[bool, ...]
    details: tuple[str, ...] = ()
    """Operator class, collation and NULLs of each key: what makes two keys different indexes."""
    method: str = "btree"
    predicate: frozenset[str] = frozenset()
    include: frozenset[str] = frozenset()
    is_unique: bool = False
    size_bytes: int | None = None
    scans: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of one table."""

    name: str
    schema: str
    kind: str
    """PostgreSQL's relkind: `r` is a table, `v` a view."""
    rows: int
    size_bytes: int
    columns: Mapping[str, Column]
    indexes: Sequence[ExistingIndex]
    writes: str = ""
    """Inserts and updates since the statistics began, in words."""
    sampled: Mapping[Condition, float] = field(default_factory=dict)

    def part_of(self, condition: Condition) -> float | None:
        """Return the part of the rows that meets a condition; None where nothing is known."""
        if condition in self.sampled:
            return self.sampled[condition]
        column = self.columns.get(condition.column)
        if column is None:
            return None
        if condition.value is None:
            return 1 - column.null_part if condition.is_negated else column.null_part
        text = str(condition.value)
        if isinstance(condition.value, bool):
            text = "t" if condition.value else "f"
        if text in column.common:
            return column.common[text]
        others = max(column.distinct - len(column.common), 1)
        return max(1 - column.null_part - sum(column.common.values()), 0) / others


def plain(sql: str) -> str:
    """Return SQL of a key or predicate such that what means the same is mostly spelt the same."""
    parts = re.split(r"('(?:[^']|'')*')", _CAST.sub("", sql))
    parts[::2] = [re.sub(r"[\"()\s]+", " ", each).lower() for each in parts[::2]]
    return "".join(parts).strip()


def read_table(connection: Any, name: str, conditions: Sequence[Condition] = ()) -> Table | None:
    """Return what is known of a table; None when it is not there."""
    reader = {"postgresql": _read_postgresql, "sqlite": _read_sqlite}[connection.vendor]
    with connection.cursor() as cursor:
        return reader(cursor, connection.ops.quote_name, name, conditions)


def _read_postgresql(
    cursor: Any, quote: Any, name: str, conditions: Sequence[Condition]
) -> Table | None:
    cursor.execute(
        "SELECT c.oid, n.nspname, c.relkind,"
        " CASE WHEN c.reltuples < 0 THEN coalesce(s.n_live_tup, 0) ELSE c.reltuples END::bigint,"
        " pg_table_size(c.oid), coalesce(s.n_tup_ins, 0), coalesce(s.n_tup_upd, 0),"
        " coalesce(s.n_tup_hot_upd, 0)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.oid = to_regclass(%s)",
        [quote(name)],
    )
    found = cursor.fetchone()
    if found is None:
        return None
    oid, schema, kind, rows, size, inserts, updates, hot = found
    cursor.execute(
        "SELECT attname, null_frac, n_distinct, most_common_vals::text::text[], most_common_freqs,"
        " avg_width"
        " FROM pg_stats WHERE schemaname = %s AND tablename = %s ORDER BY inherited",
        [schema, name],
    )
    columns = {
        column: Column(
            distinct if distinct >= 0 else -distinct * rows,
            null_part,
            dict(zip(values or (), parts or (), strict=True)),
            width,
        )
        for column, null_part, distinct, values, parts, width in cursor.fetchall()
    }
    writes = f"{inserts:,} inserts, {updates:,} updates ({hot:,} of them HOT) counted so far"
    indexes = _indexes_postgresql(cursor, oid)
    return Table(name, schema, kind, rows, size, columns, indexes, writes)


def _indexes_postgresql(cursor: Any, oid: int) -> list[ExistingIndex]:
    cursor.execute(
        "SELECT c.relname, a.amname, i.indisunique, i.indnkeyatts,"
        " pg_get_expr(i.indpred, i.indrelid), pg_relation_size(c.oid), s.idx_scan,"
        " ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, true)"
        "       FROM generate_series(1, i.indnatts) n ORDER BY n),"
        " i.indoption::smallint[]::int[], i.indclass::oid[]::bigint[],"
        " i.indcollation::oid[]::bigint[]"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
        " LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = c.oid"
        " WHERE i.indrelid = %s AND i.indisvalid ORDER BY c.relname",
        [oid],
    )
    return [
        ExistingIndex(
            name,
            tuple(plain(each) for each in keys[:count]),
            tuple(bool(each & 1) for each in options),
            tuple(map(str, zip((each & 2 for each in options), classes, collations, strict=True))),
            method,
            _predicate(predicate),
            frozenset(plain(each) for each in keys[count:]),
            is_unique,
            size,
            scans,
        )
        for (
            *(name, method, is_unique, count, predicate, size, scans, keys),
            options,
            classes,
            collations,
        ) in cursor.fetchall()
    ]


def _read_sqlite(
    cursor: Any, quote: Any, name: str, conditions: Sequence[Condition]
) -> Table | None:
    cursor.execute("SELECT type FROM sqlite_master WHERE name = %s", [name])
    found = cursor.fetchone()
    if found is None:
        return None
    cursor.execute(f"SELECT COUNT(*) FROM {quote(name)}")
    rows = cursor.fetchone()[0]
    asked = [condition.as_sql(quote) for condition in conditions]
    columns = [row[1] for row in cursor.execute(f"PRAGMA table_info({quote(name)})").fetchall()]
    parts: list[float] = []
    if rows:
        terms = [f"AVG({sql})" for sql, _ in asked]
        terms += [f"COUNT(DISTINCT {quote(each)})" for each in columns]
        terms += [f"AVG({quote(each)} IS NULL)" for each in columns]
        cursor.execute(
            f"SELECT {', '.join(terms)} FROM (SELECT * FROM {quote(name)} LIMIT {SAMPLE})",
            [param for _, params in asked for param in params],
        )
        parts = [each or 0.0 for each in cursor.fetchone()]
    sampled = dict(zip(conditions, parts, strict=False))
    distinct, nulls = parts[len(asked) :][: len(columns)], parts[len(asked) + len(columns) :]
    known = {
        column: Column(count * max(rows / SAMPLE, 1), null_part)
        for column, count, null_part in zip(columns, distinct, nulls, strict=False)
    }
    kind = {"table": "r", "view": "v"}[found[0]]
    indexes = _indexes_sqlite(cursor, quote, name)
    return Table(name, "main", kind, rows, 0, known, indexes, "", sampled)


def _indexes_sqlite(cursor: Any, quote: Any, name: str) -> list[ExistingIndex]:
    found = []
    for _, index, is_unique, _, _ in cursor.execute(f"PRAGMA index_list({quote(name)})").fetchall():
        cursor.execute("SELECT sql FROM sqlite_master WHERE name = %s", [index])
        sql = (cursor.fetchone()[0] or "").replace("\n", " ")  # none for a UNIQUE of the table
        head, _, predicate = sql.partition(" WHERE ")
        expressions = iter(re.findall(r"\((\w+\(.*?\))\)", head))
        keys = [
            row
            for row in cursor.execute(f"PRAGMA index_xinfo({quote(index)})").fetchall()
            if row[5]
        ]
        names = tuple(plain(row[2] or next(expressions, "?")) for row in keys)
        found.append(
            ExistingIndex(
                index,
                names,
                tuple(bool(row[3]) for row in keys),
                tuple(row[4] for row in keys),
                predicate=_predicate(predicate),
                is_unique=bool(is_unique),
            )
        )
    return found


def _predicate(sql: str | None) -> frozenset[str]:
    return frozenset(plain(each) for each in re.split(r"\bAND\b", sql or "") if each.strip())
