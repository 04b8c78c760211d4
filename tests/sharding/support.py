"""A small shop on the shards, and the same on one database."""

from itertools import count
from types import ModuleType
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse

from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.shard_map import first_map
from tests.plainshop import models as plain
from tests.shop import models as shop

__all__ = ["BUYERS", "contents", "fill", "misplaced", "say_nothing"]

MODELS = ("Country", "Mark", "Buyer", "Order", "Marking", "Line")


def _buyers() -> list[int]:
    """Return three keys of each shard, the shards in turn."""
    of_shard: dict[str, list[int]] = {alias: [] for alias in shards()}
    first = first_map("bank")  # the tests' own, which is not pinned while they are collected
    for number in count(1):
        found = of_shard[first.shard_of(number)]
        if len(found) < 3:
            found.append(number)
        if all(len(each) == 3 for each in of_shard.values()):
            return [each[turn] for turn in range(3) for each in of_shard.values()]
    raise AssertionError


BUYERS = _buyers()


def fill(models: ModuleType) -> None:
    """Write three buyers for each shard, with two orders of two lines each."""
    countries = [("DE", "Germany"), ("FR", "France"), ("IS", "Iceland")]
    models.Country.objects.bulk_create(models.Country(code=c, name=n) for c, n in countries)
    models.Mark.objects.bulk_create(models.Mark(name=name) for name in ("gift", "late"))
    orders, lines, marks = [], [], []
    for buyer in BUYERS:
        for turn in range(2):
            order = models.Order(
                id=UUID(int=buyer * 100 + turn),
                buyer_id=buyer,
                number=buyer % 3 + turn,
                is_paid=turn == 0,
            )
            orders.append(order)
            marks.append(
                models.Marking(
                    id=UUID(int=buyer * 100 + 50 + turn),
                    buyer_id=buyer,
                    order=order,
                    mark_id=("gift", "late")[turn],
                )
            )
            lines += [
                models.Line(
                    id=UUID(int=buyer * 100 + 10 + 2 * turn + each),
                    buyer_id=buyer,
                    order=order,
                    amount=buyer + each,
                )
                for each in range(2)
            ]
    models.Buyer.objects.bulk_create(
        models.Buyer(id=key, name=f"buyer {key}", country_id=countries[key % 3][0])
        for key in BUYERS
    )
    models.Order.objects.bulk_create(orders)
    models.Marking.objects.bulk_create(marks)
    models.Line.objects.bulk_create(lines)


def contents(models: ModuleType) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of each model, from all shards where it is sharded."""
    found = {}
    for name in MODELS:
        model = getattr(models, name)
        aliases = ["default"] if models is plain else list(shards())
        parts = [sorted(model.objects.using(alias).values_list(), key=str) for alias in aliases]
        if models is shop and name in ("Country", "Mark"):
            assert all(part == parts[0] for part in parts), f"{name} differs from shard to shard"
            parts = parts[:1]
        found[name] = sorted((row for part in parts for row in part), key=str)
    return found


def misplaced() -> list[tuple[str, str, Any]]:
    """Return the rows that are not where the map has them."""
    return [
        (alias, name, row)
        for alias in shards()
        for name, key in (("Buyer", "id"), ("Order", "buyer"), ("Line", "buyer"))
        for row, owner in getattr(shop, name).objects.using(alias).values_list("pk", key)
        if shard_for(owner) != alias
    ]


def say_nothing(request: HttpRequest) -> HttpResponse:
    """Be the page of an error: the demo's own leads to its other pages, which a test has not."""
    return HttpResponse(status=500)
