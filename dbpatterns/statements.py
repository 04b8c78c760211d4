"""SQL statements that were run: recorded here, read from a log, or asked of the server.

    with recording_queries() as recording:
        client.get("/orders/")
    recording.statements[0].sql

What the query report counts and what the index advisor reads its predicates from.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import connections

from dbpatterns.errors import UsageError

__all__ = ["Log", "Recording", "Statement", "fingerprint", "read_log", "read_server"]
__all__ += ["recording_queries"]

SCANNED = 8_192
"""Characters of one statement that a fingerprint looks at; a bulk insert may have millions."""

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
  | (?P<name> "(?:[^"]|"")*(?:"|\Z) | `[^`]*(?:`|\Z) )
  | (?P<value>
        [eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z) | (?:\b[bBxXnN]|\b[uU]&)?'(?:[^']|'')*(?:'|\Z)
      | \$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
      | %s | %\(\w+\)s | \$\d+ | (?<![:\w]):[A-Za-z_]\w*
      | (?<![\w$."])[-+]?(?:0[xXoObB][\w]+|\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)
    )
  | (?P<percent> %% )
    """,
    re.VERBOSE | re.DOTALL,
)
_LIST = re.compile(r"\(\s*%s(?:\s*,\s*%s)+\s*\)")
_ROWS = re.compile(r"(\((?:[^()]|\([^()]*\))*\))(?:\s*,\s*\1)+")
_SAVEPOINT = re.compile(r"^((?:RELEASE |ROLLBACK TO )?SAVEPOINT) .*", re.IGNORECASE)
_DJANGO = re.compile(r"^\((?P<seconds>\d+\.\d+)\) (?P<sql>.*); args=.*; alias=(?P<alias>\S+)$")
_POSTGRESQL = re.compile(
    r"duration: (?P<ms>[\d.]+) ms\s+(?:statement|execute [^:]+): (?P<sql>.*)", re.DOTALL
)
_SQL = re.compile(r"^\(?\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE)\b", re.IGNORECASE)


def fingerprint(sql: str) -> str:
    """Return the statement without its values: `%s` for each, one for a list of any length.

    No literal of the statement survives, nor a comment, which may hold a trace's id. About a
    microsecond for each 50 characters.
    """

    text = " ".join(_TOKEN.sub(_plain, sql[:SCANNED]).split()).rstrip("; ")
    text = _LIST.sub("(%s)", text)
    if "VALUES" in text.upper():
        text = _ROWS.sub(r"\1", text)
    if len(sql) > SCANNED:
        text += " …"
    return _SAVEPOINT.sub(r"\1", text)


def _plain(match: re.Match[str]) -> str:
    if name := match["name"]:
        return name
    if match["value"] is not None:
        return "%s"
    return "%" if match["percent"] else " "


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, or all the calls of one template together."""

    sql: str
    params: tuple[Any, ...] | None = field(default=None, repr=False)
    """The values of its `%s`; None where they are unknown or stand in the SQL."""
    calls: int = 1
    seconds: float = 0.0
    """Of all calls together."""
    rows: int | None = None
    """Of all calls together; None where nobody counted."""
    database: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What a JSON log says beside: call site, errors, histogram."""


@dataclass(slots=True)
class Recording:
    """What ran inside one `recording_queries()`."""

    limit: int
    statements: list[Statement] = field(default_factory=list)
    dropped: int = 0
    """Statements beyond the limit."""

    def add(self, statement: Statement) -> None:
        """Keep a statement, or count it as dropped."""
        if len(self.statements) < self.limit:
            self.statements.append(statement)
        else:
            self.dropped += 1


@contextmanager
def recording_queries(*, limit: int = 10_000) -> Iterator[Recording]:
    """Record what this thread sends to any database, with its values: for tests and shells.

    A statement that fails is not recorded.
    """
    recording = Recording(limit)

    def record(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        started = time.perf_counter()
        result = execute(sql, params, many, context)
        seconds = time.perf_counter() - started
        values = tuple(params) if isinstance(params, list | tuple) and not many else None
        rows = context["cursor"].rowcount
        alias = context["connection"].alias
        recording.add(Statement(str(sql), values, 1, seconds, rows if rows >= 0 else None, alias))
        return result

    with ExitStack() as stack:
        for connection in connections.all():
            stack.enter_context(connection.execute_wrapper(record))
        yield recording


@dataclass(frozen=True, slots=True)
class Log:
    """What a log says."""

    statements: tuple[Statement, ...]
    skipped: int
    """Lines that hold no statement."""


def read_log(path: str | Path) -> Log:
    """Read a log of one statement a line.

    A line is SQL; or JSON with `sql` and perhaps `params`, `calls`, `seconds`, `rows` and
    `database`, as the monitor writes; or a line of the logger `django.db.backends`; or one of
    PostgreSQL's with a duration, as text or JSON. Others are counted and skipped.

    Raises: UsageError: the file cannot be read, or nothing in it is a statement.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            read = [_statement(line.strip()) for line in lines if line.strip()]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    statements = tuple(each for each in read if each)
    if not statements:
        raise UsageError(
            f"{path} has no statement in {len(read):,} lines: give a file of SQL, of JSON with "
            "a key sql, or a log of django.db.backends or PostgreSQL."
        )
    return Log(statements, len(read) - len(statements))


def _statement(line: str) -> Statement | None:
    if line.startswith("{"):
        try:
            return _from_json(json.loads(line))
        except (ValueError, TypeError, AttributeError):
            return None
    if found := _DJANGO.match(line):
        return Statement(found["sql"], seconds=float(found["seconds"]), database=found["alias"])
    if found := _POSTGRESQL.search(line):
        return Statement(found["sql"], seconds=float(found["ms"]) / 1000)
    return Statement(line.rstrip("; ")) if _SQL.match(line) else None


def _from_json(entry: dict[str, Any]) -> Statement | None:
    if "sql" not in entry:
        found = _POSTGRESQL.search(entry.get("message", ""))
        return found and Statement(found["sql"], seconds=float(found["ms"]) / 1000)
    known = ("sql", "params", "calls", "seconds", "rows", "database")
    params, rows = entry.get("params"), entry.get("rows")
    return Statement(
        entry["sql"].rstrip("; "),
        None if params is None else tuple(params),
        int(entry.get("calls", 1)),
        float(entry.get("seconds", 0)),
        None if rows is None else int(rows),
        str(entry.get("database", "")),
        {key: value for key, value in entry.items() if key not in known},
    )


def read_server(using: str, *, limit: int = 1_000) -> list[Statement]:
    """Ask PostgreSQL's pg_stat_statements what took longest in this database; two queries.

    Raises: UsageError: another database, no such extension, or its library is not loaded.
    """
    connection = connections[using]
    missing = UsageError(
        f"{using!r} keeps no statistics of its statements: pass --from-log, or on PostgreSQL load "
        "pg_stat_statements in shared_preload_libraries and CREATE EXTENSION it."
    )
    if connection.vendor != "postgresql":
        raise missing
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT quote_ident(n.nspname) FROM pg_extension e"
            " JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_stat_statements'"
        )
        schema = cursor.fetchone()
        if schema is None or not _is_preloaded(cursor):
            raise missing
        cursor.execute(
            "SELECT query, calls, total_exec_time / 1000, rows, max_exec_time / 1000"
            f" FROM {schema[0]}.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
            " WHERE d.datname = current_database() AND query <> '<insufficient privilege>'"
            " ORDER BY total_exec_time DESC LIMIT %s",
            [limit],
        )
        return [
            Statement(sql, None, calls, seconds, rows, using, {"slowest": slowest})
            for sql, calls, seconds, rows, slowest in cursor.fetchall()
        ]


def _is_preloaded(cursor: Any) -> bool:
    cursor.execute("SELECT current_setting('pg_stat_statements.max', true)")
    return bool(cursor.fetchone()[0])
