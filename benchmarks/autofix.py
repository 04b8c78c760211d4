"""Autofix: what a shape costs one by one, with Django's own prefetch or join, and batched.

`ours` is a plain queryset in `autofixing()`; `Django` the same with `prefetch_related`, or with
nothing deferred; `one by one` the queryset as it is, over a tenth of the rows, times ten. Ours is
held to Django's by 25 rounds in turns, since single rounds differ by a tenth or more; `again` is
Django's against itself, which shows how much of a ratio is the machine.
"""

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from django.core.management import call_command
from django.db import OperationalError, connection

from benchmarks.measuring import Bar, Timings, Work, row, statements_of, take_turns
from dbpatterns.queries import autofixing, batched
from tests.testapp.models import Badge, Country, Gadget, Maker, Manual, Part

__all__ = ["rows"]

ROWS = int(os.environ.get("BENCH_PEERS", "10_000"))
MANY = (40_000, 260_000)
PLAIN: Any = Gadget
"""Untyped, since the type checker's settings do not have the tests' models."""
DATABASE = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"

Row = dict[str, object]
Read = Callable[[Any], object]


def rows() -> list[Row]:
    """Return a row for each shape, for long results, and for iterators."""
    call_command("migrate", verbosity=0, run_syncdb=True)
    _fill(ROWS)
    made = [_compare(name, *shape) for name, shape in SHAPES.items()]
    made += [_iterators(), *(_long(size) for size in MANY)]
    return made


def _manual(each: Any) -> object:
    return each.manual.title


SHAPES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Read]] = {
    "load only": (lambda q: q, lambda q: q, len),
    "select_related": (
        lambda q: q.select_related("maker"),
        lambda q: q.select_related("maker"),
        lambda q: [each.maker.name for each in q],
    ),
    "foreign key": (
        lambda q: q,
        lambda q: q.prefetch_related("maker"),
        lambda q: [each.maker.name for each in q],
    ),
    "second hop": (
        lambda q: q,
        lambda q: q.prefetch_related("maker__country"),
        lambda q: [each.maker.country.name for each in q],
    ),
    "one-to-one reverse": (
        lambda q: q,
        lambda q: q.prefetch_related("manual"),
        lambda q: [_manual(each) for each in q],
    ),
    "deferred column": (
        lambda q: q.defer("text"),
        lambda q: q,
        lambda q: [each.text for each in q],
    ),
    "reverse foreign key": (
        lambda q: q,
        lambda q: q.prefetch_related("parts"),
        lambda q: [[part.name for part in each.parts.all()] for each in q],
    ),
    "many-to-many": (
        lambda q: q,
        lambda q: q.prefetch_related("badges"),
        lambda q: [[badge.name for badge in each.badges.all()] for each in q],
    ),
}
"""Each as it is, as Django would load it at once, and what is read of it."""
BARELESS = ("load only", "select_related", "deferred column")
"""Nothing is batched in the first two; the third is held to a load that defers nothing."""


def _compare(name: str, bare: Callable[[Any], Any], eager: Callable[[Any], Any], read: Read) -> Row:
    def ours() -> object:
        with autofixing():
            return read(bare(PLAIN.objects.all()))

    def django() -> object:
        return read(eager(PLAIN.objects.all()))

    def one_by_one() -> object:
        return read(bare(PLAIN.objects.all()[: ROWS // 10]))

    works: dict[str, Work] = {"ours": ours, "Django": django, "again": django}
    queries = {"ours": statements_of(ours), "one by one": statements_of(one_by_one)}
    try:
        queries["Django"] = statements_of(django)
    except OperationalError as error:  # Django 5.2 on SQLite
        also, works = f"Django: {error}", {"ours": ours}
        queries["Django"] = 0
    is_compared = "Django" in works
    timings = take_turns(works, rounds=25)
    if is_compared:
        also = f"again {timings.cpu_ratio('again', 'Django'):.3f}"
    timings |= take_turns({"one by one": one_by_one}, rounds=3)
    is_free = name in ("load only", "select_related")
    bar = None if name in BARELESS else Bar(1.1, "of Django's eager load")
    return _row(
        f"{name}, {ROWS:,} rows",
        timings,
        {
            "ours": _ms(timings, "ours"),
            "Django": _ms(timings, "Django") if is_compared else None,
            "one by one": _ms(timings, "one by one") * (1 if is_free else 10),
        },
        queries="/".join(str(queries[each]) for each in ("ours", "Django", "one by one")),
        ratio=timings.cpu_ratio("ours", "Django") if is_compared else None,
        bar=bar,
        also=also,
    )


def _iterators() -> Row:
    def walk(size: int) -> Work:
        return lambda: sum(
            len(each.maker.name) for each in batched(PLAIN.objects.all()[:size]).iterator()
        )

    works = {"ours": walk(ROWS), "half": walk(ROWS // 2)}
    peaks = {name: _peak(walk(size)) for name, size in (("all", ROWS), ("half", ROWS // 2))}
    timings = take_turns(works, rounds=7)
    return _row(
        f"iterator over {ROWS:,} rows, and half of them",
        timings,
        {"ours": _ms(timings, "ours"), "Django": None, "one by one": None},
        queries=str(statements_of(works["ours"])),
        ratio=timings.cpu_ratio("ours", "half"),
        bar=Bar(2.2, "of half the rows"),
        also=f"peak {peaks['all'] / 1e6:.1f} MB, half {peaks['half'] / 1e6:.1f} MB",
    )


def _long(size: int) -> Row:
    _fill(size)

    def ours() -> object:
        with autofixing():
            return [(each.maker.name, len(each.parts.all())) for each in PLAIN.objects.all()]

    timings = take_turns({"ours": ours}, rounds=1, prepare=lambda name: None)
    queries = statements_of(ours)
    try:
        list(PLAIN.objects.prefetch_related("maker", "parts"))
        also = "Django's prefetch passes"
    except OperationalError as error:
        also = f"Django's prefetch: {error}"
    return _row(
        f"foreign key and set, {size:,} rows",
        timings,
        {"ours": _ms(timings, "ours"), "Django": None, "one by one": None},
        queries=str(queries),
        also=also,
    )


def _row(measured: str, timings: Timings, figures: dict[str, float | None], **given: Any) -> Row:
    return row(
        DATABASE,
        measured,
        unit="ms",
        figures=figures,
        spread=timings.spread("ours"),
        detail=timings.as_json(),
        **given,
    )


def _ms(timings: Timings, name: str) -> float:
    return timings.seconds(name) * 1e3


def _fill(size: int) -> None:
    models: tuple[Any, ...] = (Part, Manual, Gadget.badges.through, Gadget, Badge, Maker, Country)
    for model in models:
        model.objects.all()._raw_delete(connection.alias)
    countries = _make(Country, (Country(id=n, name=f"country {n}") for n in range(1, 201)))
    numbers = range(1, size + 1)
    _make(Maker, (Maker(id=n, name=f"{n}", country=countries[n % 200]) for n in numbers))
    _make(Badge, (Badge(id=n, name=f"badge {n}") for n in range(1, 101)))
    _make(Gadget, (Gadget(id=n, name=f"{n}", text="text", maker_id=n) for n in numbers))
    _make(Manual, (Manual(gadget_id=n, title=f"{n}") for n in numbers))
    each = 3 if size == ROWS else 1
    _make(Part, (Part(gadget_id=n, name=f"{n} {k}") for n in numbers for k in range(each)))
    through: Any = Gadget.badges.through
    _make(
        through,
        (through(gadget_id=n, badge_id=1 + (n + k) % 100) for n in numbers for k in range(2)),
    )


def _make(model: Any, objects: Iterator[Any]) -> list[Any]:
    made: list[Any] = model.objects.bulk_create(objects, batch_size=10_000)
    return made


def _peak(work: Work) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
