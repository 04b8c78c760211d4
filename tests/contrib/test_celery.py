"""A guard around Celery's tasks: eagerly, and in a worker of its own with the suite's Redis."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from dbpatterns.queries import NPlusOneError, guard
from dbpatterns.queries.capture import current_scope
from tests.contrib import jobs, queue

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Run tasks at once, and find no scope open after any."""
    queue.app.conf.task_always_eager = True
    before = current_scope()
    yield
    queue.app.conf.task_always_eager = False
    assert current_scope() is before


def test_a_task_without_a_guard_loops_in_silence() -> None:
    plain = Celery("plain", broker="memory://", set_as_current=False)
    task = plain.task(name="plain", shared=False)(jobs.loop)  # else every app would have it
    assert task.apply().get() == "done"


def test_a_guarded_task_fails_with_its_name() -> None:
    result = queue.loop.delay()
    assert result.state == "FAILURE"
    assert isinstance(result.result, NPlusOneError)
    assert result.result.__notes__ == ["In the task loop."]


def test_a_task_that_is_mended_succeeds() -> None:
    assert queue.ask_in_one.delay().get() == "done"


def test_writes_in_a_loop_fail_the_task_at_its_end() -> None:
    result = queue.write_loop.delay()
    assert isinstance(result.result, NPlusOneError)
    assert result.result.finding.is_write


def test_a_task_that_fails_tells_what_it_found_and_its_own_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = queue.fail.delay()
    assert isinstance(result.result, ValueError)
    assert "Task fail: N+1 in 3 queries: 3 for raw SQL." in caplog.messages


def test_what_a_task_does_not_say_comes_from_the_settings(settings: Any) -> None:
    settings.DBPATTERNS = {"QUERIES": {"MODE": "raise"}}
    assert queue.logged.delay().state == "SUCCESS"
    assert queue.app.tasks["unsaid"].delay().state == "FAILURE"


@queue.app.task(name="unsaid")
def unsaid() -> None:
    """An N+1, guarded as the settings say."""
    jobs.loop()


def test_every_try_has_a_scope_of_its_own() -> None:
    assert queue.flaky.delay(5).get() == 2


def test_a_task_keeps_its_request() -> None:
    assert queue.who.apply(task_id="seven").get() == "seven"


def test_a_task_that_is_called_as_a_function_is_a_part_of_its_caller() -> None:
    assert isinstance(queue.calls.delay().result, NPlusOneError)
    with pytest.raises(NPlusOneError) as raised, guard("raise"):
        queue.logged()  # would only tell, were it guarded
    assert not hasattr(raised.value, "__notes__")


def test_tasks_in_a_task_are_no_loop_of_it() -> None:
    assert queue.sends.delay().state == "SUCCESS"


def test_a_task_in_a_guarded_request_has_a_scope_of_its_own() -> None:
    with guard("log") as report:
        for number in jobs.LOOP:
            queue.ask.delay(number)
    assert report.queries == 0


def test_the_loop_of_a_request_is_seen_around_its_tasks() -> None:
    with guard("log") as report:
        for number in jobs.LOOP:
            jobs.ask(number)
            queue.loop.delay()
    assert [each.count for each in report] == [3]


def test_a_guarded_task_can_wait_for_the_commit() -> None:
    assert callable(queue.ask.delay_on_commit)


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Celery]:
    """The same app with a broker, and a worker that forks."""
    log = tmp_path / "worker.log"
    command = [*(sys.executable, "-m", "celery", "-A", "tests.contrib.queue", "worker")]
    command += ["--pool=prefork", "--concurrency=1", "--without-mingle", "--without-gossip"]
    environment = os.environ | {"QUEUE_URL": redis_url, "PYTHONPATH": str(ROOT)}
    app = Celery("client", broker=redis_url, backend=redis_url, set_as_current=False)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            yield app
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS)
            finally:
                process.kill()
                process.wait()
                app.close()
                print(log.read_text())


@pytest.mark.once
def test_a_real_worker_fails_the_task_and_goes_on(worker: Celery) -> None:
    sent = {
        name: worker.send_task(name, args)
        for name, args in {
            "loop": (),
            "ask_in_one": (),
            "flaky": (5,),
            "sends": (),
            "fail": (),
            "ask": (1,),
        }.items()
    }
    ended = {}
    for name, result in sent.items():
        result.get(timeout=SECONDS, propagate=False)
        ended[name] = result.state
    assert ended == {
        "loop": "FAILURE",
        "ask_in_one": "SUCCESS",
        "flaky": "SUCCESS",
        "sends": "SUCCESS",
        "fail": "FAILURE",
        "ask": "SUCCESS",
    }
    assert "N+1: 2 queries so far for raw SQL" in str(sent["loop"].result)
    assert "ValueError" in repr(sent["fail"].result)
