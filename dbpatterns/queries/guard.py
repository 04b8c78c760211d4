"""`guard()`: find every N+1 in a block, a function or a request, and do what the mode says."""

import functools
import inspect
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from types import FrameType, TracebackType
from typing import Any, Final, TypeVar, cast

from dbpatterns import telemetry
from dbpatterns.errors import ConfigurationError
from dbpatterns.queries.allowing import Allowed, checked
from dbpatterns.queries.autofix import autofixing
from dbpatterns.queries.baseline import FilePath, known_findings
from dbpatterns.queries.capture import close_scope, current_scope, open_scope
from dbpatterns.queries.conf import QueriesSettings
from dbpatterns.queries.report import Finding, NPlusOneError, NPlusOneWarning, Report
from dbpatterns.queries.scope import GuardScope

__all__ = ["guard"]

logger = logging.getLogger("dbpatterns.queries")
F = TypeVar("F", bound=Callable[..., Any])
MODES: Final = ("raise", "warn", "log", "autofix", "off")
WRITES: Final = ("raise", "warn", "log", "off")


class guard:  # reads as the verb it is, like `warnings.catch_warnings`
    """Watch a block or, as a decorator, each call of a function, sync or async.

        with guard(mode="raise") as report:
            render(posts)

    The same statement from the same stack with different values, `threshold` times, is an N+1.
    An error that the block catches, as `logging` does, is raised once more at its end.
    Costs 10 to 30 µs a query inside and nothing outside. An inner guard takes over from an outer
    one until it ends. Arguments not given come from `DBPATTERNS["QUERIES"]`.

    Args:
        mode: "raise" stops a read before it runs, with the connection usable and no transaction
            broken, at the block's end where that is not possible; "warn" and "log" tell at the
            end; "autofix" batches what it can and warns of the rest; "off" watches nothing.
        threshold: runs with different values that make an N+1, at least 2.
        writes: what happens to writes in a loop; always at the end, never inside a write.
        allow: entries made by `allow()`, with those of the settings.
        baseline: a file made by `freeze()` of findings to let pass.
        sample: the part of blocks that are watched.
    Raises: ConfigurationError: an argument, the allow-list or the baseline is broken.
        NPlusOneError: mode or writes is "raise" and there is one.
    """

    def __init__(
        self,
        mode: str | None = None,
        *,
        threshold: int | None = None,
        writes: str | None = None,
        allow: Iterable[Allowed | Mapping[str, Any]] = (),
        baseline: FilePath | None = None,
        sample: float | None = None,
    ) -> None:
        section = QueriesSettings.load()
        self.mode = _one_of("mode", section.mode if mode is None else mode, MODES)
        self.writes = _one_of("writes", section.writes if writes is None else writes, WRITES)
        self.threshold = section.threshold if threshold is None else threshold
        self.sample = section.sample if sample is None else sample
        if not _is_number(self.threshold, int) or self.threshold < 2:
            raise ConfigurationError(
                f"guard: threshold is {self.threshold!r}, not a whole number from 2 on."
            )
        if not _is_number(self.sample, int | float) or not 0 <= self.sample <= 1:
            raise ConfigurationError(f"guard: sample is {self.sample!r}, not from 0.0 to 1.0.")
        self.own = checked(allow)
        self.allowed = (*self.own, *checked(section.allow))
        path = section.baseline if baseline is None else baseline
        self.baseline = known_findings(path) if path else frozenset[str]()
        self._running: list[_Run] = []

    def __enter__(self) -> Report:
        """Start to watch; the report fills while the block runs."""
        run = _Run(self)
        run.fixing.__enter__()
        self._running.append(run)
        return run.begin(sys._getframe(1))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and tell what the mode says; an error of the block is never replaced."""
        run = self._ending()
        run.stop()
        run.fixing.__exit__(kind, error, traceback)
        run.tell(error)

    async def __aenter__(self) -> Report:
        """Start to watch, in a coroutine; mode "autofix" needs this there, others take both."""
        frame = sys._getframe(1)
        run = _Run(self)
        await run.fixing.__aenter__()
        self._running.append(run)
        return run.begin(frame)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, as `__exit__` does."""
        run = self._ending()
        run.stop()
        await run.fixing.__aexit__(kind, error, traceback)
        run.tell(error)

    def __call__(self, function: F) -> F:
        """Watch each call of a function, a coroutine function or a generator function."""
        wrapped: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                async with self.copy():
                    return await function(*args, **kwargs)

        elif inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"guard: {function.__qualname__} is a generator, which runs a piece at a time in "
                "its caller: write `with guard():` in the caller."
            )
        else:

            @functools.wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with self.copy():
                    return function(*args, **kwargs)

        return cast(F, wrapped)

    def _ending(self) -> "_Run":
        """Return the run to end: the last of this thread or task, where several use one guard."""
        scope = current_scope()
        run = next((r for r in reversed(self._running) if r.scope is scope), self._running[-1])
        self._running.remove(run)
        return run

    def copy(self) -> "guard":
        """Return a guard with the same arguments, for a call that may overlap another."""
        copied = object.__new__(guard)
        copied.__dict__.update(self.__dict__, _running=[])
        return copied


class _Run:
    """One use of a guard."""

    def __init__(self, guard: guard) -> None:
        is_watched = guard.mode != "off" and (guard.sample >= 1 or random.random() < guard.sample)
        self._guard = guard
        self.report = Report(is_watched=is_watched)
        self.scope: GuardScope | None = None
        self.fixing: Any = nullcontext()
        if is_watched and guard.mode == "autofix":
            self.fixing = autofixing()

    def begin(self, frame: FrameType | None) -> Report:
        """Open the scope."""
        guard = self._guard
        if self.report.is_watched:
            self.scope = GuardScope(
                self.report,
                threshold=guard.threshold,
                raises=guard.mode == "raise",
                watches_writes=guard.writes != "off",
                allowed=guard.allowed,
                baseline=guard.baseline,
                until=frame,
            )
        self._before = open_scope(self.scope)
        return self.report

    def stop(self) -> None:
        """Close the scope."""
        close_scope(self._before)

    def tell(self, error: BaseException | None) -> None:
        """Complete the report, and say or raise what is in it."""
        guard = self._guard
        if self.scope is None:
            return
        self.scope.close()
        self.report.stale += [e for e in guard.own if e not in self.report.matched]
        how = "warn" if guard.mode == "autofix" else guard.mode
        if how != "raise":
            _tell(self.report.findings, how)
        if guard.writes != "raise":
            _tell(self.report.writes, guard.writes)
        for entry in (*self.report.stale, *self.report.expired):
            state = "has expired" if entry in self.report.expired else "matches nothing any more"
            _say(f"{entry} {state}: remove it, or give it a new date.", how)
        if error is None:  # so a read that was stopped is told again if somebody caught its error
            late = self.report.findings if guard.mode == "raise" else []
            late = [*late, *(self.report.writes if guard.writes == "raise" else ())]
            if late:
                raise NPlusOneError(late[0])


def _tell(findings: Iterable[Finding], how: str) -> None:
    for finding in findings:
        if telemetry.is_heard():
            telemetry.emit(
                telemetry.Event(
                    "queries.n_plus_one", database=finding.database, facts=_facts(finding)
                )
            )
        _say(str(finding), how, finding)


def _say(text: str, how: str, finding: Finding | None = None) -> None:
    if how == "log":
        logger.warning(text, extra={} if finding is None else _facts(finding))
    elif finding is None:
        warnings.warn(text, NPlusOneWarning, stacklevel=4)
    else:
        warnings.warn_explicit(
            text, NPlusOneWarning, finding.filename, finding.place.line, registry={}
        )


def _facts(finding: Finding) -> dict[str, object]:
    return {
        "subject": finding.subject,
        "place": str(finding.place),
        "queries": finding.count,
        "fix": finding.fix,
        "fingerprint": finding.fingerprint,
        "is_write": finding.is_write,
    }


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _one_of(name: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigurationError(f"guard: {name} is {value!r}. Known: {', '.join(known)}.")
    return str(value)
