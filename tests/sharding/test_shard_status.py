"""`shard_status`: what each shard has and lacks; one that is down is a line of it."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from dbpatterns.commands import Exit
from dbpatterns.sharding import shards
from dbpatterns.sharding.hashing import SLOTS
from dbpatterns.sharding.management.commands.shard_status import Command
from tests.servers import postmaster, stopped
from tests.sharding.fleet import SHARDS, Fleet


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
    assert before["shards"]["south"]["rows"] is None  # nobody has analyzed it
    migrated.do("south", "ANALYZE fleet_van" if migrated.is_postgresql else "ANALYZE")
    estimated = status(migrated)
    assert estimated["shards"]["south"]["rows"] == (1 if migrated.is_postgresql else None)


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


def test_a_map_that_cannot_be_read_is_told_and_the_shards_are_asked(migrated: Fleet) -> None:
    migrated.do("default", "DROP TABLE dbpatterns_sharding_slotrange")
    found = status(migrated, exits=Exit.FINDINGS)
    [problem] = found["problems"]
    assert problem.startswith("the map: ")
    assert [found["shards"][shard]["unapplied"] for shard in SHARDS] == [[]] * 3


@pytest.mark.django_db(databases="__all__")
def test_the_suite_s_own_shards_are_all_right() -> None:
    output = StringIO()
    call_command("shard_status", "--rows", "--format", "json", stdout=output)
    found = json.loads(output.getvalue())
    assert found["problems"] == []
    assert list(found["shards"]) == list(shards())


def test_a_shard_has_five_seconds() -> None:
    parser = Command().create_parser("manage.py", "shard_status")
    assert parser.parse_args([]).deadline_seconds == 5


@pytest.mark.django_db(databases="__all__")
def test_no_deadline_is_wrong_usage() -> None:
    with pytest.raises(CommandError) as caught:
        call_command("shard_status", "--deadline-seconds", "0")
    assert caught.value.returncode == Exit.USAGE
