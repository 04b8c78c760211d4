"""Counts of one statement: how often, how long, how many rows, errors and repetitions."""

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from dbpatterns.statements import Statement, fingerprint

__all__ = ["BOUNDS", "QueryStats", "summarise"]

BOUNDS = tuple(1e-5 * 10 ** (step / 10) for step in range(71))
"""Upper edges of the histogram's buckets in seconds: 10 µs to 100 s, each 26 % above the last."""


@dataclass(slots=True)
class QueryStats:
    """What was counted for one fingerprint at one call site."""

    fingerprint: str
    site: str = ""
    """`file:line function` of the caller's code; empty where its stack does not show it."""
    database: str = ""
    calls: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    rows: int | None = None
    """Rows read or written; None where the driver does not say (reads on SQLite)."""
    errors: int = 0
    duplicates: int = 0
    """Reads with the same values, of one connection in the same second, nothing written since."""
    buckets: "array[int]" = field(default_factory=lambda: array("Q", bytes(8 * (len(BOUNDS) + 1))))

    def add(self, seconds: float, rows: int | None, is_error: bool, is_duplicate: bool) -> None:
        """Count one call."""
        self.calls += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.errors += is_error
        self.duplicates += is_duplicate
        if rows is not None:
            self.rows = (self.rows or 0) + rows

    def merge(self, statement: Statement) -> None:
        """Count what a log or the server says about the same fingerprint."""
        facts = statement.facts
        mean = statement.seconds / (statement.calls or 1)
        self.calls += statement.calls
        self.seconds += statement.seconds
        self.slowest = max(self.slowest, facts.get("slowest", mean))
        self.errors += facts.get("errors", 0)
        self.duplicates += facts.get("duplicates", 0)
        if statement.rows is not None:
            self.rows = (self.rows or 0) + statement.rows
        if len(facts.get("buckets", ())) == len(self.buckets):
            self.buckets = array("Q", map(sum, zip(self.buckets, facts["buckets"], strict=True)))
        elif statement.calls == 1:
            self.buckets[bisect_left(BOUNDS, statement.seconds)] += 1

    def quantile(self, part: float) -> float | None:
        """Return the seconds within which this part of the calls ended, at most 26 % too many.

        None where only totals are known, as from pg_stat_statements.
        """
        counted = sum(self.buckets)
        if counted == 0 or counted < self.calls:
            return None
        edges = zip((*BOUNDS, self.slowest), accumulate(self.buckets), strict=True)
        return next(min(edge, self.slowest) for edge, below in edges if below >= part * counted)

    def copy(self) -> "QueryStats":
        """Return one that goes on by itself."""
        return replace(self, buckets=array("Q", self.buckets))

    def as_dict(self) -> dict[str, Any]:
        """Return it for people and machines, times in milliseconds."""
        quantiles = {f"p{round(part * 100)}_ms": self.quantile(part) for part in (0.5, 0.95, 0.99)}
        return {
            "fingerprint": self.fingerprint,
            "site": self.site,
            "database": self.database,
            "calls": self.calls,
            "total_ms": round(self.seconds * 1000, 3),
            **{name: each and round(each * 1000, 3) for name, each in quantiles.items()},
            "slowest_ms": round(self.slowest * 1000, 3),
            "rows": self.rows,
            "errors": self.errors,
            "duplicates": self.duplicates,
        }

    def as_log_line(self) -> str:
        """Return one line of the log that `query_report --from-log` reads and adds up."""
        names = ("site", "database", "calls", "seconds", "slowest", "rows", "errors", "duplicates")
        facts = {name: getattr(self, name) for name in names}
        return json.dumps({"sql": self.fingerprint, **facts, "buckets": list(self.buckets)})


def summarise(statements: Iterable[Statement]) -> list[QueryStats]:
    """Add up what a log or the server says, by fingerprint, site and database; dearest first."""
    found: dict[tuple[str, str, str], QueryStats] = {}
    for each in statements:
        key = (fingerprint(each.sql), str(each.facts.get("site", "")), each.database)
        found.setdefault(key, QueryStats(*key)).merge(each)
    return sorted(found.values(), key=lambda each: -each.seconds)
