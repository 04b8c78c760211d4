"""What statements ask of their tables, read from real SQL."""

import sys
from typing import Any

import pytest
from django.db import connection
from django.db.models import Count, Exists, F, OuterRef, Q
from django.utils import timezone

from dbpatterns.errors import ConfigurationError
from dbpatterns.indexes.predicates import Access, Condition, Key, accesses, numbered
from dbpatterns.statements import Statement, recording_queries
from tests.testapp.models import Tenant, Ticket

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def read(query: Any) -> Access:
    """What a queryset of tickets asks of their table."""
    with recording_queries() as recording:
        list(query)
    found = accesses(recording.statements[-1])
    assert found is not None
    (access,) = [each for each in found if each.table == "testapp_ticket"]
    return access


def sql(text: str, *params: object) -> Access:
    found = accesses(Statement(text, params or None))
    assert found is not None
    return found[0]


def keys(*names: str) -> frozenset[Key]:
    return frozenset(map(Key, names))


def test_equality_constants_nulls_and_order() -> None:
    access = read(
        Ticket.objects.filter(tenant=3, is_open=True, closed_at=None, status="new").order_by(
            "-created_at", "priority"
        )
    )
    assert access.equals == keys("tenant_id", "is_open", "closed_at", "status")
    assert access.conditions == {
        Condition("tenant_id", 3),
        Condition("is_open", True),
        Condition("closed_at", None),
        Condition("status", "new"),
    }
    assert access.order == (Key("created_at", is_descending=True), Key("priority"))
    assert access.is_alone


def test_negations() -> None:
    access = read(Ticket.objects.filter(closed_at__isnull=False, is_open=False))
    assert access.equals == keys("is_open")
    assert access.conditions == {
        Condition("is_open", False),
        Condition("closed_at", None, is_negated=True),
    }
    assert sql("SELECT a FROM t WHERE NOT (b IS NULL)").conditions == {
        Condition("b", None, is_negated=True)
    }
    assert sql("SELECT a FROM t WHERE NOT (b IS NOT NULL)").conditions == {Condition("b", None)}
    assert sql("SELECT a FROM t WHERE NOT (b = 1)") == sql("SELECT a FROM t WHERE b <> a")
    assert sql("SELECT a FROM t WHERE b IS TRUE AND UPPER(b) IS NULL").conditions == set()


def test_ranges_lists_and_subqueries() -> None:
    access = read(
        Ticket.objects.filter(
            created_at__gte=NOW,
            priority__range=(1, 3),
            status__in=["a", "b"],
            tenant__in=Tenant.objects.filter(name="x"),
        )
    )
    assert access.ranges == keys("created_at", "priority")
    assert access.equals == keys("status", "tenant_id")
    assert not access.is_alone
    assert sql("SELECT a FROM t WHERE 5 < b").ranges == keys("b")
    assert sql("SELECT a FROM t WHERE (b, c) < (1, 2)").ranges == keys("b")


def test_an_or_and_a_comparison_of_two_columns_say_nothing() -> None:
    access = read(
        Ticket.objects.filter(Q(priority=1) | Q(status="x"), created_at__lt=F("closed_at"))
    )
    assert not access.is_selective()
    assert sql("SELECT a FROM t WHERE b IN (1, c)").equals == frozenset()
    assert sql("SELECT a FROM t WHERE b LIKE c").patterns == frozenset()
    assert sql("SELECT a FROM t WHERE b + 1 > 2").ranges == frozenset()


def test_patterns_and_functions() -> None:
    assert read(Ticket.objects.filter(title__icontains="x")).patterns == (
        {Key("title", "UPPER")} if connection.vendor == "postgresql" else {Key("title")}
    )
    assert read(Ticket.objects.filter(title__contains="x")).patterns == {Key("title")}
    assert read(Ticket.objects.filter(title__startswith="x")).prefixes == {Key("title")}
    assert sql("SELECT a FROM t WHERE LOWER(b) = %s", "x").equals == {Key("b", "LOWER")}
    assert sql("SELECT a FROM t WHERE b ILIKE 'x%'").patterns == {Key("b")}
    assert sql("SELECT a FROM t WHERE b LIKE $1").patterns == {Key("b")}
    assert sql("SELECT a FROM t WHERE LENGTH(b) = 3").equals == frozenset()


def test_a_join_asks_both_tables_for_its_columns() -> None:
    found = accesses(
        Statement(
            'SELECT "t"."a" FROM "t" INNER JOIN "u" ON ("t"."u_id" = "u"."id")'
            ' WHERE "u"."n" = 1 ORDER BY "u"."n", "t"."a"'
        )
    )
    assert found is not None
    t, u = found
    assert (t.table, t.equals, t.order) == ("t", keys("u_id"), ())
    assert (u.table, u.equals, u.is_alone) == ("u", keys("id", "n"), False)


def test_a_join_without_a_condition_and_a_flag_of_the_other_table() -> None:
    found = accesses(Statement("SELECT t.a FROM t CROSS JOIN u WHERE u.flag AND t.b = 1"))
    assert found is not None
    t, u = found
    assert (t.equals, t.conditions) == (keys("b"), {Condition("b", 1)})
    assert (u.equals, u.conditions) == (keys("flag"), {Condition("flag", True)})


def test_a_correlated_subquery_asks_its_own_table() -> None:
    tickets = Ticket.objects.filter(tenant=OuterRef("pk"), is_open=True)
    access = read(Tenant.objects.filter(Exists(tickets)))
    assert access.equals == keys("tenant_id", "is_open")


def test_columns_are_all_that_the_statement_needs() -> None:
    access = read(Ticket.objects.filter(priority=1).values_list("title"))
    assert access.columns == {"title", "priority"}
    assert sql("SELECT * FROM t").columns is None
    assert read(Ticket.objects.values("status").annotate(n=Count("*")).order_by("n")).order == ()


def test_where_nulls_go_is_kept_only_when_the_statement_says_it() -> None:
    assert read(Ticket.objects.order_by(F("closed_at").desc(nulls_last=True))).order == (
        Key("closed_at", is_descending=True, nulls_first=False),
    )
    assert sql("SELECT a FROM t ORDER BY b NULLS FIRST").order == (Key("b", nulls_first=True),)
    assert sql("SELECT a FROM t ORDER BY b NULLS LAST").order == (Key("b"),)


def test_writes_ask_with_their_where() -> None:
    access = sql("UPDATE t SET a = %s WHERE b = %s AND c IS NULL", 1, "x")
    assert access.conditions == {Condition("b", "x"), Condition("c", None)}
    assert sql("DELETE FROM t WHERE b = 1").equals == keys("b")
    assert accesses(Statement("DELETE FROM t")) == []
    assert accesses(Statement("INSERT INTO t VALUES (1)")) == []


def test_both_sides_of_a_union_are_read() -> None:
    found = accesses(Statement("SELECT a FROM t WHERE b = 1 UNION SELECT a FROM u WHERE c = 2"))
    assert found is not None
    assert [each.table for each in found] == ["t", "u"]


def test_values_that_are_no_constants_stay_open() -> None:
    assert sql("SELECT a FROM t WHERE b = %s", 1.5).conditions == set()
    assert sql("SELECT a FROM t WHERE b = %s", NOW).equals == keys("b")
    assert sql("SELECT a FROM t WHERE b = %s AND c = $9", 1).conditions == {Condition("b", 1)}
    assert sql("SELECT a FROM t WHERE b = 1.5").conditions == set()


def test_what_cannot_be_read_is_none() -> None:
    assert accesses(Statement("SELECT FROM WHERE (")) is None
    assert accesses(Statement("SELECT 'unterminated")) is None
    assert accesses(Statement("SELECT a FROM t WHERE " + "(" * 5_000 + "1")) is None


def test_placeholders_get_numbers_and_quoted_ones_do_not() -> None:
    template = Statement("SELECT '%%s' WHERE a LIKE '%%x' AND b = %s AND c %% 2 = %s", (1, 2))
    assert numbered(template) == "SELECT '%s' WHERE a LIKE '%x' AND b = $1 AND c % 2 = $2"
    literal = Statement("SELECT '%s' WHERE a LIKE '%sale%%' AND b = %s")
    assert numbered(literal) == "SELECT '%s' WHERE a LIKE '%sale%%' AND b = $1"


def test_without_sqlglot_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    with pytest.raises(ConfigurationError, match=r"django-dbpatterns\[advisor\]"):
        accesses(Statement("SELECT 1"))
