"""A hand-over that ends by an error leaves nothing open that is not its shard's, nothing closed."""

from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, transaction

from dbpatterns.sharding import operations as handing
from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.errors import MapChanged, PartNotEmpty, StaleShardMap
from dbpatterns.sharding.fences import close, closed_parts, reopen
from dbpatterns.sharding.map_store import change, read
from dbpatterns.sharding.models import MapChange
from dbpatterns.sharding.operations import assign, assigning, split
from dbpatterns.sharding.parts import Part
from dbpatterns.sharding.shard_map import shard_map
from tests.sharding.maps import key_on, strategy
from tests.shop.models import Buyer

pytestmark = pytest.mark.django_db(databases="__all__")


def test_the_loser_closes_the_new_shard_again_where_it_had_been_closed() -> None:
    with strategy("directory"):
        first, second = shards()[:2]
        key = key_on(first)
        assign("bank", key, second)  # the first is closed to it from now on
        late = assigning("bank", key, first)
        assign("bank", key_on(first, key + 1), second)
        with pytest.raises(MapChanged):
            late.run()
        assert Part("bank", key) in closed_parts(first, "bank", int)
        Buyer.objects.create(id=key)
        assert Buyer.objects.using(second).filter(id=key).exists()


def test_what_another_has_closed_meanwhile_stays_closed() -> None:
    with strategy("range"):
        home = shards()[0]
        whole, middle = (Part("bank", *each, is_range=True) for each in ((50, 100), (60, 70)))
        assert close(home, whole, "one")
        assert not close(home, middle, "two")
        lower, upper = (Part("bank", *each, is_range=True) for each in ((50, 60), (70, 100)))
        owners = {lower: "one", middle: "two", upper: "one"}
        assert closed_parts(home, "bank", int) == owners
        for part, owner in ((whole, "one"), (middle, "one"), (lower, "two")):
            reopen(home, part, owner=owner)
        assert closed_parts(home, "bank", int) == owners
        reopen(home, middle, owner="two")
        assert closed_parts(home, "bank", int) == {lower: "one", upper: "one"}


def test_an_error_after_the_change_of_the_map_leaves_both_shards_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with strategy("directory"):
        home, new = shards()[:2]
        key = key_on(home)

        def lost(*arguments: Any) -> None:
            change(*arguments)
            raise OperationalError("the answer to COMMIT was lost")

        monkeypatch.setattr(handing, "change", lost)
        with pytest.raises(DatabaseError, match="COMMIT"):
            assign("bank", key, new)
        monkeypatch.undo()
        assert [Part("bank", key) in closed_parts(each, "bank", int) for each in (home, new)] == [
            True,
            True,
        ]
        with pytest.raises(StaleShardMap), transaction.atomic(using=new):
            Buyer.objects.create(id=key)
        assign("bank", key, new)
        Buyer.objects.create(id=key)


def test_it_waits_only_where_something_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with strategy("directory", max_age=7.0):
        waited: list[float] = []
        monkeypatch.setattr("time.sleep", waited.append)
        key = key_on(shards()[0])
        assign("bank", key, shards()[1])
        assert waited == [7.0]
        assign("bank", key, shards()[1])
        assign("bank", key_on(shards()[0], key + 1), shards()[0])
        assert waited == [7.0]


def test_rows_stand_in_no_way_where_the_key_stays() -> None:
    with strategy("directory"):
        home, new = shards()[:2]
        key = key_on(home)
        Buyer.objects.create(id=key)
        assert assigning("bank", key, home).rows() == {}
        assert assigning("bank", key, new).rows() == {f"{home}: shop.Buyer": 1}
        with pytest.raises(PartNotEmpty):
            assign("bank", key, new)


def test_a_range_is_given_on_by_its_own_bound() -> None:
    with strategy("range"):
        first, second = shards()[:2]
        split("bank", 50, second)
        split("bank", 80, second)
        split("bank", 50, first)
        assert [shard_for(key) for key in (49, 50, 79, 80)] == [first, first, first, second]
        assert MapChange.objects.latest("epoch").change == f"50 to 80 from {second} to {first}"
        Buyer.objects.create(id=50)
        with pytest.raises(PartNotEmpty, match=r"50 to 80 .*: 1 of shop.Buyer"):
            split("bank", 50, second)
        assert read("bank").epoch == shard_map("bank").epoch
