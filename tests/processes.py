"""Threads that start together, and processes of our own to kill, on a test's database."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django.db import connection, connections

PATIENCE_SECONDS = 30
ROOT = str(Path(__file__).resolve().parents[1])


def in_threads(functions: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once, each on a connection of its own; return what each returned or raised."""
    together = threading.Barrier(len(functions))

    def run(function: Callable[[], Any]) -> Any:
        try:
            together.wait(timeout=30)
            return function()
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


def until(what: Callable[[], object]) -> None:
    """Poll until something is so; a test of what never comes fails."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def start_process(code: str) -> subprocess.Popen[str]:
    """Start Python on this test's database; it prints what it has to say."""
    setup = (
        "import django; django.setup()\n"
        "from django.db import connections\n"
        f"connections['default'].settings_dict['NAME'] = {connection.settings_dict['NAME']!r}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", setup + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,  # nothing ever comes: to read it is to wait for the kill
        stdout=subprocess.PIPE,
        text=True,
    )
