"""A connection that is lost in mid-commit: nobody guesses, and the server can be asked.

A deferred trigger makes the COMMIT itself wait for an advisory lock. Another session ends the
waiting backend, before or after it has made the commit durable.
"""

import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.test import TestCase

from dbpatterns import telemetry
from dbpatterns.testing.failures import inject_failures
from dbpatterns.transactions import (
    RETRYABLE,
    CommitOutcomeUnknown,
    Retry,
    after_commit,
    after_rollback,
    atomic,
    outcomes,
)
from dbpatterns.transactions.hooks import Committed
from dbpatterns.transactions.records import Record
from tests.testapp.models import Purse
from tests.transactions.support import fetch, threads, until, waiting_sessions

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]
LOST = RETRYABLE | {"57P01", "08006"}

SLOW_COMMIT = """
    CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON testapp_purse
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow_commit();
"""


@pytest.fixture
def waiting_trigger() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(SLOW_COMMIT)
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION slow_commit CASCADE")


@pytest.fixture
def slow_commit(waiting_trigger: None) -> Iterator[None]:
    fetch("SELECT pg_advisory_lock(4711)")
    yield
    fetch("SELECT pg_advisory_unlock_all()")


def killed_in_mid_commit(work: Callable[[], object]) -> BaseException | None:
    """Run work in a thread, end its backend while it commits, and return what it raised."""
    with threads() as pool:
        running = pool.start(work)
        until(waiting_sessions)
        assert fetch(
            "SELECT bool_and(query = 'COMMIT' AND pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        error = running.exception(timeout=30)
    return error


def test_django_reports_an_unknown_outcome_as_any_error(slow_commit: None) -> None:
    @transaction.atomic
    def pay() -> None:
        Purse.objects.create()

    assert type(killed_in_mid_commit(pay)) is OperationalError  # who would not try again?


def test_an_unknown_outcome_says_so_and_is_never_retried(slow_commit: None) -> None:
    calls: list[None] = []
    hooks: list[str] = []
    events: list[telemetry.Event] = []

    @atomic(retry=Retry(sqlstates=LOST, base=0.0001), label="pay")
    def pay() -> None:
        calls.append(None)
        after_commit(lambda: hooks.append("done"))
        after_rollback(lambda: hooks.append("undone"))
        Purse.objects.create()

    with telemetry.listening(events.append):
        error = killed_in_mid_commit(pay)
    assert isinstance(error, CommitOutcomeUnknown)
    assert isinstance(error, DatabaseError)
    assert (error.database, error.label, error.xid) == ("default", "pay", None)
    assert isinstance(error.__cause__, OperationalError)
    assert "resolve_commit=True" in str(error)
    assert len(calls) == 1
    assert hooks == []
    assert [each.facts["outcome"] for each in events] == ["unknown"]


@contextmanager
def signal_in_mid_commit(raised: BaseException) -> Iterator[threading.Event]:
    """Have a handler raise in this thread while its COMMIT waits; what it waits for goes on."""

    def handle(number: int, frame: object) -> None:
        raise raised

    def hold(thread: int) -> None:
        with transaction.atomic():
            fetch("SELECT pg_advisory_xact_lock(4711)")
            is_held.set()
            until(waiting_sessions)
            signal.pthread_kill(thread, signal.SIGUSR1)
            may_end.wait(30)

    is_held, may_end = threading.Event(), threading.Event()
    before = signal.signal(signal.SIGUSR1, handle)
    with threads() as pool:
        holder = pool.start(hold, threading.get_ident())
        assert is_held.wait(30)
        try:
            yield may_end
        finally:
            may_end.set()
            holder.result(30)
            signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("raised", [SystemExit(143), KeyboardInterrupt(), TimeoutError()])
def test_a_commit_that_a_signal_interrupts_is_unknown_and_leaves_nothing_behind(
    waiting_trigger: None, raised: BaseException
) -> None:
    hooks: list[str] = []
    events: list[telemetry.Event] = []

    @atomic(retry=Retry(base=0.0001), resolve_commit=True)
    def pay() -> None:
        after_commit(lambda: hooks.append("done"))
        after_rollback(lambda: hooks.append("undone"))
        Purse.objects.create()

    with signal_in_mid_commit(raised) as may_end, telemetry.listening(events.append):
        with pytest.raises(type(raised)) as caught:
            pay()
        assert caught.value is raised
        with transaction.atomic():
            assert Purse.objects.count() == 0
        may_end.set()
        if isinstance(raised, Exception):  # psycopg cancels the COMMIT for the others
            assert until(Purse.objects.count) == 1
    assert [each.facts["outcome"] for each in events] == ["unknown"]
    assert hooks == []


@pytest.mark.parametrize("outside", [False, True])
def test_a_signal_is_told_from_what_the_code_around_was_handling(outside: bool) -> None:
    record = Record("default", "pay")
    error, stopped = lost(), KeyboardInterrupt()
    error.__context__ = stopped
    pledge = outcomes.Pledge(Committed(), [], handled=stopped if outside else None)
    with pytest.raises(CommitOutcomeUnknown if outside else KeyboardInterrupt):
        outcomes.settle(connection, pledge, record, error)
    assert record.outcome == "unknown"


def test_a_resolved_rollback_is_an_error_like_others_and_may_be_retried(slow_commit: None) -> None:
    calls: list[None] = []
    hooks: list[str] = []

    @atomic(retry=Retry(sqlstates=LOST, base=0.0001), resolve_commit=True)
    def pay() -> None:
        calls.append(None)
        after_commit(lambda: hooks.append("done"))
        after_rollback(lambda: hooks.append("undone"))
        if len(calls) == 1:
            Purse.objects.create()

    assert killed_in_mid_commit(pay) is None
    assert len(calls) == 2
    assert hooks == ["undone", "done"]
    assert Purse.objects.count() == 0


def test_a_resolved_rollback_without_a_retry_is_the_driver_s_error(slow_commit: None) -> None:
    error = killed_in_mid_commit(atomic(resolve_commit=True)(Purse.objects.create))
    assert type(error) is OperationalError
    assert Purse.objects.count() == 0


def lost() -> OperationalError:
    error = OperationalError()
    error.sqlstate = "08006"  # type: ignore[attr-defined]
    return error


class DeafProxy:
    """Stands before the server and, once told, keeps its answer to a COMMIT to itself."""

    def __init__(self, host: str, port: int) -> None:
        self.server = host, port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.is_deaf = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with (
            suppress(ConnectionError),  # either side may be gone when the other still speaks
            client,
            socket.create_connection(self.server) as server,
        ):
            while readable := select.select([client, server], [], [])[0]:
                for side in readable:
                    data = side.recv(65536)
                    if not data:
                        return
                    if side is client and self.is_deaf and b"COMMIT" in data:
                        self.is_deaf = False
                        server.sendall(data)
                        server.recv(65536)  # it is done, and nobody will hear of it
                        return
                    (server if side is client else client).sendall(data)


@pytest.fixture
def proxy() -> Iterator[DeafProxy]:
    before = {name: connection.settings_dict[name] for name in ("HOST", "PORT")}
    made = DeafProxy(before["HOST"], int(before["PORT"]))
    connection.close()
    host, port = made.listener.getsockname()
    connection.settings_dict.update(HOST=host, PORT=port)
    yield made
    connection.close()
    connection.settings_dict.update(before)
    made.listener.close()


def test_a_naive_retry_after_a_lost_answer_pays_twice(proxy: DeafProxy) -> None:
    for attempt in range(2):
        try:
            with transaction.atomic():
                Purse.objects.create()
                proxy.is_deaf = attempt == 0
        except OperationalError:
            continue
    assert Purse.objects.count() == 2  # the harm


def test_a_resolved_commit_is_a_commit_and_its_hooks_run(proxy: DeafProxy) -> None:
    events: list[telemetry.Event] = []
    hooks: list[str] = []
    calls: list[None] = []

    @atomic(retry=Retry(sqlstates=LOST, base=0.0001), resolve_commit=True)
    def pay() -> int:
        calls.append(None)
        after_commit(lambda: hooks.append("done"))
        after_rollback(lambda: hooks.append("undone"))
        pk = Purse.objects.create().pk
        proxy.is_deaf = True
        return pk

    with telemetry.listening(events.append):
        pk = pay()
    assert [each.pk for each in Purse.objects.all()] == [pk]
    assert (len(calls), hooks) == (1, ["done"])
    assert [each.facts["outcome"] for each in events] == ["committed"]


def test_a_transaction_that_wrote_nothing_is_resolved_without_asking(proxy: DeafProxy) -> None:
    @atomic(resolve_commit=True)
    def read() -> int:
        count = Purse.objects.count()
        proxy.is_deaf = True
        return count

    assert read() == 0


def test_without_an_answer_in_time_it_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_PATIENCE_SECONDS", 0.1)
    hold, may_end = threading.Event(), threading.Event()

    def still_at_it() -> str:
        with transaction.atomic():
            xid = str(fetch("SELECT pg_current_xact_id()"))
            xids.append(xid)
            hold.set()
            assert may_end.wait(30)
        return xid

    xids: list[str] = []
    with threads() as pool:
        pool.start(still_at_it)
        assert hold.wait(30)
        pledge = outcomes.Pledge(Committed(), [], may_ask=True, xid=xids[0])
        with pytest.raises(CommitOutcomeUnknown, match=rf"pg_xact_status\('{xids[0]}'\)") as caught:
            outcomes.settle(connection, pledge, Record("default", "pay"), lost())
        may_end.set()
    assert caught.value.xid == xids[0]


def test_a_connection_lost_again_is_opened_again() -> None:
    with transaction.atomic():
        xid = str(fetch("SELECT pg_current_xact_id()"))
    pid = fetch("SELECT pg_backend_pid()")
    with threads() as pool:
        assert pool.start(fetch, "SELECT pg_terminate_backend(%s, 30000)", pid).result(30)
    pledge = outcomes.Pledge(Committed(), [], may_ask=True, xid=xid)
    outcomes.settle(connection, pledge, Record("default", "pay"), lost())
    assert fetch("SELECT pg_backend_pid()") != pid


def test_a_resolved_commit_is_not_repeated_for_what_its_hook_raises(proxy: DeafProxy) -> None:
    calls: list[None] = []
    events: list[telemetry.Event] = []

    def hook() -> None:
        with inject_failures("40001"), atomic():
            Purse.objects.count()

    @atomic(retry=Retry(base=0.0001), resolve_commit=True, label="pay")
    def pay() -> None:
        calls.append(None)
        after_commit(hook)
        Purse.objects.create()
        proxy.is_deaf = True

    with telemetry.listening(events.append), pytest.raises(OperationalError):
        pay()
    assert (len(calls), Purse.objects.count()) == (1, 1)
    assert [e.facts["outcome"] for e in events if e.facts["label"] == "pay"] == ["committed"]


def test_what_is_lost_before_the_commit_is_rolled_back_for_sure() -> None:
    calls: list[None] = []

    @atomic(retry=Retry(base=0.0001, sqlstates=LOST), resolve_commit=True)
    def pay() -> None:
        calls.append(None)
        Purse.objects.create()
        if len(calls) == 1:
            pid = fetch("SELECT pg_backend_pid()")
            with threads() as pool:
                pool.start(fetch, "SELECT pg_terminate_backend(%s, 30000)", pid).result(30)

    pay()
    assert (len(calls), Purse.objects.count()) == (2, 1)


def test_an_undo_is_called_before_the_next_attempt() -> None:
    heard: list[str] = []

    @atomic(retry=Retry(base=0.0001), resolve_commit=True)
    def pay() -> None:
        heard.append("start")
        after_rollback(lambda: heard.append("undone"))
        after_commit(lambda: heard.append("done"))
        Purse.objects.create()

    with inject_failures("40001", at="commit"):
        pay()
    assert heard == ["start", "undone", "start", "done"]


class AtTheEndOfABlock(TestCase):
    """No COMMIT is sent in a TestCase, so nothing is unknown."""

    databases = ("default",)

    def test_an_error_leaves_the_test_s_connection_alone(self) -> None:
        events: list[telemetry.Event] = []

        def fail(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("RELEASE"):
                raise RuntimeError
            return execute(sql, *args)

        with (
            telemetry.listening(events.append),
            pytest.raises(RuntimeError),
            connection.execute_wrapper(fail),
            atomic(),
        ):
            pass
        assert [each.facts["outcome"] for each in events] == ["rolled_back"]
        assert Purse.objects.count() == 0
