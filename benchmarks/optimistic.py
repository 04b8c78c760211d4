"""CPU of one save: a plain model, ours, and the packages with a version field if installed.

    python -m benchmarks.optimistic

One row on SQLite in memory, so that the client is what is measured.
"""

import time
from statistics import median
from typing import Any

__all__ = ["main"]

ROUNDS = 15
SAVES = 300


def main() -> None:
    """Print each one's CPU per save, and its ratio to the plain save's, interleaved."""
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[],
        USE_TZ=True,
    )
    django.setup()
    from django.db import connection, models
    from django.test.utils import CaptureQueriesContext

    from dbpatterns.optimistic import VersionedModel

    bases: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "plain": (models.Model, {}),
        "ours": (VersionedModel, {}),
    }
    try:
        from concurrency.fields import IntegerVersionField  # type: ignore[import-not-found]

        bases["django-concurrency"] = (models.Model, {"version": IntegerVersionField()})
    except ImportError:
        print("django-concurrency is not installed")
    try:
        from ool import VersionedMixin, VersionField  # type: ignore[import-not-found]

        class Ool(VersionedMixin, models.Model):  # type: ignore[misc]
            class Meta:
                abstract = True
                app_label = "bench"

        bases["django-optimistic-lock"] = (Ool, {"version": VersionField()})
    except ImportError:
        print("django-optimistic-lock is not installed")
    rows: dict[str, Any] = {}
    for number, (name, (base, extra)) in enumerate(bases.items()):
        fields: dict[str, Any] = {
            f"c{column}": models.CharField(max_length=50, default="x") for column in range(8)
        }
        meta = type("Meta", (), {"app_label": "bench"})
        attributes = {"__module__": __name__, "Meta": meta, **fields, **extra}
        model: Any = type(f"Row{number}", (base,), attributes)
        with connection.schema_editor() as editor:
            editor.create_model(model)
        rows[name] = model.objects.create()
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, row in rows.items():
            begun = time.process_time()
            for _ in range(SAVES):
                row.save()
            taken[name].append((time.process_time() - begun) / SAVES * 1e6)
    for name, row in rows.items():
        with CaptureQueriesContext(connection) as queries:
            row.save()
        ratio = median(a / b for a, b in zip(taken[name], taken["plain"], strict=True))
        print(f"{name:24} {median(taken[name]):6.0f} µs  {ratio:.2f} x  {len(queries)} statements")


if __name__ == "__main__":
    main()
