"""A question is compiled once for shards of one kind, and for each where that would be wrong."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from django.db.models import CharField, Expression, Value

from dbpatterns.sharding import shards
from tests.sharding.support import BUYERS
from tests.shop.models import Buyer, Order

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]
FIRST, LAST = shards()[0], shards()[-1]


class Counted(Value):
    """Counts how often it is compiled."""

    compiled = 0

    def as_sql(self, *args: Any) -> Any:
        """Return Django's."""
        type(self).compiled += 1
        return super().as_sql(*args)


class Where(Expression):
    """Says which database it was compiled for."""

    output_field = CharField()

    def __init__(self, told_by: Callable[[Any], str]) -> None:
        super().__init__()
        self.told_by = told_by

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        """Return the name as a parameter."""
        return "CAST(%s AS varchar(30))", [self.told_by(connection)]


def times(aliases: int) -> int:
    """Return how often a page of so many shards is compiled."""
    Counted.compiled = 0
    asked = Order.objects.annotate(one=Counted(1))
    if aliases == 1:
        asked = asked.using(FIRST)
    assert list(asked.fanout().order_by("number")[:5])
    return Counted.compiled


def test_all_shards_of_one_kind_cost_what_one_does() -> None:
    assert times(len(shards())) == times(1) > 0


def test_nobody_is_asked_what_nothing_can_answer() -> None:
    assert list(Order.objects.fanout().filter(number__in=[]).order_by("number")) == []


@pytest.mark.parametrize("of", ["alias", "settings_dict"])
def test_an_expression_that_asks_for_its_database_is_compiled_for_each(of: str) -> None:
    """One statement for all would have every row say the first shard's name."""
    told_by: Any = {
        "alias": lambda connection: connection.alias,
        "settings_dict": lambda connection: str(connection.settings_dict["NAME"])[-30:],
    }[of]
    found = list(Buyer.objects.fanout().annotate(where=Where(told_by)).order_by("pk"))
    assert len(found) == len(BUYERS)
    for each in found:
        assert each.where == told_by(connections[each._state.db])  # type: ignore[attr-defined]


def test_other_settings_are_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections[LAST].settings_dict, "TIME_ZONE", "Asia/Kathmandu")
    assert times(len(shards())) == 2 * times(1)


@pytest.mark.postgresql
def test_another_version_is_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django writes some functions otherwise for an older server."""
    connections[LAST].pg_version  # noqa: B018 - what Django keeps of the server
    monkeypatch.setitem(vars(connections[LAST]), "pg_version", 150_000)
    assert times(len(shards())) == 2 * times(1)


@pytest.mark.postgresql
@pytest.mark.django_db(databases="__all__", transaction=True)
def test_no_server_is_asked_for_its_version_before_there_is_a_deadline() -> None:
    for alias in shards():
        connections[alias].close()
        vars(connections[alias]).pop("pg_version", None)
    asked: Any = Order.objects.fanout(timeout=20).order_by("number")
    assert len(asked._statements(5)) == len(shards())
    assert [connections[alias].connection for alias in shards()] == [None] * len(shards())
    assert len(asked) == 2 * len(BUYERS)
