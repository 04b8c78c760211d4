"""`manage.py query_report`: the dearest statements, from the server or from a log."""

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.db import DEFAULT_DB_ALIAS

from dbpatterns.commands import OperationalCommand, Report
from dbpatterns.errors import UsageError
from dbpatterns.queries.stats import summarise
from dbpatterns.statements import read_log, read_server

COLUMNS = {
    "calls": "calls",
    "total_ms": "total ms",
    "p50_ms": "p50",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "slowest_ms": "slowest",
    "rows": "rows",
    "errors": "errors",
    "duplicates": "again",
}


class Command(OperationalCommand):
    """Add up statements by fingerprint and call site."""

    help = "Print the dearest statements of a log or of pg_stat_statements."
    common_options = ("--database",)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add where the statements come from, and how many to print."""
        super().add_arguments(parser)  # type: ignore[arg-type]  # Django's is one
        parser.add_argument("--top", type=int, default=20, metavar="ROWS", help="Rows; 20.")
        parser.add_argument(
            "--from-log",
            action="append",
            metavar="FILE",
            help="Read statements here and not from pg_stat_statements; may be given again.",
        )

    def operate(self, **options: Any) -> Report:
        """Read, add up and sort."""
        if options["top"] < 1:
            raise UsageError(f"--top must be at least 1, not {options['top']}.")
        database, skipped = options["database"], 0
        if options["from_log"]:
            logs = [read_log(path) for path in options["from_log"]]
            statements = [each for log in logs for each in log.statements]
            skipped = sum(log.skipped for log in logs)
            if database:
                statements = [each for each in statements if each.database in ("", database)]
        else:
            statements = read_server(database or DEFAULT_DB_ALIAS)
        found = summarise(statements)
        return Report(
            {
                "fingerprints": len(found),
                "calls": sum(each.calls for each in found),
                "skipped_lines": skipped,
                "queries": [each.as_dict() for each in found[: options["top"]]],
            }
        )

    def show(self, facts: Mapping[str, Any]) -> None:
        """Print a table."""
        self.stdout.write("".join(f"{title:>11}" for title in COLUMNS.values()) + "  statement")
        for query in facts["queries"]:
            cells = "".join(f"{_cell(query[name]):>11}" for name in COLUMNS)
            self.stdout.write(f"{cells}  {query['fingerprint'][:200]}")
            if query["site"]:
                self.stdout.write(f"{'':{11 * len(COLUMNS)}}  at {query['site']}")
        super().show({name: facts[name] for name in ("fingerprints", "calls", "skipped_lines")})


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"
