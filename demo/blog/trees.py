"""Rows that name their parent, put into reading order."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from django.db.models import Model

__all__ = ["in_tree_order"]

_M = TypeVar("_M", bound=Model)


def in_tree_order(
    rows: Sequence[_M], parent_id: Callable[[_M], int | None]
) -> Iterator[tuple[_M, int]]:
    """Yield each row once with its depth, below its parent, siblings in the order given.

    A row whose parent is not among them stands at depth 0. No recursion: a tree may be deep, and
    nothing in the database keeps rows from standing in a circle.
    """
    known = {row.pk for row in rows}
    below: dict[int | None, list[_M]] = defaultdict(list)
    for row in rows:
        parent = parent_id(row)
        below[parent if parent in known else None].append(row)
    placed: set[int] = set()
    for root in [*below[None], *rows]:  # again all: whoever stands in a circle has no root
        waiting = [(root, 0)]
        while waiting:
            row, depth = waiting.pop()
            if row.pk in placed:
                continue
            placed.add(row.pk)
            yield row, depth
            waiting += [(each, depth + 1) for each in reversed(below[row.pk])]
