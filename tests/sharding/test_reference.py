"""Reference models: read from any shard, and written to all of them, or to one to mend it."""

from contextlib import ExitStack

import pytest
from django.db import IntegrityError, connections, transaction
from django.test.utils import CaptureQueriesContext

from dbpatterns.sharding import on_every_shard, shard, shard_for, shards
from tests.plainshop.models import Buyer as PlainBuyer
from tests.sharding.operations import ONE, OTHER
from tests.shop.models import Buyer, Country

pytestmark = pytest.mark.django_db(databases="__all__")


def names(code: str) -> list[str | None]:
    rows = [Country.objects.using(alias).filter(code=code).first() for alias in shards()]
    return [None if each is None else each.name for each in rows]


def test_a_row_that_one_shard_refuses_is_on_none() -> None:
    Country(code="IT", name="Italy").save(using=shards()[-1])
    for write in (
        lambda: Country.objects.create(code="IT"),
        lambda: Country.objects.bulk_create([Country(code="ES"), Country(code="IT")]),
    ):
        with pytest.raises(IntegrityError), on_every_shard():
            write()
    assert names("IT") == [*[None] * (len(shards()) - 1), "Italy"]
    assert names("ES") == [None] * len(shards())
    made = Country(code="IT", name="new")
    with pytest.raises(IntegrityError), on_every_shard():
        made.save(force_insert=True)
    assert made._state.adding  # and is to be written still


def test_one_shard_alone_is_written_when_it_is_named() -> None:
    Country.objects.create(code="IT", name="Italy")
    last = Country.objects.using(shards()[-1])
    others = ["Italy"] * (len(shards()) - 1)
    assert last.filter(code="IT").update(name="a") == 1
    assert names("IT") == [*others, "a"]
    row = last.get(code="IT")
    row.name = "b"
    last.bulk_update([row], ["name"])
    assert names("IT") == [*others, "b"]
    last.update_or_create({"name": "c"}, code="IT")
    assert names("IT") == [*others, "c"]
    row.delete(using=shards()[-1])
    assert names("IT") == [*others, None]
    last.create(code="IT", name="d")
    with pytest.raises(IntegrityError), transaction.atomic(using=shards()[-1]):
        last.create(code="IT", name="e")
    last.filter(code="IT").delete()
    assert names("IT") == [*others, None]
    last.bulk_create([Country(code="IT", name="f")])
    assert names("IT") == [*others, "f"]


def test_it_is_read_where_the_code_around_is() -> None:
    assert Country.objects.all().db == shards()[0]
    for key in (ONE, OTHER):
        with shard(key) as alias:
            assert Country.objects.all().db == alias
        near = {"instance": Buyer.objects.create(id=key)}
        assert Country.objects.db_manager(hints=near).all().db == shard_for(key)
    far = {"instance": PlainBuyer.objects.create(id=ONE)}  # of the default database
    assert Country.objects.db_manager(hints=far).all().db == shards()[0]


def test_a_value_that_is_made_anew_each_time_is_made_once() -> None:
    words = iter("abcdef")
    for is_new in (True, False):
        row, was_new = Country.objects.update_or_create({"name": lambda: next(words)}, code="IT")
        assert was_new is is_new
        assert names("IT") == [row.name] * len(shards())
    assert row.name == "b"
    Country.objects.using(shards()[-1]).filter(code="IT").delete()
    Country.objects.update_or_create({"name": "c"}, code="IT")  # which one lacks
    assert names("IT") == ["c"] * len(shards())
    row, was_new = Country.objects.get_or_create({"name": lambda: next(words)}, code="ES")
    assert was_new
    assert names("ES") == ["c"] * len(shards())


def test_a_row_that_is_there_is_got_by_one_query_and_within_any_block() -> None:
    Country.objects.create(code="IT", name="Italy")
    with ExitStack() as stack:
        sent = [
            stack.enter_context(CaptureQueriesContext(connections[alias])) for alias in shards()
        ]
        stack.enter_context(transaction.atomic())
        row, was_new = Country.objects.get_or_create({"name": "other"}, code="IT")
    assert (row.name, was_new) == ("Italy", False)
    assert [len(each) for each in sent] == [1] + [0] * (len(shards()) - 1)
