"""Ids that carry their slot: never the same twice, whoever makes them and whatever the time is."""

import json
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import (
    DataError,
    IntegrityError,
    connection,
    connections,
    models,
    transaction,
)
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter
from django.db.models import BigIntegerField, F, Value
from django.forms import modelform_factory
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding import ShardedModel, id_clock, shard
from dbpatterns.sharding.checks import check_models
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired
from dbpatterns.sharding.fields import ShardedIdField, ShardedUUIDField, slot_of_row
from dbpatterns.sharding.hashing import slot_of
from dbpatterns.sharding.id_clock import SQLiteMaker, advance
from dbpatterns.sharding.ids import (
    EPOCH,
    UUIDMaker,
    id_of,
    make_uuid,
    slot_of_id,
    slot_of_uuid,
    tick_at,
    tick_of_id,
    time_of_id,
    time_of_uuid,
)
from dbpatterns.sharding.shard_map import ShardMap, pinned, shard_for, shard_map, shards
from dbpatterns.sharding.strategies import LOWEST, Directory, Hash, Range
from tests.parcels.models import Consignment, Courier, Depot, Parcel, Scan, Station
from tests.processes import in_threads, start_process, until

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp()) * 1000
SLOTS = [0, 1, 4711, 8192, 16383]
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock(db: None) -> None:
    """A new clock of ids on each shard; the test's rollback brings the old ones back."""
    for alias in shards():
        id_clock.uninstall(alias)
        id_clock.install(alias)


ON_SHARDS = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("clock")]
ONE = "shard_0"


def made_at(at: datetime, slot: int = 4711, using: str = ONE) -> int:
    """Make an id on a shard while the machine's clock says `at`."""
    if connections[using].vendor == "sqlite":
        connections[using].ensure_connection()
        return SQLiteMaker(connections[using], lambda: round(at.timestamp() * 1000))(slot)
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT dbpatterns_make_id(%s, %s)", [slot, at])
        made: int = cursor.fetchone()[0]
        return made


def ticking(*times: int) -> Callable[[], int]:
    """A clock that says these milliseconds, one after the other."""
    left = iter(times)
    return lambda: next(left)


class PerProcess:
    """What a maker of 64-bit ids would be that asks nobody: the harm."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock, self.last = clock, 0

    def __call__(self, slot: int) -> int:
        self.last = max(self.last + 1, tick_at(self.clock()))
        return id_of(self.last, slot)


# The two layouts


def test_an_id_is_milliseconds_slot_and_sequence() -> None:
    made = id_of(tick_at(NOON_MS) + 5, 4711)
    assert made == ((NOON_MS - 1_767_225_600_000) * 2**22) + 4711 * 256 + 5
    assert (slot_of_id(made), time_of_id(made)) == (4711, NOON)
    assert tick_of_id(made) == tick_at(NOON_MS) + 5


@pytest.mark.parametrize("slot", SLOTS)
def test_the_slot_comes_back_out_of_an_id_of_any_time(slot: int) -> None:
    for tick in (256, tick_at(NOON_MS), 2**49 - 1):
        made = id_of(tick, slot)
        assert slot_of_id(made) == slot
        assert tick_of_id(made) == tick
        assert 0 < made < 2**63


def test_the_years_of_an_id_end_in_2095() -> None:
    assert time_of_id(2**63 - 1).year == 2095
    assert time_of_id(1 << 22) == EPOCH + timedelta(milliseconds=1)


@pytest.mark.parametrize("other", [5, 2**22 - 1, 0, -1, 2**63, True, "text", 5.0, None])
def test_what_no_clock_made_is_no_id(other: Any) -> None:
    with pytest.raises(UsageError, match="no id that carries a slot"):
        slot_of_id(other)
    with pytest.raises(UsageError, match="no id that carries a slot"):
        time_of_id(other)


@pytest.mark.parametrize("slot", [-1, 16384])
def test_a_slot_that_does_not_fit_is_refused(slot: int) -> None:
    with pytest.raises(UsageError, match="is no slot"):
        id_of(tick_at(NOON_MS), slot)
    with pytest.raises(UsageError, match="is no slot"):
        make_uuid(slot)


@pytest.mark.parametrize("slot", SLOTS)
def test_a_uuid_is_version_7_with_the_slot_after_the_variant(slot: int) -> None:
    made = UUIDMaker(lambda: NOON_MS)(slot)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert (slot_of_uuid(made), time_of_uuid(made)) == (slot, NOON)
    assert int(str(made)[19:23], 16) & 16383 == slot
    assert made.int >> 80 == NOON_MS


@pytest.mark.parametrize("other", [UUID("a" * 32), UUID(int=0), "0199", None])
def test_a_uuid_of_another_version_has_no_slot(other: Any) -> None:
    with pytest.raises(UsageError, match="no UUID of version 7"):
        slot_of_uuid(other)
    with pytest.raises(UsageError, match="no UUID of version 7"):
        time_of_uuid(other)


# The maker of UUIDs


def test_uuids_grow_when_the_clock_steps_back() -> None:
    make = UUIDMaker(ticking(NOON_MS, NOON_MS - 3_600_000, NOON_MS - 1, NOON_MS + 1))
    made = [make(7) for _ in range(4)]
    assert made == sorted(made)
    assert [time_of_uuid(each) for each in made[:3]] == [NOON] * 3
    assert time_of_uuid(made[3]) > NOON


def test_the_4097th_uuid_of_a_millisecond_is_of_the_next() -> None:
    make = UUIDMaker(lambda: NOON_MS)
    made = [make(7) for _ in range(4097)]
    counted = [each.int >> 64 for each in made]
    assert counted == sorted(set(counted))
    assert time_of_uuid(made[4095]) == NOON
    assert time_of_uuid(made[4096]) == NOON + timedelta(milliseconds=1)
    assert {each.version for each in made} == {7}


def test_uuids_and_their_texts_sort_by_time() -> None:
    make = UUIDMaker(ticking(*range(NOON_MS, NOON_MS + 100)))
    made = [make(slot) for slot in range(16383, 16283, -1)]
    assert made == sorted(made)
    assert [str(each) for each in made] == sorted(str(each) for each in made)


def test_two_processes_in_one_millisecond_make_different_uuids() -> None:
    one, other = UUIDMaker(lambda: NOON_MS), UUIDMaker(lambda: NOON_MS)
    assert {one(7) for _ in range(1000)}.isdisjoint(other(7) for _ in range(1000))


def test_threads_take_turns_at_the_maker() -> None:
    together, met = threading.Barrier(2), []

    def clock() -> int:
        try:
            together.wait(timeout=0.2)
            met.append(True)
        except threading.BrokenBarrierError:
            pass  # nobody else was let in
        return NOON_MS

    make = UUIDMaker(clock)
    in_threads([lambda: make(7)] * 2)
    assert not met


# The clock of a shard


def test_two_processes_that_count_for_themselves_make_the_same_id() -> None:
    one, other = PerProcess(lambda: NOON_MS), PerProcess(lambda: NOON_MS)
    assert one(4711) == other(4711)


class TestClock:
    pytestmark = ON_SHARDS

    def test_an_id_says_when_it_was_made(self) -> None:
        at = NOON + timedelta(milliseconds=123)
        assert time_of_id(made_at(at)) == at
        assert slot_of_id(made_at(at, slot=16383)) == 16383

    def test_the_present_is_the_machine_s(self) -> None:
        before = datetime.now(tz=UTC)
        parcel = Parcel.objects.create(customer_id=7)
        after = datetime.now(tz=UTC)
        assert before - timedelta(milliseconds=1) < time_of_id(parcel.pk) <= after

    def test_ids_of_all_slots_sort_by_time(self) -> None:
        made = [
            made_at(NOON + timedelta(milliseconds=passed), slot)
            for passed, slot in enumerate([16383, 4711, 0, 9999])
        ]
        assert made == sorted(made)

    def test_ids_grow_when_the_clock_steps_back(self) -> None:
        made = [made_at(at) for at in (NOON, NOON - 3600 * SECOND, NOON - SECOND, NOON)]
        assert made == sorted(set(made))
        assert [time_of_id(each) for each in made] == [NOON] * 4

    def test_a_clock_before_the_epoch_makes_ids_too(self) -> None:
        made = [made_at(EPOCH - 3600 * SECOND) for _ in range(3)]
        assert made == sorted(set(made))
        assert slot_of_id(made[0]) == 4711

    def test_the_257th_id_of_a_millisecond_is_of_the_next(self) -> None:
        made = [made_at(NOON) for _ in range(257)]
        assert made == sorted(set(made))
        assert time_of_id(made[255]) == NOON
        assert time_of_id(made[256]) == NOON + timedelta(milliseconds=1)

    def test_a_clock_that_is_installed_twice_goes_on(self) -> None:
        first = made_at(NOON + SECOND)
        id_clock.install(ONE)
        assert made_at(NOON) > first

    def test_the_end_of_the_clock_is_an_error(self) -> None:
        with pytest.raises(Exception, match=r"bounds|CHECK"):  # noqa: SIM117
            with transaction.atomic(ONE):
                made_at(datetime(2100, 1, 1, tzinfo=UTC))
        assert time_of_id(made_at(NOON)) == NOON


@pytest.mark.postgresql
@pytest.mark.django_db
def test_a_sequence_beside_the_time_repeats_itself_within_a_millisecond() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE plain")
        cursor.execute(
            "SELECT count(*) - count(DISTINCT id) FROM (SELECT (%s::bigint << 22) | (4711 << 8) |"
            " (nextval('plain') & 255) AS id FROM generate_series(1, 1000)) AS made",
            [NOON_MS],
        )
        assert cursor.fetchone() == (1000 - 256,)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True, databases="__all__")
def test_an_open_transaction_keeps_nobody_from_making_ids() -> None:
    home = shard_for(7)

    def insert() -> int:
        with connections[home].cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'")
        made: int = Parcel.objects.create(customer_id=7).pk
        return made

    with transaction.atomic(home):
        first = Parcel.objects.create(customer_id=7)
        [second] = in_threads([insert])
        assert isinstance(second, int), second
        assert second > first.pk


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True, databases="__all__")
def test_sessions_take_turns_at_the_clock() -> None:
    def waiting() -> bool:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return bool(cursor.fetchone()[0])

    def insert() -> None:
        Depot.objects.using(ONE).create(name="x")

    with connections[ONE].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(4923671830615284712)")
        session = threading.Thread(target=in_threads, args=[[insert]])
        session.start()
        try:
            until(waiting)  # else it would be between another's nextval and setval
        finally:
            cursor.execute("SELECT pg_advisory_unlock(4923671830615284712)")
            session.join()
    assert Depot.objects.using(ONE).count() == 1


@pytest.mark.postgresql
class TestServer:
    pytestmark = ON_SHARDS

    def test_an_error_within_the_clock_leaves_no_lock(self) -> None:
        with pytest.raises(DataError), transaction.atomic(ONE):
            made_at(datetime(2100, 1, 1, tzinfo=UTC))
        with connections[ONE].cursor() as cursor:
            made_at(NOON)
            cursor.execute(
                "SELECT count(*) FROM pg_locks"
                " WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            )
            assert cursor.fetchone() == (0,)

    @pytest.mark.parametrize("slot", [-1, 16384])
    def test_the_server_refuses_a_slot_that_does_not_fit(self, slot: int) -> None:
        with pytest.raises(DataError, match="a slot is 0 to 16383"), transaction.atomic(ONE):
            made_at(NOON, slot)

    def test_the_slot_of_a_uuid_in_sql_is_the_slot_in_python(self) -> None:
        made = [make_uuid(slot) for slot in SLOTS]
        with connections[ONE].cursor() as cursor:
            cursor.execute(
                "SELECT ('x' || substr(id::text, 20, 4))::bit(16)::int & 16383"
                " FROM unnest(%s::uuid[]) AS t(id)",
                [made],
            )
            assert [row[0] for row in cursor.fetchall()] == SLOTS


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("clock")
def test_an_id_that_was_rolled_back_is_not_given_again() -> None:
    if connection.vendor == "sqlite":
        connections[ONE].ensure_connection()
        maker = SQLiteMaker(connections[ONE], lambda: NOON_MS)
        make = lambda: maker(4711)  # noqa: E731
    else:
        make = lambda: made_at(NOON)  # noqa: E731
    try:
        with transaction.atomic(ONE):
            lost = make()
            raise InterruptedError
    except InterruptedError:
        assert make() > lost


WORKER = """
import random, sys
from datetime import UTC, datetime, timedelta
from django.db import connections
from dbpatterns.sharding.hashing import slot_of
from dbpatterns.sharding.id_clock import SQLiteMaker
from dbpatterns.sharding.ids import UUIDMaker, milliseconds
from dbpatterns.sharding.shard_map import first_map, pinned, shards
from tests.parcels.models import Consignment, Depot, Parcel
def stepping():  # back, by up to an hour, and forth again
    return milliseconds() - random.randrange(3_600_000)
make_uuid = UUIDMaker(stepping)
for alias, name in {names!r}.items():
    connections[alias].settings_dict["NAME"] = name
    connections[alias].ensure_connection()
    if connections[alias].vendor == "sqlite":
        maker = SQLiteMaker(connections[alias], stepping)
        connections[alias].connection.create_function("dbpatterns_make_id", 1, maker)
def parcels(at):
    if connections["{home}"].vendor == "postgresql":
        with connections["{home}"].cursor() as cursor:
            cursor.execute(
                "INSERT INTO parcels_parcel (id, customer_id, label) SELECT"
                " dbpatterns_make_id(%s, coalesce(%s, clock_timestamp())), 7, ''"
                " FROM generate_series(1, {each}) RETURNING id",
                [slot_of(7), at],
            )
            return [row[0] for row in cursor.fetchall()]
    made = Parcel.objects.bulk_create([Parcel(customer_id=7) for _ in range({each})])
    return [row.pk for row in made]
with pinned({{"bank": first_map("bank")}}):
    print("ready", flush=True)
    sys.stdin.readline()
    made, uuids = [], []
    for number in range({rounds}):
        stepped = datetime.fromtimestamp(stepping() / 1000, UTC)
        made += parcels(stepped if number % 3 else None)  # None: the time of each id
        uuids += [make_uuid(slot_of(7)) for _ in range({each})]
        Consignment.objects.bulk_create([Consignment(id=u, courier_id=7) for u in uuids[-{each}:]])
        alias = shards()[number % len(shards())]
        Depot.objects.using(alias).bulk_create([Depot() for _ in range({each})])
    assert made == sorted(made), "not in order"
    assert uuids == sorted(uuids, key=lambda each: each.int >> 64 & ~0x3FFF), "not in order"
    print("done", flush=True)
"""


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_processes_whose_clocks_step_back_never_make_the_same_id() -> None:
    home, rounds = shard_for(7), 12
    each = 400 if connection.vendor == "postgresql" else 40  # more than 256 by one reading
    Courier.objects.create(id=7)
    names = {alias: connections[alias].settings_dict["NAME"] for alias in shards()}
    code = WORKER.format(rounds=rounds, each=each, home=home, names=names)
    workers = [start_process(code) for _ in range(8)]
    try:
        assert [said(worker) for worker in workers] == ["ready"] * 8
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        assert [said(worker) for worker in workers] == ["done"] * 8
    finally:
        stop(workers)
    parcels = list(Parcel.objects.using(home).values_list("pk", flat=True))
    uuids = list(Consignment.objects.using(home).values_list("pk", flat=True))
    depots = [
        pk for alias in shards() for pk in Depot.objects.using(alias).values_list("pk", flat=True)
    ]
    for made in (parcels, uuids, depots):
        assert len(set(made)) == len(made) == 8 * rounds * each
    assert {slot_of_id(pk) for pk in parcels} == {slot_of(7)}
    assert {slot_of_uuid(pk) for pk in uuids} == {slot_of(7)}


def said(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout
    return worker.stdout.readline().strip()


def stop(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.kill()
        worker.communicate()


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("clock")
def test_shards_whose_clocks_agree_make_different_ids_for_the_slots_they_hold() -> None:
    made = [
        made_at(NOON, slot, shard_map("bank").strategy.of_slot(slot))
        for slot in range(0, 16_384, 97)
    ]
    assert len({tick_of_id(each) for each in made}) < len(made)  # the slot is what differs
    assert len(set(made)) == len(made)


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("clock")
def test_a_slot_that_moved_in_is_safe_once_the_clock_is_past_its_ids() -> None:
    source, target = shards()[:2]
    ahead = made_at(NOON + SECOND, using=source)
    assert made_at(NOON + SECOND, using=target) == ahead  # the harm, were the row there by now
    newest = [made_at(NOON + SECOND, using=source) for _ in range(300)][-1]
    advance(target, past=newest)
    assert made_at(NOON, using=target) > newest
    there = made_at(NOON, using=target)
    advance(target, past=ahead)  # back it never goes
    assert made_at(NOON, using=target) > there


# The fields


class TestFields:
    pytestmark = ON_SHARDS

    def test_save_gives_an_id_with_the_slot_by_one_statement(self) -> None:
        parcel = Parcel(customer_id=7)
        with TestCase().assertNumQueries(1, using=shard_for(7)):
            parcel.save()
        assert slot_of_id(parcel.pk) == slot_of(7)
        assert parcel._state.db == shard_for(7)

    def test_create_gives_a_uuid_with_the_slot_by_one_statement(self) -> None:
        courier = Courier.objects.create(id=7)
        with TestCase().assertNumQueries(1, using=shard_for(7)):
            made = Consignment.objects.create(courier=courier)
        assert slot_of_uuid(made.pk) == slot_of(7)
        assert Consignment.objects.get(pk=made.pk) == made

    def test_an_update_leaves_the_id(self) -> None:
        parcel = Parcel.objects.create(customer_id=7)
        before = parcel.pk
        parcel.label = "Brno"
        parcel.save()
        stored = Parcel.objects.filter(customer_id=7).values_list("pk", "label")
        assert list(stored) == [(before, "Brno")]

    def test_get_or_create_gives_an_id(self) -> None:
        parcel, created = Parcel.objects.get_or_create(customer_id=7, label="x")
        assert created
        assert slot_of_id(parcel.pk) == slot_of(7)
        assert Parcel.objects.get_or_create(customer_id=7, label="x") == (parcel, False)

    def test_update_or_create_gives_an_id(self) -> None:
        parcel, created = Parcel.objects.update_or_create(customer_id=7, defaults={"label": "x"})
        assert created
        assert slot_of_id(parcel.pk) == slot_of(7)
        assert Parcel.objects.update_or_create({"label": "y"}, customer_id=7) == (parcel, False)

    def test_bulk_create_gives_ids_by_one_statement_on_each_shard(self) -> None:
        keys = {shard_for(key): key for key in range(100)}
        parcels = [Parcel(customer_id=key) for key in keys.values()] * 1
        with ExitStack() as stack:
            counts = [
                stack.enter_context(CaptureQueriesContext(connections[alias])) for alias in keys
            ]
            Parcel.objects.bulk_create(parcels)
        for count in counts:
            assert sum(each["sql"].startswith("INSERT") for each in count) == 1
            assert not any(each["sql"].startswith("SELECT") for each in count)
        assert [slot_of_id(each.pk) for each in parcels] == [slot_of(k) for k in keys.values()]

    def test_bulk_create_gives_10_000_ids_each_on_its_shard(self) -> None:
        made = Parcel.objects.bulk_create(Parcel(customer_id=each % 50) for each in range(10_000))
        assert len({each.pk for each in made}) == 10_000
        assert all(slot_of_id(each.pk) == slot_of(each.customer_id) for each in made)
        for alias in shards():
            here = [each for each in made if shard_for(each.customer_id) == alias]
            ticks = [tick_of_id(each.pk) for each in here]
            assert ticks == sorted(set(ticks))
            stored = dict(Parcel.objects.using(alias).values_list("pk", "customer_id"))
            assert stored == {each.pk: each.customer_id for each in here}

    def test_bulk_create_gives_uuids_and_keeps_what_rows_have(self) -> None:
        courier = Courier.objects.create(id=7)
        given = make_uuid(slot_of(7))
        made = Consignment.objects.bulk_create(
            [Consignment(courier=courier), Consignment(id=given, courier=courier)]
        )
        assert made[1].pk == given
        assert {slot_of_uuid(each.pk) for each in made} == {slot_of(7)}
        stored = Consignment.objects.filter(courier=courier).values_list("pk", flat=True)
        assert set(stored) == {each.pk for each in made}

    def test_a_copy_gets_an_id_of_its_own(self) -> None:
        parcel = Parcel.objects.create(customer_id=7)
        first = parcel.pk
        parcel.pk, parcel._state.adding, parcel.customer_id = None, True, 8
        parcel.save()
        assert parcel.pk != first
        assert slot_of_id(parcel.pk) == slot_of(8)
        assert {Parcel.objects.get(pk=pk).customer_id for pk in (first, parcel.pk)} == {7, 8}

    @pytest.mark.parametrize("key", range(6, 20))
    def test_the_slot_and_the_shard_are_of_the_key_as_its_column_has_it(self, key: int) -> None:
        parcel = Parcel.objects.create(customer_id=str(key))
        assert slot_of_id(parcel.pk) == slot_of(key)
        assert parcel._state.db == shard_for(key)
        assert Parcel.objects.get(pk=parcel.pk, customer_id=key) == parcel

    def test_a_row_below_a_sharded_one_has_that_one_s_slot(self) -> None:
        parcel = Parcel.objects.create(customer_id=7)
        scan = Scan.objects.create(parcel=parcel)
        assert slot_of_id(scan.pk) == slot_of(7) != slot_of(parcel.pk)
        assert scan._state.db == shard_for(7)
        assert list(parcel.scans.all()) == [scan]

    def test_a_parent_that_is_saved_late_gives_the_slot(self) -> None:
        parcel = Parcel(customer_id=7)
        scan = Scan(parcel=parcel)
        parcel.save()
        scan.save()
        assert slot_of_id(scan.pk) == slot_of(7)

    @pytest.mark.parametrize("key", [None, F("id"), Value(7)], ids=repr)
    def test_a_missing_key_is_an_error_that_names_it(self, key: Any) -> None:
        with pytest.raises(UsageError, match=r"parcels\.Parcel .*'customer_id'"):
            Parcel(customer_id=key).save()
        with pytest.raises(UsageError, match=r"parcels\.Parcel .*'customer_id'"):
            Parcel.objects.bulk_create([Parcel(customer_id=key)])
        with pytest.raises(UsageError, match=r"Parcel\.customer_id is "), transaction.atomic(ONE):
            Parcel(customer_id=key).save(using=ONE)

    def test_an_id_of_another_slot_is_refused(self) -> None:
        home, courier = shard_for(7), Courier.objects.create(id=7)
        other = id_of(tick_at(NOON_MS), (slot_of(7) + 1) % 16384)
        refused: list[tuple[str, models.Model]] = [
            (rf"the id {other}, which carries slot", Parcel(id=other, customer_id=7)),
            ("was to be 5, which carries no slot", Parcel(id=5, customer_id=7)),
            ("which carries no slot", Consignment(id=uuid4(), courier=courier)),
            ("was to be 5, which carries no slot", Scan(parcel_id=5)),
        ]
        for message, row in refused:
            with pytest.raises(UsageError, match=message), transaction.atomic(home):
                row.save(force_insert=True, using=home)
            with pytest.raises(UsageError, match=message), transaction.atomic(home):
                type(row)._default_manager.using(home).bulk_create([row])
        parcel = Parcel.objects.create(customer_id=7)
        with pytest.raises(UsageError, match="no slot"), transaction.atomic(home):
            Parcel.objects.filter(pk=parcel.pk).update(id=5)
        assert Parcel.objects.get(customer_id=7) == parcel

    def test_an_id_of_the_row_s_slot_is_kept(self) -> None:
        given = id_of(tick_at(NOON_MS), slot_of(7))
        assert Parcel.objects.create(id=str(given), customer_id=7).pk == given
        with pytest.raises(IntegrityError), transaction.atomic(shard_for(7)):
            Parcel.objects.create(id=given, customer_id=7)

    def test_a_fixture_keeps_its_ids(self, tmp_path: Path) -> None:
        parcel, home = Parcel.objects.create(customer_id=7), shard_for(7)
        fixture = tmp_path / "parcels.json"
        call_command("dumpdata", "parcels.Parcel", output=str(fixture), verbosity=0, database=home)
        Parcel.objects.filter(customer_id=7).delete()
        call_command("loaddata", str(fixture), verbosity=0, database=home)
        assert Parcel.objects.get(customer_id=7).pk == parcel.pk

    @pytest.mark.parametrize("row", [{}, {"pk": 5}], ids=repr)
    def test_a_fixture_without_such_ids_is_refused_with_what_to_do(
        self, row: dict[str, int], tmp_path: Path
    ) -> None:
        fixture = tmp_path / "parcels.json"
        fields = {"customer_id": 7, "label": ""}
        fixture.write_text(json.dumps([{"model": "parcels.parcel", **row, "fields": fields}]))
        with pytest.raises(UsageError, match=r"parcels\.Parcel\.id .* --natural-primary"):
            call_command("loaddata", str(fixture), verbosity=0, database=shard_for(7))

    def test_the_slot_in_sql_is_the_slot_in_python(self) -> None:
        Parcel.objects.bulk_create(Parcel(customer_id=each) for each in range(500))
        in_sql = F("id").bitrightshift(8).bitand(16383)
        for alias in shards():
            rows = Parcel.objects.using(alias).values_list("pk", "customer_id", in_sql)
            for pk, customer, slot in rows:
                assert slot == slot_of_id(pk) == slot_of(customer)

    def test_forms_and_validation_leave_the_id_out(self) -> None:
        Parcel(customer_id=7, label="x").full_clean()
        assert list(modelform_factory(Parcel, fields="__all__").base_fields) == [
            "customer_id",
            "label",
        ]


class TestByLot:
    """A row that is its own key."""

    pytestmark = ON_SHARDS

    def test_rows_are_dealt_to_all_shards_and_found_by_their_ids(self) -> None:
        made = [Depot.objects.create(name=str(number)) for number in range(60)]
        made += Depot.objects.bulk_create(Depot(name=str(number)) for number in range(60))
        assert {each._state.db for each in made} == set(shards())
        for each in made:
            with TestCase().assertNumQueries(1, using=each._state.db):
                assert Depot.objects.get(pk=each.pk).name == each.name

    def test_it_is_made_by_one_statement_and_can_be_saved_again(self) -> None:
        depot = Depot(name="Brno")
        with ExitStack() as stack:
            counts = [
                stack.enter_context(CaptureQueriesContext(connections[each])) for each in shards()
            ]
            depot.save()
        assert sum(map(len, counts)) == 1
        depot.name = "Olomouc"
        depot.save()
        assert Depot.objects.get(pk=depot.pk).name == "Olomouc"
        Depot.objects.get(pk=depot.pk).delete()
        assert not Depot.objects.filter(pk=depot.pk).exists()

    def test_it_is_made_where_the_code_says(self) -> None:
        for alias in shards():
            assert Depot.objects.using(alias).create(name="x")._state.db == alias
            depot = Depot(name="y")
            depot.save(using=alias)
            assert Depot.objects.get(pk=depot.pk)._state.db == alias
        with shard(7, group="bank") as alias:
            assert Depot.objects.create(name="z")._state.db == alias

    def test_where_no_slot_is_on_one_shard_alone_there_is_no_lot(self) -> None:
        by_range = ShardMap("bank", 2, Range([], {LOWEST: shards()[0], "int:9": shards()[1]}))
        with pinned({"bank": by_range}), pytest.raises(ShardKeyRequired):
            Depot.objects.create(name="x")

    def test_what_the_lot_would_answer_wrongly_is_refused(self) -> None:
        with pytest.raises(ShardKeyRequired):
            Depot.objects.get_or_create(name="x")
        with pytest.raises(ShardKeyRequired):
            Depot.objects.update_or_create(name="x")

    def test_a_shard_without_slots_takes_none(self) -> None:
        slots = [(0, shards()[0])]
        with (
            pinned({"bank": ShardMap("bank", 2, Hash(slots, {}))}),
            pytest.raises(UsageError, match=r"Depot\.id is None"),
            transaction.atomic(shards()[1]),
        ):
            Depot(name="x").save(using=shards()[1])


class TestRouting:
    """By an id alone."""

    pytestmark = ON_SHARDS

    def test_without_the_slot_an_id_says_nothing(self) -> None:
        class Plain(BigIntegerField):
            pass

        with isolate_apps("tests.parcels"):

            class Crate(ShardedModel):
                shard_key = "customer_id"
                id = Plain(primary_key=True)
                customer_id = BigIntegerField()

                class Meta:
                    app_label = "parcels"

                def __str__(self) -> str:
                    return ""

            with pytest.raises(ShardKeyRequired):
                Crate.objects.get(pk=5)

    def test_a_row_of_each_shard_is_found_by_one_query_there(self) -> None:
        for key in range(40):
            parcel = Parcel.objects.create(customer_id=key)
            courier = Courier.objects.create(id=key)
            consignment = Consignment.objects.create(courier=courier)
            with TestCase().assertNumQueries(2, using=shard_for(key)):
                assert Parcel.objects.get(pk=parcel.pk) == parcel
                assert Consignment.objects.get(pk=str(consignment.pk)) == consignment

    def test_changes_by_an_id_alone_go_to_its_shard(self) -> None:
        parcel = Parcel.objects.create(customer_id=7)
        assert Parcel.objects.filter(pk=parcel.pk).update(label="x") == 1
        bare = Parcel.objects.only("id").get(pk=parcel.pk)
        assert "customer_id" not in bare.__dict__
        bare.refresh_from_db(fields=["label"])
        assert bare.label == "x"
        assert Parcel.objects.filter(pk=parcel.pk).delete()[0] == 1

    def test_an_instance_with_its_id_alone_is_deleted_on_its_shard(self) -> None:
        parcel = Parcel.objects.create(customer_id=7)
        Parcel(pk=parcel.pk).delete()
        assert not Parcel.objects.filter(pk=parcel.pk).exists()

    def test_a_foreign_key_to_such_an_id_routes(self) -> None:
        parcel = Parcel.objects.create(customer_id=7)
        scan = Scan.objects.create(parcel_id=parcel.pk)
        for found in (
            Scan.objects.filter(parcel=parcel),
            Scan.objects.filter(parcel_id=parcel.pk),
            Scan.objects.filter(parcel__in=[parcel]),
            Scan.objects.filter(parcel__customer_id=7),
            Scan.objects.select_related("parcel").filter(pk=scan.pk),
            Parcel.objects.filter(scans__pk=scan.pk).values_list("scans", flat=True),
        ):
            assert found.db == shard_for(7)
            assert found.count() == 1
        assert Scan.objects.get(pk=scan.pk).parcel == parcel

    def test_ids_of_one_shard_in_a_list_route_and_of_two_are_refused(self) -> None:
        keys = [key for key in range(200) if shard_for(key) == shard_for(7)][:5]
        other = next(key for key in range(200) if shard_for(key) != shard_for(7))
        made = [Parcel.objects.create(customer_id=key) for key in keys]
        ids = [each.pk for each in made]
        assert set(Parcel.objects.filter(pk__in=ids)) == set(made)
        ids.append(Parcel.objects.create(customer_id=other).pk)
        with pytest.raises(CrossShardError):
            list(Parcel.objects.filter(pk__in=ids))
        assert set(Parcel.objects.in_bulk(ids)) == set(ids)

    @pytest.mark.parametrize("home", range(2))
    def test_what_no_row_can_have_is_on_no_shard_beside_what_is_on_one(self, home: int) -> None:
        key = next(key for key in range(200) if shard_for(key) == shards()[home])
        parcel = Parcel.objects.create(customer_id=key)
        assert list(Parcel.objects.filter(pk__in=[5, parcel.pk])) == [parcel]

    @pytest.mark.parametrize("pk", [5, "5", -1, 0, 2**70], ids=repr)
    def test_what_no_row_can_have_is_not_found(self, pk: Any) -> None:
        with pytest.raises(Parcel.DoesNotExist):
            Parcel.objects.get(pk=pk)
        if pk != 2**70:  # which Django passes on to SQLite in a foreign key, and that cannot
            assert not Scan.objects.filter(parcel_id=pk).exists()

    def test_another_uuid_is_not_found(self) -> None:
        with pytest.raises(Consignment.DoesNotExist):
            Consignment.objects.get(pk=uuid4())

    def test_text_that_is_no_id_is_django_s_error(self) -> None:
        with pytest.raises(ValueError, match="expected a number"):
            Parcel.objects.get(pk="abc")

    def test_an_id_outlives_its_slot_s_move(self) -> None:
        parcel = Parcel.objects.create(customer_id=7)
        before = shard_for(7)
        after = next(alias for alias in shards() if alias != before)
        slot = slot_of(7)
        runs = [(0, before), (slot, after), (slot + 1, before)]
        Parcel(pk=parcel.pk, customer_id=7, label="moved").save_base(
            using=after, raw=True, force_insert=True
        )
        Parcel.objects.using(before).filter(pk=parcel.pk).delete()
        with pinned({"bank": ShardMap("bank", 2, Hash(runs, {}))}):
            assert Parcel.objects.get(pk=parcel.pk).label == "moved"
            assert Parcel.objects.filter(pk__in=[parcel.pk]).db == after
            assert Scan.objects.filter(parcel_id=parcel.pk).db == after
            parcel.label = "again"
            parcel.save()  # though it was read elsewhere
            assert Parcel.objects.using(after).get(pk=parcel.pk).label == "again"
            assert Parcel.objects.create(customer_id=7)._state.db == after

    def test_by_a_map_of_placed_keys_an_id_alone_may_be_on_two_shards(self) -> None:
        courier, (one, other) = Courier.objects.create(id=7), shards()[:2]
        placed = ShardMap("bank", 2, Directory([(0, one)], {"int:7": other}))
        uuid = make_uuid(slot_of(7))
        with pinned({"bank": placed}):
            with pytest.raises(CrossShardError):
                Consignment.objects.get(pk=uuid)
            found = Consignment.objects.filter(pk=uuid, courier_id=courier.pk)
            assert found.db == other


@isolate_apps("tests.testapp")
def test_a_model_without_a_shard_key_is_told_to_name_one() -> None:
    class Keyless(models.Model):
        id = ShardedIdField()

        class Meta:
            app_label = "testapp"

        def __str__(self) -> str:
            return ""

    with pytest.raises(ConfigurationError, match=r"testapp\.Keyless names no shard key"):
        slot_of_row(Keyless())


@pytest.mark.parametrize("field", [ShardedIdField(), ShardedUUIDField(verbose_name="number")])
def test_a_migration_writes_the_field_as_it_is(field: Any) -> None:
    code, imports = MigrationWriter.serialize(field)
    again = eval(code, {"dbpatterns": __import__("dbpatterns.sharding.fields")})
    assert imports == {"import dbpatterns.sharding.fields"}
    assert type(again) is type(field)
    assert again.deconstruct()[3] == field.deconstruct()[3]
    assert again.primary_key


# Installing


@pytest.mark.django_db(databases="__all__")
def test_a_data_migration_makes_rows_with_ids_of_their_key_s_slot() -> None:
    """Its models are made anew from the migrations, which keep no `shard_key`."""
    then = ProjectState.from_apps(apps).apps
    home, slot = shard_for(4711), slot_of(4711)
    couriers = then.get_model("parcels", "Courier").objects.using(home)
    consignments = then.get_model("parcels", "Consignment").objects.using(home)
    couriers.create(id=4711)
    refused = pytest.raises(ConfigurationError, match=r"In a migration, .* give the id")
    with refused, transaction.atomic(using=home):
        consignments.create(courier_id=4711)
    with pytest.raises(UsageError, match="carries no slot"), transaction.atomic(using=home):
        consignments.create(id=uuid4(), courier_id=4711)
    made = consignments.create(id=make_uuid(slot), courier_id=4711)
    assert Consignment.objects.get(pk=made.pk).courier_id == 4711
    parcels = then.get_model("parcels", "Parcel").objects.using(home)
    parcel = parcels.create(id=id_clock.make_id(slot), customer_id=4711)
    parcel.refresh_from_db()
    assert Parcel.objects.get(pk=parcel.pk).customer_id == 4711


@pytest.mark.django_db(databases="__all__")
def test_every_shard_has_its_clock_by_the_migrations() -> None:
    for alias in shards():
        assert Depot.objects.using(alias).create(name="x").pk


@pytest.mark.django_db(databases="__all__")
def test_the_migration_takes_the_clock_away_and_back() -> None:
    migration = import_module("dbpatterns.sharding.migrations.0002_id_clock").Migration
    [operation] = migration.operations

    class Editor:
        connection = connections[ONE]

    operation.reverse_code(None, Editor)
    gone = r"dbpatterns_make_id|user-defined function"
    with pytest.raises(Exception, match=gone), transaction.atomic(ONE):
        Depot.objects.using(ONE).create(name="x")
    operation.code(None, Editor)
    assert Depot.objects.using(ONE).create(name="x").pk


def test_another_database_is_told_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "vendor", "oracle")
    with pytest.raises(UsageError, match=r"'default' is .* PostgreSQL and SQLite alone"):
        id_clock._of(connection, id_clock._INSTALL)


# The checks


def ids_found(*declared: tuple[str, type, dict[str, Any]]) -> list[tuple[str, str | None]]:
    with isolate_apps("tests.parcels") as isolated:
        for name, base, attributes in declared:
            meta = type("Meta", (), {"app_label": "parcels"})
            type(name, (base,), {"__module__": __name__, "Meta": meta, **attributes})
        found = check_models([isolated.get_app_config("parcels")])
    return [(each.obj.__name__, each.id and each.id[-4:]) for each in found]


def test_an_id_that_each_shard_counts_for_itself_is_an_error() -> None:
    def x() -> dict[str, Any]:
        return {"shard_key": "x", "x": models.IntegerField()}

    kinds = (models.AutoField, models.BigAutoField, models.SmallAutoField)
    assert ids_found(
        *((kind.__name__, ShardedModel, {**x(), "id": kind(primary_key=True)}) for kind in kinds),
        ("Implicit", ShardedModel, x()),
        ("Good", ShardedModel, {**x(), "id": ShardedIdField()}),
        ("GoodToo", ShardedModel, {**x(), "id": ShardedUUIDField()}),
    ) == [(kind.__name__, "E011") for kind in kinds] + [("Implicit", "E011")]


def test_a_field_that_finds_no_shard_key_is_an_error() -> None:
    assert ids_found(
        ("Keyless", models.Model, {"id": ShardedUUIDField()}),
        ("Elsewhere", models.Model, {"x": models.IntegerField()}),
    ) == [("Keyless", "E015")]


@pytest.mark.parametrize("strategy", ["range", "directory", "geographic"])
def test_where_a_slot_is_on_several_shards_ids_of_64_bits_are_an_error(strategy: str) -> None:
    patterns: dict[str, Any] = settings.DBPATTERNS
    groups = {"bank": {"APPS": ["parcels"], "STRATEGY": strategy}}
    sharding = {**patterns["SHARDING"], "GROUPS": groups}
    with override_settings(DBPATTERNS={**patterns, "SHARDING": sharding}):
        found = check_models([apps.get_app_config("parcels")])
    assert {(each.obj, each.id) for each in found} == {
        (model, "dbpatterns_sharding.E014") for model in (Parcel, Scan, Depot, Station)
    }


def test_the_models_of_the_tests_pass_the_check() -> None:
    assert check_models(None) == []
