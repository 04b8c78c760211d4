"""The guard against N+1 beside its peers: what it costs off and on, and what each one finds.

Every tool has a process of its own, since most patch Django for good, and they take turns on the
same rows. Figures are the CPU time of plain Django's, as the median over the rounds; `plain again`
is a second process without any tool, and shows how much of a ratio is noise. `off` is installed
and not at work: what production pays. A tool that cannot run here is named with its error.
"""

import json
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import connection, connections

from benchmarks import guarded
from benchmarks.guards import TOOLS
from benchmarks.measuring import Bar, Sample, Timings, in_turns, row
from dbpatterns.queries import capture

__all__ = ["rows"]

Row = dict[str, object]

DATABASE = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"
PLAIN, OURS, SAME_SQL = "plain", "ours", "django-nplus1, same SQL"
COLUMNS = [name for name in TOOLS if name not in (PLAIN, SAME_SQL)]
WATCHING = Bar(1.03, "of plain")
ACTIVE_BARS = dict.fromkeys(guarded.WORKS, WATCHING) | {
    f"N+1 of {guarded.LOOPED:,} rows": Bar(1.15, "of plain")
}
OFF_BAR = Bar(1.05, "of plain")
ROUNDS = 9
CALLS = {guarded.ONE_QUERY: 300}


def rows() -> list[Row]:
    """Measure; about five minutes for each vendor."""
    guarded.fill_catalogue()
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name)) for name in TOOLS}
        found = _found(workers)
        guarded.fill()
        connections.close_all()
        del workers[SAME_SQL]
        return [*found, _hook(), *_off(workers), *_on(workers), _broken(workers)]


class _Worker:
    """A tool's process, which answers line by line."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name, self._process = name, process
        self.error: str = self._read()
        self.failures: dict[str, str] = {}
        """What else does not work, by case."""

    def ask(self, **request: object) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process of {self._name} ended; its error is above.")
        return json.loads(line)


Workers = Mapping[str, _Worker]


@contextmanager
def _worker(name: str) -> Iterator[_Worker]:
    command = [sys.executable, "-m", "benchmarks.guards", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Worker(name, process)
        finally:
            process.kill()


def _broken(workers: Workers) -> Row:
    errors = {
        name: each.error or "; ".join(f"{case}: {error}" for case, error in each.failures.items())
        for name, each in workers.items()
        if each.error or each.failures
    }
    return row(
        DATABASE,
        "cannot run here",
        unit="",
        figures=dict.fromkeys((PLAIN, *COLUMNS)),
        also="; ".join(f"{name}: {error}" for name, error in errors.items()),
        detail=errors,
    )


def _found(workers: Workers) -> list[Row]:
    tools = {name: each for name, each in workers.items() if TOOLS[name].finds and not each.error}
    found = {name: each.ask() for name, each in tools.items()}

    def counted(group: str, measured: str) -> Row:
        counts = {name: float(sum(each[group].values())) for name, each in found.items()}
        size = len(found[OURS][group])
        bar = Bar(0, "shapes") if group == "innocent" else Bar(size, "shapes", at_least=True)
        return row(
            DATABASE,
            f"{measured}, of {size}",
            unit="shapes",
            figures={name: counts.get(name) for name in (PLAIN, *COLUMNS)},
            bar=bar,
            judged=counts[OURS],
            also=f"{SAME_SQL}: {counts[SAME_SQL]:.0f}" if SAME_SQL in counts else "",
            detail={
                name: [shape for shape, is_told in each[group].items() if is_told]
                for name, each in found.items()
            },
        )

    return [
        counted("reads", "N+1s of reads that are reported"),
        counted("writes", "N+1s of writes that are reported"),
        counted("innocent", "innocent ones that are reported"),
    ]


def _off(workers: Workers) -> list[Row]:
    tools = {name: each for name, each in workers.items() if TOOLS[name].is_installed}
    return [
        _timed(f"off: {work}", work, tools, is_active=False, bar=OFF_BAR) for work in guarded.WORKS
    ]


def _on(workers: Workers) -> list[Row]:
    return [
        _timed(f"on: {work}", work, workers, is_active=True, bar=bar)
        for work, bar in ACTIVE_BARS.items()
        if work != guarded.ONE_QUERY
    ]


def _timed(measured: str, work: str, workers: Workers, *, is_active: bool, bar: Bar) -> Row:
    tools = {name: each for name, each in workers.items() if not each.error}
    if work.startswith("N+1") and is_active:
        tools.pop("FETCH_RAISE", None)  # it ends the loop
    request = {"work": work, "is_active": is_active, "calls": CALLS.get(work, 1)}
    for name, worker in tuple(tools.items()):
        if isinstance(error := worker.ask(**request), str):
            worker.failures[measured] = error
            del tools[name]
    timings = in_turns(
        tools, lambda name: Sample(*tools[name].ask(**request)), rounds=ROUNDS, warms_up=False
    )
    is_short = work == guarded.ONE_QUERY
    plain = timings.cpu_seconds(PLAIN) * (1e6 if is_short else 1e3)
    ratios = _ratios(timings)
    return row(
        DATABASE,
        measured,
        unit="µs, then ratios" if is_short else "ms, then ratios",
        figures={PLAIN: plain} | {name: ratios.get(name) for name in COLUMNS},
        bar=bar,
        judged=ratios[OURS],
        spread=timings.spread(PLAIN),
        detail=timings.as_json(),
    )


def _ratios(timings: Timings) -> dict[str, float]:
    return {name: timings.cpu_ratio(name, PLAIN) for name in timings.samples if name != PLAIN}


def _hook() -> Row:
    """Our hook alone, called as Django calls it: too little to be seen in a query."""
    context = {"connection": connection}
    calls = 200_000

    def execute(sql: str, params: Any, many: bool, context: Any) -> None: ...

    def hooked() -> None:
        capture.hook(execute, "SELECT 1", (), False, context)

    def bare() -> None:
        execute("SELECT 1", (), False, context)

    with_hook, without = (
        min(timeit.repeat(each, timer=time.process_time, number=calls, repeat=9)) / calls * 1e6
        for each in (hooked, bare)
    )
    return row(
        DATABASE,
        "off: our hook alone, a query",
        unit="µs",
        figures={PLAIN: without} | {n: with_hook if n == OURS else None for n in COLUMNS},
        bar=Bar(0.2, "µs more"),
        judged=with_hook - without,
        also=f"{with_hook - without:.2f} µs more",
    )
