"""`manage.py transaction_report`: what is long, idle, blocked, in doubt or crowded."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Any

from django.db import DatabaseError, connections

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.transactions.monitoring import as_facts, observe

_TITLES = {
    "long": "Long transactions",
    "idle_in_transaction": "Idle in transaction",
    "blocked": "Blocked",
    "in_doubt": "In doubt (prepared, and nobody has decided)",
    "many_savepoints": "Many savepoints",
}
_HIDDEN = (
    "{database} hides sessions of other roles from this one, {sessions} of them. Grant it "
    "pg_read_all_stats."
)


class Command(OperationalCommand):
    """Look at the open transactions of each database."""

    help = "Print transactions that are long, idle, blocked and by whom, in doubt or crowded."
    common_options = ("--database", "--check")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add from when on a transaction is long, or idle."""
        super().add_arguments(parser)  # type: ignore[arg-type]  # Django's is one
        for option, default in (("--long-seconds", 60), ("--idle-seconds", 10)):
            parser.add_argument(
                option, type=float, default=default, metavar="SECONDS", help=f"{default}."
            )

    def operate(self, **options: Any) -> Report:
        """Observe and sort."""
        facts: dict[str, Any] = {"databases": [], "nothing_to_see": [], "unavailable": []}
        facts |= {name: [] for name in ("hidden", *_TITLES)}
        seconds = {name: options[name] for name in ("long_seconds", "idle_seconds")}
        for alias in [options["database"]] if options["database"] else connections:
            try:
                sighting = observe(alias)
            except DatabaseError as error:
                why = " ".join(str(error).split())
                facts["unavailable"].append({"database": alias, "why": why})
                continue
            if sighting is None:
                facts["nothing_to_see"].append(alias)
                continue
            facts["databases"].append(alias)
            for name, found in as_facts(sighting, **seconds).items():
                facts[name] += found
        if dead := [each["database"] for each in facts["unavailable"]]:
            return Report(facts, Exit.FINDINGS, f"No answer from {', '.join(dead)}.")
        count = sum(len(facts[name]) for name in _TITLES)
        if options["check"] and count:
            return Report(facts, Exit.FINDINGS, f"{count} findings about open transactions.")
        if options["check"] and facts["hidden"]:
            return Report(facts, Exit.FINDINGS, "No findings, but some sessions are hidden.")
        return Report(facts)

    def show(self, facts: Mapping[str, Any]) -> None:
        """Print tables."""
        for alias in facts["nothing_to_see"]:
            vendor = connections[alias].display_name
            self.stdout.write(f"{alias} is {vendor}: it keeps no view of open transactions.")
        for row in facts["unavailable"]:
            self.stdout.write(f"{row['database']} does not answer: {row['why']}")
        for row in facts["hidden"]:
            self.stdout.write(_HIDDEN.format_map(row))
        for name, title in _TITLES.items():
            if facts["databases"]:
                self.stdout.write(f"{title}: {len(facts[name]) or 'none'}")
            for row in facts[name]:
                for line in _lines(row):
                    self.stdout.write(f"  {line}")


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    if "gid" in row:
        yield f"{row['database']}  {row['gid']}  {row['owner']}  {row['prepared_seconds']:.1f} s"
        return
    who = f"{row['database']}  pid {row['pid']}  {row['user']}  {row['application'] or '-'}"
    yield f"{who}  {row['state']}  {row['transaction_seconds']:.1f} s"
    if row["blocked_by"]:
        pids = (f"pid {pid}" if pid else "a prepared transaction" for pid in row["blocked_by"])
        yield f"  waits for {', '.join(pids)}"
    if row["subtransactions"]:
        yield f"  {row['subtransactions']:,} savepoints"
    yield f"  {' '.join(row['query'].split())[:160]}"
