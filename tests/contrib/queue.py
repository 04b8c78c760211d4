"""A Celery app, for eager tests and for a worker in a process of its own.

The worker runs `celery -A tests.contrib.queue worker`; its tasks need no table.
"""

import os

from celery import Celery

from tests.contrib import jobs

__all__ = ["app"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
URL = os.environ.get("QUEUE_URL", "memory://")

app = Celery(
    "tests",
    broker=URL,
    backend=URL if URL.startswith("redis") else "cache+memory://",
    set_as_current=False,
    task_cls="dbpatterns.contrib.celery:GuardedTask",
)
app.conf.broker_connection_retry_on_startup = False
app.conf.task_store_eager_result = False

OPTIONS = {"guard_options": {"mode": "raise"}}

ask = app.task(name="ask", **OPTIONS)(jobs.ask)
ask_in_one = app.task(name="ask_in_one", **OPTIONS)(jobs.ask_in_one)
loop = app.task(name="loop", **OPTIONS)(jobs.loop)
write_loop = app.task(name="write_loop", guard_options={"mode": "log", "writes": "raise"})(
    jobs.write_loop
)
logged = app.task(name="logged", guard_options={"mode": "log"})(jobs.loop)
fail = app.task(name="fail", guard_options={"mode": "log"})(jobs.fail_after_a_loop)


@app.task(name="flaky", bind=True, **OPTIONS)
def flaky(self: object, number: int) -> int:
    """Fail at the first try, with a statement before and after; each try sends other values."""
    request = self.request  # type: ignore[attr-defined]
    jobs.ask(number + request.retries)
    if request.retries < 2:
        raise self.retry(countdown=0, max_retries=3)  # type: ignore[attr-defined]
    return int(request.retries)


@app.task(name="who", bind=True, **OPTIONS)
def who(self: object) -> str:
    """The id that a task must know itself by."""
    return str(self.request.id)  # type: ignore[attr-defined]


@app.task(name="calls", **OPTIONS)
def calls() -> None:
    """Call another task as a function, in a loop: the statements are the caller's."""
    for number in jobs.LOOP:
        ask(number)


@app.task(name="sends", **OPTIONS)
def sends() -> None:
    """Send another task for each row, which an eager app runs at once."""
    for number in jobs.LOOP:
        ask.delay(number)
