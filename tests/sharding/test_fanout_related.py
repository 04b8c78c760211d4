"""What hangs on the rows of many shards: loaded on each row's own, and never left out."""

from typing import Any

import pytest
from django.db import connections, models
from django.db.models import Manager, Prefetch, prefetch_related_objects
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shards
from tests.sharding.support import BUYERS
from tests.shop.models import Buyer, Order

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]


class ByInstance:
    """A router as other packages have it: by the instance's database."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return the database of the instance."""
        instance = hints.get("instance")
        return None if instance is None else instance._state.db

    db_for_write = db_for_read


def plain(model: Any) -> Any:
    manager: Any = Manager()
    manager.model = model
    return manager.all()


def merged(buyers: Any) -> list[Any]:
    return [each for alias in shards() for each in buyers.using(alias)]


def test_a_plain_prefetch_over_merged_rows_gives_wrong_sets() -> None:
    """Django asks the first row's database for all of them; ours refuses instead."""
    with override_settings(DATABASE_ROUTERS=[ByInstance()]):
        found = merged(plain(Buyer))
        prefetch_related_objects(found, Prefetch("orders", plain(Order)))
    wrong = [each.pk for each in found if len(each.orders.all()) != 2]
    assert len(wrong) == len(BUYERS) - 3  # all but the first shard's
    with pytest.raises(UsageError):
        prefetch_related_objects(merged(Buyer.objects), "orders")


@pytest.mark.parametrize("lookups", [("orders",), ("orders__lines", "country", "lines")])
def test_related_rows_are_loaded_by_one_query_on_each_shard(lookups: tuple[str, ...]) -> None:
    for buyers in (
        Buyer.objects.fanout().prefetch_related(*lookups),
        Buyer.objects.prefetch_related(*lookups).fanout(),
    ):
        with CaptureQueriesContext(connections[shards()[0]]) as asked:
            found = list(buyers)
            assert [len(each.orders.all()) for each in found] == [2] * len(BUYERS)
            if len(lookups) > 1:
                for each in found:
                    assert [len(order.lines.all()) for order in each.orders.all()] == [2, 2]
                    assert len(each.lines.all()) == 4
                    assert each.country.name in ("Germany", "France", "Iceland")
        assert len(asked) == 2 if len(lookups) == 1 else 5
        assert sorted(each.pk for each in found) == sorted(BUYERS)


def test_a_prefetch_of_fewer_rows_and_to_an_attribute() -> None:
    paid = Prefetch("orders", Order.objects.filter(is_paid=True), to_attr="paid")
    found = list(Buyer.objects.fanout().prefetch_related(paid).order_by("pk"))
    assert [[order.buyer_id for order in each.paid] for each in found] == [
        [each.pk] for each in found
    ]


def test_none_is_loaded_where_it_was_taken_back_or_rows_are_values() -> None:
    ours = Buyer.objects.prefetch_related("orders").fanout()
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        assert len(ours.prefetch_related(None)) == len(BUYERS)
        assert len(ours.values("pk")) == len(BUYERS)
        assert ours.exists()
    assert len(asked) == 3


@pytest.mark.skipif(not hasattr(models, "FETCH_PEERS"), reason="from Django 6.1 on")
@pytest.mark.parametrize("streamed", [False, True])
def test_peers_are_those_of_one_shard(streamed: bool) -> None:
    asked = Order.objects.fanout().fetch_mode(models.FETCH_PEERS).order_by("number")
    found = list(asked.iterator(chunk_size=3)) if streamed else list(asked)
    with CaptureQueriesContext(connections[shards()[0]]) as queries:
        assert all(each.buyer.pk == each.buyer_id for each in found)
    assert len(queries) == 1
    with CaptureQueriesContext(connections[shards()[0]]) as queries:
        rows = list(Order.objects.fetch_mode(models.FETCH_PEERS).only("pk", "buyer").fanout())
        assert sum(each.is_paid for each in rows) == len(BUYERS)
    assert len(queries) == 2
