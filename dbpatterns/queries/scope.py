"""What one guarded piece of work has sent, and what of it is an N+1.

An entry for each statement from each stack. It becomes a finding when it runs the threshold's
number of times with different values that are not the next page or batch.
"""

import datetime
import threading
from collections.abc import Callable, Hashable, Sequence
from types import FrameType
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from dbpatterns.queries.allowing import Allowed
from dbpatterns.queries.diagnosis import diagnose, place_of
from dbpatterns.queries.fingerprints import Statement, differ, is_progress, read_statement
from dbpatterns.queries.frames import spots_from
from dbpatterns.queries.report import Duplicate, Finding, NPlusOneError, Report
from dbpatterns.queries.routes import written_out
from dbpatterns.queries.stacks import Stack

__all__ = ["GuardScope"]

MAX_ENTRIES = 10_000
"""Stacks a scope remembers; further ones are counted and not watched."""
KEPT_RUNS = 8
"""Values an entry keeps, to tell the same from others."""


class _Entry:
    __slots__ = (
        "askers",
        "count",
        "distinct",
        "finding",
        "is_allowed",
        "repeats",
        "runs",
        "stack",
        "statement",
    )

    def __init__(self, statement: Statement, stack: Stack, asker: Hashable, params: Any) -> None:
        self.statement, self.stack = statement, stack
        self.runs, self.askers = [params], [asker]
        self.count = self.distinct = 1
        self.repeats = 0
        self.finding: Finding | None = None
        self.is_allowed = False


class GuardScope:
    """Watches statements; `capture` calls it, from any thread the work goes to."""

    def __init__(
        self,
        report: Report,
        *,
        threshold: int,
        raises: bool,
        watches_writes: bool,
        allowed: Sequence[Allowed],
        baseline: frozenset[str],
        until: FrameType | None,
    ) -> None:
        self.report = report
        self._threshold, self._raises, self._watches_writes = threshold, raises, watches_writes
        today = datetime.date.today()
        self._allowed = [each for each in allowed if not each.is_expired(today)]
        report.expired += [each for each in allowed if each.is_expired(today)]
        self._baseline, self._until = baseline, until
        self._entries: dict[tuple[Any, ...], _Entry] = {}
        self._turn = 0
        self._is_open = True
        self._lock = threading.Lock()

    def turn(self) -> None:
        """Start a new request: what ran before is another place."""
        self._turn += 1

    def saw(self, sql: Any, params: Any, connection: BaseDatabaseWrapper, frame: FrameType) -> None:
        """Note a statement that is about to run.

        Raises: NPlusOneError: in mode "raise", for a read that is the same for each row.
        """
        if not self._is_open:  # a task or thread that outlives the guard it was started in
            return
        self.report.queries += 1
        text = sql if isinstance(sql, str) else _text(sql, connection)
        statement = read_statement(text, bool(params))
        if statement is None or (statement.is_write and not self._watches_writes):
            return
        read = Stack.read(frame, self._until, is_write=statement.is_write)
        if read is None:
            return
        stack, asker = read
        params = params or statement.literals
        key = (connection.alias, statement.template, self._turn, stack.key)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                if len(self._entries) < MAX_ENTRIES:
                    self._entries[key] = _Entry(statement, stack, asker, params)
                return
            entry.count += 1
            if not self._is_news(entry, params, asker):
                return
        if entry.finding is None:
            if entry.distinct <= written_out(spots_from(frame, self._until).values()):
                return
            self._found(entry, text, frame, connection)
        finding = entry.finding
        assert finding is not None
        finding.count = entry.count
        if entry.is_allowed or statement.is_write or not self._raises:
            return
        if stack.is_pinned or _would_break(connection):
            return  # told at the end
        raise NPlusOneError(finding)

    def close(self) -> None:
        """Complete the counts, collect the duplicates, and see nothing from now on."""
        self._is_open = False
        for (alias, *_), entry in self._entries.items():
            if entry.finding is not None:
                entry.finding.count = entry.count
                entry.finding.is_complete = True
            elif entry.repeats:
                spot = entry.stack.user
                self.report.duplicates.append(
                    Duplicate(
                        sql=entry.statement.template,
                        database=alias,
                        count=entry.repeats + 1,
                        place=None if spot is None else place_of(spot),
                    )
                )
        self._entries.clear()
        self._until = None

    def _is_news(self, entry: _Entry, params: Any, asker: Hashable) -> bool:
        """Tell whether an entry is an N+1 with this run."""
        if entry.finding is not None:
            return True
        is_known = any(not differ(params, each) for each in entry.runs)
        if is_known and asker in entry.askers:
            entry.repeats += 1
            return False
        if entry.stack.follows or (
            not is_known and is_progress(entry.statement, entry.runs[0], params)
        ):
            return False
        if len(entry.askers) < KEPT_RUNS:
            entry.askers.append(asker)
        entry.distinct += 1
        if len(entry.runs) < KEPT_RUNS:
            entry.runs.append(params)
        return entry.distinct >= self._threshold

    def _found(
        self, entry: _Entry, sql: str, frame: FrameType, connection: BaseDatabaseWrapper
    ) -> None:
        entry.finding = finding = diagnose(
            entry.statement,
            sql,
            entry.runs,
            entry.stack,
            frame,
            self._until,
            database=connection.alias,
            source=self._source(entry, connection.ops.quote_name),
        )
        allowed = [
            each
            for each in self._allowed
            if each.matches(finding.subject, finding.place.path, finding.sql)
        ]
        self.report.matched += [each for each in allowed if each not in self.report.matched]
        entry.is_allowed = bool(allowed) or finding.fingerprint in self._baseline
        if entry.is_allowed:
            self.report.allowed.append(finding)
        elif finding.is_write:
            self.report.writes.append(finding)
        else:
            self.report.findings.append(finding)

    def _source(
        self, asking: _Entry, quote: Callable[[str], str]
    ) -> Callable[[type[Model]], Stack | None]:
        def last_read_of(model: type[Model]) -> Stack | None:
            start = f"FROM {quote(model._meta.db_table)}"
            for entry in reversed(self._entries.values()):
                if entry is not asking and start in entry.statement.template:
                    return entry.stack
            return None

        return last_read_of


def _text(sql: Any, connection: BaseDatabaseWrapper) -> str:
    """Return the text of what a driver takes in place of text: psycopg's `sql.SQL`, or bytes."""
    if hasattr(sql, "as_string"):
        return str(sql.as_string(connection.connection))
    return sql.decode(errors="replace") if isinstance(sql, bytes) else str(sql)


def _would_break(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether an exception would mark the outer transaction as broken.

    So it is inside `atomic(savepoint=False)`, which Django uses in `add()` and `set()`.
    """
    return bool(connection.savepoint_ids) and connection.savepoint_ids[-1] is None
