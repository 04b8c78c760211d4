"""What a project's tests of its sharded models may use."""

from itertools import islice
from uuid import UUID

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.shard_map import ShardMap, forget, pinned, shard_map
from dbpatterns.sharding.strategies import Hash
from dbpatterns.testing.sharding import key_on, keys_on, pinned_maps, sharded_databases


def test_a_test_gets_the_shards_and_the_control_database() -> None:
    assert sharded_databases() == {"default", *shards()}


def test_a_key_lies_on_the_shard_that_is_asked_for() -> None:
    for alias in shards():
        first = key_on(alias)
        assert shard_for(first) == alias
        assert isinstance(first, int)
        assert all(shard_for(below) != alias for below in range(1, first))
        assert list(islice(keys_on(alias, group="bank"), 2)) == list(islice(keys_on(alias), 2))


def test_keys_of_another_kind_are_chosen_among_those_given() -> None:
    given = [UUID(int=number) for number in range(40)]
    chosen = {alias: list(keys_on(alias, among=given)) for alias in shards()}
    assert sorted(each for some in chosen.values() for each in some) == given
    assert list(keys_on(shards()[0], among=["prague", "brno"])) == [
        each for each in ("prague", "brno") if shard_for(each) == shards()[0]
    ]
    assert list(keys_on(shards()[0], among=[])) == []


def test_a_shard_without_keys_is_named_and_nobody_searches_for_ever() -> None:
    only = ShardMap("bank", 1, Hash([(0, shards()[0])], {}))
    with pinned({"bank": only}), pytest.raises(UsageError, match=f"'{shards()[1]}': by its map"):
        key_on(shards()[1])


@pytest.mark.django_db(databases="__all__")
def test_a_pinned_map_is_the_settings_and_costs_no_query() -> None:
    with pinned({}):
        forget()
        with CaptureQueriesContext(connections["default"]) as asked:
            shard_for(7)
        assert len(asked) == 4
        forget()
        with pinned_maps(), CaptureQueriesContext(connections["default"]) as asked:
            assert shard_map("bank").epoch == 1
            assert set(map(shard_for, range(100))) == set(shards())
        assert len(asked) == 0
    forget()
