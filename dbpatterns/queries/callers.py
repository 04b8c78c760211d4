"""Which line of the user's code is running, or awaits."""

import os
import sys
import sysconfig
from asyncio import Task
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import asgiref
import django
from asgiref.sync import SyncToAsync

__all__ = ["awaiting_line", "user_line"]

_PACKAGES = tuple(
    f"{Path(path).resolve()}{os.sep}"
    for path in (
        Path(django.__file__).parent,
        Path(asgiref.__file__).parent,
        Path(__file__).parents[1],
    )
)
_STDLIB = f"{Path(sysconfig.get_paths()['stdlib']).resolve()}{os.sep}"

_THREAD_HANDLER = SyncToAsync.thread_handler.__code__
"""Beneath it in the stack may be another task's work."""


def user_line() -> str:
    """Return `path:line in function` of the innermost frame that is the user's, or nothing.

    Neither Django, asgiref, this package nor the standard library is the user's. In a thread that
    works for a coroutine, only what the coroutine had called there. About 3 µs.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _THREAD_HANDLER:
        if _is_users(frame.f_code.co_filename):
            return _line(frame)
        frame = frame.f_back
    return ""


def awaiting_line(task: "Task[Any] | None") -> str:
    """Return the line of the user's coroutine where a task waits, or nothing."""
    found = ""
    awaited: Any = None if task is None else task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None and _is_users(frame.f_code.co_filename):
            found = _line(frame)
        awaited = getattr(awaited, "cr_await", None)
    return found


def _line(frame: FrameType) -> str:
    path = os.path.relpath(frame.f_code.co_filename)
    shown = frame.f_code.co_filename if path.startswith(os.pardir) else path
    return f"{shown}:{frame.f_lineno} in {frame.f_code.co_name}"


@lru_cache(maxsize=4096)
def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = str(Path(filename).resolve())
    is_stdlib = path.startswith(_STDLIB) and "site-packages" not in path
    return not is_stdlib and not path.startswith(_PACKAGES)
