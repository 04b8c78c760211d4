"""Which models and which rows a part of a map has."""

from uuid import UUID

import pytest
from django.db import connections, models
from django.test.utils import isolate_apps

from dbpatterns.sharding import ShardedModel, shard_for, shards
from dbpatterns.sharding.parts import Part, keyed_models, text_of
from tests.parcels.models import Parcel, Scan
from tests.sharding.operations import ONE
from tests.shop.models import Buyer, Order, Regular


def test_models_count_once_by_keys_of_their_own() -> None:
    found = list(keyed_models("bank"))
    assert {Buyer, Order, Parcel} < set(found)
    assert Scan not in found  # by its parcel's slot
    assert Regular not in found  # a proxy of Buyer, whose table is Buyer's
    tables = [each._meta.db_table for each in found]
    assert tables == sorted(set(tables))


@isolate_apps("tests.shop")
def test_texts_compare_by_code_points() -> None:
    class Town(ShardedModel):
        shard_key = "name"
        name = models.CharField(max_length=9, primary_key=True)

        class Meta:
            app_label = "shop"

    for alias in shards():
        name = "C" if connections[alias].vendor == "postgresql" else "BINARY"
        for part in (Part("bank", "a", is_range=True), Part("bank", "a", "b", is_range=True)):
            assert f'COLLATE "{name}"' in str(part.rows(Town, alias).query)
        assert "COLLATE" not in str(Part("bank", "a").rows(Town, alias).query)


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("filled")
def test_a_key_s_text_is_its_column_s() -> None:
    order = Order.objects.filter(buyer=ONE)[0]
    with connections[shard_for(ONE)].cursor() as cursor:
        cursor.execute("SELECT CAST(id AS text), CAST(buyer_id AS text) FROM shop_order")
        stored = {tuple(row) for row in cursor.fetchall()}
    texts = (text_of(UUID(str(order.pk)), shard_for(ONE)), text_of(ONE, shard_for(ONE)))
    assert texts in stored
