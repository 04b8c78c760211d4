"""The frames of a piece of work from the inside out, through threads into who awaits them.

In a worker thread of `sync_to_async` the stack goes on in the coroutine that awaits it.
"""

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from weakref import WeakValueDictionary

from dbpatterns.queries.awaiting import ASGIREF, chain, gathering
from dbpatterns.queries.spots import Spot

__all__ = ["frames_from", "is_worker", "spots_from"]

_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_Waiters = Callable[["asyncio.Task[Any]", asyncio.AbstractEventLoop], list[FrameType]]
_tasks: "WeakValueDictionary[int, asyncio.Task[Any]]" = WeakValueDictionary()


def spots_from(frame: FrameType, until: FrameType | None) -> dict[FrameType, Spot]:
    """Return the frames of `frames_from`, on to who waits for the task, and what each is doing.

    A method of Django's given to `asyncio.gather` has no line of the user's, but the one that
    gathers has. That looks at every task of the loop, which goes on beside us: so it is for
    alerts only, and what a frame of another task does is read together with what it awaits.
    """
    halted: dict[FrameType, Spot] = {}

    def waiters(task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> list[FrameType]:
        found = gathering(task, loop)
        halted.update(found)
        return list(found)

    return {each: halted.get(each) or Spot.of(each) for each in frames_from(frame, until, waiters)}


def frames_from(
    frame: FrameType | None, until: FrameType | None, waiters: _Waiters | None = None
) -> Iterator[FrameType]:
    """Yield frames from the inside out, through threads into the coroutines that await them.

    `waiters` says which frames, from the outside in, wait for the task of such a coroutine.
    """
    waiting: list[FrameType | None] = []
    while frame is not None:
        yield frame
        if frame is until:
            return
        if is_worker(frame):
            task, loop = _task_of(frame), frame.f_locals["loop"]
            outer = waiters(task, loop) if waiters and task else []
            waiting = [frame.f_back, *outer, *(_callers(task) if task else _starters(frame))]
        frame = waiting.pop() if waiting else frame.f_back


def is_worker(frame: FrameType) -> bool:
    """Tell whether a frame is where a thread starts to work for a coroutine."""
    code = frame.f_code
    return code.co_name == "thread_handler" and code.co_filename == ASGIREF


def _task_of(handler: FrameType) -> "asyncio.Task[Any] | None":
    """Return the task that waits for this worker: they share one list, `task_context`."""
    token, loop = handler.f_locals["task_context"], handler.f_locals["loop"]
    known = _tasks.get(id(token))
    if known is not None and _token(chain(known)[0]) is token:
        return known
    for task in asyncio.all_tasks(loop):
        other = _token(chain(task)[0])
        if other is not None:
            _tasks[id(other)] = task
    known = _tasks.get(id(token))
    return known if known is not None and _token(chain(known)[0]) is token else None


def _callers(task: "asyncio.Task[Any]") -> list[FrameType]:
    """Return a task's frames from the outside in, without the one that waits for the worker."""
    return chain(task)[0][:-1]


def _starters(handler: FrameType) -> list[FrameType]:
    """Return the same of a task that has only just called this worker and does not wait yet."""
    token = handler.f_locals["task_context"]
    for innermost in sys._current_frames().values():
        frame: FrameType | None = innermost
        while frame is not None and _token([frame]) is not token:
            frame = frame.f_back
        callers: list[FrameType] = []
        while frame is not None and frame.f_code.co_flags & _COROUTINE:
            frame = frame.f_back
            if frame is not None and frame.f_code.co_flags & _COROUTINE:
                callers.insert(0, frame)
        if callers:
            return callers
    return []


def _token(frames: list[FrameType]) -> object:
    if not frames or frames[-1].f_code.co_filename != ASGIREF:
        return None
    return frames[-1].f_locals.get("task_context")
