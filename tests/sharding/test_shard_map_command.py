"""`manage.py shard_map`: what a person sees, what a machine reads, and how it ends."""

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.fences import close
from dbpatterns.sharding.map_store import Rows, change, read
from dbpatterns.sharding.parts import Part
from tests.sharding.maps import key_on, strategy
from tests.shop.models import Buyer

pytestmark = pytest.mark.django_db(databases="__all__")


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("shard_map", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def refused(*arguments: str) -> tuple[int, str]:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return caught.value.returncode, str(caught.value)


def test_show_draws_who_holds_which_slots() -> None:
    change(read("bank"), Rows({0: shards()[0], 8192: shards()[1], 8200: shards()[0]}, {}), "")
    said = run("show")
    assert said.splitlines()[0] == "bank: hash, epoch 2"
    assert f"  B {shards()[1]:<20}      8 slots   0.0%" in said
    assert f"   8,192 *{'A' * 63}" in said
    assert "* has slots of several shards; a letter is 64 slots" in said


def test_show_lists_bounds_in_the_order_of_keys() -> None:
    with strategy("range"):
        run("split", "100", shards()[1])
        run("split", "9", shards()[1])
        assert [line.split() for line in run("show").splitlines()[-3:]] == [
            ["from", "the", "lowest", "A", shards()[0]],
            ["from", "9", "B", shards()[1]],
            ["from", "100", "B", shards()[1]],
        ]


def test_show_as_json_has_all() -> None:
    with strategy("directory"):
        run("assign", "7", shards()[1])
        (found,) = json.loads(run("show", "--format", "json"))["groups"]
        assert (found["strategy"], found["epoch"]) == ("directory", 2)
        assert found["keys"] == {"int:7": shards()[1]}
        assert sum(found["slots_held"].values()) == 16_384


def test_assign_gives_a_key_a_shard() -> None:
    with strategy("directory"):
        key = key_on(shards()[0])
        said = json.loads(run("assign", str(key), shards()[1], "--group", "bank", "--format=json"))
        assert said == {
            "group": "bank",
            "part": str(key),
            "from": shards()[0],
            "to": shards()[1],
            "rows_in_the_way": {},
            "epoch": 2,
        }
        assert shard_for(key) == shards()[1]


def test_a_dry_run_counts_the_rows_and_changes_nothing() -> None:
    with strategy("directory"):
        key = key_on(shards()[0])
        run("assign", str(key), shards()[1], "--dry-run")
        Buyer.objects.create(id=key)
        code, why = refused("assign", str(key), shards()[1], "--dry-run")
        assert (code, why) == (1, "Keys that have rows do not change hands.")
        assert read("bank").epoch == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("assign", "seven", "shard_1"), 2, "'seven' is no key of 'bank': those are ints"),
        (("assign", "7", "nowhere"), 2, "There is no shard 'nowhere'"),
        (("split", "7", "shard_1"), 2, "only ranges split"),
        (("--group", "nope", "show"), 2, "There is no group 'nope'. Known: bank."),
    ],
)
def test_bad_input(arguments: tuple[str, ...], code: int, words: str) -> None:
    with strategy("directory"):
        found, why = refused(*arguments)
        assert found == code
        assert words in why


def test_rows_in_the_way_end_it_with_one() -> None:
    with strategy("directory"):
        key = key_on(shards()[0])
        Buyer.objects.create(id=key)
        assert refused("assign", str(key), shards()[1])[0] == 1


class TestCheck:
    def test_a_map_that_is_right(self) -> None:
        said = json.loads(run("check", "--rows", "--format", "json"))
        assert said == {"groups": ["bank"], "findings": []}

    def test_an_interrupted_change_says_how_to_end_it(self) -> None:
        with strategy("directory"):
            key = key_on(shards()[0])
            close(shards()[0], Part("bank", key), "")
            (found,) = findings()
            assert f"{shards()[0]} is closed to {key}, which is its own by the map" in found
            command = found.partition("`shard_map ")[2].partition("`")[0]
            run(*command.split())
            Buyer.objects.create(id=key)
            assert run("check")

    def test_a_range_too(self) -> None:
        with strategy("range"):
            run("split", "50", shards()[1])
            close(shards()[1], Part("bank", 60, 70, is_range=True), "")
            (found,) = findings()
            run(*found.partition("`shard_map ")[2].partition("`")[0].split())
            Buyer.objects.create(id=65)

    def test_what_was_given_away_is_no_finding(self) -> None:
        with strategy("directory"):
            run("assign", str(key_on(shards()[0])), shards()[1])
            run("check")

    def test_rows_that_lie_astray_are_counted(self) -> None:
        for key in (key_on(shards()[0]), key_on(shards()[0], 5_000)):
            Buyer(id=key).save_base(using=shards()[1])
        run("check")
        assert findings("--rows") == [f"2 of shop.Buyer on {shards()[1]} belong on {shards()[0]}"]

    def test_rows_of_no_region(self) -> None:
        with strategy("geographic"):
            Buyer(id=7).save_base(using=shards()[0])
            assert findings("--rows") == [f"1 of shop.Buyer on {shards()[0]} have no shard"]


def findings(*arguments: str) -> list[Any]:
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(
            "shard_map", "check", *arguments, "--format=json", stdout=out, stderr=io.StringIO()
        )
    assert caught.value.returncode == 1
    found: list[Any] = json.loads(out.getvalue())["findings"]
    return found
