"""Querysets at random: each gives what one database gives, or is refused."""

import os
from functools import reduce
from operator import and_, or_, xor
from typing import Any

import pytest
from django.db.models import Count, Exists, F, OuterRef, Q
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbpatterns.errors import UsageError
from tests.plainshop import models as plain
from tests.sharding.support import BUYERS
from tests.shop import models as shop

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]

EXAMPLES = 5_000 if "DBPATTERNS_TEST_HISTORIES" in os.environ else 500
KEYS = st.sampled_from(BUYERS)
KEYED = {"Order": ("buyer", "buyer_id", "buyer__id"), "Line": ("buyer", "order__buyer", "buyer_id")}
PLAIN = {
    "Order": ("number", "lines__amount"),
    "Line": ("amount", "order__number"),
}


def conditions(model: str) -> st.SearchStrategy[Q]:
    """Return conditions on a model: on its key, on other columns, and what is made of them."""
    keys = st.sampled_from(KEYED[model])
    columns = st.sampled_from(PLAIN[model])
    numbers = st.integers(0, 12)
    leaves = st.one_of(
        st.builds(lambda name, key: Q(**{name: key}), keys, KEYS),
        st.builds(lambda name, few: Q(**{f"{name}__in": few}), keys, st.lists(KEYS, max_size=3)),
        st.builds(lambda name, key: Q(**{f"{name}__gt": key}), keys, KEYS),
        st.builds(lambda name, number: Q(**{name: number}), columns, numbers),
        st.builds(lambda name, number: Q(**{f"{name}__lte": number}), columns, numbers),
        st.builds(lambda name: Q(**{f"{name}__isnull": False}), columns),
        st.just(Q(buyer=F(PLAIN[model][0]))),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(lambda parts: reduce(and_, parts), st.lists(inner, min_size=2, max_size=3)),
            st.builds(lambda parts: reduce(or_, parts), st.lists(inner, min_size=2, max_size=3)),
            st.builds(lambda parts: reduce(xor, parts), st.lists(inner, min_size=2, max_size=2)),
            st.builds(lambda part: ~part, inner),
        ),
        max_leaves=5,
    )


@st.composite
def questions(draw: st.DrawFn) -> Any:
    """Return a function that asks a shop's models something."""
    name, other = draw(st.sampled_from([("Order", "Line"), ("Line", "Order")]))
    held = [Q(buyer=draw(KEYS))] if draw(st.booleans()) else []
    parts = [*held, *draw(st.lists(conditions(name), max_size=2))]
    excluded = draw(st.lists(conditions(name), max_size=1))
    inner = draw(st.none() | conditions(other))
    ties = {"Line": {"buyer": "buyer", "order": "pk"}, "Order": {"buyer": "buyer", "pk": "order"}}
    tie = draw(st.none() | st.sampled_from(sorted(ties[other])))
    side = draw(st.none() | conditions(name))
    ask = draw(st.sampled_from(["pks", "count", "exists", "grouped", "sliced", "aggregate"]))

    def question(models: Any) -> Any:
        rows = getattr(models, name).objects.all()
        for each in parts:
            rows = rows.filter(each)
        for each in excluded:
            rows = rows.exclude(each)
        if inner is not None:
            nested = getattr(models, other).objects.filter(inner)
            if tie is not None:
                nested = nested.filter(**{tie: OuterRef(ties[other][tie])})
            rows = rows.filter(Exists(nested))
        if side is not None and ask == "pks":
            rows = rows.union(getattr(models, name).objects.filter(side))
        if ask == "count":
            return rows.count()
        if ask == "exists":
            return rows.exists()
        if ask == "grouped":
            return sorted(rows.values_list("buyer").annotate(Count("pk", distinct=True)))
        if ask == "sliced":
            return [each.pk for each in rows.order_by("pk")[1:3]]
        if ask == "aggregate":
            return rows.aggregate(size=Count("pk", distinct=True))
        return sorted(rows.values_list("pk", flat=True))

    return question


def test_a_queryset_gives_what_one_database_gives_or_is_refused() -> None:
    routed = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(questions())
    def ask(question: Any) -> None:
        nonlocal routed
        try:
            found = question(shop)
        except UsageError:
            return
        assert found == question(plain)
        routed += 1

    ask()
    assert routed > EXAMPLES / 5  # to refuse everything would be right as well
