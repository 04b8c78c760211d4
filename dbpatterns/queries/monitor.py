"""The slow-query monitor: what each statement costs, by its fingerprint and its call site.

    monitor.start()                     # in the `ready()` of an app of yours; off otherwise
    monitor.report()[0].quantile(0.95)

One execute wrapper on every connection, in every thread. It keeps no value of any parameter,
and its memory is bounded by the number of fingerprints. Counts are exact at a sample of 1.0;
below that it counts whole seconds of a connection, chosen at random, and scales nothing.
"""

import os
import random
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import asgiref
import django
from django.db import connections
from django.db.backends.signals import connection_created

import dbpatterns
from dbpatterns import telemetry
from dbpatterns.queries.conf import QueriesSettings
from dbpatterns.queries.frames import frames_from
from dbpatterns.queries.stats import QueryStats
from dbpatterns.statements import fingerprint

__all__ = ["OTHER", "Monitor", "call_site", "report", "start", "stop"]

OTHER = "(other)"
"""What is beyond the limit of fingerprints."""

_DUPLICATES = 256  # reads a connection remembers within its second
_CACHED = 2_048  # templates whose fingerprint is remembered
_OURS = tuple(
    f"{Path(str(module.__file__)).parent}{os.sep}" for module in (django, asgiref, dbpatterns)
)
_LIBRARIES = (
    *_OURS,
    *(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib", "stdlib")),
)


_scope: "ContextVar[Monitor | None]" = ContextVar("dbpatterns.queries.monitor", default=None)


class Monitor:
    """Counts of one process; every connection shares it. All methods may run in any thread."""

    def __init__(
        self,
        *,
        sample: float | None = None,
        max_fingerprints: int | None = None,
        slow_ms: float | None = None,
        is_scoped: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take what is not given from the settings.

        Args:
            is_scoped: count only in the thread or task that starts it, and those it starts.
        """
        settings = QueriesSettings.load()
        self.sample = settings.monitor_sample if sample is None else sample
        self.max_fingerprints = max_fingerprints or settings.monitor_fingerprints
        self.slow_seconds = (settings.monitor_slow_ms if slow_ms is None else slow_ms) / 1000
        self.is_scoped = is_scoped
        self.clock = clock
        self.is_on = False
        self._lock = threading.RLock()  # a finalizer may query while this thread counts
        self._stats: dict[tuple[str, str, str], QueryStats] = {}
        self._known: dict[int, str] = {}  # by the hash of the SQL, which may hold values

    def start(self) -> None:
        """Count from now on: this thread's open connections, and all that open later."""
        self.is_on = True
        if self.is_scoped:
            _scope.set(self)
        connection_created.connect(self._on_connection_created, weak=False, dispatch_uid=id(self))
        for connection in connections.all(initialized_only=True):
            self._watch(connection)

    def stop(self) -> None:
        """Count no more, and keep the counts; other threads' wrappers go with their next query."""
        self.is_on = False
        connection_created.disconnect(dispatch_uid=id(self))
        for connection in connections.all(initialized_only=True):
            connection.execute_wrappers[:] = [
                each
                for each in connection.execute_wrappers
                if not (isinstance(each, _Watch) and each.monitor is self)
            ]

    def report(self) -> list[QueryStats]:
        """Return a copy of the counts, the most expensive first."""
        with self._lock:
            copies = [each.copy() for each in self._stats.values()]
        return sorted(copies, key=lambda each: -each.seconds)

    def write(self, path: str | Path) -> None:
        """Write the counts as a log that `query_report` and `index_advise` read, whole or not."""
        target = Path(path)
        beside = target.with_name(f"{target.name}.{threading.get_ident()}.new")
        beside.write_text("".join(f"{each.as_log_line()}\n" for each in self.report()))
        beside.replace(target)

    def reset(self) -> None:
        """Forget all counts."""
        with self._lock:
            self._stats.clear()

    def fingerprint_of(self, sql: str) -> str:
        """Return the fingerprint of a statement, remembered by the hash of its text."""
        key = hash(sql)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            known = self._known[key] = fingerprint(sql)
        return known

    def add(
        self,
        key: tuple[str, str, str],
        seconds: float,
        rows: int | None,
        is_error: bool,
        is_duplicate: bool,
    ) -> None:
        """Count one call under (fingerprint, site, database), or under `OTHER` beyond the limit."""
        with self._lock:
            stats = self._stats.get(key)
            if stats is None:
                if len(self._stats) >= self.max_fingerprints - 1:
                    key = (OTHER, "", "")
                stats = self._stats.setdefault(key, QueryStats(*key))
            stats.add(seconds, rows, is_error, is_duplicate)

    def _on_connection_created(self, *, connection: Any, **_: Any) -> None:
        self._watch(connection)

    def _watch(self, connection: Any) -> None:
        wrappers = connection.execute_wrappers
        if not any(isinstance(each, _Watch) and each.monitor is self for each in wrappers):
            # First, not last: Django's `execute_wrapper()` takes the last one away when it ends,
            # and a connection often opens inside of it.
            wrappers.insert(0, _Watch(self))


class _Watch:
    """The wrapper of one connection, which one thread uses at a time."""

    __slots__ = ("_is_sampled", "_seen", "_until", "monitor")

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._until = float("-inf")
        self._is_sampled = False
        self._seen: set[int] = set()

    def __call__(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        monitor = self.monitor
        if not monitor.is_on:
            context["connection"].execute_wrappers.remove(self)
            return execute(sql, params, many, context)
        if monitor.is_scoped and _scope.get() is not monitor:
            return execute(sql, params, many, context)
        started = monitor.clock()
        if started >= self._until:
            self._until = started + 1
            self._is_sampled = random.random() < monitor.sample
            self._seen.clear()
        is_error = True
        try:
            result = execute(sql, params, many, context)
            is_error = False
            return result
        finally:
            seconds = monitor.clock() - started
            is_slow = seconds >= monitor.slow_seconds and telemetry.is_heard()
            if self._is_sampled or is_slow:
                self._note(str(sql), params, many, context, seconds, is_error, is_slow)

    def _note(
        self,
        sql: str,
        params: Any,
        many: bool,
        context: Any,
        seconds: float,
        is_error: bool,
        is_slow: bool,
    ) -> None:
        monitor, alias, site = self.monitor, context["connection"].alias, call_site()
        text = monitor.fingerprint_of(sql)
        counted = -1 if is_error else context["cursor"].rowcount
        rows = counted if counted >= 0 else None
        if self._is_sampled:
            is_duplicate = not many and self._is_seen(sql, params)
            monitor.add((text, site, alias), seconds, rows, is_error, is_duplicate)
        if is_slow:
            facts: Mapping[str, object] = {
                "fingerprint": text,
                "site": site,
                "rows": rows,
                "is_error": is_error,
            }
            telemetry.emit(telemetry.Event("queries.slow", alias, seconds, facts))

    def _is_seen(self, sql: str, params: Any) -> bool:
        verb = sql[:12].lstrip("( ").upper()
        if not verb.startswith("SELECT"):
            if not verb.startswith(("SAVEPOINT", "RELEASE")):
                self._seen.clear()  # what is read after a write may differ
            return False
        try:
            # The hash alone takes -1 for -2; the text alone, two JSON values that begin alike.
            key = hash((sql, params and tuple(params), repr(params)))
        except TypeError:
            return False
        if key in self._seen:
            return True
        if len(self._seen) < _DUPLICATES:
            self._seen.add(key)
        return False


def call_site() -> str:
    """Return `file:line function` of the innermost caller outside libraries, or an empty text.

    Code installed as a library counts only when there is no other. In async code it is the line
    that awaits.
    """
    library = ""
    for frame in frames_from(sys._getframe(1), None):
        name = frame.f_code.co_filename
        if not name.startswith((*_OURS, "<")):
            where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
            if not name.startswith(_LIBRARIES):
                return where
            if not library and "site-packages" in name:
                library = where
    return library


_monitor: Monitor | None = None


def start(**options: Any) -> Monitor:
    """Start the process's monitor, with `Monitor`'s options; one that runs is left as it is."""
    global _monitor
    if _monitor is None:
        _monitor = Monitor(**options)
    _monitor.start()
    return _monitor


def stop() -> None:
    """Stop the process's monitor and forget what it counted."""
    global _monitor
    if _monitor is not None:
        _monitor.stop()
        _monitor = None


def report() -> list[QueryStats]:
    """Return what the process's monitor has counted, dearest first; nothing while it is off."""
    return _monitor.report() if _monitor else []
