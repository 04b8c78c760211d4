"""What a transaction of ours costs beside Django's own `atomic` and django-pgtransaction's.

Each transaction sends one `SELECT 1`. The ratio is ours by Django's, without a level, and ours by
django-pgtransaction's with one, which sends a statement more for it.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from django.db import connection, transaction

from benchmarks.measuring import Work, row, take_turns
from dbpatterns.transactions import Isolation, Retry, atomic

DATABASE = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"
ROUNDS, CALLS = 60, 50


def rows() -> list[dict[str, object]]:
    """Compare empty transactions; half a minute for each vendor."""
    ours, django = atomic(), transaction.atomic()
    retried = atomic(retry=Retry())(_ask)
    measured = [
        _row("atomic()", {"ours": _within(ours), "Django": _within(django)}),
        _row("a savepoint", {"ours": _nested(django, ours), "Django": _nested(django, django)}),
        _row("atomic(retry=…)", {"ours": retried, "Django": transaction.atomic()(_ask)}),
    ]
    if connection.vendor == "postgresql":
        peer: Any = import_module("pgtransaction")
        works = {
            "ours": _within(atomic(isolation=Isolation.SERIALIZABLE)),
            "Django": _within(django),
            "pgtransaction": _within(peer.atomic(isolation_level=peer.SERIALIZABLE)),
        }
        measured.append(_row("SERIALIZABLE", works, peer="pgtransaction"))
    return measured


def _row(measured: str, works: Mapping[str, Work], *, peer: str = "Django") -> dict[str, object]:
    timings = take_turns(works, rounds=ROUNDS, calls=CALLS)
    names = ("ours", "Django", "pgtransaction")
    return row(
        DATABASE,
        measured,
        unit="µs",
        figures={name: timings.seconds(name) * 1e6 if name in works else None for name in names},
        spread=timings.spread("ours"),
        ratio=timings.ratio("ours", peer),
        cpu_ratio=timings.cpu_ratio("ours", peer),
        detail=timings.as_json(),
    )


def _ask() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _within(block: Any) -> Callable[[], None]:
    def work() -> None:
        with block:
            _ask()

    return work


def _nested(outer: Any, inner: Any) -> Callable[[], None]:
    def work() -> None:
        with outer, inner:
            _ask()

    return work
