"""SQLite: one writer, waited for at BEGIN, or an error that no timeout helps against."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PROJECT = """
import sys
import django
from django.conf import settings

mode, path, work = sys.argv[1:]
settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {
            "transaction_mode": mode,
            "timeout": 60,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
        },
    }},
)
django.setup()
from django.db import OperationalError, connection, transaction
from dbpatterns.transactions import Retry, atomic, attempts
from dbpatterns.transactions.sqlstates import sqlstate_of

def run(sql, using=connection):
    with using.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone() if sql.startswith("SELECT") else None

def add_one():
    (count,) = run("SELECT n FROM counter")
    run(f"UPDATE counter SET n = {count + 1}")
"""
COUNT = """
errors = 0
for _ in range(100):
    try:
        atomic()(add_one)()
    except OperationalError:
        errors += 1
print(errors)
"""
UPGRADE = """
other = connection.copy()
try:
    with transaction.atomic():
        run("SELECT n FROM counter")
        run("UPDATE counter SET n = n + 1", other)
        run("UPDATE counter SET n = n + 1")
except OperationalError as error:
    print(sqlstate_of(error))
"""
RETRIED = """
other, turns = connection.copy(), []
for attempt in attempts(Retry(base=0.001)):
    with attempt as number:
        run("SELECT n FROM counter")
        if number == 1:
            run("UPDATE counter SET n = n + 1", other)
        run("UPDATE counter SET n = n + 1")
print(number, *run("SELECT n FROM counter"))
"""
BUSY = """
other = connection.copy()
run("PRAGMA busy_timeout = 60000")
run("BEGIN IMMEDIATE", other)
try:
    with atomic(lock_timeout=0.01):
        raise AssertionError
except OperationalError as error:
    print(sqlstate_of(error))
retries = []
def let_go(error, attempts, seconds):
    retries.append(sqlstate_of(error))
    run("ROLLBACK", other)
for attempt in attempts(Retry(on_retry=let_go), lock_timeout=0.01):
    with attempt:
        add_one()
with connection.cursor() as cursor:
    print(retries, cursor.execute("PRAGMA busy_timeout").fetchone(), *run("SELECT n FROM counter"))
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "counter.sqlite3"
    run(
        "IMMEDIATE",
        path,
        'run("CREATE TABLE counter (n int)"); run("INSERT INTO counter VALUES (0)")',
    )
    return path


def run(mode: str, path: Path, work: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROJECT + work, mode, str(path), ""],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_deferred_transaction_that_reads_first_fails_at_once(database: Path) -> None:
    assert run("DEFERRED", database, UPGRADE) == "SQLITE_BUSY_SNAPSHOT"  # 60 s of timeout or not


def test_a_retry_of_the_whole_helps(database: Path) -> None:
    assert run("DEFERRED", database, RETRIED) == "2 2"


def test_four_processes_with_immediate_transactions_never_see_a_lock(database: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda _: run("IMMEDIATE", database, COUNT), range(4)))
    assert errors == ["0"] * 4
    assert run("IMMEDIATE", database, 'print(*run("SELECT n FROM counter"))') == "400"


def test_a_begin_that_fails_is_retried_and_its_timeout_is_its_own(database: Path) -> None:
    lines = run("IMMEDIATE", database, BUSY).splitlines()
    assert lines == ["SQLITE_BUSY", "['SQLITE_BUSY'] (60000,) 1"]
