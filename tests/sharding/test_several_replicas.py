"""Two replicas of one shard, real standbys; and one that is promoted while it is read from."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models import QuerySet
from django.test import override_settings

from dbpatterns import telemetry
from dbpatterns.sharding import replica_reads
from dbpatterns.sharding.replicas import positions, seen
from tests.processes import until
from tests.servers import Standby
from tests.sharding.replica import (
    KEY,
    OTHER,
    PRIMARY,
    REPLICA,
    Routed,
    answers,
    ask,
    following,
    pause,
    promote,
    replica_of_first_shard,
    resume,
    sharding,
    where,
)
from tests.shop.models import Buyer, Order

SECOND, THIRD = "shard_0_second", "shard_0_third"
pytestmark = pytest.mark.postgresql
DATABASES = ["default", PRIMARY, OTHER]
WORKS = 30
"""Pieces of work, of which each takes the one or the other by chance."""


@pytest.fixture(scope="module")
def second(standby: Standby, django_db_blocker: Any) -> Iterator[Standby]:
    """Another replica of the first shard, beside `standby`."""
    with django_db_blocker.unblock(), replica_of_first_shard(SECOND) as server:
        yield server


@pytest.fixture
def two(standby: Standby, second: Standby, transactional_db: None) -> Iterator[Standby]:
    """Both have all that the primary has, with a buyer; the second's server."""
    with following(REPLICA, SECOND):
        Buyer.objects.create(id=KEY, name="Eva")
        resume(REPLICA)
        resume(SECOND)
        with seen.begin(seen.Seen()):
            yield second


def answered_by(least: int = 0, *, reads: int = 1) -> list[str]:
    """Return who answers a new piece of work that has seen so much, read by read."""
    with seen.begin(seen.Seen({PRIMARY: least})), replica_reads():
        return [where() for _ in range(reads)]


def written() -> int:
    """Write an order; return where the primary is then."""
    Order.objects.create(buyer_id=KEY)
    position = positions.position_of(PRIMARY)
    assert position is not None
    return position


class TestTwo:
    pytestmark = pytest.mark.django_db(databases=[*DATABASES, REPLICA, SECOND], transaction=True)

    def test_both_answer_in_turn_and_each_work_keeps_to_one(self, two: Standby) -> None:
        taken = [answered_by(reads=5) for _ in range(WORKS)]
        assert {tuple(set(each)) for each in taken} == {(REPLICA,), (SECOND,)}

    @pytest.mark.parametrize(("behind", "ahead"), [(REPLICA, SECOND), (SECOND, REPLICA)])
    def test_the_one_that_has_it_answers(self, two: Standby, behind: str, ahead: str) -> None:
        pause(behind)
        least = written()
        resume(ahead)
        assert [answered_by(least) for _ in range(WORKS)] == [[ahead]] * WORKS

    def test_the_primary_answers_when_neither_has_it(self, two: Standby) -> None:
        pause(REPLICA)
        pause(SECOND)
        least = written()
        assert [answered_by(least) for _ in range(WORKS)] == [[PRIMARY]] * WORKS

    def test_work_that_keeps_to_one_goes_to_the_other_when_that_has_more(
        self, two: Standby
    ) -> None:
        work = seen.Seen()
        work.chosen[PRIMARY] = SECOND
        with seen.begin(work), replica_reads():
            assert where() == SECOND
            pause(SECOND)
            made = Order.objects.create(buyer_id=KEY)
            assert where() == PRIMARY
            until(lambda: where() == REPLICA)
            assert list(Order.objects.filter(buyer=KEY)) == [made]

    def test_one_that_is_lost_leaves_the_reads_to_the_other(self, two: Standby) -> None:
        work = seen.Seen()
        work.chosen[PRIMARY] = SECOND
        two.crash()
        try:
            with seen.begin(work), replica_reads():
                assert Order.objects.filter(buyer=KEY).count() == 0  # from the primary
            assert [answered_by() for _ in range(WORKS)] == [[REPLICA]] * WORKS
        finally:
            two.start()
        until(lambda: answers(SECOND))

    @pytest.mark.parametrize("found_by", ["a query", "the next question"])
    def test_what_a_lost_one_has_shown_is_not_gone_on_the_other(
        self, two: Standby, found_by: str
    ) -> None:
        """Which is behind it, and new enough for anybody else."""
        pause(REPLICA)
        with seen.begin(seen.Seen()):
            made = Order.objects.create(buyer_id=KEY)  # by another request
        resume(SECOND)
        work = seen.Seen()
        work.chosen[PRIMARY] = SECOND
        rows = Order.objects.filter(buyer=KEY)
        with seen.begin(work), replica_reads():
            assert list(rows.all()) == [made]
            positions.may_answer(REPLICA, PRIMARY, 0)
            known = replace(positions._known[REPLICA], current_at=time.monotonic())
            positions._known[REPLICA] = replace(known, asked_at=float("inf"), state=positions.FINE)
            assert positions.may_answer(REPLICA, PRIMARY, 0)
            two.crash()
            try:
                if found_by == "the next question":
                    known = positions._known[SECOND]
                    positions._known[SECOND] = replace(known, asked_at=float("-inf"))
                    assert where() == PRIMARY
                    assert positions._known[SECOND].state == positions.LOST
                assert [list(rows.all()) for _ in range(3)] == [[made]] * 3
            finally:
                two.start()
        until(lambda: answers(SECOND))


@pytest.fixture(scope="class")
def third(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """A replica for one class, since a promotion is for ever."""
    with django_db_blocker.unblock(), replica_of_first_shard(THIRD):
        yield


on_third = pytest.mark.django_db(databases=[*DATABASES, THIRD], transaction=True)


class TestPromotedInTheMiddle:
    pytestmark = on_third

    def test_its_first_answer_is_dropped(self, third: None, transactional_db: None) -> None:
        rows = Order.objects.filter(buyer=KEY)
        with following(THIRD):
            Buyer.objects.create(id=KEY, name="Eva")
            resume(THIRD)
            assert answered_by() == [THIRD]
            promote(THIRD)
            write_there()
            believe()
            with seen.begin(seen.Seen()), replica_reads():
                assert where() == THIRD
                assert rows.count() == 0
                assert where() == PRIMARY


class TestPromoted:
    """Reads by what the process has found just before the promotion."""

    pytestmark = on_third

    @pytest.fixture(autouse=True)
    def promoted(self, third: None, transactional_db: None) -> Iterator[None]:
        with following(THIRD):
            Buyer.objects.create(id=KEY, name="Eva")
            if ask(THIRD, "SELECT pg_is_in_recovery()"):
                promote(THIRD)
            write_there()
            believe()
            yield

    def test_the_harm_it_shows_rows_that_the_shard_never_had(self) -> None:
        with override_settings(DATABASE_ROUTERS=[Routed(THIRD)]):
            assert QuerySet(Order).filter(buyer=KEY).exists()
        assert not Order.objects.filter(buyer=KEY).exists()

    @pytest.mark.parametrize("read", ["count", "exists", "first", "iterator", "union"])
    def test_no_read_is_answered_there(self, read: str) -> None:
        rows = Order.objects.filter(buyer=KEY)
        told: list[telemetry.Event] = []
        work = seen.Seen()
        with seen.begin(work), replica_reads(), telemetry.listening(told.append):
            assert where() == THIRD
            if read == "iterator":
                assert list(rows.iterator()) == []
            elif read == "union":
                assert list(rows.union(rows.filter(number=7))) == []
            else:
                assert not getattr(rows, read)()
            assert where() == PRIMARY
        assert work.written(counts_reads=False) == {}
        assert list(work.written(counts_reads=True)) == [PRIMARY]
        assert [(each.database, each.facts["state"]) for each in told] == [
            (THIRD, "follows nobody")
        ]

    def test_it_says_so_when_it_is_asked(self) -> None:
        positions._known[THIRD] = replace(positions._known[THIRD], asked_at=float("-inf"))
        assert answered_by() == [PRIMARY]
        assert positions._known[THIRD].state == positions.ALONE

    def test_what_else_watches_the_session_is_told_who_answers(self) -> None:
        asked: list[str] = []

        def watch(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
            asked.append(context["connection"].alias)
            return execute(sql, params, many, context)

        with seen.begin(seen.Seen()), replica_reads(), connections[THIRD].execute_wrapper(watch):
            assert Order.objects.filter(buyer=KEY).count() == 0
        assert asked == [THIRD, PRIMARY]

    def test_a_transaction_that_was_opened_there_stays(self) -> None:
        with replica_reads(), transaction.atomic(using=THIRD):
            assert Order.objects.using(THIRD).filter(buyer=KEY).exists()

    def test_one_that_the_settings_no_longer_name_is_left_alone(self) -> None:
        told: list[telemetry.Event] = []
        with sharding(REPLICAS={}), replica_reads(), telemetry.listening(told.append):
            assert Order.objects.using(THIRD).filter(buyer=KEY).exists()
        assert told == []

    def test_what_is_written_there_by_name_is_not_written_twice(self) -> None:
        with replica_reads(), connections[THIRD].cursor() as cursor:
            cursor.execute("UPDATE shop_buyer SET name = 'Eve'")
        assert Buyer.objects.get(id=KEY).name == "Eva"
        assert positions._known[THIRD].state == positions.ALONE


def believe() -> None:
    """Let this process have found the third to follow its primary just now, before the promotion.

    On a session that stays: a new one would be asked anew.
    """
    connections[THIRD].ensure_connection()
    now = time.monotonic()
    positions._known[THIRD] = positions._Known(replayed=1, asked_at=now, current_at=now)


def write_there() -> None:
    """Write an order on the promoted server, as the users of its own do."""
    for sql in (
        f"INSERT INTO shop_buyer (id, name) VALUES ({KEY}, 'Eva') ON CONFLICT DO NOTHING",
        "INSERT INTO shop_order (id, buyer_id, number, is_paid) "
        f"VALUES (gen_random_uuid(), {KEY}, 7, false)",
    ):
        ask(THIRD, f"WITH there AS ({sql} RETURNING 1) SELECT count(*) FROM there")
