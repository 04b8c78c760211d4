"""Keys and ranges get their shards: checked, by one at a time, with nothing left half-done."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.sharding import operations as handing
from dbpatterns.sharding import shard_for, shard_map, shards
from dbpatterns.sharding.errors import (
    MapChanged,
    PartNotEmpty,
    StaleShardMap,
    UncoveredWrite,
    UnplacedKey,
)
from dbpatterns.sharding.fences import close, closed_parts, reopen, restore
from dbpatterns.sharding.map_store import Rows, change, read
from dbpatterns.sharding.models import Fence, MapChange
from dbpatterns.sharding.operations import assign, assigning, split
from dbpatterns.sharding.parts import Part
from dbpatterns.sharding.shard_map import forget, pinned
from dbpatterns.sharding.stale import is_refusal
from dbpatterns.transactions import Retry
from dbpatterns.transactions import atomic as retrying
from tests.processes import ROOT, in_threads
from tests.sharding.maps import key_on, shard_environment, strategy
from tests.shop.models import Buyer, Order

pytestmark = pytest.mark.django_db(databases="__all__")
committing = pytest.mark.django_db(databases="__all__", transaction=True)


def others(alias: str) -> str:
    return next(each for each in shards() if each != alias)


def triggers(alias: str) -> int:
    connection = connections[alias]
    table, column = (
        ("sqlite_master", "name") if connection.vendor == "sqlite" else ("pg_trigger", "tgname")
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {table} WHERE {column} LIKE 'dbpatterns_sharding_fence%%'"
            + (" AND type = 'trigger'" if connection.vendor == "sqlite" else "")
        )
        return int(cursor.fetchone()[0])


def known_for_ever() -> Callable[[], None]:
    """Return what makes this process go by the map of now, until it is told to read it again."""
    kept = {name: (each, float("inf")) for name, (each, _) in shard_map._known.items()}
    return lambda: shard_map._known.update(kept)


@contextmanager
def given_away() -> Iterator[tuple[int, Callable[[], None]]]:
    """Yield a key that this process takes for the first shard's, which gave it to the second.

    And what makes the process believe so again.
    """
    with strategy("directory"):
        key = key_on(shards()[0])
        shard_for(key)
        known = known_for_ever()
        assign("bank", key, shards()[1])
        known()
        yield key, known


class TestAssign:
    def test_a_new_key_goes_where_it_was_given(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            made = assign("bank", key, shards()[1])
            assert (made.epoch, shard_for(key)) == (2, shards()[1])
            Buyer.objects.create(id=key)
            assert Buyer.objects.using(shards()[1]).filter(id=key).exists()
            assert MapChange.objects.get().change == f"{key} from {shards()[0]} to {shards()[1]}"

    def test_a_region_has_no_shard_before(self) -> None:
        with strategy("geographic"):
            with pytest.raises(UnplacedKey, match="shard_map assign --group bank"):
                shard_for(49)
            assign("bank", 49, shards()[1])
            assert shard_for(49) == shards()[1]
            assert triggers(shards()[1]) == 0

    def test_a_key_that_has_rows_is_refused_and_nothing_is_changed(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            Buyer.objects.create(id=key)
            with pytest.raises(PartNotEmpty, match=rf"rows of {key} .*: 1 of shop.Buyer") as caught:
                assign("bank", key, shards()[1])
            assert caught.value.rows["shop.Buyer"] == 1
            assert read("bank").epoch == 1
            assert [triggers(alias) for alias in shards()] == [0] * len(shards())

    def test_rows_that_lie_astray_on_the_new_shard_are_seen(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            Buyer(id=key).save_base(using=shards()[1])  # past the package
            with pytest.raises(PartNotEmpty, match=f"Shard '{shards()[1]}' has rows"):
                assign("bank", key, shards()[1])
            assert Fence.objects.using(shards()[0]).count() == 0
            Buyer.objects.create(id=key)  # its home takes it, as before

    def test_and_back(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            assign("bank", key, shards()[1])
            assign("bank", key, shards()[0])
            Buyer.objects.create(id=key)
            assert Buyer.objects.using(shards()[0]).filter(id=key).exists()
            assert [triggers(alias) > 0 for alias in shards()[:2]] == [False, True]

    def test_once_more_does_nothing(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            assert assign("bank", key, shards()[1]).epoch == 2
            with CaptureQueriesContext(connections[shards()[1]]) as there:
                assert assign("bank", key, shards()[1]).epoch == 2
            assert len(there) == 1  # which asks whether it is closed
            Buyer.objects.create(id=key)
            assert assigning("bank", key, shards()[1]).rows() == {}  # none is in the way

    def test_where_it_is_already_is_written_down(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            assert assign("bank", key, shards()[0]).epoch == 2
            assert Rows.of(read("bank")).keys == {f"int:{key}": shards()[0]}

    @pytest.mark.parametrize(
        ("name", "key", "shard", "words"),
        [
            ("directory", 7, "nowhere", "There is no shard 'nowhere'. Known: shard_0"),
            ("directory", None, "shard_1", "A shard key is an integer"),
            ("directory", 2**63, "shard_1", "A shard key is an integer"),
            ("directory", 1.5, "shard_1", "A shard key is an integer"),
            ("hash", 7, "shard_1", "by hash, which places no single keys"),
            ("range", 7, "shard_1", "by range, which places no single keys"),
        ],
    )
    def test_bad_input(self, name: str, key: Any, shard: str, words: str) -> None:
        with strategy(name):
            with pytest.raises(UsageError, match=words):
                assign("bank", key, shard)
            assert read("bank").epoch == 1


class TestSplit:
    def test_keys_from_the_bound_to_the_next_go(self) -> None:
        with strategy("range"):
            first, second = shards()[:2]
            split("bank", 100, second)
            split("bank", 50, second)
            split("bank", 80, first)
            bounds = {1: first, 49: first, 50: second, 79: second, 80: first, 100: second}
            assert {key: shard_for(key) for key in bounds} == bounds
            for key in bounds:
                Buyer.objects.create(id=key)
            assert set(Buyer.objects.using(second).values_list("id", flat=True)) == {50, 79, 100}

    def test_a_range_that_is_there_goes_whole(self) -> None:
        with strategy("range"):
            first, second = shards()[:2]
            split("bank", 50, second)
            split("bank", 80, second)
            split("bank", 50, first)
            assert [shard_for(key) for key in (49, 50, 79, 80)] == [first, first, first, second]
            assert set(closed_parts(second, "bank", int)) == {Part("bank", 50, 80, is_range=True)}

    def test_what_comes_back_leaves_the_rest_closed(self) -> None:
        with strategy("range"):
            first, second = shards()[:2]
            split("bank", 50, second)
            split("bank", 80, first)
            assert set(closed_parts(first, "bank", int)) == {Part("bank", 50, 80, is_range=True)}
            Buyer(id=80).save_base(using=first)
            with pytest.raises(DatabaseError), transaction.atomic(using=first):
                Buyer(id=79).save_base(using=first)

    def test_rows_in_it_are_seen_and_rows_beside_it_are_not(self) -> None:
        with strategy("range"):
            split("bank", 200, shards()[1])
            for key in (99, 200):
                Buyer.objects.create(id=key)
            split("bank", 100, shards()[1])
            Buyer.objects.create(id=60)
            with pytest.raises(PartNotEmpty, match=r"50 to 100 .*: 2 of shop.Buyer"):
                split("bank", 50, shards()[1])

    def test_a_key_of_another_type_is_refused(self) -> None:
        with strategy("range"):
            split("bank", 100, shards()[1])
            with pytest.raises(UsageError, match="The map is of int keys"):
                split("bank", "m", shards()[1])
            with pytest.raises(UsageError, match="only ranges split"), strategy("hash"):
                split("bank", 5, shards()[1])


def test_of_two_who_change_the_map_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with strategy("directory"):
        here = [key for key in range(1, 500) if shard_for(key) == shards()[0]][:2]
        closed = close

        def meanwhile(alias: str, part: Part, owner: str) -> bool:
            monkeypatch.undo()
            assign("bank", here[1], shards()[1])
            return closed(alias, part, owner)

        monkeypatch.setattr(handing, "close", meanwhile)
        with pytest.raises(MapChanged):
            assign("bank", here[0], shards()[1])
        assert {key: shard_for(key) for key in here} == {here[0]: shards()[0], here[1]: shards()[1]}
        Buyer.objects.create(id=here[0])  # the loser's fences are gone
        assert closed_parts(shards()[0], "bank", int).keys() == {Part("bank", here[1])}


def test_the_loser_does_not_open_what_the_winner_has_given_away() -> None:
    with strategy("directory"):
        home, new = shards()[:2]
        key = key_on(home)
        late = assigning("bank", key, new)
        assign("bank", key, new)
        with pytest.raises(MapChanged):
            late.run()
        assert set(closed_parts(home, "bank", int)) == {Part("bank", key)}
        Buyer.objects.create(id=key)  # the winner's is open


def test_the_loser_does_not_open_what_another_change_has_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with strategy("directory"):
        home, new = shards()[:2]
        key = key_on(home)

        def meanwhile(*_: Any) -> None:
            close(home, Part("bank", key), "another")
            raise MapChanged("bank", expected=1, found=2)

        monkeypatch.setattr(handing, "change", meanwhile)
        with pytest.raises(MapChanged):
            assign("bank", key, new)
        assert closed_parts(home, "bank", int) == {Part("bank", key): "another"}


@committing
class TestStaleWriters:
    def test_without_the_fence_a_row_lands_where_nobody_looks(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            with pinned({"bank": read("bank")}):
                change(
                    read("bank"), Rows(Rows.of(read("bank")).slots, {f"int:{key}": shards()[1]}), ""
                )
                Buyer.objects.create(id=key)
            forget()
            assert not Buyer.objects.filter(id=key).exists()

    @pytest.mark.parametrize("way", ["save", "create", "get", "update_or", "bulk"])
    def test_a_write_is_refused_and_goes_to_the_new_shard(self, way: str) -> None:
        with given_away() as (key, _):
            write = {
                "save": lambda: Buyer(id=key, name="x").save(),
                "create": lambda: Buyer.objects.create(id=key, name="x"),
                "get": lambda: Buyer.objects.get_or_create(id=key, name="x"),
                "update_or": lambda: Buyer.objects.update_or_create({"name": "x"}, id=key),
                "bulk": lambda: Buyer.objects.bulk_create([Buyer(id=key, name="x")]),
            }[way]
            write()
            assert Buyer.objects.using(shards()[1]).get(id=key).name == "x"
            assert not Buyer.objects.using(shards()[0]).filter(id=key).exists()

    def test_within_a_transaction_what_opens_it_is_to_be_called_again(self) -> None:
        with given_away() as (key, _):

            def write() -> None:
                with transaction.atomic(using=shard_for(key)):
                    Buyer.objects.create(id=key)

            with pytest.raises(StaleShardMap, match="call once more what opens the transaction"):
                write()
            write()
            assert Buyer.objects.using(shards()[1]).filter(id=key).exists()

    def test_a_retry_of_the_old_shard_s_transaction_would_cover_nothing(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            map_before = read("bank")
            assign("bank", key, shards()[1])
            tries: list[str] = []

            @retrying(using=shards()[0], retry=Retry(attempts=2))
            def write() -> None:
                tries.append("")
                with pinned({"bank": map_before} if len(tries) == 1 else {}):
                    Buyer.objects.create(id=key)

            with pytest.raises(UncoveredWrite, match=f"written to '{shards()[1]}' within"):
                write()
            assert len(tries) == 2
            assert not Buyer.objects.filter(id=key).exists()

    def test_a_write_by_using_is_refused_there_and_told_once(self) -> None:
        with given_away() as (key, known):
            home = shards()[0]
            for write in (
                lambda: Buyer.objects.using(home).create(id=key),
                lambda: Buyer.objects.using(home).get_or_create(id=key),
                lambda: Buyer(id=key).save(using=home),
            ):
                known()
                with pytest.raises(StaleShardMap) as caught:
                    write()
                assert not isinstance(caught.value.__cause__, StaleShardMap)

    def test_nothing_is_written_elsewhere_while_the_transaction_goes_on(self) -> None:
        with given_away() as (key, _):
            with pytest.raises(StaleShardMap), transaction.atomic(using=shards()[0]):
                Buyer.objects.create(id=key)
            assert not Buyer.objects.filter(id=key).exists()

    def test_nobody_else_s_key_is_refused(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            assign("bank", key, shards()[1])
            other = key_on(shards()[0], key + 1)
            Buyer.objects.create(id=other)
            Order.objects.create(buyer_id=other)

    def test_another_error_is_told_as_it_is(self) -> None:
        with strategy("directory"):
            Buyer.objects.create(id=1)
            with pytest.raises(DatabaseError) as caught:
                Buyer.objects.create(id=1)
            assert not is_refusal(caught.value)
            assert not isinstance(caught.value, StaleShardMap)


@committing
@pytest.mark.postgresql
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("is_first", [True, False], ids=["first fence", "another fence"])
def test_a_transaction_that_began_before_is_refused(level: str, is_first: bool) -> None:
    with strategy("directory"):
        home = shards()[0]
        key = key_on(home)
        if not is_first:
            close(home, Part("bank", key_on(home, key + 1)), "")

        @transaction.atomic(using=home)
        def write_late() -> None:
            with connections[home].cursor() as cursor:
                cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
                cursor.execute("SELECT 1")  # its state is taken here
            in_threads([lambda: close(home, Part("bank", key), "")])
            Buyer(id=key).save_base(using=home)

        with pytest.raises(DatabaseError) as caught:
            write_late()
        assert getattr(caught.value.__cause__, "sqlstate", "") == "40001"
        reopen(home, Part("bank", key))
        Buyer(id=key).save_base(using=home)


@committing
@pytest.mark.postgresql
def test_closing_waits_for_who_has_written() -> None:
    with strategy("directory"):
        home = shards()[0]
        key = key_on(home)
        from tests.processes import locks_waited_for, until

        def write() -> None:
            with transaction.atomic(using=home):
                Buyer.objects.create(id=key)
                written.append(key)
                until(lambda: locks_waited_for(home))

        def give() -> None:
            until(lambda: written)
            assign("bank", key, shards()[1])

        written: list[int] = []
        _, told = in_threads([write, give])
        assert isinstance(told, PartNotEmpty)
        assert Buyer.objects.get(id=key)


class TestKeptByMigrations:
    def test_a_table_that_lost_its_triggers_gets_them_again(self) -> None:
        with strategy("directory"):
            from dbpatterns.sharding import fence_sql

            home, key = shards()[0], key_on(shards()[0])
            assign("bank", key, shards()[1])
            fence_sql.drop(connections[home], Buyer)
            restore(home)
            with pytest.raises(DatabaseError), transaction.atomic(using=home):
                Buyer(id=key).save_base(using=home)

    def test_nothing_is_made_where_nothing_is_closed(self) -> None:
        for alias in ("default", *shards()):
            restore(alias)
        assert [triggers(alias) for alias in shards()] == [0] * len(shards())


STEPS = ("first closed", "both closed", "map changed", "waited")


@committing
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step_no_row_is_lost_and_once_more_finishes(step: str) -> None:
    with strategy("directory"):
        home, new = shards()[:2]
        key = key_on(home)
        done = subprocess.run(
            [sys.executable, "-m", "tests.sharding.killed_handover", step, str(key), new],
            cwd=ROOT,
            env=shard_environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == -9, done.stderr
        forget()
        try:
            Buyer.objects.create(id=key)
        except StaleShardMap:
            assign("bank", key, new)
            Buyer.objects.create(id=key)
        assert [Buyer.objects.using(alias).filter(id=key).count() for alias in (home, new)] == [
            0,
            1,
        ]


def test_parts_of_ranges() -> None:
    def part(low: Any, high: Any = None) -> Part:
        return Part("bank", low, high, is_range=True)

    assert list(part(10, 20).minus(part(12, 15))) == [part(10, 12), part(15, 20)]
    assert list(part(10).minus(part(12, 15))) == [part(10, 12), part(15)]
    assert list(part(10, 20).minus(part(5, 12))) == [part(12, 20)]
    assert list(part(10, 20).minus(part(15))) == [part(10, 15)]
    assert list(part(10, 20).minus(part(20, 30))) == [part(10, 20)]
    assert list(part(10, 20).minus(part(10, 20))) == []
    assert not part(10, 20).overlaps(part(20))
    assert Part("bank", 7).overlaps(Part("bank", 7))
    assert not Part("bank", 7).overlaps(Part("bank", 8))
    key = uuid.UUID(int=1)
    assert str(part(key)) == f"{key!r} and above"
