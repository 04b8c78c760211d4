"""What every tool against N+1s is measured on: ten thousand rows, and the tests' catalogue."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from typing import Any, NamedTuple

from django.core.management import call_command
from django.db import models, transaction

from tests.queries.conftest import write_novels
from tests.testapp.models import Nation, Novel, Novelist

__all__ = [
    "LOOPED",
    "MODELS",
    "ONE_QUERY",
    "ROWS",
    "WORKS",
    "Models",
    "alarms",
    "auto_prefetch_models",
    "fill",
    "fill_catalogue",
]

ROWS = 10_000
ONE_QUERY = "one query"
LOOPED = 1_000
"""Rows of the N+1."""
CHUNK = 900
"""Parents of one prefetch of keys; Django 5.2 reads no more than about 1,000 on SQLite."""


class Models(NamedTuple):
    """Untyped, since the type checker's settings do not have the tests' models."""

    novel: Any
    novelist: Any


MODELS = Models(Novel, Novelist)


def auto_prefetch_models() -> Models:
    """Return models of the same tables with django-auto-prefetch's base classes."""
    base: Any = import_module("auto_prefetch")

    class Writer(base.Model):  # type: ignore[misc]
        name = models.CharField(max_length=50)
        nation = base.ForeignKey(Nation, models.CASCADE, related_name="+")

        class Meta(base.Model.Meta):  # type: ignore[misc]
            app_label = "benchmarks"
            db_table = Novelist._meta.db_table
            managed = False

    class Work(base.Model):  # type: ignore[misc]
        title = models.CharField(max_length=50)
        body = models.TextField()
        novelist = base.ForeignKey(Writer, models.CASCADE, related_name="novels")
        editor = base.ForeignKey(Writer, models.CASCADE, null=True, related_name="edited")

        class Meta(base.Model.Meta):  # type: ignore[misc]
            app_label = "benchmarks"
            db_table = Novel._meta.db_table
            managed = False

    return Models(Work, Writer)


def fill_catalogue() -> None:
    """Make the tables, and the few rows of the catalogue."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    write_novels()


def fill() -> None:
    """Put the many rows in place of the few."""
    novel, novelist = MODELS
    nations: Any = Nation
    for model in (novel, novelist, nations):
        model.objects.all().delete()
    nation = nations.objects.create(name="nation")
    writers = novelist.objects.bulk_create(
        Novelist(name=str(number), nation=nation) for number in range(ROWS)
    )
    novel.objects.bulk_create(Novel(title=each.name, novelist=each) for each in writers)


def _load(models: Models) -> None:
    list(models.novel.objects.all())


def _select_related(models: Models) -> None:
    for novel in models.novel.objects.select_related("novelist"):
        _ = novel.novelist


def _prefetch_keys(models: Models) -> None:
    for start in range(0, ROWS, CHUNK):
        rows = models.novel.objects.order_by("pk")[start : start + CHUNK]
        for novel in rows.prefetch_related("novelist"):
            _ = novel.novelist


def _prefetch_sets(models: Models) -> None:
    for novelist in models.novelist.objects.prefetch_related("novels"):
        list(novelist.novels.all())


def _loop(models: Models) -> None:
    for novel in models.novel.objects.order_by("pk")[:LOOPED]:
        _ = novel.novelist.name


def _query(models: Models) -> None:
    models.novel.objects.filter(pk=-1).exists()


WORKS: Mapping[str, Callable[[Models], None]] = {
    f"load of {ROWS:,} rows": _load,
    f"select_related of {ROWS:,} rows": _select_related,
    f"prefetch_related of {ROWS:,} keys": _prefetch_keys,
    f"prefetch_related of {ROWS:,} sets": _prefetch_sets,
    f"N+1 of {LOOPED:,} rows": _loop,
    ONE_QUERY: _query,
}


def alarms(active: Callable[[list[str]], AbstractContextManager[object]]) -> dict[str, Any]:
    """Run the tests' catalogue under a tool; return by group which pieces it reported.

    Each runs in a transaction that is rolled back, and ends at what it raises.
    """
    from tests.queries.guilty import SHAPES
    from tests.queries.innocent import INNOCENT

    def is_reported(work: Callable[[], object]) -> bool:
        found: list[str] = []
        with transaction.atomic():
            with suppress(Exception), active(found):  # a tool may break a shape: its own affair
                work()
            transaction.set_rollback(True)
        return bool(found)

    return {
        "reads": {s.name: is_reported(s.guilty) for s in SHAPES if not s.is_write},
        "writes": {s.name: is_reported(s.guilty) for s in SHAPES if s.is_write},
        "innocent": {work.__name__: is_reported(work) for work in INNOCENT},
    }
