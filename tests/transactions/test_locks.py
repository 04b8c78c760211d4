"""Row locks: none lost, none deadlocked, and who waits can say for how long."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, models, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext, isolate_apps

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.testing.holding import hold_lock
from dbpatterns.transactions import (
    RETRYABLE,
    LockTimeout,
    Retry,
    TransactionRequiredError,
    atomic,
    lock_rows,
    savepoint,
)
from dbpatterns.transactions.inheritance import own_tables, root_of
from dbpatterns.transactions.sqlstates import sqlstate_of
from tests.testapp.models import Purse, PurseOwner, SavingsPurse, YouthPurse
from tests.transactions.support import PATIENCE_SECONDS, fetch, threads, until, waiting_sessions

pytestmark = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.postgresql


def make(number: int = 2, balance: int = 100) -> list[Purse]:
    return [Purse.objects.create(balance=balance) for _ in range(number)]


def balances() -> list[int]:
    return list(Purse.objects.order_by("pk").values_list("balance", flat=True))


def add(pk: int, read: Callable[[int], Purse], other_is_there: Callable[[], object]) -> None:
    with atomic():
        purse = read(pk)
        other_is_there()
        purse.balance += 10
        purse.save()


@postgresql
def test_without_a_lock_an_update_is_lost() -> None:
    pk, both_have_read = make(1)[0].pk, threading.Barrier(2)

    def read(pk: int) -> Purse:
        return Purse.objects.get(pk=pk)

    def one() -> None:
        add(pk, read, lambda: both_have_read.wait(timeout=PATIENCE_SECONDS))

    with threads() as pool:
        pool.together(one, one)
    assert balances() == [110]  # the harm


def test_with_a_lock_both_updates_are_kept() -> None:
    pk, both_have_read = make(1)[0].pk, threading.Barrier(2)

    def lock(pk: int) -> Purse:
        return lock_rows(Purse(pk=pk))[0]

    def other_is_there() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both_have_read.wait(timeout=1)  # in vain: the other waits for our lock

    def one() -> None:
        add(pk, lock, other_is_there)

    with threads() as pool:
        pool.together(one, one)
    assert balances() == [120]


@postgresql
def test_two_who_lock_in_their_own_order_deadlock() -> None:
    one, two = make()
    barrier = threading.Barrier(2)

    def lock_both(first: Purse, second: Purse) -> str:
        try:
            with transaction.atomic():
                Purse.objects.select_for_update().get(pk=first.pk)
                barrier.wait(timeout=30)
                Purse.objects.select_for_update().get(pk=second.pk)
        except OperationalError as error:
            return sqlstate_of(error) or ""
        return "done"

    with threads() as pool:
        ends = pool.together(lambda: lock_both(one, two), lambda: lock_both(two, one))
    assert sorted(ends) == ["40P01", "done"]  # the harm


@postgresql
def test_lock_rows_takes_the_lower_key_first_whatever_the_order_asked_for() -> None:
    one, two = make()

    def lock() -> list[Purse]:
        with atomic():
            return lock_rows([two, one])

    with threads() as pool:
        with hold_lock(Purse.objects.filter(pk=one.pk)):
            waiting = pool.start(lock)
            until(waiting_sessions)
            with atomic():  # the waiting one does not hold the other row yet
                assert lock_rows(two, nowait=True) == [two]
        assert waiting.result(30) == [two, one]


@postgresql
def test_models_are_locked_by_label_whatever_the_order_asked_for() -> None:
    purse, owner = make(1)[0], PurseOwner.objects.create(name="Eva")
    with CaptureQueriesContext(connection) as queries, atomic():
        assert lock_rows(owner, purse) == [owner, purse]
        assert lock_rows([purse, owner]) == [purse, owner]
    tables = [
        each["sql"].split('FROM "')[1].split('"')[0]
        for each in queries.captured_queries
        if "FOR UPDATE" in each["sql"]
    ]
    assert tables == ["testapp_purse", "testapp_purseowner"] * 2


@postgresql
@pytest.mark.parametrize("targets", ["rows", "querysets"])
def test_a_model_and_its_child_have_one_order_of_rows(targets: str) -> None:
    one, two = SavingsPurse.objects.create(), SavingsPurse.objects.create()

    def lock() -> list[Any]:
        with atomic():
            if targets == "rows":
                return lock_rows(Purse(pk=two.pk), one)
            of_two, of_one = Purse.objects.filter(pk=two.pk), SavingsPurse.objects.order_by("-pk")
            return lock_rows(of_two, of_one.filter(pk=one.pk))

    with threads() as pool:
        with hold_lock(Purse.objects.filter(pk=one.pk)):
            waiting = pool.start(lock)
            until(waiting_sessions)
            with atomic():  # the waiting one does not hold the other row yet
                assert lock_rows(Purse(pk=two.pk), nowait=True)
        first, second = waiting.result(30)
    assert (type(first), first.pk, second) == (Purse, two.pk, one)


@isolate_apps("tests.testapp")
def test_a_root_has_its_child_s_key_and_is_locked_first() -> None:
    class Badge(models.Model):  # noqa: DJ008
        code = models.AutoField(primary_key=True)

        class Meta:
            app_label = "testapp"

    class BadgedPurse(SavingsPurse, Badge):  # type: ignore[misc]  # noqa: DJ008
        class Meta:
            app_label = "testapp"

    class CodedPurse(Purse):
        code = models.IntegerField(primary_key=True)
        purse = models.OneToOneField(Purse, models.CASCADE, parent_link=True)

        class Meta:
            app_label = "testapp"

    class Again(BadgedPurse):  # noqa: DJ008
        class Meta:
            app_label = "testapp"
            proxy = True

    assert [root_of(each) for each in (BadgedPurse, CodedPurse)] == [Purse, CodedPurse]
    expected = ("savingspurse_ptr__purse_ptr", "savingspurse_ptr", "badge_ptr", "self")
    assert own_tables(BadgedPurse) == own_tables(Again) == expected
    assert own_tables(CodedPurse) == ("purse", "self")


@postgresql
def test_what_a_family_is_asked_for_is_answered_as_without_it() -> None:
    rows = [SavingsPurse.objects.create(rate=rate) for rate in (3, 1, 2)]
    youth = YouthPurse.objects.create(rate=4)
    plain = [row.pk for row in rows]
    with atomic():
        found = lock_rows(SavingsPurse.objects.exclude(pk=youth.pk), youth, order="rate")
        assert [row.pk for row in found] == [plain[1], plain[2], plain[0], youth.pk]
    with (
        hold_lock(Purse.objects.filter(pk=plain[0])),
        pytest.raises(LockTimeout) as caught,
        atomic(),
    ):
        lock_rows(rows[0], youth, timeout=0.01)
    assert sorted(caught.value.keys) == [plain[0], youth.pk]


@postgresql
@pytest.mark.parametrize("model", [SavingsPurse, YouthPurse])
def test_a_row_is_locked_in_its_root_table_first(model: type[Purse]) -> None:
    row = model.objects.create()

    def lock_child(may_end: threading.Event, is_held: threading.Event) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {model._meta.db_table} FOR UPDATE")
            is_held.set()
            assert may_end.wait(30)

    def lock() -> None:
        with atomic():
            lock_rows(row)

    may_end, is_held = threading.Event(), threading.Event()
    with threads() as pool:
        holding = pool.start(lock_child, may_end, is_held)
        assert is_held.wait(30)
        waiting = pool.start(lock)
        until(waiting_sessions)
        with pytest.raises(LockTimeout), atomic():
            lock_rows(Purse(pk=row.pk), nowait=True)
        may_end.set()
        assert holding.result(30) is waiting.result(30) is None


@postgresql
def test_a_child_has_its_parent_s_place_among_models_and_families_cost_a_query() -> None:
    savings, owner = SavingsPurse.objects.create(), PurseOwner.objects.create(name="Eva")
    purse = Purse.objects.create()

    def tables(*targets: Any, **how: Any) -> list[str]:
        with CaptureQueriesContext(connection) as queries, atomic():
            lock_rows(*targets, **how)
        sent = [each["sql"] for each in queries.captured_queries]
        return [sql.split('FROM "testapp_')[1].split('"')[0] for sql in sent if " FROM " in sql]

    assert tables(owner, savings) == ["savingspurse", "purseowner"]
    assert tables(owner, savings, purse) == ["purse", "purse", "savingspurse", "purseowner"]
    assert tables(savings, purse, nowait=True) == ["purse", "savingspurse"]
    assert tables(savings, Purse.objects.all()) == ["purse", "purse", "purse", "savingspurse"]


def test_rows_come_back_fresh_and_in_the_caller_s_order() -> None:
    one, two, three = make(3)
    Purse.objects.update(balance=F("balance") + F("pk"))
    with atomic():
        assert lock_rows(three, [one, two], one) == [three, one, two, one]
        assert lock_rows(one)[0].balance == 100 + one.pk
        assert lock_rows(Purse.objects.order_by("-balance")) == [three, two, one]
        assert lock_rows(Purse.objects.order_by("-balance")[:2]) == [three, two]
        assert lock_rows(Purse.objects.all(), using="default") == [one, two, three]
        assert lock_rows(Purse.objects.filter(pk=0)) == []
        assert lock_rows() == lock_rows([]) == []
        assert lock_rows(Purse.objects.all(), order="-pk") == [three, two, one]


@postgresql
def test_it_costs_one_query_a_model_and_one_for_an_order() -> None:
    make()
    for queryset, number in (
        (Purse.objects.all(), 1),
        (Purse.objects.order_by("balance"), 2),
        (Purse.objects.all()[:1], 2),
    ):
        with atomic(), CaptureQueriesContext(connection) as queries:
            lock_rows(queryset)
        assert len([each for each in queries.captured_queries if "SELECT" in each["sql"]]) == number


@postgresql
def test_a_row_that_no_longer_matches_once_locked_is_left_out() -> None:
    (purse,) = make(1)
    may_commit, is_written = threading.Event(), threading.Event()

    def spend() -> None:
        with transaction.atomic():
            Purse.objects.filter(pk=purse.pk).update(balance=0)
            is_written.set()
            assert may_commit.wait(30)

    def lock() -> list[Purse]:
        with atomic():
            return lock_rows(Purse.objects.filter(balance__gt=0).order_by("balance")[:5])

    with threads() as pool:
        spending = pool.start(spend)
        assert is_written.wait(30)
        locking = pool.start(lock)
        until(waiting_sessions)
        may_commit.set()
        spending.result(30)
        assert locking.result(30) == []


@postgresql
@pytest.mark.parametrize(
    ("options", "timeout"), [({"nowait": True}, None), ({"timeout": 0.05}, 0.05)]
)
def test_a_lock_that_is_not_to_be_had_is_an_error_with_its_facts(
    options: dict[str, Any], timeout: float | None
) -> None:
    one, two = make()
    with hold_lock(Purse.objects.filter(pk=two.pk)), atomic():
        with pytest.raises(LockTimeout, match=r"testapp\.Purse are locked") as caught, savepoint():
            lock_rows(two, one, **options)
        assert lock_rows(one) == [one]
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("0",)
    error = caught.value
    assert (error.model, error.keys, error.timeout) == (
        "testapp.Purse",
        (two.pk, one.pk),
        timeout,
    )
    assert sqlstate_of(error) == "55P03"


@postgresql
def test_keys_of_a_queryset_are_told_when_they_are_known() -> None:
    one, two = make()
    owner = PurseOwner.objects.create(name="Eva")
    with hold_lock(Purse.objects.all()), atomic():
        with pytest.raises(LockTimeout) as caught, savepoint():
            lock_rows(Purse.objects.all(), owner, nowait=True)
        assert caught.value.keys == ()
        with pytest.raises(LockTimeout) as caught, savepoint():
            lock_rows(owner, Purse.objects.order_by("-pk"), nowait=True)
        assert caught.value.keys == (two.pk, one.pk)
        with pytest.raises(LockTimeout) as caught, savepoint():
            lock_rows(PurseOwner.objects.all(), Purse.objects.order_by("pk"), nowait=True)
        assert caught.value.keys == (one.pk, two.pk)


@postgresql
def test_rows_that_another_holds_are_skipped() -> None:
    one, two = make()
    with hold_lock(Purse.objects.filter(pk=one.pk)), atomic():
        assert lock_rows(Purse.objects.order_by("pk"), skip_locked=True) == [two]
        assert lock_rows(one, two, skip_locked=True) == [two]


@postgresql
def test_a_second_worker_at_a_queue_gets_the_next_rows() -> None:
    rows = make(4)
    queue = Purse.objects.order_by("-pk")[:2]
    with hold_lock(Purse.objects.filter(pk__in=[rows[3].pk, rows[2].pk])), atomic():
        assert lock_rows(queue, skip_locked=True) == [rows[1], rows[0]]


@postgresql
def test_a_timeout_may_be_worth_a_retry() -> None:
    (purse,) = make(1)
    calls: list[None] = []

    @atomic(retry=Retry(sqlstates=RETRYABLE | {"55P03"}, base=0.001))
    def lock() -> list[Purse]:
        calls.append(None)
        return lock_rows(purse, nowait=len(calls) < 3)

    with threads() as pool, hold_lock(Purse.objects.all()):
        locking = pool.start(lock)
        until(lambda: len(calls) == 3)
    assert locking.result() == [purse]


@postgresql
def test_another_error_stays_itself() -> None:
    (purse,) = make(1)
    with (
        hold_lock(Purse.objects.all()),
        pytest.raises(OperationalError, match="statement timeout"),
        atomic(statement_timeout=0.05),
    ):
        lock_rows(purse)


@postgresql
@pytest.mark.parametrize("model", [SavingsPurse, YouthPurse])
def test_every_table_of_a_row_is_locked(model: type[Purse]) -> None:
    row = model.objects.create()

    def elsewhere() -> None:
        with pytest.raises(LockTimeout), atomic():
            lock_rows(Purse(pk=row.pk), nowait=True)

    with atomic(), threads() as pool:
        lock_rows(row)
        pool.start(elsewhere).result(30)


class ReadsElsewhere:
    def db_for_read(self, *_: Any, **__: Any) -> str:
        return "shard_0"

    def db_for_write(self, *_: Any, **__: Any) -> str:
        return "default"


@pytest.mark.django_db(transaction=True, databases=["default", "shard_0"])
def test_rows_are_locked_where_they_are_written_though_read_from_a_replica(settings: Any) -> None:
    (purse,) = make(1)
    settings.DATABASE_ROUTERS = [ReadsElsewhere()]
    purse._state.db = "shard_0"
    with atomic():
        assert [each.pk for each in lock_rows(Purse.objects.all())] == [purse.pk]
        assert [each.pk for each in lock_rows(purse)] == [purse.pk]


def test_rows_of_two_databases_are_refused() -> None:
    here, there = Purse(pk=1), Purse(pk=1)
    here._state.db, there._state.db = "default", "shard_0"
    with atomic(), pytest.raises(UsageError, match="several databases, default, shard_0"):
        lock_rows(here, there)


@postgresql
def test_a_refusal_leaves_the_transaction_s_timeout_alone() -> None:
    with atomic():
        with pytest.raises(UsageError):
            lock_rows(Purse.objects.all(), Purse.objects.all(), timeout=0.1)
        assert fetch("SHOW lock_timeout") == "0"


@postgresql
def test_a_row_s_parents_are_locked_and_what_is_joined_is_not() -> None:
    owner = PurseOwner.objects.create(name="Eva")
    savings = SavingsPurse.objects.create(owner=owner)
    found = threading.Event()

    def elsewhere() -> str:
        with atomic():
            assert lock_rows(owner, nowait=True) == [owner]
            found.set()
            with pytest.raises(LockTimeout), savepoint():
                lock_rows(Purse(pk=savings.pk), nowait=True)
        return "done"

    with atomic(), threads() as pool:
        rows = lock_rows(SavingsPurse.objects.select_related("owner").filter(owner__name="Eva"))
        assert rows == [savings]
        assert pool.start(elsewhere).result(30) == "done"


def test_a_row_that_is_gone_is_an_error() -> None:
    one, two = make()
    Purse.objects.filter(pk=two.pk).delete()
    with atomic(), pytest.raises(Purse.DoesNotExist, match=rf"{two.pk} was to be locked"):
        lock_rows(one, two)


def test_outside_a_transaction_nothing_would_hold_the_locks() -> None:
    with pytest.raises(TransactionRequiredError, match="lock_rows"):
        lock_rows(Purse.objects.all())


@pytest.mark.parametrize(
    ("targets", "options", "reason"),
    [
        ([], {"nowait": True, "timeout": 1}, "exclude each other"),
        ([], {"nowait": True, "skip_locked": True}, "exclude each other"),
        ([], {"timeout": 0}, "timeout=0"),
        ([Purse.objects.all(), Purse.objects.none()], {}, "two querysets"),
        ([Purse.objects.all(), Purse(pk=1)], {}, "a queryset and rows"),
    ],
)
def test_contradictions_are_refused(
    targets: list[Any], options: dict[str, Any], reason: str
) -> None:
    with atomic(), pytest.raises(UsageError, match=reason):
        lock_rows(*targets, **options)


def test_sqlite_without_its_lock_at_begin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor == "sqlite":
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "transaction_mode", None)
        with atomic(), pytest.raises(ConfigurationError, match="IMMEDIATE"):
            lock_rows(Purse.objects.all())


@postgresql
def test_hold_lock_holds_the_rows_of_a_slice_and_none_that_is_joined() -> None:
    owner = PurseOwner.objects.create(name="Eva")
    rows = [SavingsPurse.objects.create(owner=owner) for _ in range(3)]
    queryset = SavingsPurse.objects.select_related("owner")
    with hold_lock(queryset.order_by("-pk")[1:2]), atomic():
        assert lock_rows(owner, SavingsPurse.objects.all(), skip_locked=True) == [
            owner,
            rows[0],
            rows[2],
        ]


@pytest.mark.django_db(transaction=True, databases=["default", "shard_0"])
def test_hold_lock_holds_rows_where_they_are_written(settings: Any) -> None:
    make(1)
    settings.DATABASE_ROUTERS = [ReadsElsewhere()]
    with hold_lock(Purse.objects.all()):
        pass


def test_hold_lock_needs_rows_that_others_see() -> None:
    with pytest.raises(UsageError, match="sees no such row"), hold_lock(Purse.objects.all()):
        raise AssertionError
