"""`shard_status`: what each shard has and lacks; one that is down is a line of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import connections

from dbpatterns.commands import Exit
from dbpatterns.sharding import shards
from dbpatterns.sharding.hashing import SLOTS
from dbpatterns.sharding.management.commands.shard_status import Command, _held
from dbpatterns.sharding.map_store import make_first_maps
from dbpatterns.sharding.shard_map import ShardMap
from dbpatterns.sharding.status import Holding, holdings, look
from dbpatterns.sharding.strategies import Directory, encode
from tests.processes import until
from tests.servers import postmaster, stopped
from tests.sharding.fleet import SHARDS, Fleet
from tests.sharding.replica import sharding
from tests.shop import models as shop
from tests.testapp.models import Badge, Gadget, Visible


def status(fleet: Fleet, *arguments: str, exits: int = 0) -> dict[str, Any]:
    out, _ = fleet.run("shard_status", "--format", "json", *arguments, exits=exits)
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def migrated(fleet: Fleet) -> Fleet:
    """A fleet that has every migration."""
    fleet.migrate()
    return fleet


def test_shards_that_are_as_they_should_be(migrated: Fleet) -> None:
    found = status(migrated)
    assert found["problems"] == []
    assert sum(each["holds"]["fleet"]["slots"] for each in found["shards"].values()) == SLOTS
    for each in found["shards"].values():
        assert (each["error"], each["unapplied"]) == ("", [])
        assert each["latency_ms"] > 0
        assert each["size_bytes"] > 10_000
        assert each["version"].startswith(("PostgreSQL 1", "SQLite 3."))
    out, _ = migrated.run("shard_status")
    head, north, *_ = out.splitlines()
    assert head.split() == ["shard", "latency", "version", "size", "rows", "holds", "migrations"]
    assert north.startswith("north ")
    assert north.endswith("fleet 5,462 slots  all")


def test_a_schema_that_differs_is_told(fleet: Fleet) -> None:
    fleet.migrate("--shards", "east")
    found = status(fleet, exits=Exit.FINDINGS)
    lacking = ["fleet.0002_plate_once", "fleet.0003_van_load"]
    assert [found["shards"][shard]["unapplied"] for shard in SHARDS] == [lacking, [], lacking]
    assert found["problems"] == [
        "schemas that differ",
        "north: 2 migrations not applied",
        "south: 2 migrations not applied",
    ]


def test_rows_are_estimated_where_the_server_can_and_counted_on_request(migrated: Fleet) -> None:
    migrated.do("south", f"INSERT INTO fleet_van (id, plate, load) VALUES ('{'0' * 32}', 'B', 1)")
    counted = status(migrated, "--rows")
    assert [counted["shards"][shard]["rows"] for shard in SHARDS] == [0, 0, 1]
    before = status(migrated)
    assert (counted["rows_are_exact"], before["rows_are_exact"]) == (True, False)
    assert before["shards"]["south"]["rows"] is None  # nobody has analyzed it
    for shard in ("north", "south"):
        migrated.do(shard, "ANALYZE fleet_van" if migrated.is_postgresql else "ANALYZE")
    estimated = status(migrated)["shards"]
    exact = (0, 1) if migrated.is_postgresql else (None, None)
    assert (estimated["north"]["rows"], estimated["south"]["rows"]) == exact


@pytest.mark.postgresql
def test_a_table_of_that_name_in_another_schema_is_none_of_the_shard_s(migrated: Fleet) -> None:
    migrated.do("north", "CREATE SCHEMA theirs")
    migrated.do("north", "CREATE TABLE theirs.fleet_van AS SELECT generate_series(1, 9)")
    migrated.do("north", "ANALYZE")
    assert status(migrated)["shards"]["north"]["rows"] == 0


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("filled")
def test_the_rows_are_those_of_each_table_once() -> None:
    """Though two models have one table, and another a view."""
    shard = shards()[0]
    models = (shop.Country, shop.Mark, shop.Buyer, shop.Order, shop.Marking, shop.Line)
    exact = sum(model._base_manager.using(shard).count() for model in models)
    assert look(shard, count_rows=True).rows == exact
    if connections[shard].vendor == "postgresql":
        with connections[shard].cursor() as cursor:
            cursor.execute("ANALYZE shop_line")
            assert look(shard).rows is None  # the others were never analyzed
            cursor.execute("ANALYZE")
            assert look(shard).rows == exact


@pytest.mark.django_db(databases="__all__")
def test_the_rows_are_all_of_the_apps_own_tables_and_no_others() -> None:
    """Those a default manager hides and those that only link; unmanaged tables are another's."""

    def rows() -> Any:
        with sharding(GROUPS={"test": {"APPS": ["testapp"]}}):
            return look("default", count_rows=True).rows

    with connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE testapp_parted (id bigint, slug text, amount integer)")
    before = rows()
    with connections["default"].cursor() as cursor:
        cursor.execute("INSERT INTO testapp_parted VALUES (1, 'a', 1)")
    Visible.objects.create(is_visible=False)
    Gadget.objects.create(name="lamp").badges.add(Badge.objects.create(name="new"))
    Group.objects.create(name="of another app")
    assert rows() == before + 4


@pytest.mark.parametrize(
    ("slots", "keys", "said"),
    [
        (0, 0, "nothing"),
        (1234, 0, "1,234 slots"),
        (0, 1, "1 placed key"),
        (5, 2000, "5 slots and 2,000 placed keys"),
    ],
)
def test_what_the_map_gives_a_shard_in_words(slots: int, keys: int, said: str) -> None:
    assert str(Holding(slots, keys)) == said


def test_a_shard_that_the_map_gives_nothing_holds_nothing() -> None:
    north, south, *_ = shards()
    placed = {encode(1): south, encode(2): south}
    of = ShardMap("bank", 1, Directory([(0, north)], placed))
    assert [holdings(of)[each] for each in (north, south)] == [Holding(SLOTS, 0), Holding(0, 2)]


def test_tables_that_a_shard_lacks_are_no_rows(fleet: Fleet) -> None:
    fleet.migrate("fleet", "zero")
    found = status(fleet, "--rows", exits=Exit.FINDINGS)
    for each in found["shards"].values():
        assert (each["error"], each["rows"], len(each["unapplied"])) == ("", 0, 3)


def test_a_shard_that_is_down_is_a_line(migrated: Fleet, tmp_path: Path) -> None:
    migrated.databases["north"] |= (
        {"PORT": 1} if migrated.is_postgresql else {"NAME": str(tmp_path)}
    )
    out, err = migrated.run("shard_status", exits=Exit.FINDINGS)
    assert "Look at north: no answer." in err
    assert out.splitlines()[1].startswith("north  no answer: ")
    assert [line.split()[-1] for line in out.splitlines()[2:]] == ["all", "all"]


@pytest.mark.postgresql
def test_a_server_that_was_stopped_costs_the_deadline(migrated: Fleet) -> None:
    [(folder,)] = migrated.rows("east", "SHOW data_directory")
    with stopped(postmaster(folder)):
        found = status(migrated, "--deadline-seconds", "1", exits=Exit.FINDINGS)
    assert [found["shards"][shard]["error"] for shard in SHARDS] == [
        "",
        "no connection within 1 s",
        "",
    ]


@pytest.mark.postgresql
def test_a_control_database_that_was_stopped_costs_the_deadline_too(migrated: Fleet) -> None:
    """On a server of its own, unlike the suite's: the shards answer."""
    [(folder,)] = migrated.rows("default", "SHOW data_directory")
    with stopped(postmaster(folder)):
        found = status(migrated, "--deadline-seconds", "1", exits=Exit.FINDINGS)
    assert found["problems"] == ["the map: no connection within 1 s"]
    assert [found["shards"][shard]["unapplied"] for shard in SHARDS] == [[]] * 3


@pytest.mark.postgresql
def test_a_shard_that_answers_too_late_is_a_line(fleet: Fleet) -> None:
    """It lets a session in, and its table of migrations is locked."""
    held = fleet.connect("east")
    held.execute("BEGIN")
    held.execute("LOCK TABLE django_migrations")
    found = status(fleet, "--deadline-seconds", "2", exits=Exit.FINDINGS)
    held.close()
    assert found["shards"]["east"]["error"] == "no answer within 2 s"
    assert found["shards"]["north"]["error"] == ""


@pytest.mark.postgresql
def test_the_shards_are_asked_at_once(fleet: Fleet) -> None:
    held = [fleet.connect(shard) for shard in SHARDS]
    for each in held:
        each.execute("BEGIN")
        each.execute("LOCK TABLE django_migrations")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = "
    waits += "(SELECT oid FROM pg_database WHERE datname = current_database())"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(status, fleet, "--deadline-seconds", "30", exits=Exit.FINDINGS)
        until(lambda: all(each.execute(waits).fetchone() == (1,) for each in held))
        for each in held:
            each.close()
        assert [each["error"] for each in asked.result()["shards"].values()] == [""] * 3


@pytest.mark.parametrize("statement", ["DROP TABLE", "DELETE FROM"])
def test_a_map_that_cannot_be_read_is_told_and_the_shards_are_asked(
    migrated: Fleet, statement: str
) -> None:
    migrated.do("default", f"{statement} dbpatterns_sharding_slotrange")
    found = status(migrated, exits=Exit.FINDINGS)
    [problem] = found["problems"]
    assert problem.startswith("the map: ")
    assert not problem.endswith(".")
    assert [found["shards"][shard]["unapplied"] for shard in SHARDS] == [[]] * 3
    assert [found["shards"][shard]["holds"] for shard in SHARDS] == [{}] * 3


def test_the_table_for_people() -> None:
    seen = {"latency_ms": 1.26, "version": "SQLite 3.50", "size_bytes": 3 << 19, "unapplied": []}
    some = {"one": {"slots": 7, "keys": 0}, "two": {"slots": 0, "keys": 1}}
    full = {"error": "", **seen, "rows": 1234, "holds": some}
    bare = {"error": "", **seen, "rows": None, "holds": {}, "unapplied": ["a.1", "b.2"]}
    found = {"in_the_far_east": {"error": "gone"}, "north": full, "south": bare}
    lines = [
        "shard            latency  version      size    rows     holds                        "
        "  migrations",
        "in_the_far_east  no answer: gone",
        "north            1.3 ms   SQLite 3.50  1.5 MB  ~1,234   one 7 slots, two 1 placed key"
        "  all",
        "south            1.3 ms   SQLite 3.50  1.5 MB  unknown  -                            "
        "  lacks a.1, b.2",
    ]
    for is_exact in (False, True):
        out = StringIO()
        Command(stdout=out).show({"shards": found, "rows_are_exact": is_exact})
        said = out.getvalue().splitlines()
        assert said == ([line.replace("~1,234", "1,234 ") for line in lines] if is_exact else lines)


@pytest.mark.django_db(databases="__all__")
def test_the_suite_s_own_shards_are_all_right() -> None:
    output = StringIO()
    call_command("shard_status", "--rows", "--format", "json", stdout=output)
    found = json.loads(output.getvalue())
    assert found["problems"] == []
    assert list(found["shards"]) == list(shards())


@pytest.mark.django_db(databases="__all__")
def test_each_group_s_part_is_told() -> None:
    with sharding(GROUPS={"one": {"APPS": []}, "two": {"APPS": []}}):
        make_first_maps("default")
        assert {shard: list(each) for shard, each in _held().items()} == {
            shard: ["one", "two"] for shard in shards()
        }


def test_a_shard_has_five_seconds() -> None:
    parser = Command().create_parser("manage.py", "shard_status")
    assert parser.parse_args([]).deadline_seconds == 5


@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_no_deadline_is_wrong_usage(seconds: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("shard_status", f"--deadline-seconds={seconds}")
    assert caught.value.returncode == Exit.USAGE
