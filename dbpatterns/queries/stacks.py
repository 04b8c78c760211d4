"""Where a query comes from: the whole stack of Python, as a key and as frames.

The innermost line is not enough: a helper called from two lines has one, and is no loop. The
whole stack is, with three corrections. Recursion is collapsed, so that a walk over a tree is one
place. Frames of libraries that loop over fields count the field. And in a worker thread of
`sync_to_async` the stack goes on in the coroutine that awaits it.
"""

import asyncio
import inspect
import sys
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import CodeType, FrameType
from typing import Any
from weakref import WeakValueDictionary

from dbpatterns.queries.awaiting import ASGIREF, chain, gathering
from dbpatterns.queries.libraries import (
    FOLLOWS,
    OWN,
    PINNED,
    READS,
    SILENT,
    Asked,
    Role,
    roles_of,
)

__all__ = ["Spot", "Stack", "frames_from"]

_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_roles: dict[str, Mapping[str, Role] | None] = {}
_UNKNOWN: Mapping[str, Role] = {}
_numbers: dict[tuple[str, int, int], int] = {}
_positions: dict[tuple[Hashable, ...], int] = {}
_tasks: "WeakValueDictionary[int, asyncio.Task[Any]]" = WeakValueDictionary()


@dataclass(slots=True)  # frozen would take a microsecond more, and this is for each query
class Spot:
    """An instruction: cheap to keep, and a line only when somebody asks."""

    code: CodeType
    instruction: int

    @classmethod
    def of(cls, frame: FrameType) -> "Spot":
        """Return what a frame is doing."""
        return cls(frame.f_code, frame.f_lasti)

    @property
    def position(self) -> tuple[int, int, int, int]:
        """First line, last line, first and last column (in bytes) of the expression."""
        start = max(self.instruction, 0) // 2
        line, last, left, right = next(islice(self.code.co_positions(), start, None))
        line = line or self.code.co_firstlineno
        return line, last or line, left or 0, right or 0

    @property
    def line(self) -> int:
        """The line of the expression's start."""
        return self.position[0]


@dataclass(slots=True)
class Stack:
    """What is kept of a stack."""

    key: tuple[Hashable, ...]
    user: Spot | None
    """The innermost instruction in a file of the user's."""
    details: tuple[tuple[str, ...], ...]
    """What frames of libraries said, from the inside out: `("field", "author")`."""
    is_pinned: bool
    """Whether an exception here would spoil a transaction."""
    is_in_template: bool
    """Whether a template, and no code of the user's, is what evaluated the query."""
    follows: bool
    """Whether it is the prefetch of a queryset, which has a query of its own."""
    asker: Hashable
    """Which of many alike asks: a row's key, `form-0-author` of a formset; None if not known."""

    @classmethod
    def read(
        cls, frame: FrameType | None, until: FrameType | None, *, is_write: bool
    ) -> "Stack | None":
        """Read the stack from this frame outward; None for a library that may ask so.

        5 to 15 µs. `until` is the outermost frame of interest; all frames when it is not there.
        """
        spots: dict[Hashable, None] = {}  # in order, each once: so recursion collapses
        functions: set[tuple[str, int]] = set()
        user: Spot | None = None
        details: list[Any] = []
        is_pinned = is_in_template = follows = False
        asker: Hashable = None
        for each in frames_from(frame, until):
            code, instruction = each.f_code, each.f_lasti
            filename = code.co_filename
            number = _numbers.get((filename, code.co_firstlineno, instruction))
            if number is None:
                number = _number_of(code, instruction)
            roles = _roles.get(filename, _UNKNOWN)
            if roles is _UNKNOWN:
                roles = _roles[filename] = roles_of(filename, each.f_globals)
            if roles is None:  # a function of the user's counts once, however deep it recurs
                if user is None:
                    user = Spot(code, instruction)
                    is_in_template = any(kind == "template" for kind, *_ in details)
                function = (filename, code.co_firstlineno)
                if function not in functions:
                    functions.add(function)
                    spots[number] = None
                continue
            if roles and (role := roles.get(code.co_name) or roles.get("*")):
                if role is SILENT or (
                    user is None and (role is OWN or (role is READS and not is_write))
                ):
                    return None
                if role is PINNED:
                    is_pinned = True
                elif role is FOLLOWS:
                    follows = follows or user is None
                elif not isinstance(role, str):
                    detail: Any = role(each)
                    if detail is not None:
                        if type(detail) is Asked:
                            detail, who = detail
                            asker = who if asker is None else asker
                        details.append(detail)
                        spots[number, detail] = None
                        continue
            spots[number] = None
        return cls(
            tuple(spots),
            user,
            tuple(details),
            is_pinned,
            is_in_template or user is None,
            follows,
            asker,
        )


def frames_from(
    frame: FrameType | None, until: FrameType | None, *, with_gathering: bool = False
) -> Iterator[FrameType]:
    """Yield frames from the inside out, through threads into the coroutines that await them.

    `with_gathering` goes on to the coroutine that waits for that task: a method of Django's given
    to `asyncio.gather` has no line of the user's, but the one that gathers has. That looks at
    every task of the loop, so it is for alerts only.
    """
    waiting: list[FrameType | None] = []
    while frame is not None:
        yield frame
        if frame is until:
            return
        code = frame.f_code
        if code.co_name == "thread_handler" and code.co_filename == ASGIREF:
            task, loop = _task_of(frame), frame.f_locals["loop"]
            outer = gathering(task, loop) if with_gathering and task else []
            waiting = [frame.f_back, *outer, *(_callers(task) if task else _starters(frame))]
        frame = waiting.pop() if waiting else frame.f_back


def _number_of(code: CodeType, instruction: int) -> int:
    """Return a small number for an expression in the source.

    Not for an instruction: the interpreter replaces a slow one by others once it is warm, and a
    loop's first run would be another place than the next.
    """
    position = (code.co_filename, code.co_firstlineno, *Spot(code, instruction).position)
    number = _positions.setdefault(position, len(_positions) + 1)
    _numbers[code.co_filename, code.co_firstlineno, instruction] = number
    return number


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
