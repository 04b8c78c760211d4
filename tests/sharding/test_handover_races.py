"""Keys change hands while processes write them: every row is once, where the map has it.

The writers tell what they committed; `DBPATTERNS_TEST_HISTORIES=1000` takes ten times the keys.
"""

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.errors import MapChanged, PartNotEmpty
from dbpatterns.sharding.map_store import read
from dbpatterns.sharding.operations import assign
from dbpatterns.sharding.shard_map import forget
from tests.processes import ROOT
from tests.sharding.maps import shard_environment, strategy
from tests.shop.models import Buyer

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)
KEYS = max(30, int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "100")) * 3 // 10)
WRITERS = 3


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sharding.handing_process", *map(str, arguments)],
        cwd=ROOT,
        env=shard_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_writers_who_know_old_maps_lose_nothing_and_write_nothing_astray() -> None:
    with strategy("directory"):
        home, new = shards()[:2]
        keys = [key for key in range(1, 10_000) if shard_for(key) == home][:KEYS]
        writers = [start("write", number, *keys) for number in range(WRITERS)]
        for each in writers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        first, *others, _ = random.Random(1).sample(keys, len(keys))  # the last one stays
        assign("bank", first, new)  # none of them knows, however fast they are
        moved = {first}
        for each in writers:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        for key in others:
            try:
                assign("bank", key, new)
                moved.add(key)
            except PartNotEmpty:
                pass
        committed = Counter(int(line) for each in writers for line in each.communicate()[0].split())
        assert [each.returncode for each in writers] == [0] * WRITERS
        forget()
        found = {
            alias: set(Buyer.objects.using(alias).values_list("id", flat=True))
            for alias in shards()
        }
        assert committed == Counter(keys)  # each by one of them
        assert {key for key in keys if shard_for(key) == new} == moved
        assert found[new] == moved
        assert found[home] == set(keys) - moved


def test_of_two_processes_that_give_one_key_one_wins_and_the_other_is_told() -> None:
    with strategy("directory"):
        home = shards()[0]
        key = next(key for key in range(1, 10_000) if shard_for(key) == home)
        targets = [shards()[1], home if len(shards()) < 3 else shards()[2]]
        both = [start("give", key, target) for target in targets]
        for each in both:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"  # has read the map
        said = []
        for each in both:
            said.append(each.communicate("go\n")[0].strip())
        assert sorted(said) == [MapChanged.__name__, "won"]
        forget()
        assert read("bank").epoch == 2
        assert shard_for(key) == targets[said.index("won")]
        Buyer.objects.create(id=key)
