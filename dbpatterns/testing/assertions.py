"""`assert_scales`: the same number of queries for two rows as for twelve, and no heuristics.

def test_the_list_scales(client):
    assert_scales(lambda: client.get("/posts/"), lambda count: PostFactory.create_batch(count))
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from django.db import DEFAULT_DB_ALIAS, connections
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.queries.fingerprints import read_statement
from dbpatterns.queries.messages import shorten

__all__ = ["assert_scales"]

_SHOWN = 5
_LIST = re.compile(r"\(%s(?:, ?%s)+\)")


def assert_scales(
    work: Callable[[], object],
    make_rows: Callable[[int], object],
    sizes: Sequence[int] = (2, 12),
    *,
    slack: int = 0,
    using: Sequence[str] = (DEFAULT_DB_ALIAS,),
) -> None:
    """Assert that work sends no more queries when there are more rows.

    Runs the work once to warm caches, then once for each size; rows are added, never removed.
    Catches what no stack shows: a loop that is written out line by line.

    Args:
        make_rows: called with the number of rows to add.
        sizes: how many rows there are to be, rising.
        slack: queries more that are no fault: a page more, for instance.
        using: the databases to look at.
    Raises: AssertionError: says each statement that ran more often. UsageError: sizes do not rise.
    """
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] < 0:
        raise UsageError(f"assert_scales: sizes {tuple(sizes)!r} are not two or more that rise.")
    counts: list[Counter[str]] = []
    rows = 0
    for size in sizes:
        make_rows(size - rows)
        rows = size
        if not counts:
            work()
        counts.append(_count(work, using))
    for (few, small), (many, large) in zip(
        zip(sizes, counts, strict=True), zip(sizes[1:], counts[1:], strict=True), strict=False
    ):
        more = large.total() - small.total()
        if more > slack:
            grown = [
                f"  {small[each]} -> {large[each]}   {shorten(each)}"
                for each, _ in (large - small).most_common(_SHOWN)
            ]
            raise AssertionError(
                f"{small.total()} queries for {few} rows and {large.total()} for {many}: "
                f"{more} more.\n" + "\n".join(grown)
            )


def _count(work: Callable[[], object], aliases: Sequence[str]) -> Counter[str]:
    captures = [CaptureQueriesContext(connections[alias]) for alias in aliases]
    for capture in captures:
        capture.__enter__()
    try:
        work()
    finally:
        for capture in captures:
            capture.__exit__(None, None, None)
    return Counter(
        _template(query["sql"]) for capture in captures for query in capture.captured_queries
    )


def _template(sql: str) -> str:
    statement = read_statement(sql, False)
    return sql if statement is None else _LIST.sub("(…)", statement.template)
