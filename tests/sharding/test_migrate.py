"""`migrate --shards`: the same schema on every shard, whatever becomes of one of them."""

import signal
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import connections

from dbpatterns.commands import Exit
from dbpatterns.sharding import shards
from dbpatterns.sharding.errors import ShardBusy
from dbpatterns.sharding.migrating import sole
from tests.processes import in_threads
from tests.servers import postmaster, stopped
from tests.sharding.fleet import SHARDS, Fleet

ALL = ["0001_van", "0002_plate_once", "0003_van_load"]
TWICE = "INSERT INTO fleet_van (id, plate) VALUES ('{}', 'B 1'), ('{}', 'B 1')".format(
    *("0" * 31 + digit for digit in "12")
)
NONE_TWICE = "DELETE FROM fleet_van"
pytestmark = pytest.mark.django_db(databases="__all__")


def test_a_loop_over_shards_ends_at_the_first_that_fails(fleet: Fleet) -> None:
    """The harm: the shards after it are not migrated, and nobody has written down which."""
    fleet.do("north", TWICE)
    for alias in SHARDS:
        loop = fleet.start("migrate", "--database", alias, "-v", "0")
        loop.communicate()
        if loop.returncode:
            break
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL[:1]] * 3
    assert set(fleet.recorded().values()) == {"done"}


def test_a_shard_that_fails_is_named_with_its_cause_and_the_others_go_on(fleet: Fleet) -> None:
    fleet.do("north", TWICE)
    found = fleet.migrate("--parallel", "3", exits=Exit.FINDINGS)
    assert {shard: each["state"] for shard, each in found.items()} == {
        "north": "failed",
        "east": "done",
        "south": "done",
    }
    assert "'north' failed in fleet.0002_plate_once: IntegrityError" in found["north"]["error"]
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL[:1], ALL, ALL]
    assert fleet.recorded() == {
        ("north", "0001_van"): "done",
        ("north", "0002_plate_once"): "failed",
        **{(shard, name): "done" for shard in SHARDS[1:] for name in ALL},
    }
    assert "IntegrityError" in str(
        fleet.rows("default", "SELECT error FROM dbpatterns_sharding_shardmigration")
    )

    fleet.do("north", NONE_TWICE)
    again = fleet.migrate()
    assert {shard: each["migrations"] for shard, each in again.items()} == {
        "north": ["fleet.0002_plate_once", "fleet.0003_van_load"],
        "east": [],
        "south": [],
    }
    assert set(fleet.recorded().values()) == {"done"}


def test_a_canary_that_fails_saves_the_others(fleet: Fleet) -> None:
    fleet.do("east", TWICE)
    found = fleet.migrate("--canary", "east", exits=Exit.FINDINGS)
    assert [found[shard]["state"] for shard in SHARDS] == ["left", "failed", "left"]
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL[:1]] * 3
    fleet.do("east", NONE_TWICE)
    _, said = fleet.run("migrate", "--shards", "all", "--canary", "east")
    assert said.startswith("east: fleet.0002_plate_once\n")
    assert said.index("east: done") < said.index("north: fleet.0002_plate_once")
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL] * 3


def test_a_dry_run_says_what_each_shard_lacks_and_writes_nothing(fleet: Fleet) -> None:
    fleet.run("migrate", "--database", "east", "-v", "0", "fleet", "0002")
    before = fleet.recorded()
    out, _ = fleet.run("migrate", "--shards", "all", "--dry-run")
    assert out.splitlines() == [
        "north  planned      fleet.0002_plate_once, fleet.0003_van_load",
        "east   planned      fleet.0003_van_load",
        "south  planned      fleet.0002_plate_once, fleet.0003_van_load",
    ]
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL[:1], ALL[:2], ALL[:1]]
    assert fleet.recorded() == before


def test_a_dry_run_says_what_would_be_taken_back(fleet: Fleet) -> None:
    found = fleet.migrate("--dry-run", "fleet", "zero")
    assert [found[shard]["migrations"] for shard in SHARDS] == [["fleet.0001_van"]] * 3
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL[:1]] * 3


def test_the_record_tells_of_this_run_and_not_of_the_last(fleet: Fleet) -> None:
    query = (
        "SELECT error, finished_at FROM dbpatterns_sharding_shardmigration"
        " WHERE shard = 'north' AND name = '0002_plate_once'"
    )
    fleet.do("north", TWICE)
    fleet.migrate("--shards", "north", exits=Exit.FINDINGS)
    [(error, finished_at)] = fleet.rows("default", query)
    assert "IntegrityError" in error
    assert finished_at
    fleet.migrate("fleet", "0001")  # has nothing to do with it
    assert fleet.recorded()["north", "0002_plate_once"] == "failed"
    fleet.do("north", NONE_TWICE)
    held = fleet.held("north")
    run = fleet.start("migrate", "--shards", "north", "-v", "0")
    fleet.until_recorded("north", "0002_plate_once", "running")
    assert fleet.rows("default", query) == [("", None)]
    held.close()
    _, err = run.communicate()
    assert run.returncode == 0, err


def test_an_error_outside_any_migration_is_told_as_such(fleet: Fleet) -> None:
    fleet.migrate("fleet", "0002")
    fleet.environment["FLEET_FAILS"] = "after"
    found = fleet.migrate("--shards", "north", exits=Exit.FINDINGS)
    assert found["north"]["error"].startswith("Shard 'north' failed outside any migration: Lookup")
    assert found["north"]["migrations"] == ["fleet.0003_van_load"]
    assert set(fleet.recorded().values()) == {"done"}


def test_nobody_is_asked_by_a_thread(fleet: Fleet) -> None:
    fleet.environment["FLEET_FAILS"] = "if it may ask"
    fleet.migrate()
    fleet.run("migrate", "--database", "north", "-v", "0", exits=1)


def test_migrations_are_taken_back_on_every_shard_and_leave_the_record(fleet: Fleet) -> None:
    fleet.migrate("fleet", "zero")
    assert [fleet.applied(alias) for alias in SHARDS] == [[]] * 3
    assert fleet.recorded() == {}


def test_a_run_that_is_killed_is_done_by_the_next(fleet: Fleet) -> None:
    held = fleet.held("east")
    run = fleet.start("migrate", "--shards", "all", "--parallel", "3", "-v", "0")
    fleet.until_recorded("east", "0002_plate_once", "running")
    for shard in ("north", "south"):
        fleet.until_recorded(shard, "0003_van_load", "done")
    run.kill()
    run.communicate()
    held.close()
    assert fleet.recorded()["east", "0002_plate_once"] == "running"
    again = fleet.migrate()
    assert [len(again[shard]["migrations"]) for shard in ("north", "south")] == [0, 0]
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL] * 3
    assert set(fleet.recorded().values()) == {"done"}


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_one_run_is_at_a_shard_and_leaves_it_free_while_its_session_goes_on() -> None:
    def another() -> None:
        with sole(connections[A]):
            pass

    connections[A].ensure_connection()
    with sole(connections[A]):
        assert [type(each) for each in in_threads([another])] == [ShardBusy]
    assert in_threads([another]) == [None]


def test_what_a_killed_run_applied_and_did_not_say_is_put_right(fleet: Fleet) -> None:
    fleet.do("default", "UPDATE dbpatterns_sharding_shardmigration SET state = 'running'")
    fleet.migrate("fleet", "0001")
    assert set(fleet.recorded().values()) == {"done"}


def test_two_runs_at_once_exclude_each_other_at_each_shard(fleet: Fleet) -> None:
    held = fleet.held("east")
    first = fleet.start("migrate", "--shards", "all", "-v", "0", "--parallel", "3")
    fleet.until_recorded("east", "0002_plate_once", "running")
    for shard in ("north", "south"):
        fleet.until_recorded(shard, "0003_van_load", "done")
    second = fleet.migrate("--shards", "north,east", exits=Exit.FINDINGS)
    assert [second[shard]["state"] for shard in ("north", "east")] == ["done", "busy"]
    assert fleet.recorded()["east", "0002_plate_once"] == "running"  # for north's run as well
    held.close()
    _, err = first.communicate()
    assert first.returncode == 0, err
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL] * 3


def test_a_signal_stops_between_two_migrations(fleet: Fleet) -> None:
    held = fleet.held("north")
    run = fleet.start("migrate", "--shards", "all", "-v", "0")
    fleet.until_recorded("north", "0002_plate_once", "running")
    run.send_signal(signal.SIGTERM)
    held.close()
    out, err = run.communicate()
    assert run.returncode == Exit.STOPPED, (out, err)
    assert "The same command does what is left." in err
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL[:2], ALL[:1], ALL[:1]]
    fleet.migrate()
    assert [fleet.applied(alias) for alias in SHARDS] == [ALL] * 3


def test_a_shard_that_cannot_be_reached_is_named_and_the_others_are_done(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.databases["north"] |= {"PORT": 1} if fleet.is_postgresql else {"NAME": str(tmp_path)}
    found = fleet.migrate(exits=Exit.FINDINGS)
    assert [found[shard]["state"] for shard in SHARDS] == ["unavailable", "done", "done"]
    assert "Shard 'north' is not available" in found["north"]["error"]


@pytest.mark.postgresql
def test_a_server_that_was_stopped_costs_its_deadline_and_no_more(fleet: Fleet) -> None:
    """It takes connections, as the kernel does for it, and never answers."""
    [(folder,)] = fleet.rows("east", "SHOW data_directory")
    with stopped(postmaster(folder)):
        found = fleet.migrate("--connect-seconds", "0.5", exits=Exit.FINDINGS)
    assert [found[shard]["state"] for shard in SHARDS] == ["done", "unavailable", "done"]
    assert "no connection within 0.5 s" in found["east"]["error"]
    assert fleet.applied("east") == ALL[:1]


A, B = shards()[:2]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--shards", f"{A},nowhere"], f"There is no shard 'nowhere'. Known: {A}, {B}"),
        (["--shards", A, "--canary", B], f"The canary {B!r} is none of --shards: {A}"),
        (["--shards", "all", "--parallel", "0"], "--parallel and --connect-seconds are to be"),
        (["--shards", "all", "--plan"], "--plan is for one database; for shards there is --dry-ru"),
        (["--shards", "all", "--database", B], "Say --database or --shards, not both."),
        (["--shards", "all", "nothing"], "There is no app 'nothing' with migrations."),
        (["--shards", "all", "banking", "0999"], "App 'banking' has no single migration '0999'."),
        (["--canary", A, "--dry-run"], "--canary, --dry-run needs --shards."),
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("migrate", *arguments)
    assert caught.value.returncode == Exit.USAGE
    assert str(caught.value).startswith(why)


def test_the_command_is_ours() -> None:
    assert get_commands()["migrate"] == "dbpatterns.sharding"


@pytest.mark.parametrize(
    "arguments", [[], ["--plan"], ["--check"], ["--database", B], ["banking"], ["--fake"]]
)
def test_without_shards_it_says_and_does_what_django_s_does(arguments: list[str]) -> None:
    said = []
    for command in (load_command_class("dbpatterns.sharding", "migrate"), DjangoMigrate()):
        output = StringIO()
        call_command(command, *arguments, stdout=output)
        said.append(output.getvalue())
    assert said[0] == said[1]


def test_django_s_options_are_all_there() -> None:
    own, django = (
        {
            name: (action.dest, action.default, action.nargs, type(action))
            for action in command.create_parser("manage.py", "migrate")._actions
            for name in action.option_strings or [action.dest]
        }
        for command in (load_command_class("dbpatterns.sharding", "migrate"), DjangoMigrate())
    )
    assert own | django == own
    assert own.keys() - django.keys() == {
        "--shards",
        "--parallel",
        "--canary",
        "--dry-run",
        "--connect-seconds",
        "--format",
    }
