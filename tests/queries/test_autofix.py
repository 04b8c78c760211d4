"""Batching on first access: each shape first as Django has it, then in three queries or fewer."""

import copy
import gc
import pickle
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ObjectDoesNotExist
from django.db import OperationalError, connection, connections
from django.db.models import Model, Prefetch, QuerySet
from django.db.models.signals import post_init
from django.template import Context, Template
from django.test.utils import CaptureQueriesContext, override_settings

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.queries import AutofixQuerySet, autofixing, batched, guard
from dbpatterns.queries._compat import HAS_FETCH_MODES, stamp
from dbpatterns.queries.peers import Peers
from demo.banking.models import Account, Customer
from tests.demo.api_support import customer_number_on
from tests.queries.conftest import SIZE
from tests.testapp.models import (
    Badge,
    Brand,
    Country,
    Crate,
    Gadget,
    Lot,
    Maker,
    Manual,
    Note,
    Part,
    Sale,
    Toy,
)

pytestmark = pytest.mark.django_db


@contextmanager
def queries(exactly: int | None = None, at_most: int | None = None) -> Iterator[Any]:
    """Count what is sent to the default database."""
    with CaptureQueriesContext(connection) as captured:
        yield captured
    sent = "\n".join(each["sql"] for each in captured.captured_queries)
    if exactly is not None:
        assert len(captured) == exactly, sent
    if at_most is not None:
        assert len(captured) <= at_most, sent


def names(rows: Any) -> list[str]:
    return sorted(map(str, rows))


def total(rows: Any) -> list[tuple[int, bool, list[str]]]:
    made = []
    for row in rows:
        everything = row.parts.all()
        made.append((len(everything), everything.exists(), names(everything)))
    return made


def counted(rows: Any) -> list[tuple[int, bool, int]]:
    made = []
    for row in rows:
        listed = len(row.parts.all())
        made.append((row.parts.count(), row.parts.exists(), listed))
    return made


def walked_up(rows: Any) -> list[str]:
    return [str(row.parent.parent) for row in rows if row.parent]


def manual(row: Any) -> str | None:
    try:
        return str(row.manual)
    except ObjectDoesNotExist:
        return None


def templated(rows: Any) -> str:
    template = Template(
        "{% for g in rows %}{{ g.maker.name }}:{% for p in g.parts.all %} {{ p }}{% endfor %};"
        "{{ g.parts.count }}{% endfor %}"
    )
    return template.render(Context({"rows": rows}))


Shape = tuple[Callable[[], QuerySet[Any]], Callable[[Any], Any], int]
GADGETS: Callable[[], QuerySet[Any]] = lambda: Gadget.objects.order_by("pk")  # noqa: E731
SHAPES: dict[str, Shape] = {
    "foreign key": (GADGETS, lambda rows: [str(row.maker) for row in rows], 2),
    "foreign key in a comprehension over a list": (
        GADGETS,
        lambda rows: {row.pk: row.maker and row.maker.name for row in list(rows)},
        2,
    ),
    "foreign key to another column": (
        lambda: Crate.objects.order_by("pk"),
        lambda rows: [str(row.brand) for row in rows],
        2,
    ),
    "foreign key to itself": (GADGETS, lambda rows: [str(row.parent) for row in rows], 2),
    "foreign key, second hop": (
        GADGETS,
        lambda rows: [str(row.maker.country) for row in rows if row.maker],
        3,
    ),
    "foreign key to itself, second hop": (GADGETS, walked_up, 3),
    "foreign key of joined rows": (
        lambda: Gadget.objects.select_related("maker").order_by("pk"),
        lambda rows: [str(row.maker.country) for row in rows if row.maker],
        2,
    ),
    "foreign key of a set": (
        lambda: Maker.objects.order_by("pk"),
        lambda rows: [names(each.parent for each in row.gadgets.all()) for row in rows],
        3,
    ),
    "foreign key inherited": (
        lambda: Toy.objects.order_by("pk"),
        lambda rows: [str(row.maker) for row in rows],
        2,
    ),
    "foreign key whose column is deferred": (
        lambda: Gadget.objects.only("name").order_by("pk"),
        lambda rows: [str(row.maker) for row in rows],
        3,
    ),
    "one-to-one forward": (
        lambda: Manual.objects.order_by("pk"),
        lambda rows: [row.gadget.name for row in rows],
        2,
    ),
    "one-to-one forward and back": (
        lambda: Manual.objects.order_by("pk"),
        lambda rows: [row.gadget.manual.title for row in rows],
        2,
    ),
    "one-to-one reverse": (GADGETS, lambda rows: [manual(row) for row in rows], 2),
    "one-to-one to a child row": (
        lambda: Gadget.objects.filter(toy__isnull=False).order_by("pk"),
        lambda rows: [row.toy.age for row in rows],
        2,
    ),
    "deferred column": (
        lambda: Gadget.objects.defer("text").order_by("pk"),
        lambda rows: [row.text for row in rows],
        2,
    ),
    "deferred file": (
        lambda: Gadget.objects.only("name").order_by("pk"),
        lambda rows: [row.file.name for row in rows],
        2,
    ),
    "deferred columns, two": (
        lambda: Gadget.objects.only("maker").order_by("pk"),
        lambda rows: [(row.name, row.text) for row in rows],
        3,
    ),
    "deferred column of the parent's table": (
        lambda: Toy.objects.only("age").order_by("pk"),
        lambda rows: [row.name for row in rows],
        2,
    ),
    "deferred column of joined rows": (
        lambda: (
            Gadget.objects.select_related("maker").only("name", "maker__country").order_by("pk")
        ),
        lambda rows: [row.maker.name for row in rows if row.maker],
        2,
    ),
    "generic foreign key": (
        lambda: Note.objects.order_by("pk"),
        lambda rows: [str(row.subject) for row in rows],
        3,
    ),
    "reverse foreign key": (GADGETS, lambda rows: [names(row.parts.all()) for row in rows], 2),
    "reverse foreign key and back": (
        GADGETS,
        lambda rows: [[part.gadget.name for part in row.parts.all()] for row in rows],
        2,
    ),
    "reverse foreign key, two hops": (
        lambda: Maker.objects.order_by("pk"),
        lambda rows: [names(p for g in row.gadgets.all() for p in g.parts.all()) for row in rows],
        3,
    ),
    "set, then its count and existence": (GADGETS, counted, 2),
    "set kept in a variable": (GADGETS, total, 2),
    "reverse foreign key to another column": (
        lambda: Brand.objects.order_by("pk"),
        lambda rows: [names(row.crates.all()) for row in rows],
        2,
    ),
    "many-to-many": (GADGETS, lambda rows: [names(row.badges.all()) for row in rows], 2),
    "many-to-many reverse": (
        lambda: Badge.objects.order_by("pk"),
        lambda rows: [names(row.gadgets.all()) for row in rows],
        2,
    ),
    "many-to-many, then a foreign key": (
        lambda: Badge.objects.order_by("pk"),
        lambda rows: [names(g.maker for g in row.gadgets.all()) for row in rows],
        3,
    ),
    "generic relation": (GADGETS, lambda rows: [names(row.notes.all()) for row in rows], 2),
    "generic relation by UUID": (
        lambda: Crate.objects.order_by("pk"),
        lambda rows: [names(row.notes.all()) for row in rows],
        2,
    ),
    "template": (GADGETS, templated, 3),
}


@pytest.fixture(autouse=True)
def content_types(db: None) -> None:
    """Have Django's own cache of content types filled, which no shape is about."""
    ContentType.objects.get_for_models(Gadget, Crate, Toy)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_takes_three_queries_or_fewer_and_says_the_same(shop: None, name: str) -> None:
    rows_of, read, most = SHAPES[name]
    with queries() as harm:
        expected = read(rows_of())
    assert len(harm) >= SIZE  # one by one
    with autofixing(), queries(exactly=most):
        assert read(rows_of()) == expected
    with queries(exactly=most):
        assert read(batched(rows_of())) == expected


def test_prefetched_rows_are_peers_when_their_queryset_is_batched(shop: None) -> None:
    parents = Prefetch("parent", batched(Gadget.objects.all()))
    with queries(exactly=3):
        rows = batched(Gadget.objects.prefetch_related(parents))
        assert len([str(row.parent.maker) for row in rows if row.parent]) == SIZE - 1


def test_a_queryset_class_batches_always(shop: None) -> None:
    with queries(exactly=2):
        assert [row.maker for row in AutofixQuerySet(Gadget) if row.maker]
    with queries(exactly=3):
        makers = AutofixQuerySet(Maker)[:2]
        assert [len(gadget.parts.all()) for row in makers for gadget in row.gadgets.all()]
    assert AutofixQuerySet(Gadget).values_list("name", flat=True)[0]


def test_rows_of_values_stay_values(shop: None) -> None:
    assert list(batched(Gadget.objects.values("name"))) == list(Gadget.objects.values("name"))
    with autofixing():
        assert Gadget.objects.values_list("name").count() == 2 * SIZE
        assert Gadget.objects.exists()


CHANGED: dict[str, Callable[[Any], Any]] = {
    "names(row.parts.filter(is_broken=True))": lambda row: names(row.parts.filter(is_broken=True)),
    'names(row.parts.order_by("-name")[:1])': lambda row: names(row.parts.order_by("-name")[:1]),
    "row.parts.first()": lambda row: row.parts.first(),
    "row.parts.count()": lambda row: row.parts.count(),
    "row.parts.exists()": lambda row: row.parts.exists(),
    'names(row.parts(manager="good").all())': lambda row: names(row.parts(manager="good").all()),
    "names(row.parts.all().iterator())": lambda row: names(row.parts.all().iterator()),
    'names(row.parts.using("default"))': lambda row: names(row.parts.using("default")),
    'names(row.parts.db_manager("default").all())': lambda row: names(
        row.parts.db_manager("default").all()
    ),
    'names(row.badges.filter(name__endswith="1"))': lambda row: names(
        row.badges.filter(name__endswith="1")
    ),
    'names(row.notes.filter(text=""))': lambda row: names(row.notes.filter(text="")),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_set_is_read_as_it_is(shop: None, name: str) -> None:
    read = CHANGED[name]
    expected = [read(row) for row in Gadget.objects.all()]
    with autofixing():
        assert [read(row) for row in Gadget.objects.all()] == expected
        rows = list(Gadget.objects.all())
        for row in rows:
            for relation in ("parts", "badges", "notes"):
                assert (
                    len(getattr(row, relation).all()) >= 0
                )  # now at hand, and still not in the way
        assert [read(row) for row in rows] == expected


def test_prefetching_hands_a_managers_rows_to_another_manager_and_autofix_does_not(
    shop: None,
) -> None:
    def good(row: Gadget) -> list[str]:
        assert len(row.parts.all()) == 3
        return names(row.parts(manager="good").all())

    assert len(good(Gadget.objects.prefetch_related("parts").order_by("pk")[0])) == 3  # the harm
    with autofixing():
        assert [len(good(row)) for row in Gadget.objects.order_by("pk")[:2]] == [2, 2]


def test_local_edits_stay(shop: None) -> None:
    other = Maker.objects.create(name="other", country=Country.objects.all()[0])
    with autofixing():
        first, second, third, fourth = Gadget.objects.defer("text").order_by("pk")[:4]
        second.text = "mine"
        third.maker = other
        fourth.maker_id = other.pk
        Part.objects.filter(gadget=second).delete()
        assert first.text == "text 0"
        assert str(first.maker) == "maker 0"
        assert second.text == "mine"
        assert (third.maker is other, fourth.maker) == (True, other)


def test_a_set_that_its_manager_changes_is_read_again(shop: None) -> None:
    with autofixing():
        first, second = Gadget.objects.order_by("pk")[:2]
        assert len(first.parts.all()) == 3
        second.parts.create(name="new")
        assert len(second.parts.all()) == 4
        first.badges.all()[0]
        first.badges.clear()
        assert (list(first.badges.all()), first.badges.count()) == ([], 0)
        second.parts.get(name="new").delete()
        second.refresh_from_db()
        assert len(second.parts.all()) == 3
        Part.objects.create(gadget=first, name="new")
        first.refresh_from_db(fields=["parts"])
        assert len(first.parts.all()) == 4


def test_a_prefetched_set_is_refreshed_as_ever(shop: None) -> None:
    with autofixing():
        row = Gadget.objects.prefetch_related("parts").order_by("pk")[0]
        Part.objects.create(gadget=row)
        assert len(row.parts.all()) == 3
        row.refresh_from_db(fields=["parts"])
        assert len(row.parts.all()) == 4


def test_assigning_or_saving_fetches_nothing(shop: None) -> None:
    with autofixing():
        rows = list(Gadget.objects.all()[:3])
        with queries(exactly=1):
            rows[0].maker = None
            rows[0].save()
        with queries(exactly=0):
            rows[0].manual = None  # type: ignore[assignment]
            assert rows[0].maker is None


def test_refreshing_is_no_deferred_load(shop: None) -> None:
    with autofixing():
        first, second = Gadget.objects.order_by("pk")[:2]
        Gadget.objects.update(text="new")
        first.refresh_from_db(fields=["text"])
        assert (first.text, second.text) == ("new", "text 1")
        first, second = Gadget.objects.only("name").order_by("pk")[:2]
        first.refresh_from_db(fields=["text"], from_queryset=Gadget.objects.all())
        first.refresh_from_db(fields=["file"], using="default")
        assert {"text", "file"}.isdisjoint(second.get_deferred_fields()) is False


def test_rows_that_are_gone_fail_as_ever(shop: None) -> None:
    with autofixing():
        rows = list(Gadget.objects.only("name").order_by("-pk")[:3])
        Toy.objects.filter(pk=rows[0].pk).delete()
        assert rows[1].text == ""
        with pytest.raises(Gadget.DoesNotExist):
            _ = rows[0].text


def test_a_deleted_row_and_one_of_another_database_are_no_peers(shop: None) -> None:
    with autofixing():
        first, second, third = Gadget.objects.order_by("-pk")[:3]
        second.delete()
        third._state.db = "other"
        assert len(first.parts.all()) == 0
        with queries(exactly=1):
            assert first.maker
        assert not Gadget.maker.is_cached(third)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="primary key"):
            second.parts.all()


def test_a_key_that_leads_nowhere_fails_for_its_row_only(shop: None) -> None:
    with autofixing():
        rows = list(Gadget.objects.exclude(parent=None).order_by("pk")[:4])
        rows[2].parent_id = 10**6
        assert [str(row.parent) for row in rows[:2]] == ["gadget 000", "gadget 001"]
        with pytest.raises(Gadget.DoesNotExist):
            _ = rows[2].parent
        assert str(rows[3].parent) == "gadget 003"


def test_an_odd_value_fails_for_its_row_only(shop: None) -> None:
    with autofixing():
        rows = list(Note.objects.order_by("pk")[:3])
        rows[1].object_id = "no number"
        assert str(rows[0].subject) == "gadget 000"
        with pytest.raises(ValueError, match="no number"):
            _ = rows[1].subject
        assert str(rows[2].subject) == "gadget 002"
        gadgets = list(Gadget.objects.order_by("pk")[:3])
        gadgets[1].maker_id = "no number"  # type: ignore[misc]
        assert str(gadgets[0].maker) == "maker 0"
        assert str(gadgets[2].maker) == "maker 2"


def test_a_note_on_nothing_has_no_subject(shop: None) -> None:
    Note.objects.filter(object_id="1").update(object_id=None)
    Note.objects.filter(object_id="2").update(content_type=None)
    Note.objects.filter(object_id="3").update(object_id="1000000")
    expected = [str(row.subject) for row in Note.objects.order_by("pk")]
    with autofixing():
        assert [str(row.subject) for row in Note.objects.order_by("pk")] == expected


def test_copies_and_pickles_are_plain(shop: None) -> None:
    with autofixing():
        rows = list(Gadget.objects.only("name", "maker", "parent").order_by("pk")[:3])
        lazy = rows[0].parts.all()
        for row in rows:
            assert row.maker
            assert len(row.badges.all()) == 2
        for made in (
            pickle.loads(pickle.dumps(rows[1])),
            copy.copy(rows[1]),
            copy.deepcopy(rows[1]),
        ):
            assert (made, str(made.maker), str(made.parent)) == (rows[1], "maker 1", "gadget 000")
            assert (made.text, len(made.parts.all()), len(made.badges.all())) == ("text 1", 3, 2)
        assert rows[2].get_deferred_fields() >= {"text"}
        assert names(pickle.loads(pickle.dumps(lazy))) == names(copy.deepcopy(lazy)) == names(lazy)
        assert len(pickle.loads(pickle.dumps(batched(Gadget.objects.all())))) == 2 * SIZE


def test_rows_are_taken_in_turns_of_max_rows(shop: None) -> None:
    with autofixing(max_rows=4), queries(exactly=4):
        assert len([str(row.maker) for row in Gadget.objects.filter(toy=None)]) == SIZE
    with autofixing(max_rows=4), queries(exactly=4):
        assert len([row.text for row in Gadget.objects.filter(toy=None).only("name")]) == SIZE


def test_the_setting_limits_what_is_not_told_its_limit(shop: None) -> None:
    @autofixing()  # made before the setting is
    def read() -> int:
        return len([str(row.maker) for row in Gadget.objects.filter(toy=None)])

    with queries(exactly=2):
        assert read() == SIZE
    with override_settings(DBPATTERNS={"QUERIES": {"AUTOFIX_MAX_ROWS": 4}}):
        with queries(exactly=4):
            assert read() == SIZE
        with guard(mode="autofix"), queries(exactly=4):
            assert len([str(row.maker) for row in Gadget.objects.filter(toy=None)]) == SIZE
        with autofixing(max_rows=SIZE), queries(exactly=2):
            assert len([str(row.maker) for row in Gadget.objects.filter(toy=None)]) == SIZE


def test_a_setting_below_one_is_refused(shop: None) -> None:
    with (
        override_settings(DBPATTERNS={"QUERIES": {"AUTOFIX_MAX_ROWS": 0}}),
        pytest.raises(ConfigurationError, match=r'"AUTOFIX_MAX_ROWS"\] = 0 would fetch nothing'),
        autofixing(),
    ):
        list(Gadget.objects.all())
    assert list(Gadget.objects.all())


def test_a_set_is_tried_with_fewer_owners_and_then_one_by_one(shop: None) -> None:
    with autofixing(max_rows=9), queries(exactly=1 + 1 + 6) as sent:  # of nine, then of two
        assert sum(len(row.parts.all()) for row in Gadget.objects.filter(toy=None)) == 3 * SIZE
    assert sum("LIMIT 10" in each["sql"] for each in sent.captured_queries) == 7
    with autofixing(max_rows=2), queries(exactly=1 + 1 + SIZE):
        assert sum(len(row.parts.all()) for row in Gadget.objects.filter(toy=None)) == 3 * SIZE


def test_rows_of_a_set_have_the_limit_of_their_owners(shop: None) -> None:
    with autofixing(max_rows=9), CaptureQueriesContext(connection) as sent:
        gadgets = [each for row in Maker.objects.all() for each in row.gadgets.all()]
        assert sum(len(each.parts.all()) for each in gadgets) > 9
    asked = " ".join(each["sql"] for each in sent.captured_queries if "_part" in each["sql"])
    assert max(map(int, re.findall(r"LIMIT (\d+)", asked))) == 10


def test_a_limit_below_one_is_an_error() -> None:
    with pytest.raises(UsageError, match="fetch nothing"):
        autofixing(max_rows=0)


def test_nothing_is_left_behind(shop: None) -> None:
    before = [list(each.execute_wrappers) for each in connections.all()]
    with pytest.raises(ZeroDivisionError), autofixing():
        _ = 1 / len(Gadget.objects.none())
    assert [list(each.execute_wrappers) for each in connections.all()] == before
    row = Gadget.objects.all()[0]
    assert type(row._state.fields_cache) is dict
    assert "_prefetched_objects_cache" not in vars(row)


def test_an_iterator_forgets_rows_and_batches_when_asked(shop: None) -> None:
    maker = Maker.objects.all()[0]
    Gadget.objects.bulk_create(Gadget(name="bulk", maker=maker) for _ in range(1_500))
    alive: weakref.WeakSet[Model] = weakref.WeakSet()
    most = 0

    def walk(rows: Iterator[Gadget]) -> None:
        nonlocal most
        for number, row in enumerate(rows):
            alive.add(row)
            _ = row.maker
            if number % 100 == 99:
                gc.collect()
                most = max(most, len(alive))

    with queries(exactly=1 + 4):
        walk(batched(Gadget.objects.order_by("pk")).iterator(chunk_size=100))
    assert most <= 1_001
    most = 0
    with autofixing():
        walk(Gadget.objects.filter(maker=None).iterator())
        walk(Gadget.objects.all().iterator())
    assert most <= 2


def test_peers_of_a_long_iterator_are_pruned() -> None:
    peers = Peers(max_rows=10)
    kept = [Gadget() for _ in range(10)]
    for row in kept:
        stamp(row, peers)
    for _ in range(50_000):
        stamp(Gadget(), peers)
    assert len(peers) <= 1_024


def test_a_column_of_a_model_without_sets_is_batched(shop: None) -> None:
    assert not Manual._meta.related_objects
    with autofixing(), queries(exactly=2):
        assert all(each.title for each in Manual.objects.defer("title"))
    peers, rows = Peers(100), list(Manual.objects.defer("title"))
    for row in rows:
        stamp(row, peers)
    with queries(exactly=1):
        assert all(each.title for each in rows)


def test_what_a_signal_gives_a_row_stays(shop: None) -> None:
    maker = Maker(name="given")

    def give(instance: Gadget, **_: object) -> None:
        instance.maker = maker

    post_init.connect(give, sender=Gadget)
    try:
        with autofixing(), queries(exactly=1):
            assert all(each.maker is maker for each in Gadget.objects.all())
    finally:
        post_init.disconnect(give, sender=Gadget)


def test_more_parents_than_a_statement_may_name(db: None) -> None:
    country = Country.objects.create(name="all")
    makers = Maker.objects.bulk_create(Maker(name=f"{n}", country=country) for n in range(6_000))
    Gadget.objects.bulk_create(Gadget(name=each.name, maker=each) for each in makers)
    if connection.vendor == "sqlite" and not HAS_FETCH_MODES:
        with pytest.raises(OperationalError, match="too large"):
            list(Gadget.objects.prefetch_related("maker"))  # the harm, above some 1,000
    # 5,000 rows a turn; Django 5.2 gives a statement on SQLite 999 values.
    chunks = 8 if connection.features.max_query_params == 999 else 2
    with autofixing(), queries(exactly=1 + chunks):
        assert all(row.maker and row.maker.name == row.name for row in Gadget.objects.all())
    with autofixing(), queries(exactly=1 + 12):
        assert not any(row.parts.all() for row in Gadget.objects.all())


def test_async_code_is_batched_as_well(shop: None) -> None:
    @autofixing()
    async def read() -> list[int]:
        rows = [row async for row in Gadget.objects.filter(toy=None)]
        return [len([part async for part in row.parts.all()]) for row in rows]

    with queries(exactly=2):
        assert async_to_sync(read)() == [3] * SIZE


@pytest.mark.django_db(databases="__all__")
def test_rows_stay_with_their_database() -> None:
    for number in range(1, 4):
        key = customer_number_on("shard_1", nth=number)
        customer = Customer.objects.create(pk=key, name=f"customer {number}")
        customer.accounts.create(number=f"{number}")
    with autofixing(), queries(exactly=0), CaptureQueriesContext(connections["shard_1"]) as sent:
        accounts = Account.objects.using("shard_1").defer("currency")
        expected = [([f"{number}"], "CZK") for number in range(1, 4)]
        found = [(names(row.customer.accounts.all()), row.currency) for row in accounts]
        assert found == expected  # the router refuses to guess: each query says where
        assert len(sent) == 4
    with queries(exactly=0), CaptureQueriesContext(connections["shard_1"]) as sent:
        for customer in batched(Customer.objects.using("shard_1")):
            assert [each.ledger.currency for each in customer.accounts.all()] == ["CZK"]
        assert len(sent) == 3


def test_a_parents_relation_that_is_at_hand_is_taken(shop: None) -> None:
    with autofixing():
        toys = list(Toy.objects.order_by("pk"))
        expected = toys[0].gadget_ptr.maker
        with queries(exactly=0):
            assert toys[0].maker is expected


def test_a_relation_that_is_joined_or_prefetched_is_left_alone(shop: None) -> None:
    joined = Gadget.objects.select_related("maker").prefetch_related("parts", "badges")
    with autofixing(), queries(exactly=3):
        assert {len(row.parts.all()) for row in joined if row.maker} == {0, 3}
        assert {row.badges.count() for row in joined} == {0, 1, 2}


def test_a_limit_of_a_block_is_its_batched_querysets_too(shop: None) -> None:
    with autofixing(max_rows=6), queries(exactly=3):
        assert len([row.maker.name for row in batched(Gadget.objects.filter(toy=None))]) == SIZE


def test_what_a_batch_brought_for_a_row_is_not_read_twice(shop: None) -> None:
    with autofixing():
        first, second = Gadget.objects.order_by("pk")[:2]
        mine, again = first.parts.all(), first.parts.all()
        with queries(exactly=1):
            assert names(mine) == names(second.parts.all())
        first.refresh_from_db()
        with queries(exactly=1):
            assert names(again) == names(mine)


@pytest.mark.skipif(not HAS_FETCH_MODES, reason="Django 6.1 has fetch modes")
def test_the_fetch_mode_works_by_itself_and_another_one_is_left_alone(shop: None) -> None:
    from django.core.exceptions import FieldFetchBlocked
    from django.db.models import FETCH_RAISE

    from dbpatterns.queries._compat import AUTOFIX

    with queries(exactly=2):
        rows = list(Gadget.objects.fetch_mode(AUTOFIX).filter(toy=None))
        assert len([str(row.maker) for row in rows]) == SIZE
    assert pickle.loads(pickle.dumps(rows[0]))._state.fetch_mode is AUTOFIX
    with autofixing():
        row = Gadget.objects.fetch_mode(FETCH_RAISE)[0]
        with pytest.raises(FieldFetchBlocked):
            _ = row.maker


def test_a_key_of_two_columns_is_batched(db: None) -> None:
    Lot.objects.bulk_create(Lot(code=f"L{n}", year=2_000 + n) for n in range(4))
    Sale.objects.bulk_create(Sale(lot_code=f"L{n}", lot_year=2_000 + n) for n in range(5))
    with autofixing(), queries(exactly=2):
        *rows, dangling = Sale.objects.order_by("pk")
        assert [str(row.lot) for row in rows] == ["L0/2000", "L1/2001", "L2/2002", "L3/2003"]
    with pytest.raises(Lot.DoesNotExist):
        _ = dangling.lot


def test_a_row_without_peers_fetches_for_itself(shop: None) -> None:
    with autofixing(), queries(exactly=2 + 2 + 2 + 2):
        assert str(Note.objects.order_by("pk")[:1][0].subject) == "gadget 000"
        assert str(Gadget.objects.get(name="gadget 001").maker) == "maker 1"
        assert Gadget.objects.defer("text").get(name="gadget 001").text == "text 1"
        assert len(Gadget.objects.get(name="gadget 001").parts.all()) == 3


def test_an_odd_key_fails_for_its_rows_set_only(shop: None) -> None:
    with autofixing():
        first, odd, third = Gadget.objects.order_by("pk")[:3]
        odd.pk = "no number"
        assert len(first.parts.all()) == 3
        with pytest.raises(ValueError, match="no number"):
            len(odd.parts.all())
        assert len(third.parts.all()) == 3


def test_owners_that_no_longer_fit_in_have_their_turn_later(db: None) -> None:
    counts = [0, 0, 0, 4, 3, 3, 0, 0]
    gadgets = Gadget.objects.bulk_create(Gadget(name=f"{n}") for n in range(8))
    Part.objects.bulk_create(
        Part(gadget=gadget) for gadget, n in zip(gadgets, counts, strict=True) for _ in range(n)
    )
    # All eight, too many; then two by two until 4 + 3 + 3 do not fit in; the rest; the rest.
    with autofixing(max_rows=8), queries(exactly=1 + 4 + 1 + 1):
        assert [len(row.parts.all()) for row in Gadget.objects.order_by("pk")] == counts


def test_a_block_is_entered_once() -> None:
    block = autofixing(max_rows=7)
    with block:
        pass
    with pytest.raises(UsageError, match=r"^autofixing\(max_rows=7\) was entered before"), block:
        pass


def test_raw_statements_run_as_they_are(shop: None) -> None:
    with autofixing(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        assert len(list(Gadget.objects.raw("SELECT * FROM testapp_gadget"))) == 2 * SIZE
        assert Gadget.objects.filter(name="gadget 000").update(text="new") == 1
