"""One row of the repositories' table: ours, plain Django, advanced-alchemy and a bare cursor."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from django.db import connection

from benchmarks.alchemy import Alchemy
from benchmarks.measuring import Bar, Work, row, statements_of, take_turns
from tests.testapp.models import Article

__all__ = ["COLUMNS", "DATABASE", "PEERS", "PLAIN", "Row", "compare", "fetch", "queries_of"]

PLAIN: Any = Article
"""Plain Django; untyped, since the type checker's settings do not have the tests' models."""
PEERS = ("ours", "Django", "alchemy", "limit")
COLUMNS = ", ".join(f'"{each.column}"' for each in Article._meta.concrete_fields)
DATABASE = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"

Row = dict[str, object]


def compare(
    measured: str,
    works: Mapping[str, Work],
    alchemy: Alchemy,
    *,
    unit: str,
    rounds: int,
    calls: int = 1,
    prepare: Callable[[str], None] | None = None,
    writes: Callable[[str], int] | None = None,
    bar: Bar | None = None,
    judged_by_time: bool = False,
    others: Mapping[str, str] | None = None,
    also: str = "",
) -> Row:
    """Let all take turns and return their row; `writes` says how many rows one's call writes."""
    queries: dict[str, int] = {}

    def counted(name: str) -> None:
        queries[name] = queries_of(works[name], alchemy)

    if prepare is None:
        for name in PEERS:
            counted(name)
        timings = take_turns(works, rounds=rounds, calls=calls)
    else:  # too long to do once more only for counting, long enough to count meanwhile
        counting: dict[str, Work] = {name: partial(counted, name) for name in works}
        timings = take_turns(counting, rounds=rounds, calls=calls, prepare=prepare)

    def figure(name: str) -> float:
        seconds = timings.seconds(name)
        return writes(name) / seconds if writes else seconds * {"µs": 1e6, "ms": 1e3}[unit]

    one, other = ("Django", "ours") if writes else ("ours", "Django")
    for name, words in (others or {}).items():
        also += f"{words} {figure(name):,.0f} {unit}"
    return row(
        DATABASE,
        measured,
        unit=unit,
        figures={name: figure(name) for name in PEERS},
        spread=timings.spread("ours"),
        ratio=timings.ratio(one, other),
        cpu_ratio=timings.cpu_ratio(one, other),
        queries="/".join(str(queries[name]) for name in PEERS[:3]),
        bar=bar,
        judged=figure("ours") if judged_by_time else None,
        also=also,
        detail=timings.as_json(),
    )


def fetch(sql: str, values: Sequence[Any]) -> object:
    """Read rows by a bare cursor."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()


def queries_of(work: Work, alchemy: Alchemy) -> int:
    """Count the statements that Django and advanced-alchemy send."""
    before = alchemy.statements
    return statements_of(work) + alchemy.statements - before
