"""Celery: a guard around each task.

    app = Celery("shop", task_cls="dbpatterns.contrib.celery:GuardedTask")

    @app.task(guard_options={"mode": "off"})  # what a task changes
    def rebuild(): ...

A base class and no signal handlers: Celery logs what a handler raises, and the task succeeds.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from celery.contrib.django.task import DjangoTask

from dbpatterns.contrib.tasks import guarded_task
from dbpatterns.queries import guard

__all__ = ["GuardedTask"]


class GuardedTask(DjangoTask):  # type: ignore[misc]  # Celery is not typed
    """A task that runs under a guard, in a worker or eagerly, each try under one of its own.

    An N+1 in mode "raise" fails the task as any exception does, so that `autoretry_for` may run
    it again. Called as a function it is a part of its caller and gets no guard.
    """

    abstract = True
    guard_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Arguments of `guard`; what is not given comes from `DBPATTERNS["QUERIES"]`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run under the guard.

        Raises: as the task and `guard`.
        """
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        with guarded_task(self.name, guard(**self.guard_options)):
            return super().__call__(*args, **kwargs)
