"""From what is asked to the indexes worth trying, on tables described by hand."""

from collections.abc import Mapping

import pytest
from django.contrib.postgres.indexes import GinIndex
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.models import Index

from dbpatterns.indexes.candidates import candidates, is_served, redundant
from dbpatterns.indexes.catalog import Column, ExistingIndex, Table, plain, read_table
from dbpatterns.indexes.declaring import Candidate, migration
from dbpatterns.indexes.predicates import Access, Condition, Key
from tests.testapp.models import Ticket

T = Ticket._meta.db_table
OPEN = Condition("is_open", True)
RARE = Column(2, 0.0, {"f": 0.95, "t": 0.05})


def table(*indexes: ExistingIndex, **columns: Column) -> Table:
    known = {"tenant_id": Column(500, 0), "priority": Column(5, 0), "is_open": RARE, **columns}
    return Table(T, "public", "r", 100_000, 10**7, known, indexes)


def access(
    *equals: str, ranges: str = "", order: str = "", conditions: tuple[Condition, ...] = ()
) -> Access:
    return Access(
        T,
        frozenset(
            map(Key, (*equals, *(each.column for each in conditions if each.value is not None)))
        ),
        frozenset(map(Key, ranges.split())),
        conditions=frozenset(conditions),
        order=tuple(Key(each.removeprefix("-"), "", each[0] == "-") for each in order.split()),
        columns=None,
    )


def found(
    *asked: Access,
    known: Table | None = None,
    calls: Mapping[Access, int] | None = None,
    vendor: str = "postgresql",
) -> list[str]:
    counts = {each: (calls or {}).get(each, 1) for each in asked}
    made = candidates(Ticket, known or table(), counts, vendor=vendor)
    return [each.as_code().replace(f', name="{each.name}"', "") for each, _ in made]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (access("tenant_id"), 'models.Index(fields=["tenant"])'),
        (access("priority", "tenant_id"), 'models.Index(fields=["tenant", "priority"])'),
        (
            access("tenant_id", order="-created_at"),
            'models.Index(fields=["tenant", "-created_at"])',
        ),
        (
            access("tenant_id", ranges="created_at", order="created_at -priority id"),
            'models.Index(fields=["tenant", "created_at", "-priority"])',
        ),
        (
            access("tenant_id", ranges="created_at", order="priority"),
            'models.Index(fields=["tenant", "created_at"])',
        ),
        (access(ranges="priority created_at"), 'models.Index(fields=["created_at"])'),
        (access(order="priority"), 'models.Index(fields=["priority"])'),
        (
            access("tenant_id", order="tenant_id -created_at"),
            'models.Index(fields=["tenant", "-created_at"])',
        ),
        (
            access("tenant_id", "priority", "status", "title", order="id"),
            'models.Index(fields=["tenant", "priority", "status"])',
        ),
        (
            access("tenant_id", order="-created_at", conditions=(OPEN,)),
            'models.Index(fields=["tenant", "-created_at"], condition=Q(is_open=True))',
        ),
        (access(conditions=(OPEN,)), 'models.Index(fields=["id"], condition=Q(is_open=True))'),
    ],
)
def test_columns_go_equality_then_sort_then_range(asked: Access, code: str) -> None:
    assert found(asked) == [code]


def test_what_the_table_does_not_have_is_left_out() -> None:
    assert found(access("nowhere", order="alias")) == []
    assert found(access("tenant_id", order="alias id")) == ['models.Index(fields=["tenant"])']
    assert found(Access(T)) == []


def test_an_index_is_partial_only_where_few_rows_and_most_queries_agree() -> None:
    one = access("tenant_id", conditions=(OPEN,))
    other = access("tenant_id", order="priority")
    partial = 'models.Index(fields=["tenant"], condition=Q(is_open=True))'
    assert partial in found(one, other, calls={one: 90, other: 10})
    assert partial not in found(one, other, calls={one: 89, other: 11})
    assert partial not in found(one, known=table(is_open=Column(2, 0, {"t": 0.2, "f": 0.8})))
    assert partial in found(one, known=table(is_open=Column(2, 0, {"t": 0.19, "f": 0.81})))
    assert found(one, known=table(is_open=Column(0, 0))) != [partial]


def test_queries_that_have_their_index_do_not_vote_on_a_partial_one() -> None:
    by_key = access("id")
    one = access("tenant_id", conditions=(OPEN,))
    key = ExistingIndex("pk", ("id",), (False,), is_unique=True)
    assert found(one, by_key, known=table(key), calls={one: 1, by_key: 1000}) == [
        'models.Index(fields=["tenant"], condition=Q(is_open=True))'
    ]


def test_parts_of_the_rows() -> None:
    known = table(
        status=Column(12, 0.1, {"new": 0.05, "done": 0.65}),
        closed_at=Column(-1, 0.98),
    )
    assert known.part_of(Condition("status", "new")) == 0.05
    assert known.part_of(Condition("status", "else")) == pytest.approx(0.2 / 10)
    assert known.part_of(Condition("closed_at", None)) == 0.98
    assert known.part_of(Condition("closed_at", None, True)) == pytest.approx(0.02)
    assert known.part_of(Condition("is_open", False)) == 0.95
    assert known.part_of(Condition("title", "x")) is None


def test_few_more_columns_are_included_and_many_are_not() -> None:
    few = Access(T, frozenset([Key("tenant_id")]), columns=frozenset({"tenant_id", "priority"}))
    assert found(few) == ['models.Index(fields=["tenant"], include=["priority"])']
    assert found(few, vendor="sqlite") == ['models.Index(fields=["tenant"])']
    many = frozenset({"tenant_id", "priority", "title", "status", "body"})
    assert found(Access(T, frozenset([Key("tenant_id")]), columns=many)) == [
        'models.Index(fields=["tenant"])'
    ]
    upper = Access(T, frozenset([Key("title", "UPPER")]), columns=frozenset({"id"}))
    assert found(upper) == ['models.Index(Upper("title"))']


def test_lookups_in_texts() -> None:
    inside = Access(T, patterns=frozenset([Key("title"), Key("priority")]), columns=None)
    assert found(inside) == ['GinIndex(fields=["title"], opclasses=["gin_trgm_ops"])']
    assert found(inside, vendor="sqlite") == []
    upper = Access(T, patterns=frozenset([Key("title", "UPPER")]), columns=None)
    assert found(upper) == ['GinIndex(OpClass(Upper("title"), name="gin_trgm_ops"))']
    prefix = Access(T, frozenset([Key("tenant_id")]), prefixes=frozenset([Key("title")]))
    assert found(prefix) == [
        'models.Index(fields=["tenant", "title"], opclasses=["", "text_pattern_ops"])'
    ]
    assert found(prefix, vendor="sqlite") == ['models.Index(fields=["tenant"])']
    partial = Access(T, conditions=frozenset([OPEN]), patterns=frozenset([Key("title")]))
    assert found(partial) == [
        'GinIndex(fields=["title"], opclasses=["gin_trgm_ops"], condition=Q(is_open=True))'
    ]


def test_a_candidate_that_begins_another_is_left_to_it() -> None:
    short, longer, longest = (
        access("tenant_id"),
        access("tenant_id", order="-created_at"),
        access("tenant_id", order="-created_at id"),
    )
    counts = {short: 1, longer: 1, longest: 1}
    ((only, served),) = candidates(Ticket, table(), counts, vendor="postgresql")
    assert only.as_index().fields == ["tenant", "-created_at", "id"]
    assert set(served) == {short, longer, longest}


@pytest.mark.parametrize(
    ("keys", "descending", "asked"),
    [
        ("tenant_id", "0", access("tenant_id")),
        ("tenant_id created_at", "00", access("tenant_id")),
        ("priority tenant_id", "00", access("tenant_id", "priority")),
        ("tenant_id created_at", "01", access("tenant_id", order="-created_at")),
        ("tenant_id created_at", "00", access("tenant_id", order="-created_at")),
        ("created_at", "0", access(ranges="created_at")),
        ("created_at id", "00", access(ranges="created_at", order="created_at id")),
        ("tenant_id priority status", "000", access("tenant_id", "priority", "status", "title")),
        ("tenant_id created_at id", "011", access("tenant_id", order="created_at id priority")),
    ],
)
def test_an_index_whose_beginning_is_asked_for_serves(
    keys: str, descending: str, asked: Access
) -> None:
    index = ExistingIndex("i", tuple(keys.split()), tuple(each == "1" for each in descending))
    assert is_served(asked, table(index))


@pytest.mark.parametrize(
    ("keys", "descending", "asked"),
    [
        ("created_at tenant_id", "00", access("tenant_id")),
        ("tenant_id", "0", access("tenant_id", "priority")),
        ("tenant_id", "0", access("tenant_id", order="created_at")),
        ("tenant_id created_at priority", "000", access("tenant_id", order="created_at -priority")),
        ("tenant_id priority", "00", access("tenant_id", ranges="created_at", order="priority")),
        ("tenant_id", "0", access("tenant_id", ranges="created_at")),
        ("tenant_id", "0", access()),
    ],
)
def test_an_index_that_lacks_something_does_not_serve(
    keys: str, descending: str, asked: Access
) -> None:
    index = ExistingIndex("i", tuple(keys.split()), tuple(each == "1" for each in descending))
    assert not is_served(asked, table(index))


def test_a_partial_index_serves_those_who_ask_for_its_condition() -> None:
    index = ExistingIndex("i", ("tenant_id",), (False,), predicate=frozenset({"is_open"}))
    assert is_served(access("tenant_id", conditions=(OPEN,)), table(index))
    assert not is_served(access("tenant_id"), table(index))
    texts = ExistingIndex("i", ("id",), (False,), predicate=frozenset({"status = 'It''s'"}))
    assert is_served(access(conditions=(Condition("status", "It's"),)), table(texts))
    numbers = ExistingIndex("i", ("id",), (False,), predicate=frozenset({"priority = 3"}))
    assert is_served(access(conditions=(Condition("priority", 3),)), table(numbers))
    nulls = ExistingIndex("i", ("id",), (False,), predicate=frozenset({"closed_at is not null"}))
    assert is_served(access(conditions=(Condition("closed_at", None, True),)), table(nulls))


def test_a_unique_index_serves_whoever_names_one_row() -> None:
    index = ExistingIndex("i", ("id",), (False,), is_unique=True)
    assert is_served(access("id", "tenant_id", order="title"), table(index))


def test_only_a_b_tree_serves_and_never_a_pattern() -> None:
    index = ExistingIndex("i", ("title",), (False,), method="gin")
    assert not is_served(access("title"), table(index))
    plain_one = ExistingIndex("i", ("title",), (False,))
    assert not is_served(Access(T, patterns=frozenset([Key("title")])), table(plain_one))


def names(*indexes: ExistingIndex) -> list[tuple[str, str]]:
    return [(index.name, other.name) for index, other in redundant(indexes)]


def test_redundant_indexes() -> None:
    a = ExistingIndex("a", ("x",), (False,), ("op",))
    ab = ExistingIndex("ab", ("x", "y"), (False, False), ("op", "op"))
    assert names(a, ab) == [("a", "ab")]
    assert names(a, ExistingIndex("b", ("x",), (False,), ("op",))) == [("b", "a")]
    unique = ExistingIndex("u", ("x",), (False,), ("op",), is_unique=True)
    assert names(a, unique) == [("a", "u")]
    covering = ExistingIndex("c", ("x",), (False,), ("op",), include=frozenset("z"))
    assert names(a, covering) == [("a", "c")]


@pytest.mark.parametrize(
    "other",
    [
        ExistingIndex("b", ("y", "x"), (False, False), ("op", "op")),
        ExistingIndex("b", ("x", "y"), (True, False), ("op", "op")),
        ExistingIndex("b", ("x", "y"), (False, False), ("pattern", "op")),
        ExistingIndex("b", ("x", "y"), (False, False), ("op", "op"), predicate=frozenset("z")),
        ExistingIndex("b", ("x", "y"), (False, False), ("op", "op"), method="gin"),
    ],
)
def test_indexes_that_only_look_alike_both_stay(other: ExistingIndex) -> None:
    assert names(ExistingIndex("a", ("x",), (False,), ("op",)), other) == []


def test_a_gin_index_does_not_serve_by_its_beginning() -> None:
    a = ExistingIndex("a", ("x",), (False,), ("op",), method="gin")
    b = ExistingIndex("b", ("x", "y"), (False, False), ("op", "op"), method="gin")
    assert names(a, b) == []


def test_what_means_the_same_is_spelt_the_same() -> None:
    assert plain('UPPER("title"::text)') == plain("upper((title)::character varying(10))")
    assert plain("((status)::text = 'It''s (X)'::text)") == "status = 'It''s (X)'"


def test_names_are_short_stable_and_different() -> None:
    one = Candidate(Ticket, (Key("tenant_id"), Key("created_at", "", True)))
    two = Candidate(Ticket, (Key("tenant_id"), Key("created_at")))
    assert one.name.startswith("ticket_tenant_id_cr")
    assert one.name != two.name
    assert len(one.name) <= Index.max_name_length
    assert one.name == Candidate(Ticket, one.keys).name


CODE = """
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower, Upper
index = {}
"""


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(Ticket, (Key("tenant_id"), Key("created_at", "", True))),
        Candidate(Ticket, (Key("id"),), (OPEN, Condition("status", 'it\'s "x"\n'))),
        Candidate(Ticket, (Key("id"),), (Condition("closed_at", None), Condition("tenant_id", 3))),
        Candidate(Ticket, (Key("id"),), (Condition("closed_at", None, True),), ("tenant_id",)),
        Candidate(Ticket, (Key("tenant_id"), Key("title")), opclass="text_pattern_ops"),
        Candidate(Ticket, (Key("title"),), opclass="gin_trgm_ops"),
        Candidate(Ticket, (Key("title", "UPPER"),), opclass="gin_trgm_ops"),
        Candidate(Ticket, (Key("tenant_id"), Key("title", "LOWER"))),
        Candidate(Ticket, (Key("closed_at", "", True, False), Key("id", "", True))),
        Candidate(Ticket, (Key("closed_at", "", False, True),)),
    ],
    ids=lambda each: each.as_code(),
)
def test_code_and_migration_say_what_the_object_is(candidate: Candidate) -> None:
    scope: dict[str, object] = {}
    exec(CODE.format(candidate.as_code()), scope)
    index = candidate.as_index()
    assert scope["index"] == index
    assert isinstance(index, GinIndex) == candidate.is_trigram
    for vendor, operation in (("postgresql", "AddIndexConcurrently"), ("sqlite", "AddIndex")):
        text = migration([candidate], vendor=vendor)["testapp"]
        made: dict[str, object] = {}
        exec(text, made)
        (added,) = made["Migration"].operations  # type: ignore[attr-defined]
        assert type(added).__name__ == operation
        assert added.index == index
        assert added.model_name == "ticket"
        assert made["Migration"].atomic == (vendor == "sqlite")  # type: ignore[attr-defined]


def test_a_migration_follows_the_apps_last_one() -> None:
    from demo.blog.models import Post

    text = migration([Candidate(Post, (Key("id"),))], vendor="postgresql")["blog"]
    last = MigrationLoader(None).graph.leaf_nodes("blog")
    assert str(last[0]) in text
    assert migration([], vendor="postgresql") == {}


def add(*indexes: Index) -> None:
    """Make indexes in the test's transaction, where SQLite's schema editor will not go."""
    with connection.cursor() as cursor:
        for each in indexes:
            cursor.execute(str(each.create_sql(Ticket, connection.schema_editor())))


@pytest.mark.django_db
def test_indexes_that_are_there_are_read_as_they_are() -> None:
    made = [
        Index(fields=["tenant", "-created_at"], name="advised_b"),
        Candidate(Ticket, (Key("id"),), (OPEN, Condition("status", "New One")), ()).as_index(),
        Candidate(Ticket, (Key("title", "UPPER"), Key("priority"))).as_index(),
    ]
    add(*made)
    known = read_table(connection, T)
    assert known is not None
    by_name = {each.name: each for each in known.indexes}
    assert by_name["advised_b"].keys == ("tenant_id", "created_at")
    assert by_name["advised_b"].descending == (False, True)
    flag = {"is_open", "is_open = 1"}  # the second on SQLite, since Django 6.1
    assert by_name[made[1].name].predicate - flag == {"status = 'New One'"}
    assert is_served(access("id", conditions=(OPEN, Condition("status", "New One"))), known)
    assert by_name[made[2].name].keys == ("upper title", "priority")
    assert is_served(Access(T, frozenset([Key("title", "UPPER")]), columns=None), known)
    assert read_table(connection, "nowhere") is None


@pytest.mark.postgresql
@pytest.mark.django_db
def test_included_columns_are_no_keys() -> None:
    index = Candidate(Ticket, (Key("tenant_id"),), (), ("priority",)).as_index()
    add(index)
    known = read_table(connection, T)
    assert known is not None
    (made,) = [each for each in known.indexes if each.name == index.name]
    assert (made.keys, made.include) == (("tenant_id",), {"priority"})
    assert made.size_bytes
    assert made.scans == 0


def test_a_value_is_a_constant_only_where_there_are_few_and_it_is_asked_for_often() -> None:
    """Else a report on tenant 3, or one search, would get an index for that value alone."""
    new = Condition("status", "new")
    often = Access(T, frozenset([Key("status"), Key("priority")]), conditions=frozenset([new]))
    few = table(status=Column(3, 0, {"new": 0.1}))
    partial = ['models.Index(fields=["priority"], condition=Q(status="new"))']
    assert found(often, known=few, calls={often: 20}) == partial
    assert found(often, known=few, calls={often: 19}) != partial
    many = table(status=Column(21, 0, {"new": 0.1}))
    assert found(often, known=many, calls={often: 20}) != partial
    for column in ("tenant_id", "id"):
        key = Access(
            T,
            frozenset([Key(column), Key("priority")]),
            conditions=frozenset([Condition(column, 3)]),
        )
        known = table(**{column: Column(3, 0, {"3": 0.1})})
        assert "condition" not in found(key, known=known, calls={key: 100})[0]
