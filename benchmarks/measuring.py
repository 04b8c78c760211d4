"""Compare pieces of work that take turns, so that a slow moment of the machine hits all of them."""

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection

__all__ = [
    "Bar",
    "Sample",
    "Timings",
    "Work",
    "in_turns",
    "row",
    "sample",
    "significant",
    "statements_of",
    "take_turns",
]

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds for one call; `cpu` counts this process only, not the server nor the neighbours."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Timings:
    """What each piece of work took, round by round."""

    samples: Mapping[str, list[Sample]]

    def seconds(self, name: str) -> float:
        """Return the median of one call, by the clock on the wall."""
        return statistics.median(each.wall for each in self.samples[name])

    def cpu_seconds(self, name: str) -> float:
        """Return the median of one call, of this process's CPU."""
        return statistics.median(each.cpu for each in self.samples[name])

    def spread(self, name: str) -> float:
        """Return half the distance between the quartiles, as a part of the median."""
        walls = [each.wall for each in self.samples[name]]
        if len(walls) < 2:
            return 0.0
        low, middle, high = statistics.quantiles(walls, n=4, method="inclusive")
        return (high - low) / 2 / middle

    def ratio(self, name: str, peer: str) -> float:
        """Return the median, over the rounds, of one's wall time by the other's.

        Of the two medians when they did not take turns with each other.
        """
        if len(self.samples[name]) != len(self.samples[peer]):
            return self.seconds(name) / self.seconds(peer)
        pairs = zip(self.samples[name], self.samples[peer], strict=True)
        return statistics.median(one.wall / other.wall for one, other in pairs)

    def cpu_ratio(self, name: str, peer: str) -> float:
        """Return the same of the CPU time, which other processes on the machine disturb less."""
        pairs = zip(self.samples[name], self.samples[peer], strict=True)
        return statistics.median(one.cpu / other.cpu for one, other in pairs)

    def __or__(self, other: "Timings") -> "Timings":
        return Timings({**self.samples, **other.samples})

    def only(self, names: Iterable[str]) -> "Timings":
        """Return the timings of these."""
        return Timings({name: self.samples[name] for name in names})

    def as_json(self) -> dict[str, Any]:
        """Return the medians, quartiles and extremes in microseconds, for machines."""
        return {name: _summary(samples) for name, samples in self.samples.items()}


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise about a figure; `at_least` when more is better."""

    limit: float
    words: str
    at_least: bool = False

    def is_met(self, figure: float) -> bool:
        """Tell whether the figure keeps the promise."""
        return figure >= self.limit if self.at_least else figure <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.words}"


def take_turns(
    works: Mapping[str, Work],
    *,
    rounds: int,
    calls: int = 1,
    prepare: Callable[[str], object] | None = None,
) -> Timings:
    """Run each piece of work in every round, in an order shuffled anew each time.

    Args:
        calls: calls of one sample; enough of them for a few milliseconds.
        prepare: called before each sample with the name whose turn it is, outside the time. Work
            that needs it is long, and has no round more to warm up.
    """

    def take(name: str) -> Sample:
        if prepare is not None:
            prepare(name)
        return sample(works[name], calls)

    return in_turns(works, take, rounds=rounds, warms_up=prepare is None)


def in_turns(
    names: Iterable[str], take: Callable[[str], Sample], *, rounds: int, warms_up: bool = True
) -> Timings:
    """Take a sample of each in every round, in an order shuffled anew each time.

    Args:
        take: also of work in another process.
        warms_up: a round more comes first, for caches and connections; it does not count.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    shuffled = random.Random(1)
    for number in range(rounds + warms_up):
        for name in shuffled.sample(list(samples), len(samples)):
            taken = take(name)
            if number or not warms_up:
                samples[name].append(taken)
    return Timings(samples)


def row(
    database: str,
    measured: str,
    *,
    unit: str,
    figures: Mapping[str, float | None],
    ratio: float | None = None,
    cpu_ratio: float | None = None,
    bar: Bar | None = None,
    judged: float | None = None,
    also: str = "",
    spread: float | None = None,
    queries: str = "",
    detail: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return one line of the table; `judged`, the ratio if not given, is held against the bar."""
    judged = ratio if judged is None else judged
    made: dict[str, object] = {
        "database": database,
        "measured": measured,
        "unit": unit,
        **{name: significant(each) for name, each in figures.items()},
        "±": None if spread is None else f"{spread:.0%}",
        "ratio": None if ratio is None else round(ratio, 3),
        "CPU_ratio": None if cpu_ratio is None else round(cpu_ratio, 3),
        "bar": str(bar or ""),
        "met": None if bar is None or judged is None else bar.is_met(judged),
        "queries": queries,
        "also": also,
        "detail": dict(detail or {}),
    }
    print(f"  {time.strftime('%H:%M:%S')}  {database}: {measured}", file=sys.stderr)
    return made


def significant(figure: float | None) -> float | None:
    """Return three digits of a figure, or all before the point; None for what was not taken."""
    if figure is None:
        return None
    return round(figure) if abs(figure) >= 100 else float(f"{figure:.3g}")


def statements_of(work: Work) -> int:
    """Count the statements that some work sends to the default database."""
    sent = 0

    def count(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal sent
        sent += 1
        return execute(*arguments)

    with connection.execute_wrapper(count):
        work()
    return sent


def sample(work: Work, calls: int = 1) -> Sample:
    """Time the calls of one sample, without the collector of garbage."""
    if calls == 1:
        gc.collect()
    gc.disable()  # as timeit does: a collection would hit one and spare the other
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    finally:
        gc.enable()
    return Sample(wall / calls, cpu / calls)


def _summary(samples: list[Sample]) -> dict[str, object]:
    walls = sorted(each.wall for each in samples)
    quartiles = statistics.quantiles(walls, n=4, method="inclusive") if len(walls) > 1 else walls
    return {
        "rounds": len(walls),
        "wall_us": [round(each * 1e6, 2) for each in (walls[0], *quartiles, walls[-1])],
        "cpu_us": round(statistics.median(each.cpu for each in samples) * 1e6, 2),
    }
