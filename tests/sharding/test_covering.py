"""A transaction covers the writes of its own database: what it only seems to cover is refused."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from dbpatterns.sharding import on_every_shard, shards
from dbpatterns.sharding.errors import UncoveredWrite
from dbpatterns.sharding.shard_map import first_map
from dbpatterns.transactions import atomic
from tests.sharding.operations import ONE, OTHER
from tests.sharding.support import contents, say_nothing
from tests.shop import models as shop
from tests.shop.models import Buyer, Country, Line, Order

in_test = pytest.mark.django_db(databases="__all__")
committed = pytest.mark.django_db(transaction=True, databases="__all__")
NEW = UUID(int=1)
HOME, AWAY = map(first_map("bank").shard_of, (ONE, OTHER))


def orders(key: int = ONE) -> Any:
    return Order.objects.filter(buyer=key)


def bulk_update() -> None:
    rows = list(orders())
    Order.objects.bulk_update(rows, ["number"])


WRITES: dict[str, Callable[[], object]] = {
    "save of a new row": lambda: Order(id=NEW, buyer_id=ONE).save(),
    "save of a row": lambda: orders()[0].save(),
    "create": lambda: Order.objects.create(buyer_id=ONE),
    "create with using": lambda: Order.objects.using(HOME).create(buyer_id=ONE),
    "create by a related manager": lambda: Buyer.objects.get(pk=ONE).orders.create(),
    "get_or_create": lambda: Order.objects.get_or_create(buyer_id=ONE, number=99),
    "update_or_create": lambda: Order.objects.update_or_create(buyer_id=ONE, number=99),
    "bulk_create": lambda: Order.objects.bulk_create([Order(buyer_id=ONE)]),
    "bulk_update": bulk_update,
    "update": lambda: orders().update(number=9),
    "update with using": lambda: Order.objects.using(HOME).update(number=9),
    "select_for_update": lambda: list(orders().select_for_update()),
    "delete of a row": lambda: orders()[0].delete(),
    "delete of a queryset": lambda: Line.objects.filter(buyer=ONE).delete(),
}
writes = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


@committed
def test_past_the_package_a_row_survives_the_rollback_of_its_block() -> None:
    with transaction.atomic():
        Buyer(id=ONE).save_base(using=HOME)
        transaction.set_rollback(True)
    assert Buyer.objects.filter(id=ONE).exists()


@in_test
@pytest.mark.usefixtures("filled")
@writes
@pytest.mark.parametrize("block", ["default", AWAY])
def test_a_write_within_another_database_s_block_is_refused(
    write: Callable[[], object], block: str
) -> None:
    before = contents(shop)
    with (
        pytest.raises(UncoveredWrite, match=f"to '{HOME}' within .* on '{block}'"),
        transaction.atomic(using=block),
    ):
        write()
    assert contents(shop) == before


@in_test
@pytest.mark.usefixtures("filled")
@writes
@pytest.mark.parametrize("inner", ["default", HOME])
def test_a_block_of_the_shard_s_own_covers_it_inside_and_outside(
    write: Callable[[], object], inner: str
) -> None:
    outer = next(each for each in ("default", HOME) if each != inner)
    with transaction.atomic(using=outer), transaction.atomic(using=inner):
        write()


@in_test
@pytest.mark.usefixtures("filled")
def test_reads_go_anywhere_and_writes_need_no_block() -> None:
    with transaction.atomic():
        assert orders().count() == orders(OTHER).count() == 2
        assert Order.objects.get(pk=orders()[0].pk, buyer=ONE).buyer.name
    for write in WRITES.values():
        write()


@in_test
@pytest.mark.usefixtures("filled")
def test_our_own_atomic_is_a_block_like_django_s() -> None:
    with pytest.raises(UncoveredWrite), atomic():
        orders().update(number=9)
    with atomic(), atomic(using=HOME):
        orders().update(number=9)
    with transaction.atomic(using=HOME), pytest.raises(UncoveredWrite, match=f"on '{HOME}'"):
        orders(OTHER).update(number=9)
    assert set(orders().values_list("number", flat=True)) == {9}
    assert 9 not in orders(OTHER).values_list("number", flat=True)


@in_test
@pytest.mark.usefixtures("filled")
def test_rows_of_two_shards_need_a_block_on_each() -> None:
    def write() -> None:
        Order.objects.bulk_create([Order(buyer_id=ONE), Order(buyer_id=OTHER)])

    with pytest.raises(UncoveredWrite) as caught, transaction.atomic(using=HOME):
        write()
    assert (caught.value.shard, caught.value.open_on) == (AWAY, (HOME,))
    with ExitStack() as blocks:
        for alias in ("default", *shards()):
            blocks.enter_context(transaction.atomic(using=alias))
        write()


def italy() -> Country:
    found: Country = Country.objects.get(code="IT")
    return found


def of_all(write: Callable[[list[Country]], object]) -> None:
    rows = list(Country.objects.all())
    rows[0].name = "new"
    write(rows[:1])


REFERENCE_WRITES: dict[str, Callable[[], object]] = {
    "save of a new row": lambda: Country(code="ES").save(),
    "save of a row": lambda: of_all(lambda rows: rows[0].save()),
    "create": lambda: Country.objects.create(code="ES"),
    "get_or_create": lambda: Country.objects.get_or_create(code="ES"),
    "update_or_create": lambda: Country.objects.update_or_create({"name": "new"}, code="IT"),
    "bulk_create": lambda: Country.objects.bulk_create([Country(code="ES")]),
    "bulk_update": lambda: of_all(lambda rows: Country.objects.bulk_update(rows, ["name"])),
    "update": lambda: Country.objects.filter(code="IT").update(name="new"),
    "delete of a row": lambda: italy().delete(),
    "delete of a queryset": lambda: Country.objects.filter(code="IT").delete(),
}


def countries() -> list[list[tuple[str, str]]]:
    """Read the table of each shard."""
    return [
        list(Country.objects.using(alias).order_by("code").values_list("code", "name"))
        for alias in shards()
    ]


@committed
def test_past_the_package_shards_differ_once_one_of_them_rolls_back() -> None:
    with transaction.atomic(using=HOME):
        for alias in shards():
            Country(code="IT").save_base(using=alias)
        transaction.set_rollback(True, using=HOME)
    assert [len(each) for each in countries()] == [int(alias != HOME) for alias in shards()]


@committed
@pytest.mark.parametrize("write", REFERENCE_WRITES.values(), ids=REFERENCE_WRITES)
def test_a_write_to_every_shard_needs_a_block_on_each_if_there_is_any(
    write: Callable[[], object],
) -> None:
    Country.objects.create(code="IT", name="Italy")
    before = countries()
    for block in ("default", HOME, AWAY):
        with (
            pytest.raises(UncoveredWrite, match=rf"on '{block}'.*on_every_shard\(\)"),
            transaction.atomic(using=block),
        ):
            write()
        assert countries() == before
    with on_every_shard():
        write()
        for alias in shards():
            transaction.set_rollback(True, using=alias)
    assert countries() == before
    with transaction.atomic(), on_every_shard():
        write()
    after = countries()
    assert after[0] != before[0]
    assert all(each == after[0] for each in after)


@committed
def test_with_autocommit_off_a_block_is_open_as_well() -> None:
    connections["default"].set_autocommit(False)
    try:
        with pytest.raises(UncoveredWrite):
            Buyer.objects.create(id=ONE)
    finally:
        connections["default"].set_autocommit(True)
    Buyer.objects.create(id=ONE)


def seemingly_covered(request: HttpRequest) -> HttpResponse:
    Buyer.objects.create(id=ONE)
    raise LookupError("later in the request")


def covered(request: HttpRequest) -> HttpResponse:
    with transaction.atomic(using=HOME):
        Buyer.objects.create(id=ONE)
    return HttpResponse()


@transaction.non_atomic_requests
def outside(request: HttpRequest) -> HttpResponse:
    Buyer.objects.create(id=ONE)
    return HttpResponse()


urlpatterns = [path(f"{each.__name__}/", each) for each in (seemingly_covered, covered, outside)]
handler500 = say_nothing


@in_test
@pytest.mark.urls(__name__)
def test_a_request_s_own_transaction_covers_no_shard(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LookupError):
        client.get("/seemingly_covered/")
    Buyer.objects.get(pk=ONE).delete()
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    with pytest.raises(UncoveredWrite):
        client.get("/seemingly_covered/")
    for view in ("covered", "outside"):
        assert client.get(f"/{view}/").status_code == 200
        Buyer.objects.get(pk=ONE).delete()
