"""`every_shard`: a queryset of all shards, beside the same one on one database."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.db.models import Count, F, Max, QuerySet, Sum
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.sharding import ShardedQuerySet, current_shard, shard, shard_for, shards
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired, UncoveredWrite
from dbpatterns.sharding.every_shard import every_shard
from tests.plainshop import models as plain
from tests.sharding.support import BUYERS, contents
from tests.shop import models as shop

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.usefixtures("filled"),
]
ONE, OTHER = BUYERS[0], BUYERS[1]
"""On two shards."""

READS: dict[str, Callable[[Any], Any]] = {
    "list": lambda rows: list(rows.order_by("number", "id").values_list("id", "number")),
    "slice": lambda rows: [row.pk for row in rows.order_by("-number", "id")[3:8]],
    "index": lambda rows: rows.order_by("id")[4].pk,
    "count": lambda rows: rows.filter(number__gt=1).count(),
    "exists": lambda rows: (rows.exists(), rows.filter(number=99).exists()),
    "first and last": lambda rows: (rows.first().pk, rows.order_by("id").last().pk),
    "get": lambda rows: rows.get(pk=rows.order_by("id")[5].pk).number,
    "aggregate": lambda rows: rows.aggregate(n=Count("pk"), most=Max("number")),
    "iterator": lambda rows: [row.pk for row in rows.order_by("id").iterator()],
    "in_bulk": lambda rows: sorted(rows.in_bulk()),
    "groups": lambda rows: list(rows.order_by("number").values("number").annotate(n=Sum("number"))),
    "prefetch": lambda rows: [
        sorted(line.pk for line in row.lines.all())
        for row in rows.prefetch_related("lines").order_by("id")
    ],
    "bool and len": lambda rows: (bool(rows.filter(number=99)), len(rows)),
}


@pytest.mark.parametrize("read", READS)
def test_a_read_is_that_of_one_database(read: str) -> None:
    rows = every_shard(shop.Order.objects.all())
    assert READS[read](rows) == READS[read](plain.Order.objects.all())


class TestReads:
    def test_the_harm_one_shard_is_a_part_and_all_are_refused(self) -> None:
        with pytest.raises(ShardKeyRequired):
            shop.Order.objects.count()
        assert shop.Order.objects.using(shards()[0]).count() < len(BUYERS) * 2

    def test_a_list_is_kept(self) -> None:
        rows = every_shard(shop.Order.objects.prefetch_related("lines"))
        assert [len(row.lines.all()) for row in rows] == [2] * len(BUYERS) * 2
        with CaptureQueriesContext(connections[shards()[0]]) as here:
            assert len(rows) == rows.count() == len(BUYERS) * 2
            assert rows.exists()
            assert [len(row.lines.all()) for row in rows] == [2] * len(BUYERS) * 2
        assert len(here) == 0

    def test_conditions_that_name_a_key_ask_its_shard(self) -> None:
        with CaptureQueriesContext(connections[shard_for(OTHER)]) as elsewhere:
            assert every_shard(shop.Order.objects.filter(buyer=ONE)).count() == 2
        assert len(elsewhere) == 0

    def test_in_a_block_it_is_of_that_shard(self) -> None:
        here = shop.Order.objects.using(shard_for(ONE)).count()
        everywhere = every_shard(shop.Order.objects.all())
        with shard(ONE):
            made = every_shard(shop.Order.objects.all())
            assert everywhere.all().count() == here
        assert made.count() == len(made) == here
        assert every_shard(shop.Order.objects.using(shard_for(ONE))).count() == here
        assert everywhere.count() == len(BUYERS) * 2

    def test_related_managers_stay_where_they_are(self) -> None:
        buyer = shop.Buyer.objects.get(id=OTHER)
        with CaptureQueriesContext(connections[shard_for(ONE)]) as elsewhere:
            assert len(every_shard(buyer.orders.all())) == 2
        assert len(elsewhere) == 0

    def test_methods_of_the_model_s_own_queryset_stay(self) -> None:
        class Orders(ShardedQuerySet):
            def unpaid(self) -> Any:
                return self.filter(is_paid=False)

        rows: Any = every_shard(Orders(shop.Order))
        assert rows.unpaid().count() == len(BUYERS)
        assert type(rows.unpaid()) is type(every_shard(Orders(shop.Order)))
        assert type(every_shard(rows)) is type(rows)

    def test_a_queryset_of_django_s_is_routed_too(self) -> None:
        rows: QuerySet[Any] = QuerySet(shop.Order)
        assert every_shard(rows).count() == len(BUYERS) * 2

    def test_what_cannot_be_merged_is_refused(self) -> None:
        rows = every_shard(shop.Order.objects.all())
        for refused in (rows.select_for_update(), rows.order_by("?"), rows.extra({"n": "1"})):
            with pytest.raises(UsageError, match="fan-out"):
                list(refused)


class TestWrites:
    def test_an_update_is_that_of_one_database(self) -> None:
        for models in (shop, plain):
            rows: Any = models.Order.objects.filter(number__gt=1)
            rows = every_shard(rows) if models is shop else rows
            assert rows.update(number=F("number") + 10) > 2
        assert contents(shop) == contents(plain)

    def test_a_delete_is_that_of_one_database_also_of_a_list(self) -> None:
        deleted = []
        for models in (shop, plain):
            rows: Any = models.Order.objects.filter(is_paid=True)
            rows = every_shard(rows) if models is shop else rows
            assert len(rows) == len(BUYERS)
            total, counts = rows.delete()
            deleted.append((total, {label.split(".")[1]: n for label, n in counts.items()}))
        assert deleted[0] == deleted[1]
        assert contents(shop) == contents(plain)

    @pytest.mark.parametrize("write", ["update", "delete"])
    def test_all_or_none(self, write: str) -> None:
        before = contents(shop)
        rows = every_shard(shop.Line.objects.all())

        def fail(execute: Any, sql: str, *rest: Any) -> Any:
            if sql.startswith(("UPDATE", "DELETE")):
                raise IntegrityError("on the last shard")
            return execute(sql, *rest)

        with connections[shards()[-1]].execute_wrapper(fail), pytest.raises(IntegrityError):
            rows.update(amount=0) if write == "update" else rows.delete()
        assert contents(shop) == before

    @pytest.mark.parametrize("write", ["update", "delete"])
    @pytest.mark.parametrize("block", ["default", shards()[0]])
    def test_a_block_of_one_database_does_not_cover_it(self, write: str, block: str) -> None:
        rows = every_shard(shop.Line.objects.all())
        run = {"update": lambda: rows.update(amount=9), "delete": rows.delete}[write]
        before = contents(shop)
        with pytest.raises(UncoveredWrite), transaction.atomic(using=block):
            run()
        assert contents(shop) == before
        with ExitStack() as blocks:
            for alias in ("default", *shards()):
                blocks.enter_context(transaction.atomic(using=alias))
            run()
        assert contents(shop) != before

    def test_a_key_s_shard_alone_is_written(self) -> None:
        with CaptureQueriesContext(connections[shard_for(OTHER)]) as elsewhere:
            assert every_shard(shop.Order.objects.filter(buyer=ONE)).update(number=5) == 2
        assert len(elsewhere) == 0

    def test_in_a_block_it_writes_there(self) -> None:
        with shard(ONE):
            written = every_shard(shop.Order.objects.all()).update(number=50)
        assert written == shop.Order.objects.using(shard_for(ONE)).count()
        assert every_shard(shop.Order.objects.filter(number=50)).count() == written

    def test_a_block_that_is_held_to_one_refuses_what_was_made_before_it(self) -> None:
        rows = every_shard(shop.Order.objects.filter(buyer__in=[ONE, OTHER]))
        with shard(ONE, lock=True), pytest.raises(CrossShardError):
            rows.update(number=1)
        assert current_shard() is None
