"""Numbers and groups of all shards: what one database with the same rows answers."""

import math
import os
from copy import copy
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connections
from django.db.models import Avg, Count, F, Max, Min, Q, StdDev, Sum, Value, Variance
from django.db.models.expressions import Col
from django.db.models.functions import Coalesce, Lower, Mod
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shards
from dbpatterns.sharding.errors import TooManyRows, TooManyToMerge
from dbpatterns.sharding.fanout.refusals import is_of_one_shard
from tests.plainshop import models as plain
from tests.sharding.support import BUYERS
from tests.sharding.test_random_querysets import conditions
from tests.shop import models as shop

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]

EXAMPLES = 5_000 if "DBPATTERNS_TEST_HISTORIES" in os.environ else 200
AGGREGATES: dict[str, Any] = {
    "count": Count("pk"),
    "count of all": Count("*"),
    "count of some": Count("number", filter=Q(is_paid=True)),
    "unlike": Count("number", distinct=True),
    "unlike, of some": Count("number", distinct=True, filter=Q(is_paid=True)),
    "unlike on one shard": Count("buyer", distinct=True),
    "over a join": Count("buyer__country", distinct=True),
    "of a nullable": Count("buyer__country"),
    "sum": Sum("number"),
    "sum of unlike": Sum("number", distinct=True),
    "sum of some": Sum("number", filter=Q(number__gt=1)),
    "sum or zero": Sum("number", filter=Q(number=77), default=0),
    "sum of a product": Sum(F("number") * 2 + 1),
    "average": Avg("number"),
    "average of unlike": Avg("number", distinct=True),
    "average of some": Avg("number", filter=Q(is_paid=False)),
    "least": Min("number"),
    "greatest": Max("number"),
    "least text": Min("buyer__name"),
    "greatest text": Max("buyer__country__name"),
    "variance": Variance("number"),
    "variance of a sample": Variance("number", sample=True),
    "deviation": StdDev("number"),
    "deviation of a sample": StdDev("number", sample=True),
    "a quotient": Sum("number") * 1.0 / Count("pk"),
    "a sum of sums": Sum("number") + Count("pk") + 1,
    "or zero": Coalesce(Sum("number"), 0),
}
CONDITIONS = {
    "all": Q(),
    "some": Q(is_paid=True),
    "without a country": Q(buyer__country=None),
    "none": Q(number=77),
}


def orders(models: Any) -> Any:
    return models.Order.objects.fanout() if models is shop else models.Order.objects.all()


def alike(one: Any, other: Any) -> bool:
    """Floats are alike but for what their last digits lose in any order of summing."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return type(one) is type(other) and bool(one == other)


@pytest.fixture
def nulls(filled: None) -> None:
    for models in (shop, plain):
        models.Buyer.objects.filter(pk=BUYERS[0]).update(country=None)


def test_what_goes_wrong_by_hand() -> None:
    """Averages averaged, distinct counts added, HAVING on each shard: all answer, all are wrong."""
    for models in (shop, plain):
        models.Order.objects.filter(buyer_id=BUYERS[0]).update(number=40)
        models.Order.objects.filter(buyer_id=BUYERS[-1]).delete()
    of_shard = [shop.Order.objects.using(alias) for alias in shards()]
    mean = sum(each.aggregate(n=Avg("number"))["n"] for each in of_shard) / len(of_shard)
    unlike = sum(each.aggregate(n=Count("number", distinct=True))["n"] for each in of_shard)
    right = plain.Order.objects.aggregate(mean=Avg("number"), unlike=Count("number", distinct=True))
    assert not math.isclose(mean, right["mean"])
    assert unlike != right["unlike"]
    many = max(
        each.values("number").annotate(n=Count("pk")).order_by("-n")[0]["n"] for each in of_shard
    )

    def often(rows: Any) -> set[int]:
        groups = rows.values("number").annotate(n=Count("pk")).filter(n__gt=many)
        return {each["number"] for each in groups}

    assert not set().union(*(often(each) for each in of_shard))
    assert often(orders(plain))
    assert often(orders(shop)) == often(orders(plain))
    found = orders(shop).aggregate(mean=Avg("number"), unlike=Count("number", distinct=True))
    assert found["unlike"] == right["unlike"]
    assert alike(found["mean"], right["mean"])


@pytest.mark.usefixtures("nulls")
@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=list(CONDITIONS))
@pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=list(AGGREGATES))
def test_an_aggregate_is_that_of_one_database(aggregate: Any, condition: Q) -> None:
    found = orders(shop).filter(condition).aggregate(it=aggregate)
    expected = orders(plain).filter(condition).aggregate(it=aggregate)
    assert alike(found["it"], expected["it"]), (found, expected)


@pytest.mark.usefixtures("nulls")
@pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=list(AGGREGATES))
@pytest.mark.parametrize("by", ["number", "is_paid", "buyer__country", "buyer"])
def test_groups_are_those_of_one_database(aggregate: Any, by: str) -> None:
    def groups(models: Any) -> list[Any]:
        return list(orders(models).values(by).annotate(it=aggregate).order_by(by))

    found, expected = groups(shop), groups(plain)
    assert [each[by] for each in found] == [each[by] for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert alike(one["it"], other["it"]), (one, other)


def test_groups_are_narrowed_ordered_and_cut_when_they_are_whole() -> None:
    def asked(models: Any) -> Any:
        return orders(models).values("number").annotate(n=Count("pk"), total=Sum("number"))

    for ask in (
        lambda rows: rows.filter(n__gt=2).order_by("-n", "number"),
        lambda rows: rows.filter(Q(n__gt=4) | Q(total__lt=3)).order_by("number"),
        lambda rows: rows.order_by("-total", "number")[1:3],
        lambda rows: rows.annotate(mean=F("total") * 1.0 / F("n")).order_by("mean", "number"),
        lambda rows: rows.filter(n__gt=F("number") * 2).order_by("number"),
        lambda rows: rows.order_by("number").values_list("number", "n"),
        lambda rows: rows.exclude(n=4).order_by("number"),
        lambda rows: rows.order_by("-number"),
    ):
        assert list(ask(asked(shop))) == list(ask(asked(plain)))
    assert asked(shop).count() == asked(plain).count()
    assert asked(shop).order_by("number").first() == asked(plain).order_by("number").first()
    assert asked(shop).filter(n=77).exists() is False


def test_groups_by_an_expression_are_not_those_of_its_columns() -> None:
    def odd(models: Any) -> Any:
        return orders(models).annotate(odd=Mod("number", 2)).values("odd").annotate(n=Count("pk"))

    for ask in (
        lambda rows: rows.order_by("odd"),
        lambda rows: rows.order_by("-odd").filter(n__gt=1),
        lambda rows: rows.order_by(F("odd") * -1),
        lambda rows: rows.order_by(F("odd").desc(nulls_last=True))[:1],
        lambda rows: rows.filter(n__gt=F("odd")).order_by("odd"),
        lambda rows: rows.annotate(both=F("odd") + F("n")).order_by("both", "odd"),
        lambda rows: rows.annotate(paid=Count("pk", filter=Q(is_paid=True))).order_by("odd"),
        lambda rows: rows.values("odd", "buyer__country", "n").order_by("odd", "buyer__country"),
        lambda rows: rows.values_list("odd", "n", "number").order_by("number"),
    ):
        assert list(ask(odd(shop))) == list(ask(odd(plain)))
    assert [each["odd"] for each in odd(shop).order_by("odd")] == [0, 1]
    for by in ({"big": Q(number__gt=1)}, {"name": Lower("buyer__name")}):
        found, expected = (
            list(orders(models).values(**by).annotate(n=Count("pk")).order_by(*by))
            for models in (shop, plain)
        )
        assert found == expected
        assert len(found) < orders(plain).values("number", "buyer__name").distinct().count()


def test_rows_are_counted_where_they_are() -> None:
    for ask in (
        lambda rows: rows,
        lambda rows: rows.filter(is_paid=True),
        lambda rows: rows.order_by("pk")[2:5],
        lambda rows: rows.order_by("pk")[100:],
        lambda rows: rows.values("number").distinct(),
        lambda rows: rows.values("buyer").distinct(),
        lambda rows: rows.values("buyer").annotate(n=Count("pk")).filter(n__gt=1),
        lambda rows: rows.filter(number=77),
    ):
        assert ask(orders(shop)).count() == ask(orders(plain)).count()
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        orders(shop).count()
    (only,) = asked.captured_queries
    assert "COUNT(*)" in only["sql"]
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        orders(shop).select_related("buyer").count()
    (only,) = asked.captured_queries
    assert "JOIN" not in only["sql"]
    listed = orders(shop)
    assert len(listed) == orders(plain).count()
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        assert listed.count() == orders(plain).count()
    assert len(asked) == 0


def test_groups_that_are_narrowed_cost_one_round_trip_more() -> None:
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        assert list(orders(shop).values("number").annotate(n=Count("pk")))
    assert len(asked) == 1
    with CaptureQueriesContext(connections[shards()[0]]) as asked:
        found = orders(shop).values("number").annotate(n=Count("pk")).filter(n__gt=0)
        assert len(list(found)) > 1
    assert len(asked) == 2


def test_a_group_without_a_key_may_lie_on_every_shard() -> None:
    """A join that finds nothing makes one group of rows of all shards, in spite of its key."""
    for models in (shop, plain):
        for key in BUYERS[:4]:
            models.Order.objects.filter(buyer=key).delete()
    expected = plain.Buyer.objects.values("orders__buyer").annotate(n=Count("pk"))
    found = shop.Buyer.objects.fanout().values("orders__buyer").annotate(n=Count("pk"))

    def in_order(rows: Any) -> list[Any]:
        return sorted(rows, key=lambda row: row["orders__buyer"] or 0)

    assert in_order(found) == in_order(expected)
    assert in_order(expected)[0] == {"orders__buyer": None, "n": 4}


def test_a_column_that_may_be_null_does_not_hold_its_rows_to_one_shard() -> None:
    field: Any = shop.Order._meta.get_field("buyer")
    query = shop.Order.objects.filter(buyer__gt=0).query
    table = query.get_initial_alias()
    assert is_of_one_shard(Col(table, field), query)
    nullable = copy(field)
    nullable.null = True
    assert not is_of_one_shard(Col(table, nullable), query)


def test_an_answer_of_no_shard_is_that_of_no_row() -> None:
    asked = {"n": Count("pk"), "unlike": Count("number", distinct=True), "total": Sum("number")}
    found = orders(shop).filter(pk__in=[]).aggregate(**asked)
    assert found == orders(plain).filter(pk__in=[]).aggregate(**asked)
    assert found == {"n": 0, "unlike": 0, "total": None}


def test_only_shards_that_the_conditions_name_are_counted() -> None:
    key = BUYERS[0]
    other = next(each for each in shards() if each != shop.Order.objects.filter(buyer=key).db)
    with CaptureQueriesContext(connections[other]) as asked:
        assert orders(shop).filter(buyer=key).count() == 2
        assert orders(shop).filter(buyer=key).aggregate(n=Count("pk")) == {"n": 2}
    assert len(asked) == 0


def test_as_many_as_may_be_held_are() -> None:
    numbers = set(plain.Order.objects.values_list("number", flat=True))
    just = shop.Order.objects.fanout(max_rows=len(numbers))
    less = shop.Order.objects.fanout(max_rows=len(numbers) - 1)
    assert len(just.values("number").annotate(n=Count("pk"))) == len(numbers)
    assert just.aggregate(n=Count("number", distinct=True)) == {"n": len(numbers)}
    with pytest.raises(TooManyToMerge, match="groups"):
        list(less.values("number").annotate(n=Count("pk")))
    with pytest.raises(TooManyToMerge, match="distinct values"):
        less.aggregate(n=Count("number", distinct=True))


def test_more_than_may_be_held_is_an_error() -> None:
    few = shop.Order.objects.fanout(max_rows=1)
    with pytest.raises(TooManyToMerge, match=r"more than 1 groups, which it has to hold"):
        list(few.values("number").annotate(n=Count("pk")))
    with pytest.raises(TooManyToMerge, match="more than 1 distinct values"):
        few.aggregate(n=Count("number", distinct=True))
    with pytest.raises(TooManyRows):
        few.values("number").distinct().count()
    assert few.count() == orders(plain).count()
    assert few.aggregate(n=Sum("number")) == orders(plain).aggregate(n=Sum("number"))


def test_what_does_not_add_up_is_refused() -> None:
    with pytest.raises(UsageError, match="aggregate a slice"):
        orders(shop).order_by("pk")[:3].aggregate(n=Count("pk"))
    with pytest.raises(TypeError, match="not an aggregate"):
        orders(shop).aggregate(n=F("number"))
    with pytest.raises(TypeError, match="alias"):
        orders(shop).aggregate(Sum("number") + 1)
    assert orders(shop).aggregate(Sum("number")) == orders(plain).aggregate(Sum("number"))
    assert orders(shop).aggregate() == {}


def test_async_twins() -> None:
    assert async_to_sync(orders(shop).acount)() == orders(plain).count()
    found = async_to_sync(orders(shop).aaggregate)(n=Sum("number"), one=Max(Value(1)))
    assert found == orders(plain).aggregate(n=Sum("number"), one=Max(Value(1)))


@st.composite
def questions(draw: st.DrawFn) -> Any:
    """Return a function that asks a shop's models for merged groups or numbers."""
    parts = draw(st.lists(conditions("Order"), max_size=2))
    by = draw(
        st.lists(
            st.sampled_from(["number", "is_paid", "buyer__country", "buyer__name", "buyer"]),
            max_size=2,
            unique=True,
        )
    )
    # Django's own on SQLite fails over a sample of one row.
    known = sorted(each for each in AGGREGATES if not each.endswith("a sample"))
    names = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
    least = draw(st.none() | st.integers(0, 6))
    low = draw(st.integers(0, 3))
    high = draw(st.none() | st.integers(0, 6).map(lambda size: low + size))

    def question(models: Any) -> Any:
        found = orders(models)
        for each in parts:
            found = found.filter(each)
        wanted = {f"a{index}": AGGREGATES[name] for index, name in enumerate(names)}
        if not by:
            return [found.aggregate(**wanted)]
        found = found.values(*by).annotate(size=Count("pk"), **wanted)
        if least is not None:
            found = found.filter(size__gt=least)
        return list(found.order_by("-size", *by)[low:high])

    return question


def test_random_numbers_are_those_of_one_database() -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(questions())
    def ask(question: Any) -> None:
        found, expected = question(shop), question(plain)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            assert all(alike(one[name], other[name]) for name in one), (one, other)

    ask()
