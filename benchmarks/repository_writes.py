"""Writing many rows: the same table and fresh objects for each one whose turn it is."""

import random
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from django.db import connection, transaction

from benchmarks.alchemy import Alchemy
from benchmarks.articles import ROWS, TABLE, empty, fill, new_articles
from benchmarks.comparing import PLAIN, Row, compare
from benchmarks.measuring import Bar, Work
from dbpatterns.repositories import Repository
from tests.testapp.models import Article

__all__ = ["save_many", "upsert_many"]

MANY = ROWS // 10
BATCH = 2_000
WRITTEN = ("slug", "title", "rating", "score", "is_live", "language")


def upsert_many(alchemy: Alchemy) -> Row:
    """Return the row of an upsert of which half updates."""
    articles = Repository.for_model(Article)
    turn = _Turn(alchemy, existing=MANY // 2, new=MANY)

    def by_hand(batch: int | None) -> None:
        PLAIN.objects.bulk_create(
            turn.objects,
            batch_size=batch,
            update_conflicts=True,
            unique_fields=["slug"],
            update_fields=["title", "rating"],
        )

    def ours() -> None:
        result = articles.upsert_many(
            turn.objects, match=["slug"], update=["title", "rating"], batch=BATCH
        )
        assert len(result.created) == len(result.updated) == MANY // 2

    works: dict[str, Work] = {
        "ours": ours,
        "Django": lambda: by_hand(BATCH),
        "its own batches": lambda: by_hand(None),
        "alchemy": lambda: alchemy.write("upsert_many", turn.objects, match_fields=["slug"]),
        "limit": lambda: _raw_write(
            turn.objects,
            "ON CONFLICT (slug) DO UPDATE SET title = excluded.title, rating = excluded.rating",
        ),
    }
    return compare(
        f"upsert_many, {MANY:,} rows, half of them there",
        works,
        alchemy,
        unit="rows/s",
        rounds=3,
        prepare=turn.begin,
        writes=turn.rows,
        bar=Bar(0.95, "of Django", at_least=True),
        others={"its own batches": "Django without a batch size"},
    )


def save_many(alchemy: Alchemy) -> Row:
    """Return the row of an insert."""
    articles = Repository.for_model(Article)
    turn = _Turn(alchemy, existing=0, new=MANY // 10)
    works: dict[str, Work] = {
        "ours": lambda: articles.save_many(turn.objects),
        "Django": lambda: PLAIN.objects.bulk_create(turn.objects, batch_size=500),
        "alchemy": lambda: alchemy.write("add_many", turn.objects),
        "limit": lambda: _raw_write(turn.objects, ""),
    }
    return compare(
        f"save_many, {MANY // 10:,} new rows",
        works,
        alchemy,
        unit="rows/s",
        rounds=7,
        prepare=turn.begin,
        writes=turn.rows,
    )


class _Turn:
    """What the next to write finds; advanced-alchemy a tenth, or it would take minutes."""

    def __init__(self, alchemy: Alchemy, *, existing: int, new: int) -> None:
        self.alchemy, self.existing, self.new = alchemy, existing, new
        self.objects: list[Any] = []

    def rows(self, name: str) -> int:
        """Return how many rows this one writes."""
        return self.new // 10 if name == "alchemy" else self.new

    def begin(self, name: str) -> None:
        """Fill the table, and make the objects in random order."""
        new = self.rows(name)
        if existing := self.existing * new // self.new:
            fill(existing)
        else:
            empty()
        self.objects = new_articles(new)
        random.Random(1).shuffle(self.objects)
        if name == "alchemy":
            values = attrgetter(*WRITTEN)
            self.objects = [
                self.alchemy.row(**dict(zip(WRITTEN, values(each), strict=True)))
                for each in self.objects
            ]


def _raw_write(objs: Iterable[Article], on_conflict: str) -> None:
    columns, values = ", ".join(WRITTEN), map(attrgetter(*WRITTEN), objs)
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            marks = ", ".join(["%s"] * len(WRITTEN))
            insert = f"INSERT INTO {TABLE} ({columns}) VALUES ({marks}) {on_conflict}"
            cursor.executemany(insert, list(values))
            return
        cursor.execute(f"CREATE TEMPORARY TABLE sent (LIKE {TABLE}) ON COMMIT DROP")
        cursor.execute("ALTER TABLE sent ALTER id DROP NOT NULL")
        with cursor.copy(f"COPY sent ({columns}) FROM STDIN") as copy:
            for each in values:
                copy.write_row(each)
        cursor.execute(
            f"INSERT INTO {TABLE} ({columns}) SELECT {columns} FROM sent {on_conflict} RETURNING id"
        )
        cursor.fetchall()
