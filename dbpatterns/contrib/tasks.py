"""Background tasks: a guard around each one, that says the task's name.

    guard_django_tasks()               # in the `ready()` of an app: Django's own task framework

    with guarded_task("bills.send"):   # one task of any other queue
        send_bills()

`django.tasks` is there from Django 6.0 on; before, the package django-tasks has the same API.
Celery has `dbpatterns.contrib.celery`.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dbpatterns import telemetry
from dbpatterns.errors import ConfigurationError
from dbpatterns.queries import NPlusOneError, NPlusOneWarning, Report, guard

__all__ = ["guard_django_tasks", "guarded_task"]

logger = logging.getLogger("dbpatterns.queries")

_FRAMEWORKS = ("django.tasks", "django_tasks")
_running: ContextVar[tuple[tuple[str, ExitStack], ...]] = ContextVar(
    "dbpatterns.contrib.tasks", default=()
)
"""The tasks of this thread by id, the innermost last: an immediate task may start another."""


@contextmanager
def guarded_task(name: str, watching: guard | None = None) -> Iterator[Report]:
    """Guard a block that runs a task; no query, and the cost of a guard.

    The scope is the task's own. Inside of a guarded request, where a task may run at once, its
    statements are not the request's, and the request's loops are seen around it.

    With findings it tells, beside what the guard tells: one line of the log, one event
    `queries.task`, and the name as a note on a `NPlusOneError`.

    Args:
        watching: used once; `guard()` if not given.
    Raises: as `guard`.
    """
    report = Report()
    try:
        with watching or guard() as report:
            yield report
    except NPlusOneError as error:
        error.add_note(f"In the task {name}.")
        raise
    finally:
        _tell(name, report)


def guard_django_tasks(**options: Any) -> None:
    """Guard every task of Django's framework that this process runs from now on.

    A read in mode "raise" fails the task. What a guard raises at its end, when the task's result
    is decided, goes to the log as an error. Calling it again replaces the options.

    Args:
        options: as `guard` takes them.
    Raises: ConfigurationError: there is no task framework, or an option is broken.
    """
    watching = guard(**options)
    found = [f"{name}.signals" for name in _FRAMEWORKS if find_spec(name)]
    if not found:
        raise ConfigurationError(
            "There are no tasks to guard: take Django 6.0, or `pip install django-tasks`."
        )

    def started(task_result: Any, **_: object) -> None:
        scope = ExitStack()
        scope.enter_context(guarded_task(task_result.task.module_path, watching.copy()))
        _running.set((*_running.get(), (task_result.id, scope)))

    for each in found:
        signals = import_module(each)
        signals.task_started.disconnect(dispatch_uid=__name__)
        signals.task_started.connect(started, weak=False, dispatch_uid=__name__)
        signals.task_finished.connect(_finished, dispatch_uid=__name__)


def _finished(task_result: Any, **_: object) -> None:
    """End a task's scope, and those that were left open inside of it."""
    running = _running.get()
    depth = next((n for n, (key, _) in enumerate(running) if key == task_result.id), None)
    if depth is None:  # it began before anybody looked
        return
    _running.set(running[:depth])
    for _id, scope in reversed(running[depth:]):
        try:
            scope.close()
        except (NPlusOneError, NPlusOneWarning) as error:  # the latter where warnings are errors
            logger.error("%s", error)


def _tell(name: str, report: Report) -> None:
    if not (found := [*report]):
        return
    facts: dict[str, object] = {
        "task": name,
        "queries": report.queries,
        "findings": [each.fingerprint for each in found],
    }
    labels = ", ".join(f"{each.count} for {each.label}" for each in found)
    logger.warning("Task %s: N+1 in %d queries: %s.", name, report.queries, labels, extra=facts)
    telemetry.emit(telemetry.Event("queries.task", database=found[0].database, facts=facts))
