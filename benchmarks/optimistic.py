"""Writes of one row with a version: ours, Django's without, and the packages with a version field.

One client, whose CPU is what is judged. SQLite is in memory; on PostgreSQL each write is a commit.
All tables have the same eight columns, and those with a version one more.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from django.db import connection, models, transaction

from benchmarks.measuring import Bar, Work, row, statements_of, take_turns
from dbpatterns.optimistic import VersionedModel

DATABASE = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"
ROUNDS = int(os.environ.get("BENCH_OPTIMISTIC_ROUNDS", "25"))
CALLS = 200 if connection.vendor == "sqlite" else 25
BULK = 100
BAR = Bar(1.2, "x CPU")


def rows() -> list[dict[str, object]]:
    """Return a row for each way to write."""
    connection.close()
    if connection.vendor == "sqlite":
        connection.settings_dict["NAME"] = ":memory:"
    stored = {name: _stored(name, *made) for name, made in _models().items()}
    only = {name: stored[name] for name in ("Django", "ours")}
    return [
        _row("save()", stored, _save, bar=BAR),
        _row("save(update_fields=…)", stored, _save_some, bar=BAR),
        _row("save() in a transaction", stored, _save_in_transaction, bar=BAR),
        _row(f"bulk_update() of {BULK}", only, _bulk_update, calls=2),
    ]


def _models() -> dict[str, tuple[type[Any], dict[str, Any]]]:
    found: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "Django": (models.Model, {}),
        "ours": (VersionedModel, {}),
    }
    with suppress(ImportError):
        concurrency = import_module("concurrency.fields")
        found["concurrency"] = (models.Model, {"version": concurrency.IntegerVersionField()})
    with suppress(ImportError):
        ool = import_module("ool")
        if not hasattr(models.QuerySet, "fetch_mode"):  # Django 6.1 breaks it
            bases = (ool.VersionedMixin, models.Model)
            meta = type("Meta", (), {"abstract": True, "app_label": "bench"})
            base = type("Ool", bases, {"__module__": __name__, "Meta": meta})
            found["optimistic_lock"] = (base, {"version": ool.VersionField()})
    return found


def _stored(name: str, base: type[Any], more: dict[str, Any]) -> list[Any]:
    columns = {f"c{n}": models.CharField(max_length=50, default="x") for n in range(8)}
    meta = type("Meta", (), {"app_label": "bench", "db_table": f"bench_{name.lower()}"})
    attributes = {"__module__": __name__, "Meta": meta, **columns, **more}
    model: Any = type(f"{name.title()}Row", (base,), attributes)
    with connection.schema_editor() as editor:
        editor.create_model(model)
    return [model._base_manager.create() for _ in range(BULK)]


def _save(stored: list[Any]) -> None:
    stored[0].save()


def _save_some(stored: list[Any]) -> None:
    stored[0].save(update_fields=["c1"])


def _save_in_transaction(stored: list[Any]) -> None:
    with transaction.atomic():
        stored[0].save()


def _bulk_update(stored: list[Any]) -> None:
    type(stored[0])._default_manager.bulk_update(stored, ["c1"])


def _row(
    measured: str,
    stored: dict[str, list[Any]],
    write: Callable[[list[Any]], None],
    *,
    calls: int = CALLS,
    bar: Bar | None = None,
) -> dict[str, object]:
    works: dict[str, Work] = {name: _work(write, each) for name, each in stored.items()}
    statements = "/".join(str(statements_of(work)) for work in works.values())
    timings = take_turns(works, rounds=ROUNDS, calls=calls)
    cpu = timings.cpu_ratio("ours", "Django")
    peers = ("Django", "ours", "concurrency", "optimistic_lock")
    return row(
        DATABASE,
        measured,
        unit="µs CPU",
        figures={
            name: timings.cpu_seconds(name) * 1e6 if name in works else None for name in peers
        },
        spread=timings.spread("ours"),
        ratio=timings.ratio("ours", "Django"),
        cpu_ratio=cpu,
        bar=bar,
        judged=cpu,
        queries=statements,
        detail=timings.as_json(),
    )


def _work(write: Callable[[list[Any]], None], stored: list[Any]) -> Work:
    return lambda: write(stored)
