"""`python -m benchmarks [SUBJECT …]`: run the benchmarks, print a table, write JSON.

Each subject runs in a process of its own per vendor, since Django reads its databases once. It
has a function `rows()`, one row for each thing measured; a dict in a row is for the JSON only.
PostgreSQL is servers of our own with fsync on: a commit costs what it costs.
"""

import argparse
import datetime
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.servers import start_clusters

SUBJECTS = {
    "standing_orders": "demo.settings",
    "repositories": "tests.settings",
    "queries": "tests.settings",
    "autofix": "tests.settings",
    "index_advice": "tests.settings",
    "transactions": "tests.settings",
    "events": "tests.settings",
    "ledger": "tests.settings",
    "optimistic": "tests.settings",
    "shard_ids": "tests.settings",
    "sharding_routing": "tests.settings",
    "sharding_fanout": "tests.settings",
}
"""Each with the settings it runs under."""
SHARDS = {"sharding_fanout": 4}
"""Servers beside `default`; two for the others."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what was asked for on both vendors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []], help="All if not given.")
    subjects = parser.parse_args().subjects or SUBJECTS
    for subject in subjects:
        rows = _run(subject, {})
        names = [f"shard_{number}" for number in range(SHARDS.get(subject, 2))]
        with start_clusters("default", *names, fsync="on") as clusters:
            urls = [cluster.url for cluster in clusters]
            rows += _run(
                subject, {"DATABASE_URL": urls[0], "DBPATTERNS_SHARD_URLS": ",".join(urls[1:])}
            )
        _print_table(subject, rows)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{subject}.json"
        path.write_text(json.dumps({**_machine(), "subject": subject, "rows": rows}, indent=2))
        print(f"\nWritten to benchmarks/results/{path.name}")


def _run(subject: str, servers: dict[str, str]) -> list[dict[str, Any]]:
    without = ("DATABASE_URL", "DBPATTERNS_SHARD_URLS", "REDIS_URL")
    environment = {name: value for name, value in os.environ.items() if name not in without}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.subject", subject],
            env=environment
            | servers
            | {
                "DEMO_DATA_DIR": folder,
                "DJANGO_SETTINGS_MODULE": SUBJECTS[subject],
                "DJANGO_DEBUG": "0",  # else Django keeps each query, which hides overhead
                "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
                "DJANGO_ALLOWED_HOSTS": "localhost,testserver",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _print_table(subject: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{subject.replace('_', ' ').capitalize()}")
    columns = [key for key, value in rows[0].items() if not isinstance(value, dict)]
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_text = [isinstance(rows[0][column], str) for column in columns]
    for line in cells:
        padded = (
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_text, strict=True)
        )
        print("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _machine() -> dict[str, Any]:
    import django

    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "django": django.__version__,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
