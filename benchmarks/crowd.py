"""A crowd of processes that do the same piece of work at once, one piece after another."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from django.db import connections

__all__ = ["Crowd"]

Steps = Callable[[int], Callable[[], object]]
"""Given a worker's number, in its process, returns what it calls again and again."""


class Crowd:
    """Forked workers with their own connections; they stay, so that a slice starts at once."""

    def __init__(self, works: Mapping[str, Steps], size: int) -> None:
        connections.close_all()
        fork = multiprocessing.get_context("fork")
        self._workers = []
        for number in range(size):
            mine, theirs = fork.Pipe()
            process = fork.Process(target=_serve, args=(works, number, theirs), daemon=True)
            process.start()
            self._workers.append((process, mine))

    def rate(self, name: str, *, seconds: float) -> float:
        """Return the calls per second of all together."""
        return sum(count / took for count, took in self.run(name, seconds=seconds))

    def run(self, name: str, *, seconds: float) -> list[tuple[int, float]]:
        """Let all do one piece of work and return the calls and seconds of each."""
        for _, pipe in self._workers:
            pipe.send((name, seconds))
        return [pipe.recv() for _, pipe in self._workers]

    def dismiss(self) -> None:
        """End them."""
        for process, pipe in self._workers:
            pipe.send(None)
            process.join()


def _serve(works: Mapping[str, Steps], number: int, pipe: "Connection[Any, Any]") -> None:
    steps: dict[str, Callable[[], object]] = {}
    while order := pipe.recv():
        name, seconds = order
        if name not in steps:
            steps[name] = works[name](number)
        step, count, start = steps[name], 0, time.monotonic()
        while time.monotonic() < start + seconds:
            step()
            count += 1
        pipe.send((count, time.monotonic() - start))
    connections.close_all()
