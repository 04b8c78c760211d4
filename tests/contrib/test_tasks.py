"""A guard around tasks: Django's own framework, and the package that brings it to Django 5.2."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection

from dbpatterns import telemetry
from dbpatterns.contrib import tasks
from dbpatterns.contrib.tasks import guard_django_tasks, guarded_task
from dbpatterns.errors import ConfigurationError
from dbpatterns.queries import NPlusOneError, NPlusOneWarning, guard
from dbpatterns.queries.capture import current_scope
from tests.contrib import jobs

pytestmark = pytest.mark.django_db

FRAMEWORKS = [name for name in ("django.tasks", "django_tasks") if find_spec(name)]
Enqueue = Callable[..., Any]


@pytest.fixture(autouse=True)
def leaves_no_scope_open() -> Iterator[None]:
    """What every test here must do."""
    before = current_scope()
    yield
    assert current_scope() is before
    assert tasks._running.get() == ()


@pytest.fixture(params=FRAMEWORKS)
def enqueue(request: pytest.FixtureRequest, settings: Any) -> Iterator[Enqueue]:
    """Run a function as a task, at once."""
    framework = import_module(request.param)
    backend = f"{request.param}.backends.immediate.ImmediateBackend"
    settings.TASKS = {"default": {"BACKEND": backend}}

    def run(function: Callable[..., Any], *args: Any) -> Any:
        return framework.task(function).enqueue(*args)

    yield run
    for each in FRAMEWORKS:
        signals = import_module(f"{each}.signals")
        for signal in (signals.task_started, signals.task_finished):
            signal.disconnect(dispatch_uid=tasks.__name__)


def test_a_task_without_a_guard_loops_in_silence(enqueue: Enqueue) -> None:
    assert enqueue(jobs.loop).return_value == "done"


def test_a_guarded_task_fails_with_its_name(
    enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    guard_django_tasks(mode="raise")
    result = enqueue(jobs.loop)
    assert result.status == "FAILED"
    assert "NPlusOneError" in result.errors[0].traceback
    assert "Task tests.contrib.jobs.loop: N+1 in 2 queries: 2 for raw SQL." in caplog.messages


def test_a_task_that_is_mended_succeeds(enqueue: Enqueue, caplog: pytest.LogCaptureFixture) -> None:
    guard_django_tasks(mode="raise")
    caplog.set_level(logging.WARNING)
    assert enqueue(jobs.ask_in_one).return_value == "done"
    assert caplog.messages == []


def test_a_task_that_fails_tells_what_it_found_and_its_own_error(
    enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    guard_django_tasks(mode="log")
    result = enqueue(jobs.fail_after_a_loop)
    assert "ValueError: broken" in result.errors[0].traceback
    assert "Task tests.contrib.jobs.fail_after_a_loop: N+1 in 3 queries: 3 for raw SQL." in (
        caplog.messages
    )


def test_what_is_found_at_the_end_is_an_error_in_the_log(
    enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    guard_django_tasks(mode="log", writes="raise")
    assert enqueue(jobs.write_loop).status == "SUCCESSFUL"
    errors = [each.message for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith("N+1: 3")


@pytest.mark.filterwarnings("error::dbpatterns.queries.NPlusOneWarning")
def test_a_warning_that_is_an_error_does_not_break_the_worker(
    enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    guard_django_tasks(mode="warn")
    assert enqueue(jobs.loop).status == "SUCCESSFUL"
    assert any(each.levelno == logging.ERROR for each in caplog.records)


def nested() -> None:
    """A task that runs others at once."""
    task = import_module(_framework).task
    for number in jobs.LOOP:
        task(jobs.ask).enqueue(number)


_framework = ""


def test_tasks_in_a_task_are_no_loop_of_it(
    enqueue: Enqueue, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    global _framework
    _framework = request.node.callspec.params["enqueue"]
    guard_django_tasks(mode="raise")
    assert enqueue(nested).status == "SUCCESSFUL"
    assert not [each for each in caplog.messages if "N+1" in each]


def test_a_task_in_a_guarded_request_has_a_scope_of_its_own(enqueue: Enqueue) -> None:
    guard_django_tasks(mode="log")
    with guard("log") as report:
        for number in jobs.LOOP:
            enqueue(jobs.ask, number)
    assert report.queries == 0
    assert [*report] == []


def test_the_loop_of_a_request_is_seen_around_its_tasks(enqueue: Enqueue) -> None:
    guard_django_tasks(mode="log")
    with guard("log") as report:
        for number in jobs.LOOP:
            jobs.ask(number)
            enqueue(jobs.ask_in_one)
    assert [each.count for each in report] == [3]


def test_a_task_that_is_interrupted_ends_with_the_one_around_it(enqueue: Enqueue) -> None:
    guard_django_tasks(mode="raise")
    with guarded_by_signals("outer"):
        with pytest.raises(KeyboardInterrupt):
            enqueue(jobs.leave)
        assert len(tasks._running.get()) == 2  # nobody told that it ended


class _Result:
    """What a backend sends with its signals."""

    def __init__(self, id: str) -> None:
        self.id, self.task, self.status = id, self, "RUNNING"
        self.module_path, self.backend = "shop.tasks.outer", "default"


def test_the_end_of_a_task_that_nobody_saw_begin_is_no_error(enqueue: Enqueue) -> None:
    guard_django_tasks(mode="raise")
    result = _Result("unknown")
    import_module(FRAMEWORKS[0] + ".signals").task_finished.send(_Result, task_result=result)


def test_async_tasks_and_those_enqueued_from_async_code_are_guarded(
    enqueue: Enqueue, request: pytest.FixtureRequest
) -> None:
    guard_django_tasks(mode="raise")
    task = import_module(request.node.callspec.params["enqueue"]).task

    async def main() -> list[str]:
        results = [await task(each).aenqueue() for each in (aloop, jobs.loop, jobs.ask_in_one)]
        return [str(each.status) for each in results]

    assert async_to_sync(main)() == ["FAILED", "FAILED", "SUCCESSFUL"]


def test_a_task_that_ends_before_one_begun_later_tells_its_own(
    enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    guard_django_tasks(mode="log")
    _pause.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(enqueue, loop_after_a_pause)
        assert _begun.wait(10)
        with guarded_by_signals("second"):
            _pause.set()
            first.result()
            told = [each for each in caplog.messages if each.startswith("N+1: 3 queries")]
    assert len(told) == 1


_begun, _pause = threading.Event(), threading.Event()


def loop_after_a_pause() -> None:
    """An N+1, once another task has begun."""
    _begun.set()
    _pause.wait(10)
    _begun.clear()
    jobs.loop()
    connection.close()  # this thread's own


@contextmanager
def guarded_by_signals(name: str) -> Iterator[None]:
    """Do what a backend does around a task."""
    signals, result = import_module(FRAMEWORKS[0] + ".signals"), _Result(name)
    signals.task_started.send(_Result, task_result=result)
    yield
    signals.task_finished.send(_Result, task_result=result)


async def aloop() -> None:
    """An N+1 in a coroutine."""
    for number in jobs.LOOP:
        await sync_to_async(jobs.ask)(number)


def test_options_given_again_replace_those_before(enqueue: Enqueue) -> None:
    guard_django_tasks(mode="raise")
    guard_django_tasks(mode="off")
    assert enqueue(jobs.loop).status == "SUCCESSFUL"


def test_a_broken_option_is_an_error_at_start() -> None:
    with pytest.raises(ConfigurationError, match="mode is 'shout'"):
        guard_django_tasks(mode="shout")


def test_no_framework_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_FRAMEWORKS", ("there_is_none",))
    with pytest.raises(ConfigurationError, match="pip install django-tasks"):
        guard_django_tasks()


# Any other queue


def test_the_error_of_a_guarded_block_names_the_task() -> None:
    with pytest.raises(NPlusOneError) as raised, guarded_task("bills.send", guard("raise")):
        jobs.loop()
    assert raised.value.__notes__ == ["In the task bills.send."]


def test_a_guarded_block_tells_listeners_and_gives_its_report() -> None:
    heard: list[telemetry.Event] = []
    with (
        telemetry.listening(heard.append),
        pytest.warns(NPlusOneWarning),
        guarded_task("bills.send") as report,
    ):
        jobs.loop()
    event = heard[-1]
    assert event.name == "queries.task"
    assert event.database == "default"
    assert event.facts == {
        "task": "bills.send",
        "queries": 3,
        "findings": [each.fingerprint for each in report],
    }


def test_a_block_with_nothing_found_tells_nothing() -> None:
    heard: list[telemetry.Event] = []
    with telemetry.listening(heard.append), guarded_task("bills.send"):
        jobs.ask_in_one()
    assert heard == []


def test_a_broken_setting_is_told_as_such(settings: Any) -> None:
    settings.DBPATTERNS = {"QUERIES": {"MODE": "shout"}}
    with pytest.raises(ConfigurationError), guarded_task("bills.send"):
        pass
