"""Merging the shards' sorted runs into one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from typing import Any

from dbpatterns.sharding.fanout.ordering import Merging, merging
from dbpatterns.sharding.fanout.statements import Statement

__all__ = ["merged"]

Chunks = Iterable[list[Any]]


def merged(statements: Sequence[Statement], answers: Sequence[Chunks]) -> Iterator[Any]:
    """Return what all shards answered, by the order they were asked for; else shard by shard.

    Holds one part of each shard's rows at a time.
    """
    keys = statements[0].keys if statements else []
    if not keys:
        for each, chunks in zip(statements, answers, strict=True):
            yield from each.made(chunks)
        return
    how = merging(keys)
    runs = [_run(each.made, chunks, how) for each, chunks in zip(statements, answers, strict=True)]
    for _, row in merge(*runs, key=itemgetter(0), reverse=how.reverse):
        yield row


def _run(
    make: Callable[[Chunks], Iterator[Any]], chunks: Chunks, how: Merging
) -> Iterator[tuple[Any, Any]]:
    """Return a shard's rows, each with what it is compared by."""
    keys: deque[Any] = deque()

    def seen() -> Iterator[list[Any]]:
        for rows in chunks:
            keys.extend(map(how.key, rows))
            yield rows

    for row in make(seen()):
        yield keys.popleft(), row
