"""Shards that are lost between their rows and what hangs on them: named, and in time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import Prefetch

from dbpatterns.sharding import shard_for
from dbpatterns.sharding.errors import ShardUnavailable
from dbpatterns.sharding.fanout.reading.watching import Watch
from tests.processes import until
from tests.servers import stopped
from tests.sharding.support import BUYERS
from tests.sharding.test_fanout_servers import (
    FIRST,
    LAST,
    SECONDS,
    SOON,
    are_usable,
    connected,
    held,
    within,
)
from tests.shop.models import Buyer, Order

pytestmark = [
    pytest.mark.django_db(databases="__all__", transaction=True),
    pytest.mark.usefixtures("filled"),
]


def listed(asked: Any) -> list[Any]:
    return list(asked)


def streamed(asked: Any) -> list[Any]:
    return list(asked.iterator(chunk_size=2))


def buyers_of(alias: str) -> list[int]:
    return sorted(each for each in BUYERS if shard_for(each) == alias)


def others_than(alias: str) -> list[int]:
    return sorted(set(BUYERS) - set(buyers_of(alias)))


def asking(waits: Any, **options: Any) -> Any:
    """Return all buyers with their orders, which wait on the shards that are held."""
    orders = Prefetch("orders", Order.objects.annotate(waits=waits))
    return Buyer.objects.fanout(**options).prefetch_related(orders).order_by("pk")


@contextmanager
def before_orders(alias: str, act: Callable[[], None]) -> Iterator[None]:
    """Do this when a shard's rows are there and its orders are about to be asked for."""

    def execute(run: Callable[..., Any], sql: str, *args: Any) -> Any:
        if "shop_order" in sql:
            act()
        return run(sql, *args)

    with connections[alias].execute_wrapper(execute):
        yield


@pytest.mark.parametrize("read", [listed, streamed])
@pytest.mark.parametrize("alias", [FIRST, LAST])
def test_a_shard_whose_related_rows_are_late_is_named(alias: str, read: Any) -> None:
    with held(alias) as waits, within(2 * SOON):
        with pytest.raises(ShardUnavailable, match=f"{alias!r} is not available: no ans") as caught:
            read(asking(waits, timeout=SECONDS))
        assert list(caught.value.missing_shards) == [alias]
        assert isinstance(caught.value.__cause__, OperationalError)
        ours = asking(waits, timeout=SECONDS, on_error="partial")
        found = read(ours)
    assert [each.pk for each in found] == others_than(alias)
    assert {len(each.orders.all()) for each in found} == {2}
    assert ours.missing_shards == {alias: f"no answer within {SECONDS} s"}
    assert are_usable()


def test_others_move_up_where_rows_are_left_out() -> None:
    lost = shard_for(min(BUYERS))
    with held(lost) as waits, within(4 * SOON):
        ours = asking(waits, timeout=SECONDS, on_error="partial")
        assert [each.pk for each in ours[:4]] == others_than(lost)[:4]
        assert ours.first().pk == others_than(lost)[0]
        assert list(ours.missing_shards) == [lost]
        with pytest.raises(ShardUnavailable):
            ours.get(pk=min(BUYERS))
    assert are_usable()


def test_an_open_transaction_is_not_lost_with_related_rows() -> None:
    with held(LAST) as waits, pytest.raises(ShardUnavailable), transaction.atomic(using=LAST):
        list(asking(waits, timeout=SECONDS, on_error="partial"))
    assert are_usable()


@pytest.mark.postgresql
@pytest.mark.parametrize("read", [listed, streamed])
def test_a_session_that_ends_before_the_related_rows_is_named(read: Any) -> None:
    def end() -> None:
        process = connections[LAST].connection.info.backend_pid
        with connected(LAST) as operator:
            operator.execute("SELECT pg_terminate_backend(%s, 10000)", [process])

    asked = Buyer.objects.fanout().prefetch_related("orders").order_by("pk")
    with before_orders(LAST, end), pytest.raises(ShardUnavailable, match=f"{LAST!r}.*terminating"):
        read(asked)
    ours = Buyer.objects.fanout(on_error="partial").prefetch_related("orders").order_by("pk")
    assert are_usable()
    with before_orders(LAST, end):
        assert [each.pk for each in read(ours)] == others_than(LAST)
    assert "terminating" in ours.missing_shards[LAST]
    assert are_usable()


@pytest.mark.postgresql
def test_a_server_that_stops_before_the_related_rows_costs_its_deadline() -> None:
    process = connections[LAST].connection.info.backend_pid
    halt = stopped(process)
    ours = Buyer.objects.fanout(timeout=SECONDS, on_error="partial").prefetch_related("orders")
    try:
        with before_orders(LAST, halt.__enter__), within(SOON):
            assert {each.pk for each in ours} == set(others_than(LAST))
    finally:
        halt.__exit__(None, None, None)
    assert list(ours.missing_shards) == [LAST]
    assert are_usable()


def test_another_database_that_does_not_answer_is_not_taken_for_the_shard(tmp_path: Path) -> None:
    """Rows may refer to what lies elsewhere; here the orders are said to."""
    key = buyers_of(LAST)[0]
    settings = connections[FIRST].settings_dict
    before = dict(settings)
    connections[FIRST].close()
    settings.update({"NAME": str(tmp_path)} if "sqlite" in before["ENGINE"] else {"PORT": 1})
    ours = Buyer.objects.fanout(on_error="partial").filter(pk=key)
    try:
        with pytest.raises(OperationalError) as caught:
            list(ours.prefetch_related(Prefetch("orders", Order.objects.using(FIRST))))
        assert not isinstance(caught.value, ShardUnavailable)
    finally:
        settings.update(before)
        connections[FIRST].close()
    assert are_usable()


def test_a_deadline_that_has_passed_unnoticed_is_noticed_at_its_end() -> None:
    """Its connection is cut, so the caller's next statement would fail."""
    connections[LAST].ensure_connection()
    with (
        Watch(0.01) as watch,
        pytest.raises(InterfaceError, match="cut"),
        watch.over(connections[LAST]),
    ):
        until(lambda: LAST in watch.late)
    connections[LAST].close()
