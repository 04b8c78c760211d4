"""Rows of all shards: the same as one database gives, in the same order."""

import gc
import os
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models import Count, F
from django.db.models.functions import Collate, Lower, Mod
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard_for, shards, single_shard
from dbpatterns.sharding.errors import CrossShardError, TooManyRows
from tests.plainshop import models as plain
from tests.sharding.support import BUYERS
from tests.sharding.test_random_querysets import conditions
from tests.shop import models as shop

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]

EXAMPLES = 5_000 if "DBPATTERNS_TEST_HISTORIES" in os.environ else 200


def code_points() -> str:
    return "C" if connections["default"].vendor == "postgresql" else "BINARY"


def rows(models: Any, name: str = "Order") -> Any:
    found = getattr(models, name).objects
    return found.fanout() if models is shop else found.all()


ORDERS: list[tuple[Any, ...]] = [
    ("pk",),
    ("-pk",),
    ("number", "pk"),
    ("-number", "pk"),
    ("-buyer", "number"),
    ("buyer__country", "-number", "pk"),
    ("-buyer__country__name", "pk"),
    (F("buyer__country").asc(nulls_first=True), "pk"),
    (F("buyer__country").desc(nulls_last=True), "pk"),
    ("is_paid", "-id"),
    (Mod("number", 2), "-pk"),
]


def test_what_a_loop_over_the_shards_gives_wrong() -> None:
    """The first rows are each shard's own, and NULLs are not to be compared."""
    by = ("number", "pk")
    expected = [each.pk for each in rows(plain).order_by(*by)[:8]]
    looped = [
        each.pk for alias in shards() for each in shop.Order.objects.using(alias).order_by(*by)
    ]
    assert looped[:8] != expected
    assert [each.pk for each in rows(shop).order_by(*by)[:8]] == expected
    for models in (shop, plain):
        models.Buyer.objects.filter(pk=BUYERS[0]).update(country=None)
    found = [each for alias in shards() for each in shop.Buyer.objects.using(alias)]
    with pytest.raises(TypeError):
        sorted(found, key=lambda each: each.country_id)
    countries = [each.country_id for each in rows(plain, "Buyer").order_by("country", "pk")]
    assert [each.country_id for each in rows(shop, "Buyer").order_by("country", "pk")] == countries


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("cut", [slice(None), slice(3), slice(2, 9), slice(100, 110)], ids=str)
def test_the_order_is_that_of_one_database(order: tuple[Any, ...], cut: slice) -> None:
    shop.Buyer.objects.filter(pk=BUYERS[0]).update(country=None)
    plain.Buyer.objects.filter(pk=BUYERS[0]).update(country=None)
    expected = [each.pk for each in rows(plain).order_by(*order)[cut]]
    assert [each.pk for each in rows(shop).order_by(*order)[cut]] == expected
    streamed = rows(shop).order_by(*order)[cut].iterator(chunk_size=2)
    assert [each.pk for each in streamed] == expected


NAMES = ["a", "B", "_x", "A", "aa", "é", "Z", "ß", "\U0001f600", "\uffff", "Ä", "b", "", " ", "1"]


def test_text_is_in_the_order_of_code_points() -> None:
    for number, name in enumerate(NAMES):
        for models in (shop, plain):
            models.Buyer.objects.filter(pk=BUYERS[number % len(BUYERS)]).update(name=name)
    for order in ("name", "-name"):
        by = Collate("name", code_points())
        expected = plain.Buyer.objects.order_by(by.asc() if order == "name" else by.desc(), "pk")
        found = shop.Buyer.objects.fanout().order_by(order, "pk")
        assert [each.name for each in found] == [each.name for each in expected]
    found = shop.Buyer.objects.fanout().order_by(Lower("name"), "pk").values_list("name", flat=True)
    assert sorted(found) == sorted(plain.Buyer.objects.values_list("name", flat=True))


def test_another_collation_and_chance_are_refused() -> None:
    other = "en-x-icu" if code_points() == "C" else "NOCASE"
    with pytest.raises(UsageError, match=f"shop.Buyer cannot order by the collation {other!r}"):
        list(shop.Buyer.objects.fanout().order_by(Collate("name", other)))
    with pytest.raises(UsageError, match="by chance"):
        list(shop.Buyer.objects.fanout().order_by("?"))


def test_a_shard_is_asked_for_no_more_rows_than_may_be_needed() -> None:
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        list(shop.Order.objects.fanout().order_by("number")[4:6])
    (only,) = asked.captured_queries
    assert only["sql"].endswith("LIMIT 6")


def test_only_shards_that_the_conditions_name_are_asked() -> None:
    other = shards()[-1]
    few = [key for key in BUYERS if shard_for(key) != other]
    with CaptureQueriesContext(connections[other]) as asked:
        found = shop.Order.objects.fanout().filter(buyer__in=few)
        assert {each.buyer_id for each in found} == set(few)
    assert len(asked) == 0


def test_related_rows_are_loaded_on_their_own_shard() -> None:
    for models in (shop, plain):
        found = rows(models).order_by("pk").prefetch_related("lines")[1:7]
        if models is shop:
            got = [sorted(line.pk for line in each.lines.all()) for each in found]
        else:
            expected = [sorted(line.pk for line in each.lines.all()) for each in found]
    assert got == expected
    streamed = rows(shop).order_by("pk").prefetch_related("lines")[1:7].iterator(chunk_size=2)
    assert [sorted(line.pk for line in each.lines.all()) for each in streamed] == expected


def test_a_join_stays_on_its_shard() -> None:
    found = shop.Line.objects.fanout().select_related("order__buyer").order_by("pk")
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        assert all(each.order.buyer_id == each.buyer_id for each in found)
    assert len(asked) == 1


def test_first_last_get_and_the_rest() -> None:
    ours, theirs = rows(shop), rows(plain)
    assert ours.first().pk == theirs.first().pk
    assert ours.last().pk == theirs.last().pk
    assert ours.order_by("number", "pk").last().pk == theirs.order_by("number", "pk").last().pk
    assert ours.order_by("pk")[3].pk == theirs.order_by("pk")[3].pk
    assert [each.pk for each in ours.order_by("pk")[1:8:3]] == [
        each.pk for each in theirs.order_by("pk")[1:8:3]
    ]
    some = theirs.order_by("pk")[4]
    assert ours.get(pk=some.pk).number == some.number
    with pytest.raises(shop.Order.DoesNotExist):
        ours.get(number=77)
    with pytest.raises(shop.Order.MultipleObjectsReturned):
        ours.get(is_paid=True)
    assert ours.exists()
    assert not ours.filter(number=77).exists()
    ids = [each.pk for each in theirs[:5]]
    assert set(ours.in_bulk(ids)) == set(ids)
    assert len(ours.in_bulk()) == theirs.count() == len(ours)


def test_rows_not_committed_yet_are_seen() -> None:
    shop.Buyer.objects.create(id=max(BUYERS) + 1, name="new")
    assert shop.Buyer.objects.fanout().filter(name="new").exists()


def test_a_stream_that_is_cut_or_dropped_leaves_no_cursor() -> None:
    """The collector would close it later: in a block that has ended, or within another query."""
    ours = rows(shop).order_by("pk")
    gc.disable()
    try:
        with transaction.atomic(using=shards()[0]):
            assert len(list(ours[:3].iterator(chunk_size=2))) == 3
            next(ours.iterator(chunk_size=2))
        if connections[shards()[0]].vendor == "postgresql":
            for alias in shards():
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM pg_cursors")
                    assert cursor.fetchone() == (0,)
    finally:
        gc.enable()


def test_more_rows_than_may_be_held_are_an_error() -> None:
    with pytest.raises(TooManyRows, match=r"shop.Order found more than 3 rows.*iterator"):
        list(shop.Order.objects.fanout(max_rows=3))
    assert len(shop.Order.objects.fanout(max_rows=3).order_by("pk")[:3]) == 3
    assert len(list(shop.Order.objects.fanout(max_rows=3).iterator())) == len(rows(plain))


def test_a_locked_block_refuses_several_shards() -> None:
    with single_shard():
        with pytest.raises(CrossShardError, match="held to one"):
            list(shop.Order.objects.fanout())
        key = BUYERS[1]
        assert list(shop.Order.objects.fanout().filter(buyer=key))


def test_what_cannot_be_merged_is_refused() -> None:
    ours = rows(shop)
    for ask, says in [
        (lambda: ours.values("number").annotate(Count("pk")).first(), "groups"),
        (lambda: ours.values("number").annotate(Count("pk")).last(), "groups"),
        (lambda: ours.union(ours), "union"),
        (lambda: ours.update(number=1), "update"),
        (lambda: list(ours.distinct("number")), "distinct"),
    ]:
        with pytest.raises(UsageError, match=f"shop.Order cannot .*{says}"):
            ask()
    with pytest.raises(CrossShardError):
        list(ours.filter(buyer__in=shop.Buyer.objects.filter(name="x")))


@st.composite
def questions(draw: st.DrawFn) -> Any:
    """Return a function that asks a shop's models for rows."""
    name = draw(st.sampled_from(["Order", "Line"]))
    parts = draw(st.lists(conditions(name), max_size=2))
    excluded = draw(st.lists(conditions(name), max_size=1))
    by = {
        "Order": ["number", "buyer", "is_paid", "buyer__country__name"],
        "Line": ["amount", "order__number", "-order__is_paid", "buyer__name"],
    }[name]
    order = draw(
        st.lists(st.sampled_from([*by, *(f"-{e}".replace("--", "") for e in by)]), max_size=3)
    )
    low = draw(st.integers(0, 5))
    high = draw(st.none() | st.integers(0, 12).map(lambda size: low + size))
    shape = draw(
        st.sampled_from(["pks", "values", "distinct", "grouped", "related", "stream", "exists"])
    )

    def question(models: Any) -> Any:
        found = rows(models, name)
        for each in parts:
            found = found.filter(each)
        for each in excluded:
            found = found.exclude(each)
        if shape == "exists":
            return found.exists()
        if shape == "distinct":
            column = by[0]
            return sorted(found.order_by().values_list(column, flat=True).distinct())
        if shape == "grouped":
            return list(
                found.order_by()
                .values("buyer")
                .annotate(n=Count("pk"))
                .filter(n__gt=1)
                .order_by("-n", "buyer")[low:high]
            )
        found = found.order_by(*order, "pk")[low:high]
        if shape == "values":
            return list(found.values(by[0], "pk"))
        if shape == "stream":
            return [each.pk for each in found.iterator(chunk_size=3)]
        if shape == "related":
            found = found.select_related("buyer")
            return [(each.pk, each.buyer.name) for each in found]
        return [each.pk for each in found]

    return question


def test_a_fan_out_gives_what_one_database_gives() -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(questions())
    def ask(question: Any) -> None:
        assert question(shop) == question(plain)

    ask()
