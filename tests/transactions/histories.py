"""A checker of histories: lists that are only appended to tell in which order things happened.

Whoever reads a list sees which appends came before, so a history of reads and appends has a graph
of dependencies; a cycle in it is something that no order of whole transactions could explain. It
is named as Adya names it, by what it takes: G0 only writes after writes (ww), G1c also reads of
what was written (wr), G-single one write after a read that had not seen it (rw), G2-item several.
Source: Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations".
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

Edge = tuple[int, int]


@dataclass
class Transaction:
    """What one committed transaction read and appended, own appends not among its reads."""

    reads: dict[int, list[int]] = field(default_factory=dict)
    appends: dict[int, list[int]] = field(default_factory=dict)


def anomaly(history: Sequence[Transaction], final: Mapping[int, list[int]]) -> str:
    """Say what no order of whole transactions explains; empty when there is nothing."""
    writers: dict[tuple[int, int], int] = {}
    for number, each in enumerate(history):
        for key, values in each.appends.items():
            writers |= {(key, value): number for value in values}
    before: dict[str, set[Edge]] = {"ww": set(), "wr": set(), "rw": set()}
    for key, order in final.items():
        for value in order:
            if (key, value) not in writers:
                return f"list {key} has {value}, which nobody committed"
        before["ww"] |= {(writers[key, a], writers[key, b]) for a, b in pairwise(order)}
    for key, value in writers:
        if value not in final.get(key, []):
            return f"list {key} has lost {value}"
    for number, each in enumerate(history):
        for key, seen in each.reads.items():
            order = final.get(key, [])
            if order[: len(seen)] != seen:
                return f"transaction {number} read {seen} of list {key}, which became {order}"
            if seen:
                before["wr"].add((writers[key, seen[-1]], number))
            if len(seen) < len(order):
                before["rw"].add((number, writers[key, order[len(seen)]]))
    return _worst_cycle(before)


def _worst_cycle(before: Mapping[str, set[Edge]]) -> str:
    ww, wr, rw = before["ww"], before["wr"], before["rw"]
    any_ = _cycle(ww | wr | rw)
    if not any_:
        return ""
    if cycle := _cycle(ww):
        return f"G0: a cycle of transactions {cycle}"
    if cycle := _cycle(ww | wr):
        return f"G1c: a cycle of transactions {cycle}"
    for edge in sorted(rw):
        if cycle := _cycle(ww | wr | {edge}):
            return f"G-single: a cycle of transactions {cycle}"
    return f"G2-item: a cycle of transactions {any_}"


def _cycle(edges: Iterable[Edge]) -> list[int]:
    """Return transactions of which each must precede the next, and the last is the first."""
    before: dict[int, set[int]] = defaultdict(set)
    for earlier, later in edges:
        if earlier != later:
            before[later].add(earlier)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []
