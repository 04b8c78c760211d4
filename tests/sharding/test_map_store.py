"""The map in the control database: made by `migrate`, read whole, and changed by one at a time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.db import DatabaseError, connections, transaction
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.errors import MapChanged
from dbpatterns.sharding.map_store import Rows, change, make_first_maps, read
from dbpatterns.sharding.models import MapChange, PlacedKey, ShardGroup, SlotRange
from dbpatterns.sharding.shard_map import first_map, forget, pinned, reload, shard_map
from dbpatterns.sharding.strategies import Directory

pytestmark = pytest.mark.django_db(databases="__all__")


def other_map() -> Rows:
    """Return a map that gives all slots to the last shard."""
    return Rows({0: shards()[-1]}, {})


def test_migrate_makes_the_first_map() -> None:
    made = read("bank")
    assert (made.epoch, made.strategy) == (1, first_map("bank").strategy)
    before = list(SlotRange.objects.values_list())
    make_first_maps("default")  # once more: nothing is made anew
    assert list(SlotRange.objects.values_list()) == before


def test_a_change_is_seen_by_who_asks_again() -> None:
    with pinned({}):
        forget()
        assert {shard_for(key) for key in range(100)} == set(shards())
        made = change(shard_map("bank"), other_map(), "all to the last")
        assert made.epoch == 2
        assert {shard_for(key) for key in range(100)} == {shards()[-1]}
    assert MapChange.objects.get().change == "all to the last"
    forget()


def test_of_two_who_change_the_same_map_one_is_told() -> None:
    before = read("bank")
    change(before, other_map(), "first")
    with pytest.raises(MapChanged, match=r"is at epoch 2 and was 1") as caught:
        change(before, Rows({0: shards()[0]}, {}), "second")
    assert (caught.value.expected, caught.value.found) == (1, 2)
    assert [each.change for each in MapChange.objects.all()] == ["first"]
    assert read("bank").strategy.shards == {shards()[-1]}


def test_a_map_with_a_gap_is_refused_and_not_written() -> None:
    before = list(SlotRange.objects.values_list())
    with pytest.raises(ConfigurationError, match="slots 0 to 4 have no shard"):
        change(read("bank"), Rows({5: shards()[0]}, {}), "gap")
    assert list(SlotRange.objects.values_list()) == before
    assert ShardGroup.objects.get(pk="bank").epoch == 1


@pytest.mark.parametrize("shard", ["nowhere"])
def test_a_shard_that_the_settings_do_not_have_is_refused(shard: str) -> None:
    with pytest.raises(ConfigurationError, match="nowhere, which SHARDS does not"):
        change(read("bank"), Rows({0: shard}, {}), "lost")
    SlotRange.objects.filter(first_slot=0).update(shard=shard)
    with pytest.raises(ConfigurationError, match="nowhere, which SHARDS does not"):
        read("bank")


def test_a_map_of_a_group_that_the_settings_lost_is_told_as_such() -> None:
    ShardGroup.objects.create(name="old", strategy="hash")
    with pytest.raises(ConfigurationError, match=r"There is no group 'old'\. Known: "):
        read("old")


def test_a_map_of_another_strategy_is_refused() -> None:
    ShardGroup.objects.filter(pk="bank").update(strategy="range")
    with pytest.raises(ConfigurationError, match="'hash' in the settings, and its map was made by"):
        read("bank")


def test_a_group_without_a_map_names_what_makes_it() -> None:
    ShardGroup.objects.all().delete()
    with pinned({}), pytest.raises(ConfigurationError, match="migrate --database default"):
        reload("bank")
    assert not PlacedKey.objects.exists()


def test_without_its_tables_a_map_names_what_makes_them() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {ShardGroup._meta.db_table} RENAME TO elsewhere")
    with (
        pytest.raises(ConfigurationError, match="has no map in database 'default': run `migrate"),
        transaction.atomic(),
    ):
        read("bank")


def test_a_map_is_asked_for_when_it_is_old_and_read_when_it_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)

    def queries() -> int:
        with CaptureQueriesContext(connections["default"]) as asked:
            shard_for(7)
        return len(asked)

    with pinned({}):
        forget()
        assert [queries(), queries()] == [4, 0]
        now += 4.9
        assert queries() == 0
        now += 0.2
        assert [queries(), queries()] == [1, 0]
        ShardGroup.objects.filter(pk="bank").update(epoch=2)
        now += 5.1
        assert [queries(), queries()] == [5, 0]
    forget()


def test_while_the_control_database_does_not_answer_the_known_map_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)

    def refuse(*_: object) -> None:
        raise DatabaseError

    with pinned({}):
        forget()
        home = shard_for(7)
        now += 6
        with connections["default"].execute_wrapper(refuse):
            assert shard_for(7) == home
            assert "does not answer; the map of 'bank' is as known" in caplog.text
            assert reload("bank").shard_of(7) == home
            forget()
            with pytest.raises(DatabaseError):
                shard_for(7)
    forget()


@pytest.mark.once
def test_the_app_s_tables_can_be_taken_away(tmp_path: Path) -> None:
    """Maps are made after each migration, also after the one that drops their tables."""
    run = [sys.executable, "manage.py", "migrate", "--verbosity", "0", "dbpatterns_sharding"]
    environment = {"DEMO_DATA_DIR": str(tmp_path), "PATH": "", "PYTHONPATH": "."}
    for target in ([], ["zero"]):
        done = subprocess.run([*run, *target], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_pinned_map_that_equals_another_goes_without_it() -> None:
    outer = {"bank": first_map("bank")}
    with pinned(outer):
        with pinned({"bank": first_map("bank")}):
            pass
        assert shard_map("bank") is outer["bank"]


def test_a_directory_tells_true_from_one() -> None:
    placed = Directory([(0, shards()[0])], {"int:1": shards()[-1]})
    assert placed.shard_of(1) == shards()[-1]
    with pytest.raises(UsageError, match="not True"):
        placed.shard_of(True)
