"""Which coroutine waits for a task: asyncio keeps no such link before Python 3.14, so look.

For alerts only: it walks over every task of the loop.
"""

import asyncio
import functools
import gc
import inspect
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    MethodType,
)
from typing import Any

import asgiref.sync

from dbpatterns.queries.spots import Spot

__all__ = ["ASGIREF", "chain", "gathering"]

ASGIREF = asgiref.sync.SyncToAsync.__call__.__code__.co_filename
_LINKS = (FunctionType, CellType, MethodType, functools.partial, list, tuple, set, dict, deque)
_Suspended = tuple["asyncio.Task[Any]", list[FrameType], object]
"""A task, its frames from the outside in, and what the last of them awaits."""
_MAX_REACHED = 10_000
_PATIENCE = 0.5  # seconds
_PAUSE = 0.001


def gathering(task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> dict[FrameType, Spot]:
    """Return the frames of the task that waits for this one, or has it, from the outside in.

    Each with what it was doing while that task waited. A task that is at work just now cannot be
    looked into: so where none is found, a busy loop is looked at again until it waits, for half a
    second at most.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        others: list[_Suspended] = [
            (each, *chain(each)) for each in asyncio.all_tasks(loop) - {task}
        ]
        waiter = _waiter(task, others)
        spots = {} if waiter is None else {each: Spot.of(each) for each in waiter[1]}
        # The loop went on beside us? Then what was seen does not belong together.
        seen = others if waiter is None else [waiter]
        if all(awaited is not None and chain(each)[1] is awaited for each, _, awaited in seen):
            return spots
        if time.monotonic() > deadline:
            return {}
        time.sleep(_PAUSE)


def _waiter(task: "asyncio.Task[Any]", others: "list[_Suspended]") -> "_Suspended | None":
    """Return the one that waits for a task, or else one that has it."""
    woken = {id(task), *map(id, _reached_from(gc.get_referents(task)))}
    suspended = [each for each in others if each[2] is not None]
    for each in suspended:
        if any(id(part) in woken for part in (each[2], *gc.get_referents(each[2]))):
            return each
    for each in suspended:
        held = (part for frame in each[1] for part in frame.f_locals.values())
        if any(part is task for part in _reached_from(held)):
            return each  # it awaits another of its tasks just now
    return None


def _reached_from(starts: Iterable[object]) -> Iterator[object]:
    """Yield what these lead to: the futures that a task's end wakes, the tasks of a group.

    `gather`, `wait`, `wait_for`, `shield`, `as_completed` and groups of tasks link them each in
    its own way: a closure, a partial function, or an attribute or method of the group.
    """
    first = list(starts)
    found = set(map(id, first))
    yield from first
    reached = deque(each for each in first if _is_link(each))
    while reached and len(found) < _MAX_REACHED:
        each = reached.popleft()
        parts = each.__closure__ if isinstance(each, FunctionType) else gc.get_referents(each)
        for part in parts or ():
            if id(part) not in found:
                found.add(id(part))
                yield part
                if _is_link(part):
                    reached.append(part)


def _is_link(part: object) -> bool:
    if isinstance(part, asyncio.Task | asyncio.AbstractEventLoop):  # they lead to everything else
        return False
    return isinstance(part, _LINKS) or type(part).__module__.startswith(("asyncio.", "_asyncio"))


def chain(task: "asyncio.Task[Any]") -> tuple[list[FrameType], object]:
    """Return the frames of a suspended task from the outside in, and what the last awaits."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        if inspect.iscoroutine(awaited):
            frame, inner = awaited.cr_frame, awaited.cr_await
        elif inspect.isasyncgen(awaited):
            frame, inner = awaited.ag_frame, awaited.ag_await
        else:  # `async for` awaits an object that only refers to its generator
            kinds = (CoroutineType, AsyncGeneratorType)
            inner = next((o for o in gc.get_referents(awaited) if isinstance(o, kinds)), None)
            if inner is None:
                return frames, awaited
            frame = None
        if frame is not None:
            frames.append(frame)
            if frame.f_code.co_filename == ASGIREF and frame.f_code.co_name == "__call__":
                return frames, inner
        awaited = inner
    return frames, None
