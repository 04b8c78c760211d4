"""`transaction_report`: what the operator must see is seen, and by whom it is caused."""

import json
from collections.abc import Iterator
from io import StringIO
from threading import Event
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.test.utils import override_settings

from dbpatterns.testing.holding import hold_lock
from dbpatterns.transactions import atomic, lock_rows
from tests.testapp.models import Purse
from tests.transactions.support import fetch, threads, until, waiting_sessions

pytestmark = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.postgresql


def report(*args: str) -> Any:
    output = StringIO()
    call_command("transaction_report", "--database", "default", *args, stdout=output)
    return json.loads(output.getvalue()) if "json" in args else output.getvalue()


def test_sqlite_says_in_one_line_that_there_is_nothing_to_see() -> None:
    if connection.vendor == "sqlite":
        assert report() == "default is SQLite: it keeps no view of open transactions.\n"
        facts = report("--format", "json", "--check")
        assert facts["nothing_to_see"] == ["default"]
        assert facts["blocked"] == []


@postgresql
def test_who_is_blocked_by_whom_who_is_long_and_who_is_idle() -> None:
    purse = Purse.objects.create()

    def wait() -> int:
        with atomic():
            lock_rows(purse)
            return int(fetch("SELECT pg_backend_pid()"))

    with threads() as pool:
        with hold_lock(Purse.objects.all()):
            waiting = pool.start(wait)
            until(waiting_sessions)
            facts = report("--format", "json", "--long-seconds", "0", "--idle-seconds", "0")
            text = report("--long-seconds", "0")
            with pytest.raises(CommandError, match="findings about open") as caught:
                report("--check")
        pid = waiting.result(30)
    (blocked,) = facts["blocked"]
    (holder,) = facts["idle_in_transaction"]
    assert (blocked["pid"], blocked["blocked_by"]) == (pid, [holder["pid"]])
    assert (blocked["state"], blocked["wait"], blocked["database"]) == ("active", "Lock", "default")
    assert "FOR UPDATE" in blocked["query"]
    assert holder["state"] == "idle in transaction"
    assert {each["pid"] for each in facts["long"]} == {pid, holder["pid"]}
    assert f"  waits for pid {holder['pid']}\n" in text.replace("    ", "  ")
    assert "Blocked: 1" in text
    assert "In doubt (prepared, and nobody has decided): none" in text
    assert caught.value.returncode == 1


@postgresql
def test_a_quiet_server_has_no_findings() -> None:
    assert report("--check").splitlines() == [
        "Long transactions: none",
        "Idle in transaction: none",
        "Blocked: none",
        "In doubt (prepared, and nobody has decided): none",
        "Many savepoints: none",
    ]


@pytest.fixture
def blind() -> Iterator[None]:
    """Have the role of a monitoring tool that nobody has given its rights."""
    execute("CREATE ROLE dbpatterns_blind")
    execute("SET ROLE dbpatterns_blind")
    yield
    execute("RESET ROLE")
    execute("DROP ROLE dbpatterns_blind")


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@postgresql
def test_a_role_that_may_not_see_the_others_gives_no_all_clear(blind: None) -> None:
    is_open, may_end = Event(), Event()

    def forget() -> None:
        with transaction.atomic():
            fetch("SELECT 1")
            is_open.set()
            assert may_end.wait(30)

    with threads() as pool:
        forgotten = pool.start(forget)
        assert is_open.wait(30)
        facts, text = report("--format", "json", "--long-seconds", "0"), report()
        with pytest.raises(CommandError, match="some sessions are hidden") as caught:
            report("--check")
        may_end.set()
        forgotten.result(30)
    assert facts["long"] == []  # the harm
    (hidden,) = facts["hidden"]
    assert (hidden["database"], hidden["sessions"] >= 1) == ("default", True)
    assert text.startswith("default hides sessions of other roles from this one, ")
    assert caught.value.returncode == 1


@postgresql
@pytest.mark.django_db(transaction=True, databases="__all__")
def test_a_database_that_does_not_answer_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    connections["shard_0"].close()
    monkeypatch.setitem(connections["shard_0"].settings_dict, "NAME", "/nowhere/none")
    output = StringIO()
    with pytest.raises(CommandError, match=r"No answer from shard_0\.") as caught:
        call_command("transaction_report", "--format", "json", stdout=output)
    facts = json.loads(output.getvalue())
    assert caught.value.returncode == 1
    assert {"default", "shard_1"} <= {*facts["databases"]}
    ((dead, why),) = (each.values() for each in facts["unavailable"])
    assert (dead, "/nowhere/none" in why) == ("shard_0", True)
    with pytest.raises(CommandError):
        call_command("transaction_report", stdout=output)
    assert "shard_0 does not answer: " in output.getvalue()


@postgresql
def test_a_prepared_transaction_is_in_doubt_and_blocks() -> None:
    purse = Purse.objects.create()
    with transaction.atomic(), connection.cursor() as cursor:
        Purse.objects.update(balance=1)
        cursor.execute("PREPARE TRANSACTION 'dbpatterns-test'")

    def wait() -> None:
        with atomic():
            lock_rows(purse)

    with threads() as pool:
        waiting = pool.start(wait)
        until(waiting_sessions)
        facts, text = report("--format", "json"), report()
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK PREPARED 'dbpatterns-test'")
        waiting.result(30)
    (in_doubt,) = facts["in_doubt"]
    assert in_doubt["gid"] == "dbpatterns-test"
    assert in_doubt["prepared_seconds"] >= 0
    assert facts["blocked"][0]["blocked_by"] == [0]
    assert "waits for a prepared transaction" in text
    assert "dbpatterns-test" in text


@postgresql
@override_settings(DBPATTERNS={"TRANSACTIONS": {"WARN_SAVEPOINTS": 5}})
def test_many_savepoints_are_seen_where_the_server_tells() -> None:
    with threads() as pool, atomic():
        for _ in range(6):
            with transaction.atomic():
                Purse.objects.create()
        facts = pool.start(report, "--format", "json").result(30)
        text = pool.start(report).result(30)
    if connection.pg_version >= 160000:  # type: ignore[attr-defined]
        assert facts["many_savepoints"][0]["subtransactions"] == 6
        assert "6 savepoints" in text
    else:
        assert facts["many_savepoints"] == []


@postgresql
@pytest.mark.django_db(transaction=True, databases="__all__")
def test_without_a_database_it_looks_at_all() -> None:
    output = StringIO()
    call_command("transaction_report", "--format", "json", stdout=output)
    assert {"default", "shard_0"} <= set(json.loads(output.getvalue())["databases"])
