"""Operations of Django's ORM on sharded models: each is sent to one shard, split, or refused.

Each is written once and run on the shards and on one database that holds the same rows: what it
returns and what it leaves must be the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import UUID

from django.db.models import Avg, Count, Exists, F, OuterRef, Prefetch, Q, Subquery, Sum
from django.db.models.functions import Upper

from dbpatterns.errors import UsageError
from dbpatterns.sharding.errors import CrossShardError, ShardKeyChanged, ShardKeyRequired
from tests.sharding.support import BUYERS

__all__ = ["ONE", "OPERATIONS", "OTHER", "SAME", "Operation"]

ONE, OTHER = BUYERS[0], BUYERS[1]
"""Buyers of two shards."""
SAME = next(each for each in BUYERS[1:] if BUYERS.index(each) % (len(BUYERS) // 3) == 0)
"""Another buyer of the first one's shard."""
ORDER = UUID(int=ONE * 100)


@dataclass(frozen=True)
class Operation:
    """What is done with the models of a shop, and how it is refused, if it is."""

    run: Callable[[ModuleType], Any]
    refused: type[Exception] | None = None

    @property
    def name(self) -> str:
        return self.run.__name__


OPERATIONS: list[Operation] = []


def routed(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    OPERATIONS.append(Operation(run))
    return run


def refused(error: type[Exception]) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def mark(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        OPERATIONS.append(Operation(run, error))
        return run

    return mark


def _pks(rows: Any) -> list[Any]:
    return sorted(each.pk for each in rows)


# Reads


@routed
def filter_by_key_id(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer_id=ONE))


@routed
def filter_by_key_relation(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=ONE))


@routed
def filter_by_instance(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=shop.Buyer.objects.get(pk=ONE)))


@routed
def filter_across_relation_by_its_key(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__id=ONE))


@routed
def filter_through_joined_table(shop: Any) -> Any:
    return _pks(shop.Line.objects.filter(order__buyer=ONE))


@routed
def filter_by_key_of_reverse_relation(shop: Any) -> Any:
    return _pks(shop.Buyer.objects.filter(orders__buyer=ONE).distinct())


@routed
def filter_with_more(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=ONE, is_paid=True, number__gte=0))


@routed
def filter_in_two_steps(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(is_paid=True).filter(buyer=ONE))


@routed
def filter_then_exclude(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=ONE).exclude(is_paid=True))


@routed
def filter_with_f_on_another_column(shop: Any) -> Any:
    return _pks(shop.Line.objects.filter(buyer=ONE, amount__gt=F("order__number")))


@routed
def filter_in_of_one_shard(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__in=[ONE, SAME]))


@routed
def filter_in_with_none(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__in=[ONE, None]))


@routed
def filter_or_of_one_shard(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(Q(buyer=ONE) | Q(buyer=SAME)))


@routed
def filter_or_below_and(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(Q(is_paid=True) | Q(number=1), buyer=ONE))


@routed
def filter_and_of_two_keys_is_empty(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=ONE).filter(buyer=OTHER))


@routed
def filter_in_of_nothing(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__in=[]))


@routed
def none(shop: Any) -> Any:
    return _pks(shop.Order.objects.none())


@routed
def get(shop: Any) -> Any:
    return shop.Order.objects.get(buyer=ONE, number=ONE % 3).pk


@routed
def get_buyer(shop: Any) -> Any:
    return shop.Buyer.objects.get(pk=ONE).name


@routed
def first_and_last(shop: Any) -> Any:
    rows = shop.Order.objects.filter(buyer=ONE).order_by("number")
    return rows.first().pk, rows.last().pk


@routed
def earliest_and_latest(shop: Any) -> Any:
    rows = shop.Order.objects.filter(buyer=ONE)
    return rows.earliest("number").pk, rows.latest("number").pk


@routed
def count(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer=ONE).count()


@routed
def exists(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer=ONE).exists()


@routed
def contains(shop: Any) -> Any:
    order = shop.Order.objects.get(buyer=ONE, number=ONE % 3)
    return shop.Order.objects.filter(buyer=ONE).contains(order)


@routed
def aggregate(shop: Any) -> Any:
    return shop.Line.objects.filter(buyer=ONE).aggregate(Sum("amount"), Avg("amount"))


@routed
def annotate(shop: Any) -> Any:
    rows = shop.Order.objects.filter(buyer=ONE).annotate(size=Count("lines")).order_by("number")
    return [(each.pk, each.size) for each in rows]


@routed
def annotate_then_filter(shop: Any) -> Any:
    rows = shop.Order.objects.annotate(size=Count("lines")).filter(buyer=ONE, size=2)
    return _pks(rows)


@routed
def group_by(shop: Any) -> Any:
    rows = shop.Line.objects.filter(buyer=ONE).values("order").annotate(total=Sum("amount"))
    return sorted(tuple(each.values()) for each in rows)


@routed
def values(shop: Any) -> Any:
    return list(shop.Order.objects.filter(buyer=ONE).order_by("number").values())


@routed
def values_list(shop: Any) -> Any:
    rows = shop.Order.objects.filter(buyer=ONE).order_by("number")
    return list(rows.values_list("number", flat=True))


@routed
def expressions(shop: Any) -> Any:
    return list(shop.Buyer.objects.filter(pk=ONE).values_list(Upper("name")))


@routed
def slices(shop: Any) -> Any:
    return [each.pk for each in shop.Order.objects.filter(buyer=ONE).order_by("number")[:1]]


@routed
def iterator(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=ONE).iterator(chunk_size=1))


@routed
def in_bulk_of_two_shards(shop: Any) -> Any:
    return {key: row.name for key, row in shop.Buyer.objects.in_bulk([ONE, OTHER]).items()}


@routed
def in_bulk_by_texts(shop: Any) -> Any:
    return {key: row.name for key, row in shop.Buyer.objects.in_bulk([str(ONE), OTHER]).items()}


@routed
def only_then_deferred(shop: Any) -> Any:
    return shop.Buyer.objects.only("id").get(pk=ONE).name


@routed
def distinct(shop: Any) -> Any:
    rows = shop.Order.objects.filter(buyer=ONE)
    return sorted(rows.order_by().values_list("is_paid", flat=True).distinct())


@routed
def select_related(shop: Any) -> Any:
    rows = shop.Line.objects.filter(buyer=ONE).select_related("order__buyer__country")
    return sorted((each.pk, each.order.buyer.country.name) for each in rows)


@routed
def prefetch_related(shop: Any) -> Any:
    rows = shop.Order.objects.filter(buyer=ONE).prefetch_related("lines")
    return sorted((each.pk, _pks(each.lines.all())) for each in rows)


@routed
def prefetch_of_a_queryset(shop: Any) -> Any:
    lines = Prefetch("lines", shop.Line.objects.filter(amount__gt=ONE), to_attr="large")
    rows = shop.Order.objects.filter(buyer=ONE).prefetch_related(lines)
    return sorted((each.pk, _pks(each.large)) for each in rows)


@routed
def prefetch_of_marks(shop: Any) -> Any:
    rows = shop.Order.objects.filter(buyer=ONE).prefetch_related("marks")
    return sorted((each.pk, [mark.pk for mark in each.marks.all()]) for each in rows)


@routed
def forward_relation(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer=ONE)[0].buyer.name


@routed
def forward_relation_to_everywhere(shop: Any) -> Any:
    return shop.Buyer.objects.get(pk=ONE).country.name


@routed
def reverse_relation(shop: Any) -> Any:
    return _pks(shop.Buyer.objects.get(pk=ONE).orders.all())


@routed
def reverse_relation_filtered(shop: Any) -> Any:
    return shop.Buyer.objects.get(pk=ONE).orders.filter(is_paid=True).count()


@routed
def reverse_relation_of_a_row_without_key_of_its_own(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=ONE).order_by("number")[0].lines.all())


@routed
def many_to_many(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=ONE).order_by("number")[0]
    return [each.pk for each in order.marks.all()]


@routed
def refresh(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=ONE).order_by("number")[0]
    order.number = 99
    order.refresh_from_db()
    return order.number


@routed
def union_of_one_shard(shop: Any) -> Any:
    one, same = (shop.Order.objects.filter(buyer=each) for each in (ONE, SAME))
    return sorted(one.union(same).values_list("pk", flat=True))


@routed
def inner_query_of_the_same_key(shop: Any) -> Any:
    paid = shop.Order.objects.filter(buyer=ONE, is_paid=True)
    return _pks(shop.Line.objects.filter(buyer=ONE, order__in=paid))


@routed
def inner_query_that_nothing_can_meet(shop: Any) -> Any:
    orders = shop.Order.objects.filter(buyer=ONE).filter(buyer=OTHER)
    return _pks(shop.Line.objects.filter(~Exists(orders), buyer=ONE))


@routed
def inner_query_tied_to_the_outer(shop: Any) -> Any:
    lines = shop.Line.objects.filter(order=OuterRef("pk"), amount__gt=ONE)
    return _pks(shop.Order.objects.filter(Exists(lines), buyer=ONE))


@routed
def inner_query_tied_by_the_key(shop: Any) -> Any:
    lines = shop.Line.objects.filter(buyer=OuterRef("buyer"), amount__gt=ONE)
    return _pks(shop.Order.objects.filter(Exists(lines), buyer=ONE))


@routed
def inner_query_tied_by_the_key_s_own_row(shop: Any) -> Any:
    paid = shop.Order.objects.filter(buyer=OuterRef("pk"), is_paid=True).values("number")[:1]
    return list(shop.Buyer.objects.filter(pk=ONE).annotate(n=Subquery(paid)).values_list("n"))


@routed
def update_by_an_inner_query(shop: Any) -> Any:
    numbers = shop.Order.objects.filter(pk=OuterRef("order")).values("number")[:1]
    return shop.Line.objects.filter(buyer=OTHER).update(amount=Subquery(numbers))


@routed
def inner_query_of_everywhere(shop: Any) -> Any:
    countries = shop.Country.objects.filter(name__contains="an")
    return _pks(shop.Buyer.objects.filter(pk=ONE, country__in=countries))


@routed
def reference_rows(shop: Any) -> Any:
    return sorted(shop.Country.objects.values_list("name", flat=True))


@routed
def explain(shop: Any) -> Any:
    return bool(shop.Order.objects.filter(buyer=ONE).explain())


@routed
def dates_of_nothing(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer=ONE).reverse().ordered


# Writes


@routed
def save_new(shop: Any) -> Any:
    shop.Order(id=UUID(int=1), buyer_id=OTHER, number=7).save()


@routed
def save_changed(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=ONE).order_by("number")[0]
    order.number = 50
    order.save()


@routed
def save_of_fields(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=OTHER).order_by("number")[0]
    order.number = 50
    order.save(update_fields=["number"])


@routed
def save_with_f(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=OTHER).order_by("number")[0]
    order.number = F("number") + 10
    order.save()


@routed
def create(shop: Any) -> Any:
    shop.Order.objects.create(id=UUID(int=2), buyer_id=OTHER)


@routed
def create_by_related_manager(shop: Any) -> Any:
    shop.Buyer.objects.get(pk=OTHER).orders.create(id=UUID(int=3), number=4)


@routed
def get_or_create(shop: Any) -> Any:
    made = [shop.Order.objects.get_or_create(buyer_id=OTHER, id=UUID(int=4)) for _ in range(2)]
    return [is_new for _, is_new in made]


@routed
def get_or_create_with_key_in_defaults(shop: Any) -> Any:
    _, is_new = shop.Order.objects.get_or_create(
        id=UUID(int=5), defaults={"buyer_id": OTHER, "number": 3}
    )
    return is_new


@routed
def update_or_create(shop: Any) -> Any:
    made = [
        shop.Order.objects.update_or_create({"number": n}, buyer_id=OTHER, id=UUID(int=6))
        for n in (1, 2)
    ]
    return [is_new for _, is_new in made]


@routed
def bulk_create_of_two_shards(shop: Any) -> Any:
    rows = [shop.Order(id=UUID(int=7 + turn), buyer_id=each) for turn, each in enumerate(BUYERS)]
    return len(shop.Order.objects.bulk_create(rows))


@routed
def bulk_update_by_an_inner_query_of_the_same_shard(shop: Any) -> Any:
    lines = list(shop.Line.objects.filter(buyer=ONE).order_by("pk"))
    orders = shop.Order.objects.filter(buyer=ONE).order_by("number").values("number")[:1]
    lines[0].amount = Subquery(orders)
    return shop.Line.objects.bulk_update(lines, ["amount"])


@routed
def save_of_a_row_read_without_its_key(shop: Any) -> Any:
    order = shop.Order.objects.defer("buyer").filter(buyer=ONE).order_by("pk")[0]
    order.number = 12
    order.save()
    assert order.buyer_id == ONE
    order.save()


@routed
def bulk_update_of_two_shards(shop: Any) -> Any:
    rows = [each for key in (ONE, OTHER) for each in shop.Order.objects.filter(buyer=key)]
    for each in rows:
        each.number += 20
    return shop.Order.objects.bulk_update(rows, ["number"])


@routed
def update(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer=OTHER).update(number=F("number") + 1)


@routed
def update_by_related_manager(shop: Any) -> Any:
    return shop.Buyer.objects.get(pk=OTHER).orders.update(is_paid=True)


@routed
def delete_of_a_queryset(shop: Any) -> Any:
    return shop.Line.objects.filter(buyer=OTHER).delete()[0]


@routed
def delete_with_what_hangs_on_it(shop: Any) -> Any:
    return shop.Buyer.objects.get(pk=OTHER).delete()[0]


@routed
def delete_of_a_row(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer=OTHER).order_by("number")[0].delete()[0]


@routed
def many_to_many_set(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=OTHER).order_by("number")[0]
    order.marks.add("late", through_defaults={"buyer_id": OTHER, "id": UUID(int=8)})
    return order.marks.count()


@routed
def many_to_many_remove(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=OTHER).order_by("number")[0]
    order.marks.clear()
    return order.marks.count()


@routed
def locked_rows(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=ONE).select_for_update())


@routed
def reference_row_created(shop: Any) -> Any:
    shop.Country.objects.create(code="IT", name="Italy")


@routed
def reference_row_saved_and_deleted(shop: Any) -> Any:
    country = shop.Country(code="IT", name="Italy")
    country.save()
    country.name = "Italia"
    country.save()
    shop.Mark.objects.create(name="new")
    return shop.Mark.objects.get(name="new").delete()[0]


@routed
def reference_rows_updated(shop: Any) -> Any:
    return shop.Country.objects.filter(code="DE").update(name="Deutschland")


@routed
def reference_rows_in_bulk(shop: Any) -> Any:
    rows = shop.Country.objects.bulk_create([shop.Country(code="IT"), shop.Country(code="ES")])
    for each in rows:
        each.name = "new"
    return shop.Country.objects.bulk_update(rows, ["name"])


@routed
def reference_row_updated_or_created(shop: Any) -> Any:
    made = [shop.Country.objects.update_or_create({"name": n}, code="IT") for n in ("a", "b")]
    return [is_new for _, is_new in made]


@routed
def reference_row_got_or_created(shop: Any) -> Any:
    return [shop.Country.objects.get_or_create({"name": "a"}, code="IT")[1] for _ in range(2)]


# Refused


@refused(ShardKeyRequired)
def all_rows(shop: Any) -> Any:
    return _pks(shop.Order.objects.all())


@refused(ShardKeyRequired)
def filter_without_key(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(is_paid=True))


@refused(ShardKeyRequired)
def exclude_key(shop: Any) -> Any:
    return _pks(shop.Order.objects.exclude(buyer=ONE))


@refused(ShardKeyRequired)
def not_key(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(~Q(buyer=ONE)))


@refused(ShardKeyRequired)
def range_of_keys(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__gt=ONE))


@refused(ShardKeyRequired)
def key_or_another_column(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(Q(buyer=ONE) | Q(is_paid=True)))


@refused(ShardKeyRequired)
def key_xor_key(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(Q(buyer=ONE) ^ Q(buyer=SAME)))


@refused(ShardKeyRequired)
def key_equal_to_a_column(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer=F("number")))


@refused(ShardKeyRequired)
def key_of_an_inner_query(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__in=shop.Buyer.objects.filter(pk=ONE)))


@refused(ShardKeyRequired)
def column_of_the_owner(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__name=f"buyer {ONE}"))


@refused(ShardKeyRequired)
def own_id_without_slot(shop: Any) -> Any:
    return shop.Order.objects.get(pk=ORDER)


@refused(ShardKeyRequired)
def own_sql(shop: Any) -> Any:
    return list(shop.Order.objects.raw("SELECT * FROM shop_order"))


@refused(ShardKeyRequired)
def update_without_key(shop: Any) -> Any:
    return shop.Order.objects.filter(is_paid=True).update(number=1)


@refused(ShardKeyRequired)
def delete_without_key(shop: Any) -> Any:
    return shop.Order.objects.all().delete()


@refused(ShardKeyRequired)
def save_without_key(shop: Any) -> Any:
    shop.Order(number=1).save()


@refused(ShardKeyRequired)
def bulk_create_with_a_row_without_key(shop: Any) -> Any:
    shop.Order.objects.bulk_create([shop.Order(buyer_id=ONE), shop.Order()])


@refused(CrossShardError)
def keys_of_two_shards(shop: Any) -> Any:
    return _pks(shop.Order.objects.filter(buyer__in=[ONE, OTHER]))


@refused(CrossShardError)
def key_or_key_of_another_shard(shop: Any) -> Any:
    return shop.Order.objects.filter(Q(buyer=ONE) | Q(buyer=OTHER)).count()


@refused(CrossShardError)
def union_of_two_shards(shop: Any) -> Any:
    one, other = (shop.Order.objects.filter(buyer=each) for each in (ONE, OTHER))
    return sorted(one.union(other).values_list("pk", flat=True))


@refused(CrossShardError)
def difference_of_two_shards(shop: Any) -> Any:
    one, other = (shop.Order.objects.filter(buyer=each) for each in (ONE, OTHER))
    return sorted(one.difference(other).values_list("pk", flat=True))


@refused(CrossShardError)
def inner_query_of_another_shard(shop: Any) -> Any:
    orders = shop.Order.objects.filter(buyer=OTHER)
    return _pks(shop.Buyer.objects.filter(Q(pk=ONE), ~Exists(orders)))


@refused(CrossShardError)
def inner_query_without_key(shop: Any) -> Any:
    orders = shop.Order.objects.filter(is_paid=True)
    return _pks(shop.Line.objects.filter(buyer=ONE, order__in=orders))


@refused(CrossShardError)
def inner_query_tied_by_a_column_that_says_nothing(shop: Any) -> Any:
    orders = shop.Order.objects.filter(number=OuterRef("amount"))
    return _pks(shop.Line.objects.filter(Exists(orders), buyer=ONE))


@refused(CrossShardError)
def inner_query_of_another_shard_within_one_of_the_same(shop: Any) -> Any:
    lines = shop.Line.objects.filter(buyer=OTHER)
    orders = shop.Order.objects.filter(buyer=ONE).exclude(lines__in=lines)
    return _pks(shop.Buyer.objects.filter(pk=ONE, orders__in=orders))


@refused(CrossShardError)
def inner_query_tied_to_itself(shop: Any) -> Any:
    orders = shop.Order.objects.filter(buyer=F("buyer"))
    return _pks(shop.Line.objects.filter(Exists(orders), buyer=ONE))


@refused(CrossShardError)
def inner_query_tied_on_one_side_of_three(shop: Any) -> Any:
    amounts = [shop.Line.objects.filter(amount=each) for each in (3, 4)]
    lines = amounts[0] | amounts[1] | shop.Line.objects.filter(order=OuterRef("pk"))
    return _pks(shop.Order.objects.filter(Exists(lines), buyer=ONE))


@refused(CrossShardError)
def inner_query_tied_or_not(shop: Any) -> Any:
    lines = shop.Line.objects.filter(Q(order=OuterRef("pk")) | Q(amount=3))
    return _pks(shop.Order.objects.filter(Exists(lines), buyer=ONE))


@refused(CrossShardError)
def order_by_an_inner_query_of_another_shard(shop: Any) -> Any:
    orders = shop.Order.objects.filter(buyer=OTHER)
    return _pks(shop.Line.objects.filter(buyer=ONE).order_by(Exists(orders)))


@refused(CrossShardError)
def annotate_by_an_inner_query_of_another_shard(shop: Any) -> Any:
    orders = shop.Order.objects.filter(buyer=OTHER).values("number")[:1]
    return list(shop.Line.objects.filter(buyer=ONE).annotate(n=Subquery(orders)).values_list("n"))


@refused(CrossShardError)
def update_by_an_inner_query_of_another_shard(shop: Any) -> Any:
    orders = shop.Order.objects.filter(buyer=OTHER).values("number")[:1]
    return shop.Line.objects.filter(buyer=ONE).update(amount=Subquery(orders))


@refused(CrossShardError)
def update_by_more_than_an_inner_query_of_another_shard(shop: Any) -> Any:
    numbers = shop.Order.objects.filter(buyer=ONE).values("number")[:1]
    return shop.Line.objects.filter(buyer=OTHER).update(amount=Subquery(numbers) + 1)


@refused(CrossShardError)
def bulk_update_by_an_inner_query_of_another_shard(shop: Any) -> Any:
    lines = list(shop.Line.objects.filter(buyer=ONE))
    orders = shop.Order.objects.filter(buyer=OTHER).values("number")[:1]
    lines[0].amount = Subquery(orders)
    return shop.Line.objects.bulk_update(lines, ["amount"])


@refused(CrossShardError)
def save_of_an_inner_query_of_another_shard(shop: Any) -> Any:
    line = shop.Line.objects.filter(buyer=ONE)[0]
    line.amount = Subquery(shop.Order.objects.filter(buyer=OTHER).values("number")[:1])
    line.save()


@refused(CrossShardError)
def update_of_two_shards(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer__in=[ONE, OTHER]).update(number=1)


@refused(ShardKeyChanged)
def save_under_another_key(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=ONE)[0]
    order.buyer_id = OTHER
    order.save()


@refused(ShardKeyChanged)
def save_under_another_key_of_a_row_read_without_its_own(shop: Any) -> Any:
    order = shop.Order.objects.defer("buyer").filter(buyer=ONE)[0]
    order.buyer_id = OTHER
    order.save()


@refused(ShardKeyChanged)
def delete_under_another_key_of_a_row_read_without_its_own(shop: Any) -> Any:
    order = shop.Order.objects.only("number").filter(buyer=ONE)[0]
    order.buyer_id = SAME
    order.delete()


@refused(ShardKeyChanged)
def bulk_update_under_another_key(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=ONE)[0]
    order.buyer_id, order.number = OTHER, 5
    shop.Order.objects.bulk_update([order], ["number"])


@refused(ShardKeyChanged)
def save_under_another_key_of_the_same_shard(shop: Any) -> Any:
    order = shop.Order.objects.filter(buyer=ONE)[0]
    order.buyer_id = SAME
    order.save()


@refused(UsageError)
def update_of_the_key(shop: Any) -> Any:
    return shop.Order.objects.filter(buyer=ONE).update(buyer=OTHER)


@refused(UsageError)
def bulk_update_of_the_key(shop: Any) -> Any:
    rows = list(shop.Order.objects.filter(buyer=ONE))
    return shop.Order.objects.bulk_update(rows, ["buyer"])


@refused(UsageError)
def bulk_create_that_updates_the_key(shop: Any) -> Any:
    rows = list(shop.Order.objects.filter(buyer=ONE))
    for each in rows:
        each.buyer_id = SAME
    return shop.Order.objects.bulk_create(
        rows, update_conflicts=True, update_fields=["buyer"], unique_fields=["id"]
    )


@refused(UsageError)
def update_or_create_of_the_key(shop: Any) -> Any:
    return shop.Order.objects.update_or_create({"buyer_id": OTHER}, buyer_id=ONE, number=ONE % 3)
