"""The table that repositories are measured on: filled by the server, emptied between turns."""

import os

from django.core.management.color import no_style
from django.db import connection
from django.db.models import Index

from tests.testapp.models import Article

__all__ = ["INDEXES", "ROWS", "TABLE", "empty", "fill", "new_articles"]

ROWS = int(os.environ.get("BENCH_ROWS", "1_000_000"))
TABLE = Article._meta.db_table
INDEXES = [
    Index(fields=["published_at", "id"], name="bench_published_at"),
    Index(fields=["score", "id"], name="bench_score"),
    Index(fields=["rating", "id"], name="bench_rating"),
]
"""What an order by each column and the primary key needs."""

_SERIES = {
    "postgresql": "WITH series (n) AS (SELECT generate_series(1, %s))",
    "sqlite": "WITH RECURSIVE series (n) AS"
    " (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < %s)",
}
_AT = {
    "postgresql": "timestamptz '2020-01-01 00:00Z' + n * interval '1 minute'",
    "sqlite": "datetime('2020-01-01', '+' || n || ' minutes')",
}


def empty() -> None:
    """Remove all rows and begin again with the key 1."""
    statements = connection.ops.sql_flush(
        no_style(), [TABLE], reset_sequences=True, allow_cascade=True
    )
    connection.ops.execute_sql_flush(statements)


def fill(rows: int) -> None:
    """Replace what the table has by so many rows, with the keys 1 to `rows`.

    Every eleventh has no rating, the others share ten; `published_at` and `score` are unique.
    """
    empty()
    with connection.cursor() as cursor:
        cursor.execute(
            f"{_SERIES[connection.vendor]} INSERT INTO {TABLE}"
            " (slug, title, rating, score, is_live, language, published_at)"
            " SELECT 'article-' || n, 'The article number ' || n,"
            f" nullif(n %% 11, 10), n / 4.0, n > 0, 'en', {_AT[connection.vendor]} FROM series",
            [rows],
        )
        if connection.vendor == "postgresql":
            cursor.execute(f"VACUUM ANALYZE {TABLE}")
        else:
            cursor.execute("ANALYZE")


def new_articles(rows: int) -> list[Article]:
    """Return so many unsaved articles; the slugs are those of the first so many rows."""
    return [
        Article(slug=f"article-{n}", title=f"The title of {n}", rating=n % 7)
        for n in range(1, rows + 1)
    ]
