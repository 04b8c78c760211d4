"""The `QUERIES` section of `DBPATTERNS`."""

from dataclasses import dataclass
from typing import ClassVar

from dbpatterns.conf import Section

__all__ = ["MAX_ROWS", "QueriesSettings"]

MAX_ROWS = 5_000
"""Rows that one access may fetch, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueriesSettings(Section):
    """What the guard does when it is not told, and how much the monitor remembers."""

    key: ClassVar[str] = "QUERIES"

    mode: str = "warn"
    """What happens to an N+1: "raise", "warn", "log", "autofix" or "off"."""
    writes: str = "warn"
    """What happens to writes in a loop, at the end of the scope: "raise", "warn", "log", "off"."""
    threshold: int = 2
    """Runs with different values, from one place, that make an N+1."""
    sample: float = 1.0
    """The part of scopes that are watched, 0.0 to 1.0; for production."""
    allow: tuple[dict, ...] = ()  # type: ignore[type-arg]  # checked with isinstance()
    """Allowed places: the arguments of `allow()`, as dicts."""
    baseline: str = ""
    """A file of findings that were there before; empty for none."""
    autofix_max_rows: int = MAX_ROWS
    """What one access may fetch at most in `autofixing()` and in mode "autofix", 1 or more."""
    monitor_sample: float = 1.0
    """Part of the seconds of each connection that the monitor counts, 0.0 to 1.0."""
    monitor_fingerprints: int = 500
    """Statements told apart, each about 1 kB; the rest is counted as one, `(other)`."""
    monitor_slow_ms: int = 500
    """A statement that takes as long is told to telemetry, sampled or not."""
