"""The base of every operational command: one set of options, exit codes, progress and stopping.

A subclass names the common options it takes and returns a `Report`; facts become an aligned
table or, with `--format json`, one JSON object. Results go to stdout, progress and the reason
of a non-zero exit to stderr. The first SIGTERM or Ctrl-C lets the running batch finish.
"""

import json
import signal
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from dbpatterns import telemetry
from dbpatterns.errors import ConfigurationError, DBPatternsError, UsageError

__all__ = ["Exit", "OperationalCommand", "Progress", "Report"]


class Exit(IntEnum):
    """What a shell script may rely on."""

    DONE = 0
    """Done, or nothing to do."""
    FINDINGS = 1
    """Something was found or refused; the report says what."""
    USAGE = 2
    """The command line or the settings are wrong; nothing was written."""
    STOPPED = 3
    """Stopped early; the same command goes on where this one ended."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a command did: facts in the order to print them, and how it ended."""

    facts: Mapping[str, object]
    exit: Exit = Exit.DONE
    reason: str = ""
    """One sentence for stderr; needed whenever `exit` is not DONE."""


class Progress:
    """How far long work is: a rewritten line on a terminal, else a line every ten seconds."""

    def __init__(self, write: Callable[[str], object], total: int, label: str, live: bool) -> None:
        self.done = 0
        self._write, self._total, self._label, self._live = write, total, label, live
        self._interval = 0.1 if live else 10.0
        self._next = time.monotonic() + self._interval

    def advance(self, rows: int = 1) -> None:
        """Count rows done; prints at most ten times a second."""
        self.done += rows
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            self._print()

    def finish(self) -> None:
        """Print the last state, and end the line on a terminal."""
        if self._live:
            self._print()
            self._write("\n")

    def _print(self) -> None:
        share = min(self.done / self._total, 1.0) if self._total else 1.0
        bar = "#" * int(share * 24)
        line = f"{self._label:<28} [{bar:<24}] {share:4.0%}  {self.done:,} of {self._total:,}"
        self._write(f"\r{line}" if self._live else f"{line}\n")


class OperationalCommand(BaseCommand):
    """A command an operator runs by hand, from cron or from a deploy script.

    Write `operate`. Between batches ask `must_stop()` and call `pause()`; wrap the batches
    in `progress()`.
    """

    common_options: ClassVar[Sequence[str]] = ()
    """Which of `--database --dry-run --batch-size --max-seconds --pause-ms --no-input --check`
    the command honours; `--format` and Django's own are always there."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the common options the command takes; call `super()` when adding your own."""
        parser.add_argument("--format", choices=("text", "json"), default="text", help="Output.")
        known: dict[str, dict[str, Any]] = {
            "--database": {"choices": tuple(connections), "help": "Work on this database only."},
            "--dry-run": {"action": "store_true", "help": "Say what would happen; write nothing."},
            "--batch-size": {"type": _positive, "default": 500, "help": "Rows per transaction."},
            "--max-seconds": {"type": _positive, "help": "Stop after the batch running then."},
            "--pause-ms": {"type": _positive, "default": 0, "help": "Rest between two batches."},
            "--no-input": {"action": "store_true", "help": "Never ask; take the safe answer."},
            "--check": {"action": "store_true", "help": "Exit 1 when there is a finding."},
        }
        for option in self.common_options:
            parser.add_argument(option, **known[option])

    def operate(self, *args: Any, **options: Any) -> Report:
        """Do the work; take the options you want by name.

        Errors of this package and of the database end the command with one sentence.
        """
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        """Run `operate` under the signal handlers, print its report and set the exit code."""
        self._options = options
        self._stop = threading.Event()
        self._started = time.monotonic()
        try:
            with self._stopping_on_signals():
                report = self.operate(*args, **options)
        except (UsageError, ConfigurationError) as error:
            raise CommandError(str(error), returncode=Exit.USAGE) from error
        except DBPatternsError as error:
            raise CommandError(str(error), returncode=Exit.FINDINGS) from error
        except DatabaseError as error:
            said = " ".join(str(error).split()).rstrip(".?")  # PostgreSQL's have many lines
            raise CommandError(
                f"The database answered: {said}. What was committed stays; run it again, after "
                "`migrate` if a table is missing.",
                returncode=Exit.FINDINGS,
            ) from error
        if telemetry.is_heard():
            telemetry.emit(
                telemetry.Event(
                    f"command.{self.__module__.rpartition('.')[2]}",
                    database=options.get("database") or "",
                    seconds=time.monotonic() - self._started,
                    facts={**report.facts, "exit": int(report.exit)},
                )
            )
        self.tell(report.facts)
        if report.exit:
            raise CommandError(report.reason, returncode=report.exit)

    def tell(self, facts: Mapping[str, object]) -> None:
        """Print facts in the `--format` asked for, as is done with the report's."""
        if self._options["format"] == "json":
            self.stdout.write(json.dumps(facts, default=str, indent=2))
        else:
            self.show(facts)

    def show(self, facts: Mapping[str, Any]) -> None:
        """Print facts for people, a line each; a command may have a better way."""
        for line in _lines(facts):
            self.stdout.write(line)

    def must_stop(self) -> bool:
        """Tell whether a signal came or `--max-seconds` have passed; ask between batches."""
        limit = self._options.get("max_seconds")
        return self._stop.is_set() or (
            limit is not None and time.monotonic() - self._started >= limit
        )

    def pause(self) -> None:
        """Rest for `--pause-ms` between two batches; a signal ends the rest."""
        self._stop.wait((self._options.get("pause_ms") or 0) / 1000)

    @contextmanager
    def progress(self, total: int, label: str) -> Iterator[Progress]:
        """Show progress over `total` rows on stderr; nothing at `-v 0`."""
        silent = self._options["verbosity"] == 0

        def write(text: str) -> None:
            if not silent:
                self.stderr.write(text, style_func=str, ending="")
                self.stderr.flush()

        progress = Progress(write, total, label, live=not silent and self.stderr.isatty())
        try:
            yield progress
        finally:
            progress.finish()

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in signals}

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop.set()
            for each, handler in before.items():
                signal.signal(each, handler)  # the second signal ends the process at once

        for number in signals:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1 to 999999999")
    return int(text)


def _lines(facts: Mapping[str, object]) -> Iterator[str]:
    width = max((len(key) for key in facts), default=0) + 2
    for key, value in facts.items():
        label = key.replace("_", " ").capitalize()
        if isinstance(value, int) and not isinstance(value, bool):
            yield f"{label:<{width}}{value:,}"
        elif isinstance(value, Mapping):
            yield f"{label:<{width}}{', '.join(f'{k} {v}' for k, v in value.items()) or 'none'}"
        elif isinstance(value, list | tuple):
            yield f"{label:<{width}}{len(value):,}"
            yield from (f"  {each}" for each in value)
        else:
            yield f"{label:<{width}}{value}"
