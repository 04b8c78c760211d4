"""`atomic`: what is asked for is what the server does, and what cannot be had is refused first."""

import asyncio
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    InternalError,
    OperationalError,
    close_old_connections,
    connection,
    transaction,
)
from django.db.transaction import TransactionManagementError
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.transactions import (
    Isolation,
    IsolationLevelError,
    NestedTransactionError,
    Retry,
    after_commit,
    after_rollback,
    atomic,
    in_transaction,
    isolation,
    run_in_transaction,
    savepoint,
)
from dbpatterns.transactions._compat import psycopg_connection
from dbpatterns.transactions.blocks import block
from dbpatterns.transactions.isolation import refuse_unsupported
from dbpatterns.transactions.options import Options
from tests.testapp.models import Purse
from tests.transactions.support import fetch, options, threads

real = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.postgresql


class Broken(Exception):
    pass


def level() -> str:
    return str(fetch("SHOW transaction_isolation")).upper()


def statements(queries: CaptureQueriesContext) -> list[str]:
    return [each["sql"] for each in queries.captured_queries]


@real
def test_a_function_and_a_block_commit_and_roll_back() -> None:
    @atomic
    def make(balance: int, *, fail: bool = False) -> int:
        """Make one."""
        Purse.objects.create(balance=balance)
        if fail:
            raise Broken
        return balance

    assert make(1) == 1
    assert (make.__name__, make.__doc__) == ("make", "Make one.")
    with pytest.raises(Broken):
        make(2, fail=True)
    with atomic():
        Purse.objects.create(balance=3)
    with pytest.raises(Broken), atomic():
        Purse.objects.create(balance=4)
        raise Broken
    assert sorted(Purse.objects.values_list("balance", flat=True)) == [1, 3]


@real
def test_one_object_may_be_entered_again_and_by_threads() -> None:
    block = atomic()

    def write() -> None:
        with block, block:
            Purse.objects.create()

    with threads() as pool:
        pool.together(write)
    with block:
        write()
    assert Purse.objects.count() == 2


@real
@postgresql
def test_django_s_atomic_has_no_level_and_ours_sends_it_with_begin() -> None:
    with transaction.atomic():
        assert level() == "READ COMMITTED"
    for wanted in Isolation:
        with CaptureQueriesContext(connection) as queries, atomic(isolation=wanted):
            assert level() == wanted
        assert len([each for each in statements(queries) if "TRANSACTION" in each]) == 0
    with transaction.atomic():
        assert level() == "READ COMMITTED"


@real
@postgresql
def test_the_level_does_not_reach_what_follows_the_commit() -> None:
    levels: list[str] = []

    def look() -> None:
        with transaction.atomic():
            levels.append(level())

    with atomic(isolation=Isolation.SERIALIZABLE):
        after_commit(look)
    with pytest.raises(Broken), atomic(isolation=Isolation.SERIALIZABLE, read_only=True):
        raise Broken
    look()
    assert levels == ["READ COMMITTED", "READ COMMITTED"]
    Purse.objects.create()


@real
@postgresql
def test_a_lost_connection_leaves_nothing_behind() -> None:
    with pytest.raises(OperationalError), atomic(isolation=Isolation.SERIALIZABLE):
        fetch("SELECT pg_terminate_backend(pg_backend_pid())")
    with transaction.atomic():
        assert level() == "READ COMMITTED"


@real
@postgresql
def test_a_read_only_transaction_refuses_writes_and_a_deferrable_one_says_so() -> None:
    with pytest.raises(InternalError, match="read-only"), atomic(read_only=True):
        Purse.objects.create()
    with atomic(isolation=Isolation.SERIALIZABLE, read_only=True, deferrable=True):
        assert fetch("SHOW transaction_deferrable") == "on"
    Purse.objects.create()


@real
@postgresql
def test_pgtransaction_s_harm_a_nested_read_only_leaks() -> None:
    with pytest.raises(InternalError, match="read-only"), transaction.atomic():
        fetch("SELECT 1")
        with transaction.atomic(savepoint=False), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        Purse.objects.create()


@real
def test_a_nested_read_only_block_ends_with_itself() -> None:
    with atomic():
        Purse.objects.create()
        with pytest.raises((InternalError, OperationalError)), atomic(read_only=True):
            Purse.objects.create()
        with atomic(savepoint=False, read_only=True), atomic(read_only=True):
            assert Purse.objects.count() == 1
        Purse.objects.create()
    assert Purse.objects.count() == 2


@real
def test_a_read_only_block_that_is_to_be_rolled_back_ends_too() -> None:
    with atomic(read_only=True):
        transaction.set_rollback(True)
    Purse.objects.create()


@real
@pytest.mark.parametrize("outer", list(Isolation))
@pytest.mark.parametrize("inner", list(Isolation))
@postgresql
def test_a_nested_level_is_kept_or_refused_before_any_sql(
    outer: Isolation, inner: Isolation
) -> None:
    with atomic(isolation=outer, label="outer"):
        assert level() == outer
        if inner.strictness <= outer.strictness:
            with atomic(isolation=inner):
                assert level() == outer
        else:
            with (
                CaptureQueriesContext(connection) as queries,
                pytest.raises(IsolationLevelError, match="'outer'") as caught,
                atomic(isolation=inner),
            ):
                pass
            assert statements(queries) == []
            assert (caught.value.asked, caught.value.current) == (inner, outer)
        Purse.objects.create()
    assert Purse.objects.count() == 1


@real
@postgresql
def test_django_s_harm_a_nested_level_ends_the_caller_s_transaction() -> None:
    with pytest.raises(InternalError, match="aborted"), transaction.atomic():
        Purse.objects.create()
        with pytest.raises(InternalError), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        Purse.objects.create()


@real
@postgresql
def test_within_django_s_own_block_its_level_counts() -> None:
    with transaction.atomic():
        with pytest.raises(IsolationLevelError), atomic(isolation=Isolation.REPEATABLE_READ):
            pass
        with (
            pytest.raises(IsolationLevelError),
            atomic(isolation=Isolation.SERIALIZABLE, read_only=True, deferrable=True),
        ):
            pass
        with atomic(isolation=Isolation.READ_COMMITTED):
            Purse.objects.create()


@real
@postgresql
def test_a_level_of_the_settings_counts() -> None:
    from psycopg import IsolationLevel

    with options(isolation_level=IsolationLevel.SERIALIZABLE):
        with transaction.atomic(), atomic(isolation=Isolation.SERIALIZABLE):
            assert level() == "SERIALIZABLE"
        with (
            transaction.atomic(),
            pytest.raises(IsolationLevelError, match="DEFERRABLE"),
            atomic(isolation=Isolation.SERIALIZABLE, read_only=True, deferrable=True),
        ):
            pass
        with atomic():
            assert level() == "SERIALIZABLE"
        with atomic(isolation=Isolation.READ_COMMITTED):
            assert level() == "READ COMMITTED"


@real
@postgresql
@pytest.mark.parametrize("entered", [atomic, transaction.atomic], ids=["ours", "django"])
def test_a_level_of_the_settings_counts_and_a_default_of_the_server_does_not(
    entered: Any,
) -> None:
    from psycopg import IsolationLevel

    def of_server(name: str) -> dict[str, Any]:
        return {"options": "-c default_transaction_isolation=" + name.replace(" ", r"\ ")}

    of_settings = {"isolation_level": IsolationLevel.SERIALIZABLE.value}
    with options(**of_settings), entered(), atomic(isolation=Isolation.SERIALIZABLE):
        assert level() == "SERIALIZABLE"
    with options(**of_server("serializable")), entered():
        with (
            CaptureQueriesContext(connection) as queries,
            pytest.raises(IsolationLevelError) as caught,
            atomic(isolation=Isolation.SERIALIZABLE),
        ):
            pass
        assert level() == "SERIALIZABLE"
    assert statements(queries) == []  # it would have to ask the server
    assert caught.value.current == "READ COMMITTED"


@real
@postgresql
def test_a_pool_s_next_borrower_has_nothing_of_the_block() -> None:
    with options(pool={"min_size": 1, "max_size": 1}):
        pid = fetch("SELECT pg_backend_pid()")
        with (
            CaptureQueriesContext(connection) as queries,
            pytest.raises(Broken),
            atomic(isolation=Isolation.SERIALIZABLE, read_only=True),
        ):
            assert level() == "SERIALIZABLE"
            connection.close()
            raise Broken
        sent = [each for each in statements(queries) if "TRANSACTION" in each]
        assert sent == ["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY"]
        with transaction.atomic():
            assert fetch("SELECT pg_backend_pid()") == pid
            assert level() == "READ COMMITTED"
            Purse.objects.create()


@real
@postgresql
def test_timeouts_are_the_block_s_own() -> None:
    def timeouts() -> list[str]:
        return [str(fetch(f"SHOW {name}")) for name in ("lock_timeout", "statement_timeout")]

    with atomic(lock_timeout=2, statement_timeout=30):
        assert timeouts() == ["2s", "30s"]
        with atomic(lock_timeout=0.5):
            assert timeouts() == ["500ms", "30s"]
        assert timeouts() == ["2s", "30s"]
        with pytest.raises(Broken), atomic(statement_timeout=0.25):
            raise Broken
        with atomic(lock_timeout=1):
            transaction.set_rollback(True)
        assert timeouts() == ["2s", "30s"]
    assert timeouts() == ["0", "0"]
    with pytest.raises(OperationalError, match="statement timeout"), atomic(statement_timeout=0.01):
        fetch("SELECT pg_sleep(30)")


@real
@postgresql
def test_timeouts_cost_one_statement_and_nested_ones_two() -> None:
    with CaptureQueriesContext(connection) as queries, atomic(lock_timeout=1, statement_timeout=1):
        pass
    assert len([each for each in statements(queries) if "set_config" in each]) == 1
    with atomic(), CaptureQueriesContext(connection) as queries, atomic(lock_timeout=1):
        pass
    assert len(statements(queries)) == 4  # SAVEPOINT, set, restore, RELEASE


@real
def test_without_options_it_sends_what_django_does() -> None:
    sent = []
    for entered in (transaction.atomic, atomic):
        with CaptureQueriesContext(connection) as queries, entered(), entered():
            Purse.objects.count()
        sent.append([each.split()[0] for each in statements(queries)])
    assert sent[0] == sent[1]


@real
@pytest.mark.parametrize("entered", [atomic, transaction.atomic], ids=["ours", "django"])
def test_a_durable_block_is_refused_within_another(entered: Any) -> None:
    with entered(), pytest.raises(NestedTransactionError, match="durable"), atomic(durable=True):
        pass
    with atomic(durable=True):
        assert in_transaction()


@real
def test_a_block_marked_for_rollback_is_rolled_back_and_says_so() -> None:
    events: list[telemetry.Event] = []
    with telemetry.listening(events.append), atomic(label="mark"):
        Purse.objects.create()
        transaction.set_rollback(True)
    assert Purse.objects.count() == 0
    assert events[0].facts["outcome"] == "rolled_back"


@real
def test_telemetry_tells_one_event_a_transaction() -> None:
    events: list[telemetry.Event] = []
    with telemetry.listening(events.append):
        with atomic(label="save"), atomic(), savepoint():
            Purse.objects.create()
        with pytest.raises(IntegrityError), atomic():
            Purse.objects.create(pk=1)
            Purse.objects.create(pk=1)
    assert [each.name for each in events] == ["transactions.finished"] * 2
    assert events[0].facts == {
        "label": "save",
        "outcome": "committed",
        "attempts": 1,
        "sqlstates": (),
        "savepoints": 2,
    }
    assert events[0].database == "default"
    assert events[0].seconds > 0
    assert events[1].facts["outcome"] == "rolled_back"


@real
def test_a_failing_hook_is_still_a_commit() -> None:
    events: list[telemetry.Event] = []

    def fail() -> None:
        raise Broken

    with telemetry.listening(events.append), pytest.raises(Broken), atomic():
        after_commit(fail)
    assert events[0].facts["outcome"] == "committed"


@real
def test_run_in_transaction_is_the_decorator_for_one_call() -> None:
    def make(balance: int, *, also: int) -> int:
        assert in_transaction()
        return Purse.objects.create(balance=balance + also).balance

    assert run_in_transaction(make, 1, also=2, isolation=Isolation.SERIALIZABLE) == 3
    assert run_in_transaction(make, 1, also=2, retry=Retry()) == 3


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"lock_timeout": 0}, "lock_timeout=0"),
        ({"lock_timeout": True}, "lock_timeout=True"),
        ({"statement_timeout": "1s"}, "statement_timeout='1s'"),
        ({"isolation": "SERIALIZABLE"}, "Isolation.SERIALIZABLE"),
        ({"deferrable": True}, "deferrable=True only"),
        ({"deferrable": True, "isolation": Isolation.SERIALIZABLE}, "deferrable=True only"),
    ],
)
def test_nonsense_is_refused_when_it_is_written(wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        atomic(**wanted)


async def an_async() -> None: ...
def a_generator() -> Any:
    yield


async def an_async_generator() -> Any:
    yield


@pytest.mark.parametrize("function", [an_async, a_generator, an_async_generator])
def test_a_body_that_would_run_outside_is_refused(function: Any) -> None:
    with pytest.raises(UsageError, match="sync_to_async"):
        atomic()(function)


@real
def test_async_code_gets_django_s_error() -> None:
    async def main() -> None:
        with atomic():
            pass

    with pytest.raises(Exception, match="async context"):
        asyncio.run(main())


@real
def test_a_retry_cannot_be_a_with_block() -> None:
    with pytest.raises(TypeError, match=r"attempts\("), atomic(retry=Retry()):
        pass


@real
@pytest.mark.parametrize("option", ["deferrable", "statement_timeout"])
def test_sqlite_refuses_what_it_does_not_know(option: str) -> None:
    if connection.vendor != "sqlite":
        return
    wanted: dict[str, Any] = {
        "deferrable": {"isolation": Isolation.SERIALIZABLE, "read_only": True, "deferrable": True},
        "statement_timeout": {"statement_timeout": 1},
    }[option]
    with pytest.raises(UsageError, match="SQLite"), atomic(**wanted):
        pass


def test_other_databases_take_no_option_but_django_s_own() -> None:
    other: Any = SimpleNamespace(vendor="mysql", display_name="MySQL", alias="default")
    refuse_unsupported(other, Options(label="x"))
    for wanted in (Options(isolation=Isolation.SERIALIZABLE), Options(resolve_commit=True)):
        with pytest.raises(UsageError, match="MySQL"):
            refuse_unsupported(other, wanted)


@real
@postgresql
def test_another_driver_is_told_right_after_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "psycopg_connection", lambda connection: None)
    asked = Options(isolation=Isolation.SERIALIZABLE, read_only=True, deferrable=True)
    with CaptureQueriesContext(connection) as queries, block(None, asked):
        assert level() == "SERIALIZABLE"
        assert fetch("SHOW transaction_read_only") == "on"
    wanted = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"
    assert wanted in statements(queries)
    with transaction.atomic():
        assert level() == "READ COMMITTED"


@real
def test_only_psycopg_3_is_psycopg_3() -> None:
    found = psycopg_connection(connection)
    assert (found is not None) == (connection.vendor == "postgresql")


@real
def test_a_connection_closed_within_a_read_only_block_is_no_other_error() -> None:
    with pytest.raises(Broken), atomic(read_only=True):
        connection.close()
        raise Broken
    Purse.objects.create()


@real
def test_with_autocommit_off_in_the_settings_a_block_commits_nothing_and_does_not_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[telemetry.Event] = []
    hooks: list[str] = []
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
    try:
        with telemetry.listening(events.append):
            with pytest.raises(NestedTransactionError), atomic(durable=True):
                pass
            with pytest.raises(NestedTransactionError):
                atomic(retry=Retry())(Purse.objects.create)()
            with atomic(label="pay"):
                Purse.objects.create()
                after_commit(lambda: hooks.append("done"))
        transaction.rollback()
        if connection.vendor == "postgresql":  # SQLite's RELEASE commits, also Django's
            assert Purse.objects.count() == 0
        assert (events, hooks) == ([], [])
    finally:
        connection.close()


class UnderTestCase(TestCase):
    def test_an_outermost_block_is_a_savepoint_that_has_all_it_asks_for(self) -> None:
        with (
            atomic(isolation=Isolation.SERIALIZABLE, lock_timeout=1, durable=True),
            atomic(isolation=Isolation.REPEATABLE_READ),
        ):
            Purse.objects.create()
        with pytest.raises(Broken), atomic():
            Purse.objects.create()
            raise Broken
        with pytest.raises((InternalError, OperationalError)), atomic(read_only=True):
            Purse.objects.create()
        assert Purse.objects.create().pk
        assert Purse.objects.count() == 2
        assert not in_transaction()

    def test_telemetry_says_committed(self) -> None:
        events: list[telemetry.Event] = []
        with telemetry.listening(events.append), atomic(label="x", resolve_commit=True):
            Purse.objects.create()
        assert events[0].facts["outcome"] == "committed"
        assert events[0].facts["savepoints"] == 0


@real
def test_a_function_without_a_name_is_called_too() -> None:
    assert atomic(partial(max, 1))(2) == 2
    assert run_in_transaction(partial(max, 1), 2) == 2


@real
def test_a_read_only_block_stays_one_after_another_within_it() -> None:
    with pytest.raises(DatabaseError), atomic(), atomic(read_only=True):
        with atomic(read_only=True):
            pass
        Purse.objects.create()
    assert Purse.objects.count() == 0


@postgresql
@real
def test_an_error_that_was_caught_is_no_commit() -> None:
    heard: list[str] = []
    events: list[telemetry.Event] = []
    with (
        telemetry.listening(events.append),
        pytest.raises(TransactionManagementError, match="'pay' was caught"),
        atomic(label="pay"),
    ):
        Purse.objects.create()
        after_commit(lambda: heard.append("mail"))
        after_rollback(lambda: heard.append("undone"))
        with suppress(DatabaseError):
            fetch("SELECT 1 / 0")
    assert (Purse.objects.count(), heard) == (0, ["undone"])
    assert [each.facts["outcome"] for each in events] == ["rolled_back"]
    with atomic():
        with suppress(DatabaseError), savepoint():
            fetch("SELECT 1 / 0")
        Purse.objects.create()
    assert Purse.objects.count() == 1


@postgresql
@real
def test_a_level_holds_on_the_connection_that_a_health_check_opens() -> None:
    connection.close()
    settings = connection.settings_dict
    before = {name: settings[name] for name in ("CONN_HEALTH_CHECKS", "CONN_MAX_AGE")}
    settings.update(CONN_HEALTH_CHECKS=True, CONN_MAX_AGE=None)
    try:
        pid = fetch("SELECT pg_backend_pid()")
        close_old_connections()
        with threads() as pool:
            pool.start(fetch, "SELECT pg_terminate_backend(%s, 30000)", pid).result(30)
        with atomic(isolation=Isolation.SERIALIZABLE, read_only=True):
            assert fetch("SHOW transaction_isolation") == "serializable"
            assert fetch("SHOW transaction_read_only") == "on"
    finally:
        connection.close()
        settings.update(before)
