"""Operational commands: exit codes, output, progress, and finishing the batch on SIGTERM."""

import json
import os
import signal
import threading
from io import StringIO
from itertools import count
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from dbpatterns import commands, telemetry
from dbpatterns.commands import Exit, OperationalCommand, Progress, Report
from dbpatterns.errors import ConfigurationError, DBPatternsError, UsageError


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Command(OperationalCommand):
    """Whatever a test puts into `body`."""

    common_options = (
        "--database",
        "--dry-run",
        "--batch-size",
        "--max-seconds",
        "--pause-ms",
        "--no-input",
        "--check",
    )

    def __init__(self, body: Any = lambda command, **options: Report({}), **streams: Any) -> None:
        super().__init__(**streams)
        self.body = body

    def operate(self, **options: Any) -> Report:
        return self.body(self, **options)


def run(body: Any, *args: str, stderr: StringIO | None = None) -> str:
    output = StringIO()
    call_command(Command(body), *args, stdout=output, stderr=stderr or StringIO(), no_color=True)
    return output.getvalue()


FACTS = {
    "rows_moved": 42118,
    "dry": False,
    "shards": {"shard_0": 1, "shard_1": 2},
    "none": {},
    "refused": ["order 1: too poor"],
    "took": "3 s",
}


def test_facts_become_an_aligned_table() -> None:
    assert run(lambda command, **options: Report(FACTS)) == (
        "Rows moved  42,118\n"
        "Dry         False\n"
        "Shards      shard_0 1, shard_1 2\n"
        "None        none\n"
        "Refused     1\n"
        "  order 1: too poor\n"
        "Took        3 s\n"
    )


def test_format_json_prints_one_object_with_the_same_facts() -> None:
    assert json.loads(run(lambda command, **options: Report(FACTS), "--format", "json")) == FACTS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("No such key."), Exit.USAGE),
        (ConfigurationError("No shards."), Exit.USAGE),
        (DBPatternsError("Stale."), Exit.FINDINGS),
        (OperationalError("no such table: x"), Exit.FINDINGS),
    ],
)
def test_errors_end_the_command_with_one_sentence_and_a_code(error: Exception, code: Exit) -> None:
    def fail(command: Command, **options: Any) -> Report:
        raise error

    with pytest.raises(CommandError, match=str(error).rstrip(".")) as caught:
        run(fail)
    assert caught.value.returncode == code
    assert caught.value.__cause__ is error


def test_what_the_database_says_is_told_on_one_line() -> None:
    def fail(command: Command, **options: Any) -> Report:
        raise OperationalError("connection failed: refused\n\tIs the server running?")

    with pytest.raises(CommandError) as caught:
        run(fail)
    assert str(caught.value) == (
        "The database answered: connection failed: refused Is the server running. What was "
        "committed stays; run it again, after `migrate` if a table is missing."
    )


def test_a_bug_is_not_dressed_as_an_answer() -> None:
    def fail(command: Command, **options: Any) -> Report:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run(fail)


@pytest.mark.parametrize("exit_code", [Exit.FINDINGS, Exit.STOPPED])
def test_a_report_that_is_not_done_is_printed_and_sets_the_code(exit_code: Exit) -> None:
    output = StringIO()
    command = Command(lambda command, **options: Report({"found": 1}, exit_code, "Look here."))
    with pytest.raises(CommandError, match=r"Look here\.") as caught:
        call_command(command, stdout=output)
    assert caught.value.returncode == exit_code
    assert output.getvalue() == "Found  1\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_batch_finish_and_the_second_ends_the_process(
    number: signal.Signals,
) -> None:
    batches = []
    before = signal.getsignal(number)

    def work(command: Command, **options: Any) -> Report:
        for batch in range(10):
            if command.must_stop():
                break
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is before, "a second signal must not be swallowed"
            batches.append(batch)
        return Report({}, Exit.STOPPED, "Stopped early.")

    with pytest.raises(CommandError) as caught:
        run(work)
    assert batches == [0]
    assert caught.value.returncode == Exit.STOPPED
    assert signal.getsignal(number) is before


def test_a_command_called_from_a_thread_works_without_signals() -> None:
    outputs: list[str] = []
    thread = threading.Thread(
        target=lambda: outputs.append(run(lambda command, **options: Report({"done": 1})))
    )
    thread.start()
    thread.join(10)
    assert outputs == ["Done  1\n"]


def test_max_seconds_stops_after_the_running_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(commands.time, "monotonic", lambda: next(clock))
    batches = []

    def work(command: Command, **options: Any) -> Report:
        while not command.must_stop():
            batches.append(1)
        return Report({})

    run(work, "--max-seconds", "10")
    assert len(batches) == 3


def test_a_signal_ends_the_pause_between_batches() -> None:
    def work(command: Command, **options: Any) -> Report:
        os.kill(os.getpid(), signal.SIGTERM)
        command.pause()  # an hour, unless the signal ends it
        return Report({})

    assert run(work, "--pause-ms", "3600000") == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch-size", "0"],
        ["--batch-size", "-5"],
        ["--batch-size", "9" * 30],
        ["--max-seconds", "x"],
        ["--database", "no"],
    ],
)
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match=arguments[0]):
        run(lambda command, **options: Report({}), *arguments)


def test_help_names_the_common_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Command().run_from_argv(["manage.py", "command", "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert [option for option in Command.common_options if option not in told] == []


def test_progress_rewrites_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    progress = Progress(written.append, 200, "Moving", live=True)
    clock = iter([10.0, 20.0, 20.01, 20.02] * 5)
    monkeypatch.setattr(commands.time, "monotonic", lambda: next(clock))
    progress.advance(100)
    progress.finish()
    assert written[0].startswith("\rMoving")
    assert " 50%  100 of 200" in written[0]
    assert written[-1] == "\n"


def test_progress_is_silent_for_ten_seconds_when_nobody_watches() -> None:
    stderr = StringIO()

    def work(command: Command, **options: Any) -> Report:
        with command.progress(100, "Moving") as progress:
            for _ in range(100):
                progress.advance()
            assert progress.done == 100
        return Report({})

    run(work, stderr=stderr)
    assert stderr.getvalue() == ""


def test_progress_prints_a_line_every_ten_seconds_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([0.0, *range(1, 100)])
    monkeypatch.setattr(commands.time, "monotonic", lambda: next(seconds))
    written: list[str] = []
    progress = Progress(written.append, 25, "Moving", live=False)
    for _ in range(25):
        progress.advance()
    progress.finish()
    assert [line.split("]")[1].strip() for line in written] == ["40%  10 of 25", "80%  20 of 25"]
    assert all(line.endswith("\n") and "\r" not in line for line in written)


@pytest.mark.parametrize(("verbosity", "shown"), [("0", False), ("1", True)])
@pytest.mark.parametrize("stream", [Terminal, StringIO])
def test_verbosity_zero_shows_no_progress(
    monkeypatch: pytest.MonkeyPatch, stream: type[StringIO], verbosity: str, shown: bool
) -> None:
    minutes = count(0, 60)
    monkeypatch.setattr(commands.time, "monotonic", lambda: next(minutes))
    stderr = stream()

    def work(command: Command, **options: Any) -> Report:
        with command.progress(1, "Moving") as progress:
            progress.advance()
        return Report({})

    run(work, "-v", verbosity, stderr=stderr)
    assert ("Moving" in stderr.getvalue()) is shown


def test_progress_over_nothing_is_complete() -> None:
    written: list[str] = []
    Progress(written.append, 0, "Moving", live=True).finish()
    assert "100%  0 of 0" in written[0]


def test_telemetry_hears_what_a_command_did() -> None:
    heard: list[telemetry.Event] = []
    with telemetry.listening(heard.append):
        run(lambda command, **options: Report({"rows": 5}), "--database", "default")
    assert [(each.name, each.database) for each in heard] == [("command.test_commands", "default")]
    assert heard[0].facts == {"rows": 5, "exit": 0}
    assert heard[0].seconds > 0


def test_a_command_without_work_says_so() -> None:
    with pytest.raises(NotImplementedError):
        OperationalCommand().operate()
