"""Workers killed by SIGKILL, wherever they are: every request is done once or not at all.

`DBPATTERNS_TEST_HISTORIES=10000` kills 200 of them instead of 12.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection, transaction

from dbpatterns.idempotency.models import IdempotencyKey
from dbpatterns.ledger.models import Account
from tests.ledger.requests import Witness, findings
from tests.ledger.support import funded
from tests.processes import ROOT, database_url, until, until_sessions_end

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]
KILLS = max(12, int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "100")) // 50)
FUNDS = 10**9
GATE = 4711
"""An advisory lock: whoever holds it lets no COMMIT of a transfer end."""


class Nursery:
    """Starts workers and knows what each is doing."""

    def __init__(self, way: str, folder: Path, accounts: list[Account]) -> None:
        self.folder = folder
        self.accounts = [each.pk for each in accounts]
        self.pids: dict[str, int] = {}
        self.started = 0
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.ledger.requests", way, str(folder)),
                *map(str, self.accounts),
            ],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> str:
        """Start a worker and return its name."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        name = f"worker{self.started}"
        self.started += 1
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        self.pids[name] = int(self._process.stdout.readline())
        return name

    def send(self, name: str, what: signal.Signals) -> None:
        os.kill(self.pids[name], what)

    def kill(self, name: str) -> str:
        self.send(name, signal.SIGKILL)
        del self.pids[name]
        return name

    def close(self) -> None:
        """Kill who is left, and wait for the end of what they sent."""
        left = list(self.pids)
        for name in left:
            self.kill(name)
        self._process.communicate()
        for name in left:
            until_sessions_end(name)

    def events(self, name: str) -> int:
        path = self.folder / name
        return path.read_bytes().count(b"\n") if path.exists() else 0


def doing(name: str) -> tuple[str, str, str]:
    """Return the state of a worker's session, what it waits for and what it was sent last."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # kept to the end of our transaction
        cursor.execute(
            "SELECT state, coalesce(wait_event_type, ''), query FROM pg_stat_activity"
            " WHERE application_name = %s",
            [name],
        )
        return cursor.fetchone() or ("", "", "")


def first(nursery: Nursery, is_there: Callable[[str], bool]) -> str:
    """Wait until a worker is there and return its name."""
    found: list[str] = []

    def look() -> bool:
        found.extend(name for name in nursery.pids if not found and is_there(name))
        return bool(found)

    until(look)
    return found[0]


def waiting_in(nursery: Nursery, statement: str) -> str:
    """Wait for a worker whose statement with these words waits for a lock."""

    def is_there(name: str) -> bool:
        _, waits_for, query = doing(name)
        return waits_for == "Lock" and statement in query

    return first(nursery, is_there)


@contextmanager
def held(account: int) -> Iterator[None]:
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=account)
        yield


@contextmanager
def gate_closed() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [GATE])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [GATE])


def anywhere(nursery: Nursery) -> str:
    """After so many events, wherever it is by then."""
    name = random.Random(nursery.started).choice(list(nursery.pids))
    events = nursery.events(name) + random.Random(name).randint(1, 20)
    until(lambda: nursery.events(name) >= events)
    return nursery.kill(name)


def in_a_transfer(nursery: Nursery) -> str:
    """In the statement that moves the money."""
    with held(nursery.accounts[0]):
        return nursery.kill(waiting_in(nursery, "dbpatterns_ledger_move"))


def in_a_batch(nursery: Nursery) -> str:
    """In the statement that locks the accounts; a batch of many transactions is at its third."""
    with held(nursery.accounts[-1]):
        return nursery.kill(waiting_in(nursery, "ORDER BY id FOR NO KEY UPDATE"))


def between_statements(nursery: Nursery) -> str:
    """When the server waits for the next statement of a transaction, or for its COMMIT."""

    def is_there(name: str) -> bool:
        nursery.send(name, signal.SIGSTOP)
        if doing(name)[0] == "idle in transaction":
            return True
        nursery.send(name, signal.SIGCONT)
        return False

    return nursery.kill(first(nursery, is_there))


def in_a_commit(nursery: Nursery) -> str:
    """While the server commits: it will be done, and nobody has been told."""
    with gate_closed():
        return nursery.kill(waiting_in(nursery, "COMMIT"))


def in_a_commit_that_fails(nursery: Nursery) -> str:
    """While the server commits, and then its session is ended too."""
    with gate_closed(), connection.cursor() as cursor:
        name = nursery.kill(waiting_in(nursery, "COMMIT"))
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [name],
        )
        until_sessions_end(name)
        return name


Kill = Callable[[Nursery], str]
KINDS: list[Kill] = [
    *(anywhere, in_a_transfer, in_a_batch),
    *(between_statements, in_a_commit, in_a_commit_that_fails),
]


@pytest.fixture(autouse=True)
def _gate() -> Iterator[None]:
    """Let every COMMIT of a transfer go through the gate, which is open if nobody closes it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION pass_the_gate() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON dbpatterns_ledger_transfer"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_the_gate()"
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION pass_the_gate() CASCADE")


def killed(way: str, folder: Path, kinds: list[Kill], *, workers: int = 1) -> list[str]:
    """Kill workers of a way, one after another, and return what is wrong then."""
    accounts = funded(*[FUNDS] * 5)
    nursery = Nursery(way, folder, accounts)
    try:
        for _ in range(workers - 1):
            nursery.start()
        for kill in kinds:
            nursery.start()
            until_sessions_end(kill(nursery))
    finally:
        nursery.close()
    seen = Witness.of(folder)
    assert len(seen.begun) >= len(kinds)
    return findings(way, nursery.accounts, FUNDS, seen)


@pytest.mark.parametrize(
    ("way", "kind", "harm"),
    [
        ("keyless", in_a_commit, "2 instead of 1 payments"),
        ("claimed_first", in_a_batch, "0 instead of 6 payments"),
        ("told_early", in_a_commit_that_fails, "and nothing is there"),
        ("one_by_one", in_a_batch, "half, 2 of 6 payments"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_other_ways_lose_or_double_and_are_found_out(
    way: str, kind: Kill, harm: str, tmp_path: Path
) -> None:
    found = killed(way, tmp_path, [kind])
    assert any(harm in each for each in found), found


def test_guarded_requests_are_done_once_whoever_is_killed(tmp_path: Path) -> None:
    kinds = [KINDS[number % len(KINDS)] for number in range(KILLS)]
    assert killed("guarded", tmp_path, kinds, workers=3) == []
    seen = Witness.of(tmp_path)
    assert set(seen.told) < set(seen.begun)  # some were killed before they were told
    assert IdempotencyKey.objects.count() == len(seen.begun)
