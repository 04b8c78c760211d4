"""Threads that start together, and processes of our own to kill, on a test's database."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections

T = TypeVar("T")

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


def until(what: Callable[[], T]) -> T:
    """Poll until something is so, and return it; a test of what never comes fails."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)
    return found


def locks_waited_for(alias: str = DEFAULT_DB_ALIAS) -> int:
    """Count the locks of a PostgreSQL server that somebody waits for; within a transaction too."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return int(cursor.fetchone()[0])


def database_url(alias: str = DEFAULT_DB_ALIAS) -> str:
    """Return the address of a test's database, for the environment of a process."""
    settings = connections[alias].settings_dict
    if connections[alias].vendor == "sqlite":
        return f"sqlite:///{settings['NAME']}"
    return "postgres://{USER}@{HOST}:{PORT}/{NAME}".format_map(settings)


def until_sessions_end(application: str, alias: str = DEFAULT_DB_ALIAS) -> None:
    """Wait for the sessions of processes that were killed: what they sent may still commit.

    They had the name in `PGAPPNAME`. On SQLite nothing goes on after its process.
    """
    if connections[alias].vendor != "postgresql":
        return
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"

    def are_gone() -> bool:
        with connections[alias].cursor() as cursor:
            cursor.execute(sessions, [application])
            return bool(cursor.fetchone()[0] == 0)

    until(are_gone)


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
