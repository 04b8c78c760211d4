"""`manage.py migrate`: Django's own, and with `--shards` on many databases at once."""

import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.errors import UsageError
from dbpatterns.sharding.asking import ask, ask_each
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import MigrationFailed, ShardBusy, ShardUnavailable, cause_of
from dbpatterns.sharding.migrating import Stopped, apply, planned, targets_of
from dbpatterns.sharding.models import ShardMigration
from dbpatterns.sharding.shard_map import shards

OURS: Mapping[str, Any] = {
    "parallel": 1,
    "canary": None,
    "dry_run": False,
    "format": "text",
    "connect_seconds": 5.0,
}
"""The options that count with `--shards` only, and what they are when nobody gives them."""
NOT_OURS = {"plan": "--plan", "check_unapplied": "--check", "prune": "--prune"}


class Command(DjangoMigrate):
    """Django's `migrate`, to which `--shards` adds a run over shards."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add to Django's options those of a run over shards."""
        super().add_arguments(parser)  # type: ignore[arg-type]  # Django's is one
        ours = parser.add_argument_group("shards")
        ours.add_argument(
            "--shards", metavar="all|A,B", help="Migrate these shards and not --database."
        )
        ours.add_argument(
            "--parallel", type=int, default=1, metavar="N", help="Shards at a time; 1."
        )
        ours.add_argument(
            "--canary", metavar="A", help="Migrate this shard first; if it fails, no other."
        )
        ours.add_argument(
            "--dry-run", action="store_true", help="Say what each shard lacks; write nothing."
        )
        ours.add_argument(
            "--connect-seconds",
            type=float,
            default=5.0,
            metavar="SECONDS",
            help="How long a shard has to answer; 5.",
        )
        ours.add_argument("--format", choices=("text", "json"), default="text", help="Output.")

    def get_check_kwargs(self, options: dict[str, Any]) -> dict[Any, Any]:
        """Check the control database and not the shards, of which one may be down."""
        asked: dict[Any, Any] = super().get_check_kwargs(options)  # the stubs' type is of no use
        return asked if options["shards"] is None else {**asked, "databases": [_control()]}

    def handle(self, *args: Any, **options: Any) -> None:
        """Run over the shards where `--shards` says so, else do what Django does."""
        ours = {name: options.pop(name, default) for name, default in OURS.items()}
        chosen = options.pop("shards", None)
        if chosen is None:
            if given := sorted(name for name, value in ours.items() if value != OURS[name]):
                names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise CommandError(f"{names} needs --shards.", returncode=Exit.USAGE)
            super().handle(*args, **options)
            return
        run = MigrateShards()
        run.stdout, run.stderr, run.style = self.stdout, self.stderr, self.style
        run.handle(**ours, shards=chosen, migrate=options, verbosity=options["verbosity"])


class State(StrEnum):
    """How a run ended for a shard."""

    DONE = "done"
    PLANNED = "planned"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    STOPPED = "stopped"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did for a shard."""

    state: State
    migrations: list[str] = field(default_factory=list)
    """Those applied, or in a dry run those to apply."""
    error: str = ""

    @property
    def is_bad(self) -> bool:
        """Tell whether somebody has to look at the shard."""
        return self.state in (State.FAILED, State.UNAVAILABLE, State.BUSY)


class MigrateShards(OperationalCommand):
    """The run over shards; `Command` reads its options."""

    def operate(self, **options: Any) -> Report:
        """Migrate the canary, then the others; report shard by shard."""
        self._migrate = options["migrate"]
        self._dry_run, self._connect_seconds = options["dry_run"], options["connect_seconds"]
        self._one_line = threading.Lock()
        order = self._order(options["shards"], options["canary"])
        self._refuse_misuse(options["parallel"])
        self._targets = targets_of(self._migrate["app_label"], self._migrate["migration_name"])
        if not self._dry_run:
            _need_record()
        outcomes = {shard: Outcome(State.LEFT) for shard in order}
        outcomes |= self._run(order, options["canary"], options["parallel"])
        facts = {"shards": {shard: asdict(each) for shard, each in outcomes.items()}}
        again = "The same command does what is left."
        if bad := [f"{shard} ({each.state})" for shard, each in outcomes.items() if each.is_bad]:
            reason = f"Of {len(order)} shards, not migrated: {', '.join(bad)}. Mend it. {again}"
            return Report(facts, Exit.FINDINGS, reason)
        if {each.state for each in outcomes.values()} & {State.STOPPED, State.LEFT}:
            return Report(facts, Exit.STOPPED, f"Stopped between two migrations. {again}")
        return Report(facts)

    def show(self, facts: Mapping[str, Any]) -> None:
        """Print a line for each shard, with its error."""
        width = max(map(len, facts["shards"])) + 2
        for shard, each in facts["shards"].items():
            line = f"{shard:<{width}}{each['state']:<13}{', '.join(each['migrations']) or '-'}"
            self.stdout.write(f"{line}  {each['error']}".rstrip())

    def _order(self, chosen: str, canary: str | None) -> list[str]:
        known = shards()
        order = list(known) if chosen == "all" else list(dict.fromkeys(chosen.split(",")))
        if unknown := [each for each in order if each not in known]:
            raise UsageError(
                f"There is no shard {', '.join(map(repr, unknown))}. Known: {', '.join(known)}."
            )
        if canary is not None and canary not in order:
            raise UsageError(f"The canary {canary!r} is none of --shards: {', '.join(order)}.")
        return order

    def _refuse_misuse(self, parallel: int) -> None:
        if parallel < 1 or not self._connect_seconds > 0:
            raise UsageError("--parallel and --connect-seconds are to be above 0.")
        if others := [flag for name, flag in NOT_OURS.items() if self._migrate.get(name)]:
            raise UsageError(
                f"{', '.join(others)} is for one database; for shards there is --dry-run."
            )
        if self._migrate["database"] != DEFAULT_DB_ALIAS:
            raise UsageError("Say --database or --shards, not both.")

    def _run(
        self, order: list[str], canary: str | None, parallel: int
    ) -> Iterator[tuple[str, Outcome]]:
        if canary is not None:
            outcome = self._one(canary)
            yield canary, outcome
            if outcome.state not in (State.DONE, State.PLANNED):
                return
        others: Iterable[str] = (each for each in order if each != canary)
        yield from ask_each(others, self._one, parallel=parallel)

    def _one(self, shard: str) -> Outcome:
        if self.must_stop():
            return Outcome(State.LEFT)
        started = time.monotonic()
        found: list[str] = []
        state, error = self._state(shard, found)
        self._say(shard, f"{state} after {time.monotonic() - started:.1f} s")
        return Outcome(state, found, error)

    def _state(self, shard: str, found: list[str]) -> tuple[State, str]:
        work = self._plan if self._dry_run else self._apply
        try:
            ask(shard, lambda: work(shard, found), connect_seconds=self._connect_seconds)
        except Stopped:
            return State.STOPPED, ""
        except ShardUnavailable as error:
            return State.UNAVAILABLE, str(error)
        except ShardBusy as error:
            return State.BUSY, str(error)
        except MigrationFailed as error:
            return State.FAILED, str(error)
        except DatabaseError as error:  # before Django's command, or in the control database
            return State.FAILED, cause_of(error)
        return (State.PLANNED if self._dry_run else State.DONE), ""

    def _plan(self, shard: str, found: list[str]) -> None:
        found += planned(shard, self._targets)

    def _apply(self, shard: str, done: list[str]) -> None:
        def begins(migration: str) -> None:
            if self.must_stop():
                raise Stopped
            self._say(shard, migration)

        apply(shard, self._migrate, begins=begins, done=done)

    def _say(self, shard: str, what: str) -> None:
        if self._options["verbosity"]:
            with self._one_line:
                self.stderr.write(f"{shard}: {what}", style_func=str)


def _control() -> str:
    return ShardingSettings.load().control


def _need_record() -> None:
    """Refuse to begin where no record can be kept; one query."""
    tables = connections[_control()].introspection.table_names()
    if ShardMigration._meta.db_table not in tables:
        raise UsageError(
            f"The control database {_control()!r} has no table for the record of migrations: run "
            f"`migrate --database {_control()}` first."
        )
