"""A checker of histories: lists that are only appended to tell in which order things happened.

Whoever reads a list sees which appends came before, so a history of reads and appends has a graph
of dependencies; a cycle in it is something that no order of whole transactions could explain.
Source: Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations".
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise


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
    before: dict[int, set[int]] = defaultdict(set)
    for key, order in final.items():
        for value in order:
            if (key, value) not in writers:
                return f"list {key} has {value}, which nobody committed"
        for earlier, later in pairwise(order):
            _must_precede(before, writers[key, earlier], writers[key, later])
    for key, value in writers:
        if value not in final.get(key, []):
            return f"list {key} has lost {value}"
    for number, each in enumerate(history):
        for key, seen in each.reads.items():
            order = final.get(key, [])
            if order[: len(seen)] != seen:
                return f"transaction {number} read {seen} of list {key}, which became {order}"
            if seen:
                _must_precede(before, writers[key, seen[-1]], number)
            if len(seen) < len(order):
                _must_precede(before, number, writers[key, order[len(seen)]])
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        return f"a cycle of transactions: {error.args[1]}"
    return ""


def _must_precede(before: dict[int, set[int]], earlier: int, later: int) -> None:
    if earlier != later:
        before[later].add(earlier)
