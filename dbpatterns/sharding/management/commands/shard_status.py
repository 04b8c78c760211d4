"""`manage.py shard_status`: what each shard has and lacks, and whether it is there at all."""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from django.db import DatabaseError

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding.asking import ask, ask_each
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import ShardUnavailable, cause_of
from dbpatterns.sharding.shard_map import shard_map, shards
from dbpatterns.sharding.status import Holding, holdings, look

T = TypeVar("T")

COLUMNS = ("shard", "latency", "version", "size", "rows", "holds", "migrations")


class Command(OperationalCommand):
    """Ask all shards at once; exit 1 when one is not as it should be."""

    help = "Print, for each shard, whether it answers, its size, rows, part of the map and schema."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add how long to wait, and whether to count."""
        super().add_arguments(parser)  # type: ignore[arg-type]  # Django's is one
        parser.add_argument("--rows", action="store_true", help="Count the rows one by one.")
        parser.add_argument(
            "--deadline-seconds",
            type=float,
            default=5.0,
            metavar="SECONDS",
            help="How long a shard has to let a session in, and then to answer; 5.",
        )

    def operate(self, **options: Any) -> Report:
        """Ask the shards, and what the map gives them."""
        deadline = options["deadline_seconds"]
        if not deadline > 0:
            raise UsageError("--deadline-seconds is to be above 0.")

        def question(shard: str) -> dict[str, Any]:
            seen, error = _asked(shard, lambda: look(shard, count_rows=options["rows"]), deadline)
            return {"error": error} if seen is None else {"error": "", **asdict(seen)}

        answers = dict(ask_each(shards(), question, parallel=len(shards())))
        held, map_error = _asked(ShardingSettings.load().control, _held, deadline)
        found = {
            shard: {**answers[shard], "holds": (held or {}).get(shard, {})} for shard in shards()
        }
        problems = [*_problems(found), *([f"the map: {map_error}"] if map_error else [])]
        facts = {"shards": found, "rows_are_exact": options["rows"], "problems": problems}
        if problems:
            return Report(facts, Exit.FINDINGS, f"Look at {'; '.join(problems)}.")
        return Report(facts)

    def show(self, facts: Mapping[str, Any]) -> None:
        """Print a table."""
        about = "" if facts["rows_are_exact"] else "~"
        lines = [COLUMNS, *(_cells(shard, each, about) for shard, each in facts["shards"].items())]
        whole = [line for line in lines if len(line) == len(COLUMNS)]
        widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
        widths[0] = max(len(line[0]) for line in lines)
        for line in lines:
            cells = [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)]
            self.stdout.write("  ".join(cells).rstrip())


def _asked(database: str, work: Callable[[], T], deadline: float) -> tuple[T | None, str]:
    """Return what a database says, or None and why it does not."""
    try:
        return ask(database, work, connect_seconds=deadline, work_seconds=deadline), ""
    except ShardUnavailable as error:
        return None, error.why
    except (DatabaseError, ConfigurationError) as error:
        return None, cause_of(error).rstrip(".")


def _held() -> dict[str, dict[str, Any]]:
    """Return what the maps give each shard, by group."""
    found: dict[str, dict[str, Any]] = {}
    for group in ShardingSettings.load().groups:
        for shard, each in holdings(shard_map(group)).items():
            found.setdefault(shard, {})[group] = asdict(each)
    return found


def _problems(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    there = {shard: each for shard, each in found.items() if not each["error"]}
    yield from (f"{shard}: no answer" for shard in found if shard not in there)
    if len({tuple(each["unapplied"]) for each in there.values()}) > 1:
        yield "schemas that differ"
    for shard, each in there.items():
        if each["unapplied"]:
            yield f"{shard}: {len(each['unapplied'])} migrations not applied"


def _cells(shard: str, each: Mapping[str, Any], about: str) -> tuple[str, ...]:
    if each["error"]:
        return shard, f"no answer: {each['error']}"
    held = (f"{group} {Holding(**part)}" for group, part in each["holds"].items())
    return (
        shard,
        f"{each['latency_ms']:.1f} ms",
        each["version"],
        f"{each['size_bytes'] / 1024**2:,.1f} MB",
        "unknown" if each["rows"] is None else f"{about}{each['rows']:,}",
        ", ".join(held) or "-",
        f"lacks {', '.join(each['unapplied'])}" if each["unapplied"] else "all",
    )
