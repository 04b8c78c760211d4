"""Reads of replicas: a real standby of the first shard, whose replay is stopped at will."""

import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core import checks
from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.models import Count, QuerySet
from django.db.models.expressions import RawSQL
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from psycopg.sql import SQL

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.sharding import replica_reads, shard
from dbpatterns.sharding.checks import check_sharding
from dbpatterns.sharding.errors import WrongShard
from dbpatterns.sharding.replicas import positions, seen, watching
from dbpatterns.sharding.router import ShardRouter
from tests.processes import PATIENCE_SECONDS, until
from tests.servers import Standby, postmaster, stopped
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
    resume,
    sharding,
    where,
)
from tests.shop.models import Buyer, Country, Order

on_servers = [
    pytest.mark.postgresql,
    pytest.mark.django_db(databases=["default", PRIMARY, OTHER, REPLICA], transaction=True),
]


@pytest.fixture
def replica(standby: Standby, transactional_db: None) -> Iterator[Standby]:
    """The first shard's replica, which has all that its primary has, with a buyer."""
    with following():
        Buyer.objects.create(id=KEY, name="Eva")
        resume()
        with seen.begin(seen.Seen()):
            yield standby


class TestStaleness:
    pytestmark = on_servers

    def test_a_plain_router_does_not_find_what_was_just_written(self, replica: Standby) -> None:
        """The harm."""
        pause()
        Order.objects.create(buyer_id=KEY)
        with override_settings(DATABASE_ROUTERS=[Routed(REPLICA)]):
            assert not QuerySet(Order).filter(buyer=KEY).exists()

    def test_a_block_finds_it_and_goes_back_to_the_replica_in_time(self, replica: Standby) -> None:
        pause()
        with replica_reads():
            assert where() == REPLICA
            made = Order.objects.create(buyer_id=KEY)
            assert where() == PRIMARY
            assert list(Order.objects.filter(buyer=KEY)) == [made]
            ask(REPLICA, "SELECT pg_wal_replay_resume() IS NULL")
            until(lambda: where() == REPLICA)
            assert list(Order.objects.filter(buyer=KEY)) == [made]
        assert where() == PRIMARY

    def test_a_write_before_the_block_counts(self, replica: Standby) -> None:
        pause()
        made = Order.objects.create(buyer_id=KEY)
        with replica_reads():
            assert list(Order.objects.filter(buyer=KEY)) == [made]
        resume()
        with replica_reads():
            assert where() == REPLICA

    @pytest.mark.parametrize("by", ["using", "cursor", "composed", "bulk", "update", "select"])
    def test_no_way_of_writing_is_missed(self, replica: Standby, by: str) -> None:
        pause()
        with replica_reads():
            if by == "using":
                Order(buyer_id=KEY).save(using=PRIMARY)
            elif by == "bulk":
                Order.objects.bulk_create([Order(buyer_id=KEY)])
            elif by == "update":
                Buyer.objects.filter(id=KEY).update(name="Eve")
            else:
                update = "UPDATE shop_buyer SET name = 'Eve'"
                written: Any = {
                    "cursor": update,
                    "composed": SQL(update),
                    "select": "SELECT pg_logical_emit_message(true, 'a', 'function that writes')",
                }[by]
                with connections[PRIMARY].cursor() as cursor:
                    cursor.execute(written)
            assert where() == PRIMARY

    def test_what_was_seen_on_the_primary_is_not_gone_on_a_replica(self, replica: Standby) -> None:
        pause()
        with seen.begin(seen.Seen()):
            made = Order.objects.create(buyer_id=KEY)  # by another request
        with replica_reads():
            assert list(Order.objects.using(PRIMARY).filter(buyer=KEY)) == [made]
            assert list(Order.objects.filter(buyer=KEY)) == [made]

    def test_a_write_of_another_request_is_seen_when_it_is_there(self, replica: Standby) -> None:
        """What is promised is one's own writes; others' are at most the allowed lag behind."""
        pause()
        with seen.begin(seen.Seen()):
            Order.objects.create(buyer_id=KEY)
        with replica_reads():
            assert not Order.objects.filter(buyer=KEY).exists()

    def test_a_replica_too_far_behind_is_left(self, replica: Standby) -> None:
        pause()
        Order.objects.create(buyer_id=KEY)
        positions._known.clear()  # as in a process that has just begun
        with seen.begin(seen.Seen()), replica_reads():
            assert where() == PRIMARY

    def test_it_is_as_new_as_when_the_primary_was_where_it_has_come_to(
        self, replica: Standby
    ) -> None:
        """Not as when it was found there, nor only when it has come to where the primary is."""
        pause()
        Order.objects.create(buyer_id=KEY)
        replayed = ask(REPLICA, "SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint")
        for seconds, answers_now in ((5, True), (15, False)):  # 10 are allowed
            known = positions._Known(mark=(replayed, time.monotonic() - seconds))
            positions._known[REPLICA] = known
            assert positions.may_answer(REPLICA, PRIMARY, 0) is answers_now

    def test_what_it_is_to_reach_stays_until_it_is_there(self, replica: Standby) -> None:
        """Else one whose primary is always written would never be there."""
        pause()
        positions._known.clear()
        marks = []
        for _ in range(2):
            Order.objects.create(buyer_id=KEY)
            positions.may_answer(REPLICA, PRIMARY, 0)
            marks.append(positions._known[REPLICA].mark)
            check_anew()
        assert marks[0] == marks[1] is not None

    def test_it_is_held_to_where_the_primary_is_again_and_again(self, replica: Standby) -> None:
        with replica_reads():
            assert where() == REPLICA
            known = positions._known[REPLICA]
            before = known.current_at
            positions._known[REPLICA] = replace(known, mark=(0, before))  # which it has reached

            def is_newer() -> bool:
                check_anew()
                assert where() == REPLICA
                return positions._known[REPLICA].current_at > before

            until(is_newer)

    def test_it_is_no_newer_than_when_the_primary_was_asked(self, replica: Standby) -> None:
        asked_at: list[float] = []

        def watch(execute: Any, *rest: Any) -> Any:
            asked_at.append(time.monotonic())
            return execute(*rest)

        positions._known.clear()
        with replica_reads(), connections[PRIMARY].execute_wrapper(watch):
            where()
        known = positions._known[REPLICA]
        assert (known.mark[1] if known.mark else known.current_at) <= asked_at[0]

    def test_one_that_has_not_come_so_far_is_asked_at_each_read(self, replica: Standby) -> None:
        """And not once a second, as otherwise."""
        pause()
        with replica_reads():
            Order.objects.create(buyer_id=KEY)
            assert where() == PRIMARY
            ask(REPLICA, "SELECT pg_wal_replay_resume() IS NULL")
            wal = ask(PRIMARY, "SELECT pg_current_wal_insert_lsn()::text")
            until(lambda: ask(REPLICA, f"SELECT pg_last_wal_replay_lsn() >= '{wal}'"))
            known = positions._known[REPLICA]
            positions._known[REPLICA] = replace(known, asked_at=time.monotonic())
            assert where() == REPLICA

    def test_a_transaction_stays_on_the_primary(self, replica: Standby) -> None:
        pause()
        with replica_reads():
            with transaction.atomic(using=PRIMARY):
                assert where() == PRIMARY
                Order.objects.create(buyer_id=KEY)
                assert Order.objects.filter(buyer=KEY).count() == 1
            assert Order.objects.filter(buyer=KEY).count() == 1

    def test_one_that_was_opened_by_hand_does_too(self, replica: Standby) -> None:
        by_hand = connections[PRIMARY]
        by_hand.set_autocommit(False)
        try:
            with replica_reads():
                Order.objects.create(buyer_id=KEY)
                wal = ask(PRIMARY, "SELECT pg_current_wal_insert_lsn()::text")
                until(lambda: ask(REPLICA, f"SELECT pg_last_wal_replay_lsn() >= '{wal}'"))
                assert where() == PRIMARY  # though the replica has all that was sent to it
                assert Order.objects.filter(buyer=KEY).count() == 1
        finally:
            by_hand.rollback()
            by_hand.set_autocommit(True)

    def test_another_thread_s_open_write_is_not_forgotten(self, replica: Standby) -> None:
        pause()
        is_written, may_end = threading.Event(), threading.Event()

        def write() -> None:
            with transaction.atomic(using=PRIMARY):
                Order.objects.create(buyer_id=KEY)
                is_written.set()
                assert may_end.wait(PATIENCE_SECONDS)
            connections.close_all()

        with replica_reads():
            writer = threading.Thread(target=contextvars.copy_context().run, args=[write])
            writer.start()
            assert is_written.wait(PATIENCE_SECONDS)
            where()  # asks for the position, of which the open transaction is no part
            resume()  # of the log until now, in which it has not committed
            pause()
            may_end.set()
            writer.join()
            assert Order.objects.filter(buyer=KEY).count() == 1

    def test_a_statement_that_runs_while_it_is_asked_is_not_forgotten(
        self, replica: Standby
    ) -> None:
        pause()

        def write() -> None:
            Buyer.objects.filter(id=KEY).update(name="Eve")
            connections.close_all()

        with replica_reads():
            writer = threading.Thread(target=contextvars.copy_context().run, args=[write])
            unwatched = connections[PRIMARY].connection
            unwatched.execute("BEGIN")
            unwatched.execute("LOCK TABLE shop_buyer IN SHARE MODE")  # of which no log tells
            writer.start()
            until(lambda: ask(PRIMARY, "SELECT count(*) FROM pg_locks WHERE NOT granted"))
            where()  # asks for the position, of which the write is no part
            unwatched.execute("ROLLBACK")
            writer.join()
            assert Buyer.objects.get(id=KEY).name == "Eve"

    def test_what_is_written_during_the_question_is_not_forgotten(self, replica: Standby) -> None:
        pause()

        def write() -> None:
            Order.objects.create(buyer_id=KEY)
            connections.close_all()

        with replica_reads():
            writer = threading.Thread(target=contextvars.copy_context().run, args=[write])

            def meanwhile(execute: Any, sql: Any, *rest: Any) -> Any:
                found = execute(sql, *rest)
                if not writer.ident:
                    writer.start()
                    writer.join()
                return found

            Order.objects.using(PRIMARY).filter(buyer=KEY).count()
            with connections[PRIMARY].execute_wrapper(meanwhile):
                where()
            assert Order.objects.filter(buyer=KEY).count() == 1

    def test_what_the_primary_said_by_an_error_is_not_gone(self, replica: Standby) -> None:
        pause()
        with seen.begin(seen.Seen()):
            made = Order.objects.create(buyer_id=KEY)  # by another request
        with replica_reads():
            with pytest.raises(IntegrityError):  # which says that it is there
                Order.objects.create(buyer_id=KEY, pk=made.pk)
            assert list(Order.objects.filter(buyer=KEY)) == [made]


class TestPlaces:
    pytestmark = on_servers

    def test_what_is_to_be_written_is_read_from_the_primary(self, replica: Standby) -> None:
        pause()
        with seen.begin(seen.Seen()):
            Order.objects.create(buyer_id=KEY, number=7)
        with replica_reads():
            rows = Order.objects.filter(buyer=KEY)
            assert rows.db == REPLICA
            assert rows.select_for_update().db == PRIMARY
            with shard(KEY):
                assert Country.objects.all().db == REPLICA
                assert Country.objects.select_for_update().db == PRIMARY
        for write in (Order.objects.get_or_create, Order.objects.update_or_create):
            with seen.begin(seen.Seen()), replica_reads():
                _, is_new = write(buyer_id=KEY, number=7)
                assert not is_new
        with seen.begin(seen.Seen()), replica_reads():
            assert Order.objects.filter(buyer=KEY).update(number=8) == 1
        with seen.begin(seen.Seen()), replica_reads():
            assert Order.objects.filter(buyer=KEY).delete()[0] == 1

    def test_a_row_is_the_shard_s_wherever_it_was_read(self, replica: Standby) -> None:
        with replica_reads(), CaptureQueriesContext(connections[REPLICA]) as there:
            row = Buyer.objects.get(id=KEY)
            assert list(row.orders.all()) == []
            assert list(Buyer.objects.filter(id=KEY).prefetch_related("orders")) == [row]
            assert list(Buyer.objects.filter(id=KEY).iterator()) == [row]
        assert sum("shop_" in each["sql"] for each in there.captured_queries) == 5
        assert row._state.db == PRIMARY
        pause()
        Buyer.objects.filter(id=KEY).update(name="Eve")
        with replica_reads():
            row.refresh_from_db()
            assert row.name == "Eve"
            Order(buyer=row).save()
            row.name = "Eva"
            row.save()
        assert Buyer.objects.get(id=KEY).name == "Eva"

    def test_every_kind_of_read_goes_there(self, replica: Standby) -> None:
        rows = Buyer.objects.filter(id=KEY)
        with replica_reads(), CaptureQueriesContext(connections[PRIMARY]) as here:
            assert rows.count() == 1
            assert rows.exists()
            assert rows.aggregate(n=Count("pk")) == {"n": 1}
            assert rows.values_list("name", flat=True).first() == "Eva"
            assert Buyer.objects.in_bulk([KEY])[KEY].name == "Eva"
            assert rows.explain()
            with shard(KEY):
                assert Buyer.objects.all().db == REPLICA
        assert not [each for each in here.captured_queries if "shop_" in each["sql"]]

    def test_what_hangs_on_rows_of_all_shards_is_as_new_as_they_are(self, replica: Standby) -> None:
        pause()
        with seen.begin(seen.Seen()):
            made = Order.objects.create(buyer_id=KEY, number=7)
        with replica_reads(), CaptureQueriesContext(connections[REPLICA]) as there:
            (buyer,) = Buyer.objects.fanout().filter(pk=KEY).prefetch_related("orders")
            assert list(buyer.orders.all()) == [made]
        assert not [each for each in there.captured_queries if "shop_" in each["sql"]]

    def test_what_hangs_on_rows_of_all_shards_is_read_where_they_are(
        self, replica: Standby
    ) -> None:
        """Within their deadline, though a replica has it too."""
        with replica_reads(), CaptureQueriesContext(connections[REPLICA]) as there:
            assert where() == REPLICA
            believe()
            positions._known[REPLICA] = replace(positions._known[REPLICA], replayed=seen.EVERYTHING)
            (buyer,) = Buyer.objects.fanout().filter(pk=KEY).prefetch_related("orders")
            assert list(buyer.orders.all()) == []
            assert where() == REPLICA
        assert not [each for each in there.captured_queries if "shop_" in each["sql"]]

    def test_reference_rows_are_read_there_and_written_everywhere(self, replica: Standby) -> None:
        with replica_reads(), shard(KEY):
            assert Country.objects.all().db == REPLICA
            Country.objects.create(code="DE", name="Germany")
            assert Country.objects.get(code="DE")._state.db == PRIMARY
        resume()
        with replica_reads(), shard(KEY):
            assert Country.objects.all().db == REPLICA
            assert Country.objects.get(code="DE")._state.db == PRIMARY

    def test_functions_are_blocks_too_and_so_are_coroutines(self, replica: Standby) -> None:
        @replica_reads()
        async def later() -> str:
            assert [row async for row in Buyer.objects.filter(id=KEY).aiterator()] != []
            return await sync_to_async(where)()

        assert replica_reads()(where)() == REPLICA
        assert async_to_sync(later)() == REPLICA
        assert where() == PRIMARY

    def test_what_a_read_costs(self, replica: Standby) -> None:
        with (
            replica_reads(),
            CaptureQueriesContext(connections[PRIMARY]) as here,
            CaptureQueriesContext(connections[REPLICA]) as there,
        ):
            for _ in range(3):
                assert Order.objects.filter(buyer=KEY).count() == 0
        assert len(here) <= 1  # one once a second
        assert 3 <= len(there) <= 4

    def test_what_a_read_after_a_write_costs(self, replica: Standby) -> None:
        """Nothing, once the replica is known to have come so far."""
        with replica_reads():
            with transaction.atomic(using=PRIMARY):
                Order.objects.create(buyer_id=KEY)
            until(lambda: where() == REPLICA)
            least = seen.seen().position(PRIMARY)
            just_there = replace(positions._known[REPLICA], replayed=least, asked_at=float("inf"))
            positions._known[REPLICA] = just_there
            with (
                CaptureQueriesContext(connections[PRIMARY]) as here,
                CaptureQueriesContext(connections[REPLICA]) as there,
            ):
                assert where() == REPLICA
            assert len(here) == len(there) == 0

    def test_a_session_is_watched_once_and_leaves_the_wrappers_of_others(
        self, replica: Standby
    ) -> None:
        def of_another(execute: Any, *rest: Any) -> Any:
            return execute(*rest)

        def of_replicas(connection: Any) -> list[Any]:
            wrappers = connection.execute_wrappers
            return [each for each in wrappers if each.__module__ == watching.__name__]

        for alias in (PRIMARY, REPLICA):
            connection = connections[alias]
            connection.ensure_connection()
            own = of_replicas(connection)
            assert len(own) == 1
            connection.close()
            connection.ensure_connection()
            assert of_replicas(connection) == own
            connection.close()
            connection.execute_wrappers.clear()
            with connection.execute_wrapper(of_another):
                connection.ensure_connection()
            assert of_replicas(connection) == own
            assert of_another not in connection.execute_wrappers

    def test_a_thread_that_has_no_session_yet_reads_there_too(self, replica: Standby) -> None:
        def read() -> str:
            try:
                with replica_reads():
                    return where()
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(read).result() == REPLICA

    def test_what_a_block_starts_has_seen_the_same(self, replica: Standby) -> None:
        """In work of its own, in which nothing was seen before the block."""
        pause()

        def write() -> None:
            Order.objects.create(buyer_id=KEY)
            connections.close_all()

        def work() -> int:
            with replica_reads():
                started = threading.Thread(target=contextvars.copy_context().run, args=[write])
                started.start()
                started.join()
                return Order.objects.filter(buyer=KEY).count()

        assert contextvars.Context().run(work) == 1

    def test_one_that_the_settings_no_longer_name_is_left(self, replica: Standby) -> None:
        with replica_reads():
            assert where() == REPLICA
            with sharding(REPLICAS={PRIMARY: [OTHER]}):
                assert where() == PRIMARY

    def test_a_server_that_follows_nobody_is_no_replica(self, replica: Standby) -> None:
        with sharding(REPLICAS={PRIMARY: [OTHER]}), replica_reads():
            assert where() == PRIMARY
            assert positions._known[OTHER].state == positions.ALONE
            with CaptureQueriesContext(connections[OTHER]) as there:
                assert where() == PRIMARY
            assert len(there) == 0  # for a second


class TestTransactionsThere:
    pytestmark = on_servers

    def test_the_harm_a_rollback_leaves_the_row(self, replica: Standby) -> None:
        """What a transaction on the database of a queryset holds, past those who refuse it."""
        rows = Order.objects.filter(buyer=KEY)
        with replica_reads():
            alias = rows.db
        with transaction.atomic(using=alias):
            Order(buyer_id=KEY).save_base(using=PRIMARY, force_insert=True)
            transaction.set_rollback(True, using=alias)
        assert rows.count() == 1

    @pytest.mark.parametrize("by", ["create", "save", "delete", "read", "cursor"])
    def test_it_is_refused(self, replica: Standby, by: str) -> None:
        buyer = Buyer.objects.get(id=KEY)
        resume()
        rows = Order.objects.filter(buyer=KEY)
        work = {
            "create": lambda: Order.objects.create(buyer_id=KEY),
            "save": buyer.save,
            "delete": rows.delete,
            "read": rows.count,
            "cursor": lambda: connections[PRIMARY].cursor().execute("DELETE FROM shop_order"),
        }[by]
        with (
            replica_reads(),
            transaction.atomic(using=rows.db),
            pytest.raises(UsageError, match=f"(open on replica|transaction on) '{REPLICA}'"),
        ):
            work()
        assert Buyer.objects.filter(id=KEY).exists()

    def test_one_on_the_shard_too_holds_what_is_written(self, replica: Standby) -> None:
        there, here = transaction.atomic(using=REPLICA), transaction.atomic(using=PRIMARY)
        with replica_reads(), there, here:
            Order.objects.using(PRIMARY).create(buyer_id=KEY)
            transaction.set_rollback(True, using=PRIMARY)
        assert not Order.objects.filter(buyer=KEY).exists()

    def test_a_replica_is_no_place_to_write_to(self, replica: Standby) -> None:
        with pytest.raises(WrongShard):
            Order(buyer_id=KEY).save(using=REPLICA)


class TestLoss:
    pytestmark = on_servers

    @pytest.fixture
    def told(self) -> Iterator[list[telemetry.Event]]:
        found: list[telemetry.Event] = []
        with telemetry.listening(found.append):
            yield found

    def test_the_harm_a_lost_replica_is_an_error(self, replica: Standby) -> None:
        replica.crash()
        try:
            with pytest.raises(OperationalError):
                Order.objects.using(REPLICA).filter(buyer=KEY).count()
        finally:
            replica.start()
            connections[REPLICA].close()

    def test_the_primary_answers_for_one_that_is_lost(
        self, replica: Standby, told: list[telemetry.Event], caplog: pytest.LogCaptureFixture
    ) -> None:
        Order.objects.create(buyer_id=KEY)
        resume()
        rows = Order.objects.filter(buyer=KEY)
        with replica_reads():
            assert rows.db == REPLICA  # and its connection is open
            believe()
            replica.crash()
            try:
                with caplog.at_level(logging.WARNING, "dbpatterns.sharding"):
                    assert rows.count() == 1
                    assert rows.count() == 1
                    assert len(rows.all()) == 1
            finally:
                replica.start()
        [line] = caplog.records
        assert line.getMessage().startswith(f"Replica '{REPLICA}' of '{PRIMARY}' does not answer (")
        assert [(each.name, each.database, each.facts["state"]) for each in told] == [
            ("sharding.replica", REPLICA, "does not answer")
        ]
        until(answers)

    @pytest.mark.parametrize("read", ["list", "iterator", "get"])
    def test_rows_come_from_the_primary_in_its_place(self, replica: Standby, read: str) -> None:
        made = Order.objects.create(buyer_id=KEY)
        resume()
        rows = Order.objects.filter(buyer=KEY)
        with replica_reads():
            assert rows.count() == 1
            believe()
            replica.crash()
            try:
                found = {
                    "list": lambda: list(rows),
                    "iterator": lambda: list(rows.iterator(chunk_size=1)),
                    "get": lambda: [rows.get()],
                }[read]()
            finally:
                replica.start()
        assert found == [made]
        until(answers)

    def test_one_that_was_never_there_is_no_error(
        self, replica: Standby, told: list[telemetry.Event]
    ) -> None:
        replica.crash()
        connections[REPLICA].close()
        positions._known.clear()
        try:
            with replica_reads():
                assert Order.objects.filter(buyer=KEY).count() == 0
                assert where() == PRIMARY
        finally:
            replica.start()
        assert len(told) == 1
        until(answers)

    def test_a_query_that_replay_cancels_is_answered_by_the_primary(
        self, replica: Standby, told: list[telemetry.Event]
    ) -> None:
        """The replica is as good as before, and answers the next."""
        nap = "CASE WHEN pg_is_in_recovery() THEN pg_sleep(60)::text ELSE 'awake' END"
        rows = Buyer.objects.filter(id=KEY).annotate(nap=RawSQL(nap, []))

        def read() -> Any:
            try:
                with replica_reads():
                    return rows.get().nap
            finally:
                connections.close_all()

        naps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(read)
            until(lambda: ask(REPLICA, naps))
            with transaction.atomic(using=PRIMARY), connections[PRIMARY].cursor() as cursor:
                cursor.execute("LOCK TABLE shop_buyer")  # its replay waits for readers
            found = reader.result(PATIENCE_SECONDS)
        assert found == "awake"
        assert told == []
        until(answers)

    def test_an_error_of_the_query_itself_is_the_caller_s(
        self, replica: Standby, told: list[telemetry.Event]
    ) -> None:
        rows = Buyer.objects.filter(id=KEY).annotate(nap=RawSQL("pg_sleep(60)::text", []))
        with connections[REPLICA].cursor() as cursor:
            cursor.execute("SET statement_timeout = '20ms'")
            with replica_reads(), pytest.raises(OperationalError, match="statement timeout"):
                rows.get()
            cursor.execute("RESET statement_timeout")
        assert told == []

    def test_reads_go_on_while_the_primary_is_down_and_not_for_ever(
        self, replica: Standby, primary_down: None
    ) -> None:
        rows = Buyer.objects.filter(id=KEY)
        with replica_reads():
            check_anew()
            assert rows.count() == 1
        with (
            sharding(REPLICAS={PRIMARY: [REPLICA]}, REPLICA_MAX_LAG_SECONDS=0.0),
            replica_reads(),
            pytest.raises(OperationalError),
        ):
            rows.count()

    def test_who_wrote_to_a_primary_that_went_down_is_not_told_what_was_before(
        self, replica: Standby
    ) -> None:
        pause()
        Order.objects.create(buyer_id=KEY)
        with down(PRIMARY), replica_reads():
            assert where() == PRIMARY
        with replica_reads():
            assert where() == PRIMARY
        resume()
        with replica_reads():
            assert where() == REPLICA

    def test_one_that_was_started_again_is_asked_anew(self, replica: Standby) -> None:
        with replica_reads():
            assert where() == REPLICA
            believe()
            connections[REPLICA].close()
            assert where() == REPLICA
        assert positions._known[REPLICA].asked_at < float("inf")

    def test_a_lost_one_is_not_tried_for_each_read(
        self, replica: Standby, told: list[telemetry.Event], caplog: pytest.LogCaptureFixture
    ) -> None:
        replica.crash()
        connections[REPLICA].close()
        positions._known.clear()
        try:
            with replica_reads():
                assert where() == PRIMARY
                asked_at = positions._known[REPLICA].asked_at
                assert asked_at > float("-inf")
                assert where() == PRIMARY
                assert positions._known[REPLICA].asked_at == asked_at
                check_anew()
                assert where() == PRIMARY  # which is told once
        finally:
            replica.start()
        check_anew()
        with replica_reads(), caplog.at_level(logging.INFO, "dbpatterns.sharding"):
            until(lambda: where() == REPLICA)
        line = f"Replica '{REPLICA}' of '{PRIMARY}' answers: reads go there again."
        assert [(each.levelname, each.getMessage()) for each in caplog.records][-1] == (
            "INFO",
            line,
        )
        assert [each.facts["state"] for each in told] == ["does not answer", "answers"]

    def test_one_thread_tries_a_lost_one_and_the_others_go_on(self, replica: Standby) -> None:
        def read() -> None:
            with seen.begin(seen.Seen()), replica_reads():
                where()
            connections.close_all()

        positions._known[REPLICA] = positions._Known(state=positions.LOST)
        tries = threading.Thread(target=read)
        with stopped(postmaster(str(replica.folder / "data"))):
            tries.start()
            until(lambda: positions._known[REPLICA].asked_at > 0)
            with replica_reads():
                assert where() == PRIMARY
        tries.join()

    def test_a_session_that_died_unused_is_made_anew_where_django_checks_it(
        self, replica: Standby, told: list[telemetry.Event]
    ) -> None:
        connection = connections[REPLICA]
        connection.close()
        with settings_of(REPLICA, CONN_HEALTH_CHECKS=True, CONN_MAX_AGE=None), replica_reads():
            assert where() == REPLICA
            believe()
            replica.crash()
            replica.start()
            connection.close_if_unusable_or_obsolete()  # as at the start of a request
            with CaptureQueriesContext(connection) as there:
                assert Order.objects.filter(buyer=KEY).count() == 0
            assert "pg_last_wal_replay_lsn" in there.captured_queries[0]["sql"]  # on the new one
            connection.close()
        assert told == []


def believe() -> None:
    """Let what is known of the replica be believed until its session is lost."""
    known = positions._known[REPLICA]
    positions._known[REPLICA] = replace(known, asked_at=float("inf"))


def check_anew() -> None:
    """Let what is known of the replica be older than is believed."""
    known = positions._known[REPLICA]
    positions._known[REPLICA] = replace(known, asked_at=float("-inf"))


@contextmanager
def down(alias: str) -> Iterator[None]:
    """Let new sessions on a server be refused, by a port where nobody listens."""
    connections[alias].close()
    with settings_of(alias, PORT=1):
        yield


@contextmanager
def settings_of(alias: str, **values: Any) -> Iterator[None]:
    """Let new sessions on a server have other settings."""
    own = connections[alias].settings_dict
    before = {name: own[name] for name in values}
    own.update(values)
    try:
        yield
    finally:
        own.update(before)


@pytest.fixture
def primary_down(replica: Standby) -> Iterator[None]:
    with down(PRIMARY):
        yield


POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "TEST": {"MIRROR": PRIMARY}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({PRIMARY: ["nowhere"]}, "is not a database."),
        ({"nowhere": [REPLICA]}, "'nowhere', which is no shard."),
        ({PRIMARY: [OTHER]}, f"{OTHER!r} of {PRIMARY!r} is written to as well."),
        ({PRIMARY: ["default"]}, "is written to as well."),
        ({PRIMARY: [REPLICA, REPLICA]}, "stands in REPLICAS twice."),
        ({PRIMARY: [REPLICA], OTHER: [REPLICA]}, "stands in REPLICAS twice."),
        ({OTHER: [REPLICA]}, "Tests would make a database of its own"),
        ({PRIMARY: ["a_file"]}, "is no PostgreSQL server."),
    ],
)
def test_what_cannot_be_a_replica_is_told_at_start(
    given: dict[str, list[str]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {**POSTGRESQL, "ENGINE": "django.db.backends.sqlite3"}
    monkeypatch.setitem(settings.DATABASES, REPLICA, POSTGRESQL)
    monkeypatch.setitem(settings.DATABASES, "a_file", file)
    with sharding(REPLICAS=given):
        found = [each for each in check_sharding(None) if each.id == "dbpatterns_sharding.E021"]
    assert found
    assert said in found[0].msg


def test_what_can_be_a_replica_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES, REPLICA, POSTGRESQL)
    with sharding(REPLICAS={PRIMARY: [REPLICA]}):
        assert check_sharding(None) == []


@pytest.mark.django_db(databases="__all__")
def test_a_setting_of_another_shape_is_told() -> None:
    with sharding(REPLICAS={PRIMARY: OTHER}):
        assert "dbpatterns.E001" in [each.id for each in checks.run_checks()]
        watching.watch(connections[PRIMARY])  # a new session, as `check --database` has: no error


@pytest.mark.django_db(databases="__all__")
def test_without_replicas_a_block_changes_nothing() -> None:
    with replica_reads():
        assert where() == PRIMARY
        assert not Order.objects.filter(buyer=KEY, pk=uuid4()).exists()


def test_a_replica_gets_no_tables_of_its_own() -> None:
    with sharding(REPLICAS={PRIMARY: [REPLICA]}):
        assert ShardRouter().allow_migrate(REPLICA, "auth", "user") is False
    assert ShardRouter().allow_migrate(REPLICA, "auth", "user") is None
