"""Repositories against plain Django, advanced-alchemy's repository and bare cursors.

The table has BENCH_ROWS rows, a million if not given; what writes many or streams takes a tenth.
`ratio` compares with plain Django or with what the bar names; it is the median of the rounds'
ratios, of the medians where they did not take turns. `CPU ratio` leaves out the server and the
neighbours on the machine. `limit` is the same work by a bare cursor: no objects, no checks.
`queries` are ours, Django's and advanced-alchemy's.
"""

import random
import tracemalloc
from collections import deque
from collections.abc import Callable
from itertools import cycle
from typing import Any

from django.core.management import call_command
from django.db import connection

from benchmarks.alchemy import Alchemy
from benchmarks.articles import INDEXES, ROWS, TABLE, fill
from benchmarks.comparing import COLUMNS, DATABASE, PLAIN, Row, compare, fetch
from benchmarks.measuring import Bar, Work, row
from benchmarks.repository_pages import pages
from benchmarks.repository_writes import save_many, upsert_many
from dbpatterns.repositories import Repository
from dbpatterns.repositories.memory import InMemoryRepository
from tests.testapp.models import Article

MANY = ROWS // 10
CHUNK = 2_000


def rows() -> list[Row]:
    """Write, then read; about three minutes for each vendor."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    alchemy = Alchemy(connection, TABLE, unique="slug")
    measured = [upsert_many(alchemy), save_many(alchemy)]
    fill(ROWS)
    with connection.schema_editor() as editor:
        for index in INDEXES:
            editor.add_index(Article, index)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM ANALYZE {TABLE}")
    measured = [
        _find_by_id(alchemy),
        _find_by(alchemy),
        *pages(alchemy, ("-published_at", "-id")),
        *pages(alchemy, ("rating", "id")),
        *pages(alchemy, ("-score", "-id")),
        *measured,
        *_stream(alchemy),
        _in_memory(alchemy),
    ]
    alchemy.close()
    return measured


def _find_by_id(alchemy: Alchemy) -> Row:
    articles = Repository.for_model(Article)
    next_key = _keys(ROWS)
    sql = f"SELECT {COLUMNS} FROM {TABLE} WHERE id = %s"
    works: dict[str, Work] = {
        "ours": lambda: articles.find_by_id(next_key()),
        "Django": lambda: PLAIN.objects.get(pk=next_key()),
        "alchemy": lambda: alchemy.rows.get_one_or_none(id=next_key()),
        "limit": lambda: fetch(sql, [next_key()]),
    }
    bar = Bar(1.05, "of Django")
    return compare("find_by_id", works, alchemy, unit="µs", rounds=100, calls=30, bar=bar)


def _find_by(alchemy: Alchemy) -> Row:
    articles = Repository.for_model(Article)
    sql = f"SELECT {COLUMNS} FROM {TABLE} WHERE id <= %s"
    works: dict[str, Work] = {
        "ours": lambda: articles.find_by(pk__lte=1_000),
        "Django": lambda: list(PLAIN.objects.filter(pk__lte=1_000)),
        "alchemy": lambda: alchemy.rows.get_many(alchemy.row.id <= 1_000),
        "limit": lambda: fetch(sql, [1_000]),
    }
    bar = Bar(1.03, "of Django")
    return compare("find_by, 1,000 rows", works, alchemy, unit="ms", rounds=60, calls=2, bar=bar)


def _stream(alchemy: Alchemy) -> list[Row]:
    articles = Repository.for_model(Article)
    some = PLAIN.objects.filter(pk__lte=MANY)
    sql = f"SELECT {COLUMNS} FROM {TABLE} WHERE id <= %s"

    def limit() -> None:
        with connection.chunked_cursor() as cursor:
            cursor.execute(sql, [MANY])
            while cursor.fetchmany(CHUNK):
                pass

    works: dict[str, Work] = {
        "ours": lambda: deque(articles.stream(pk__lte=MANY, chunk=CHUNK), maxlen=0),
        "Django": lambda: deque(some.iterator(chunk_size=CHUNK), maxlen=0),
        "alchemy": lambda: alchemy.rows.get_many(alchemy.row.id <= MANY),
        "limit": limit,
    }
    measured = f"stream, {MANY:,} rows"
    times = compare(measured, works, alchemy, unit="ms", rounds=5)
    peaks = {name: _peak_bytes(work) / 1e6 for name, work in works.items()}
    return [
        times,
        row(
            DATABASE,
            f"{measured}, peak memory",
            unit="MB",
            figures=peaks,
            ratio=peaks["ours"] / peaks["Django"],
            also="alchemy's has no stream: it reads all",
        ),
    ]


def _in_memory(alchemy: Alchemy) -> Row:
    kept = 1_000
    objects = list(PLAIN.objects.order_by("pk")[:kept])
    articles = InMemoryRepository(Article)
    articles.save_many([Article(**_values(each)) for each in objects])
    theirs = alchemy.in_memory(map(_values, objects))
    store = {each.pk: each for each in objects}
    next_key = _keys(kept)
    works: dict[str, Work] = {
        "ours": lambda: articles.find_by_id(next_key()),
        "Django": lambda: PLAIN.objects.get(pk=next_key()),
        "alchemy": lambda: theirs.get(next_key()),
        "limit": lambda: store[next_key()],
    }
    found = articles.find_by_id(kept)
    assert found is not None
    assert found.slug == theirs.get(kept).slug == store[kept].slug
    return compare(
        "find_by_id in memory",
        works,
        alchemy,
        unit="µs",
        rounds=50,
        calls=200,
        bar=Bar(8, "µs"),
        judged_by_time=True,
        also="Django asks the database; alchemy's and a dict hand out the kept object itself",
    )


def _keys(count: int) -> Callable[[], int]:
    return cycle(random.Random(1).choices(range(1, count + 1), k=1_000)).__next__


def _values(obj: Article) -> dict[str, Any]:
    return {each.attname: getattr(obj, each.attname) for each in obj._meta.concrete_fields}


def _peak_bytes(work: Work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
