"""Reports: right numbers, typed rows, and no way in for SQL text."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, models
from django.db.models import (
    Aggregate,
    Avg,
    BooleanField,
    Case,
    CharField,
    Count,
    DecimalField,
    Exists,
    ExpressionWrapper,
    F,
    FilteredRelation,
    Func,
    IntegerField,
    Max,
    Min,
    OuterRef,
    Q,
    StdDev,
    Subquery,
    Sum,
    Value,
    Variance,
    When,
    Window,
)
from django.db.models import functions as fn
from django.db.models.expressions import CombinedExpression, RawSQL, Ref
from django.db.models.lookups import GreaterThan
from django.test import override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from dbpatterns.errors import UsageError
from dbpatterns.repositories.criteria import Criteria
from dbpatterns.repositories.errors import TooManyRows, UnknownField
from dbpatterns.repositories.reports import Report
from dbpatterns.repositories.specifications import Spec
from tests.testapp.models import Article, Remark, Topic, Writer


@pytest.fixture
def shelf(db: None) -> None:
    """Ada: a1 (20, two topics, three remarks), a2 (10, one topic); Ben: b1; nobody: n1."""
    ada, ben = Writer.objects.create(name="Ada"), Writer.objects.create(name="Ben")
    sea, sky = Topic.objects.create(name="sea"), Topic.objects.create(name="sky")
    rows = [
        ("a1", ada, Decimal(20), 5, 3, [sea, sky]),
        ("a2", ada, Decimal(10), None, 0, [sea]),
        ("b1", ben, Decimal(7), 1, 1, [sky]),
        ("n1", None, None, 2, 0, []),
    ]
    for day, (slug, writer, price, rating, remarks, topics) in enumerate(rows, start=1):
        article = Article.objects.create(
            slug=slug,
            writer=writer,
            price=price,
            rating=rating,
            published_at=datetime(2026, 5, day, tzinfo=UTC),
        )
        article.topics.set(topics)
        for number in range(remarks):
            Remark.objects.create(article=article, text=f"{slug} {number}")


def _values(report: Report[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in report.rows()]


# Numbers: the harm, and the refusal that says the way out.


@pytest.mark.usefixtures("shelf")
def test_plain_django_multiplies_what_two_joins_count_and_a_report_refuses() -> None:
    wrong = Article.objects.annotate(t=Count("topics"), r=Count("remarks")).get(slug="a1")
    assert (wrong.t, wrong.r) == (6, 6)  # it has two topics and three remarks
    report = Report(Article).join("topics", "remarks")
    with pytest.raises(UsageError, match=r"'t' would be multiplied by the rows of 'remarks'"):
        report.select("slug", t=Count("topics"), r=Count("remarks"))
    right = report.select(
        "slug", t=Count("topics", distinct=True), r=Count("remarks", distinct=True)
    )
    assert _values(right.order("slug").limit(1)) == [("a1", 2, 3)]


@pytest.mark.usefixtures("shelf")
def test_plain_django_sums_a_price_once_per_remark_and_a_report_refuses() -> None:
    wrong = Article.objects.values("writer__name").annotate(s=Sum("price"), r=Count("remarks"))
    assert wrong.get(writer__name="Ada")["s"] == 70  # its articles cost 20 and 10
    report = Report(Article).join("writer", "remarks")
    with pytest.raises(UsageError, match=r"'s' would be multiplied .* make two reports"):
        report.select("writer__name", s=Sum("price"), r=Count("remarks"))
    with pytest.raises(UsageError, match="multiplied"):  # equal prices would be one
        report.select(s=Sum("price", distinct=True), r=Count("remarks"))
    assert _values(report.select(s=Sum("price"))) == [(37,)]


@pytest.mark.parametrize(
    "build",
    [
        lambda report: report.where(remarks__text__contains="a").select(n=Count("pk")),
        lambda report: report.select(n=Count("pk")).where(remarks__text__contains="a"),
        lambda report: report.select(n=Count("pk", filter=Q(topics__name="sea"))),
        lambda report: report.select(n=Count("*"), r=Max("remarks__pk")),
        lambda report: report.select("topics__name", n=Count("pk")),  # two may have one name
        lambda report: report.select("remarks__text", n=Avg("rating")),
        lambda report: report.select(t=fn.Upper("topics__name"), n=Count("pk")),
        lambda report: report.select("topics__articles__pk", n=Count("pk")),
        lambda report: report.select(x=Count("topics"), y=Sum("topics__articles__rating")),
        lambda report: report.select("slug", ok=Sum("price") + Count("remarks")),
        lambda report: report.select("slug").where(remarks__text__contains="a"),
        lambda report: report.select(n=Count("pk")).where(
            Exists(Remark.objects.filter(pk=OuterRef("remarks__pk")))
        ),
        lambda report: report.select(n=Count("pk")).where(
            Q(ExpressionWrapper(~Q(remarks__text="a"), output_field=BooleanField()))
        ),
        lambda report: report.select(n=Count("pk")).where(~Q(rating=F("remarks__pk"))),
    ],
    ids=[
        "where before",
        "where after",
        "filter of the aggregate",
        "a second aggregate, and a star",
        "a group that is no key",
        "a group by remarks",
        "a group by an expression",
        "a key behind another relation",
        "a relation behind a relation",
        "arithmetic of aggregates",
        "rows that repeat",
        "an outer reference",
        "a negated condition that is an expression",
        "a value under a negation",
    ],
)
def test_a_number_that_a_join_multiplies_is_refused(
    build: Callable[[Report[Article]], Report[Article]],
) -> None:
    with pytest.raises(UsageError, match=r"would be multiplied|comes back once for each"):
        build(Report(Article).join("topics__articles", "remarks"))


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("build", "rows"),
    [
        (lambda r: r.select(n=Count("remarks")), [(4,)]),
        (lambda r: r.select(n=Count("remarks", filter=Q(remarks__text__endswith="0"))), [(2,)]),
        (lambda r: r.where(remarks__text__endswith="0").select(n=Count("remarks")), [(2,)]),
        (lambda r: r.where(~Q(remarks__text__endswith="0")).select(n=Count("pk")), [(2,)]),
        (lambda r: r.select(n=Count("pk", distinct=True), m=Count("remarks")), [(4, 4)]),
        (lambda r: r.select(low=Min("rating"), r=Count("remarks")), [(1, 4)]),
        (
            lambda r: r.select("topics__pk", "topics__name", s=Sum("price")).order("topics__name"),
            [("sea", 30), ("sky", 27), (None, None)],
        ),
        (
            lambda r: r.select("topics", n=Count("pk")).order("-n").limit(2),
            [(2,), (2,)],
        ),
        (
            lambda r: r.where(remarks__text="a1 0").select("slug", "remarks__text"),
            [("a1", "a1 0")],
        ),
        (
            lambda r: r.where(pk__in=Article.objects.filter(topics__name="sky")).select(
                n=Count("pk")
            ),
            [(2,)],
        ),
        (
            lambda r: r.where(Q(Exists(Remark.objects.filter(article=OuterRef("pk"))))).select(
                n=Count("pk")
            ),
            [(2,)],
        ),
    ],
    ids=[
        "its own relation",
        "its own relation filtered",
        "its own relation kept by where",
        "a negated condition",
        "distinct",
        "the lowest",
        "groups by key",
        "groups by the relation",
        "a column of the joined rows",
        "a subquery of keys",
        "a subquery that exists",
    ],
)
def test_a_number_that_no_join_multiplies_is_right(build: Any, rows: list[Any]) -> None:
    found = _values(build(Report(Article).join("topics", "remarks")))
    assert [row[-len(rows[0]) :] for row in found] == rows


@isolate_apps("tests.testapp")
def test_a_pair_that_a_table_of_pairs_may_hold_twice_is_no_key() -> None:
    class Tag(models.Model):
        class Meta:
            app_label = "testapp"

        def __str__(self) -> str:
            return ""

    class Note(models.Model):
        tags = models.ManyToManyField(Tag, through="Tagging")

        class Meta:
            app_label = "testapp"

        def __str__(self) -> str:
            return ""

    class Tagging(models.Model):
        note = models.ForeignKey(Note, models.CASCADE)
        tag = models.ForeignKey(Tag, models.CASCADE)

        class Meta:
            app_label = "testapp"

        def __str__(self) -> str:
            return ""

    with pytest.raises(UsageError, match="multiplied by the rows of 'tags'"):
        Report(Note).join("tags").select("tags", n=Count("pk"))
    with pytest.raises(UsageError, match="multiplied by the rows of 'note'"):
        Report(Tag).join("note").select("note__pk", n=Count("pk"))


# Grouping, order and limit.


@pytest.mark.usefixtures("shelf")
def test_what_is_selected_and_no_aggregate_is_grouped_by() -> None:
    report = (
        Report(Article)
        .join("writer")
        .where(Q(rating__gte=0) | Q(rating=None))
        .select("writer__name", articles=Count("pk"), newest=Max("published_at"))
        .having(Q(articles__gt=0) & ~Q(articles=F("newest__day")))
        .order("-articles")
        .limit(10)
    )
    assert report.rows() == [
        {"writer__name": "Ben", "articles": 1, "newest": datetime(2026, 5, 3, tzinfo=UTC)},
        {"writer__name": None, "articles": 1, "newest": datetime(2026, 5, 4, tzinfo=UTC)},
    ]


@pytest.mark.usefixtures("shelf")
def test_an_expression_is_grouped_by_under_its_name_and_can_be_asked_for() -> None:
    report = (
        Report(Article).join("topics").select(month=fn.TruncMonth("published_at"), n=Count("pk"))
    )
    assert _values(report) == [(datetime(2026, 5, 1, tzinfo=UTC), 4)]
    named = Report(Article).join("topics").select(topic="topics__name", n=Count("topics"))
    assert _values(named.having(Q(topic="sea"))) == [("sea", 2)]


@pytest.mark.usefixtures("shelf")
def test_aggregates_alone_are_one_row_even_of_nothing() -> None:
    assert _values(Report(Article).select(n=Count("pk"))) == [(4,)]
    assert Report(Article).where(rating=99).select(n=Count("pk")).rows() == [{"n": 0}]
    assert Report(Article).select(n=Count("pk")).having(Q(n__gt=4)).rows() == []


@pytest.mark.usefixtures("shelf")
def test_a_model_s_own_order_neither_splits_groups_nor_orders() -> None:
    from demo.blog.models import Author, Post

    author = Author.objects.create(login="eva", name="Eva")
    for slug in ("x", "y"):
        Post.objects.create(slug=slug, author=author)
    assert _values(Report(Post).select("author", n=Count("pk"))) == [(author.pk, 2)]
    assert "ORDER BY" not in str(Report(Post).select("slug")._queryset().query)


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("order", "slugs"),
    [(("rating",), "b1 n1 a1 a2"), (("-rating",), "a1 n1 b1 a2"), (("-slug",), "n1 b1 a2 a1")],
    ids=str,
)
def test_nulls_come_last_in_both_directions_on_each_database(
    order: tuple[str, ...], slugs: str
) -> None:
    report = Report(Article).select("slug", "rating").order(*order)
    assert [row["slug"] for row in report.rows()] == slugs.split()


@pytest.mark.usefixtures("shelf")
def test_a_tie_is_ordered_by_the_groups_or_by_the_key() -> None:
    grouped = Report(Article).select("slug", n=Count("pk")).order("-n").limit(3)
    assert [row["slug"] for row in grouped.rows()] == ["a1", "a2", "b1"]
    ungrouped = Report(Article).select("is_live", "slug").order("is_live").limit(3)
    assert [row["slug"] for row in ungrouped.rows()] == ["a1", "a2", "b1"]
    assert str(ungrouped._queryset().query).endswith('"testapp_article"."id" ASC NULLS LAST')


@pytest.mark.usefixtures("shelf")
def test_conditions_are_joined_and_where_keeps_the_same_joined_rows() -> None:
    both = Report(Article).join("topics").where(topics__name="sea").where(topics__name="sky")
    assert _values(both.select(n=Count("topics"))) == [(0,)]  # one row is not both
    assert _values(Report(Article).where(rating__gt=1, rating__lt=5).select("slug")) == [("n1",)]


@pytest.mark.usefixtures("shelf")
def test_a_spec_and_criteria_of_strangers_are_conditions_too() -> None:
    good = Spec[Article]("good", rating__gte=2)
    assert _values(Report(Article).where(good).select(n=Count("pk"))) == [(2,)]
    found = Criteria(Article, allow={"topics__name": {"in"}}).parse({"topics__name__in": "sea,sky"})
    assert _values(Report(Article).where(found.q).select(n=Count("pk"))) == [(3,)]


@pytest.mark.usefixtures("shelf")
def test_a_report_without_limit_is_bounded_by_max_rows() -> None:
    report = Report(Article).select("slug")
    with override_settings(DBPATTERNS={"REPOSITORIES": {"MAX_ROWS": 4}}):
        assert len(report.rows()) == 4
    with override_settings(DBPATTERNS={"REPOSITORIES": {"MAX_ROWS": 3}}):
        with (
            CaptureQueriesContext(connection) as captured,
            pytest.raises(TooManyRows, match=r"more than 3 rows \(MAX_ROWS\): add \.order"),
        ):
            report.rows()
        assert "LIMIT 4" in captured[0]["sql"]  # not the table
        assert len(report.order("slug").limit(4).rows()) == 4  # said so


@pytest.mark.usefixtures("shelf")
def test_rows_are_one_query_and_steps_are_none() -> None:
    with CaptureQueriesContext(connection) as captured:
        report = Report(Article).join("writer").where(rating=5).select("writer__name")
        assert len(captured) == 0
        report.rows()
    assert len(captured) == 1


# Immutable.


@pytest.mark.usefixtures("shelf")
def test_a_step_leaves_the_report_it_came_from_as_it_was() -> None:
    base = Report(Article).join("writer").select(n=Count("pk"))
    changed = base.where(rating=5).select("slug").having(Q(n=1)).order("n").limit(1)
    assert _values(base) == [(4,)]
    assert _values(changed) == [(1, "a1")]
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.model = Writer  # type: ignore[assignment, misc]


@pytest.mark.usefixtures("shelf")
def test_what_was_handed_over_may_change_afterwards_without_a_report_noticing() -> None:
    condition, total, late = Q(rating=5), Count("pk"), Q(n__gte=1)
    report = Report(Article).where(condition).select(n=total).having(late)
    condition.children.append(("rating", 6))
    late.children.append(("n", 99))
    total.source_expressions = [RawSQL("1", ())]
    assert _values(report) == [(1,)]


def test_a_report_is_checked_however_it_is_made() -> None:
    with pytest.raises(UsageError, match="may carry SQL text"):
        Report(Article, _where=Q(pk=RawSQL(EVIL, ())))
    with pytest.raises(UsageError, match="may carry SQL text"):
        dataclasses.replace(Report(Article), _selected={"x": RawSQL(EVIL, ())})


def test_a_long_sum_is_walked_in_no_time() -> None:
    total = sum((F("rating") for _ in range(40)), Value(0))
    assert Report(Article).select(total=total)._selected.keys() == {"total"}


# Typed rows.


@dataclass(frozen=True)
class Productivity:
    """A row of a report."""

    writer_name: str | None
    articles: int
    note: str = ""


@pytest.mark.usefixtures("shelf")
def test_rows_can_be_objects_of_a_dataclass() -> None:
    report = Report(Article).join("writer").select(writer_name="writer__name", articles=Count("pk"))
    rows: list[Productivity] = report.order("-articles").limit(1).rows(into=Productivity)
    assert rows == [Productivity("Ada", 2)]


def test_a_dataclass_that_does_not_fit_is_refused_before_the_query() -> None:
    report = Report(Article).join("writer").select(writer_name="writer__name")
    with pytest.raises(UsageError, match="Productivity needs 'articles', which is not selected"):
        report.rows(into=Productivity)
    with pytest.raises(UnknownField, match=r"no 'article'\. Did you mean 'articles'"):
        report.select(article=Count("pk")).rows(into=Productivity)
    with pytest.raises(UsageError, match="takes a dataclass, not <class 'dict'>"):
        report.rows(into=dict)
    with pytest.raises(UsageError, match="takes a dataclass"):
        report.rows(into=Productivity(None, 1))  # type: ignore[call-overload]


@pytest.mark.usefixtures("shelf")
def test_the_async_twins_answer_the_same() -> None:
    report = Report(Article).select(articles=Count("pk"), writer_name=Max("title"))
    assert async_to_sync(report.arows)() == [{"articles": 4, "writer_name": ""}]
    assert async_to_sync(report.arows)(into=Productivity) == [Productivity("", 4)]
    assert "testapp_article" in async_to_sync(report.aexplain)()


# Names are checked at each step.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda r: r.join("writr"), "Did you mean 'writer'"),
        (lambda r: r.join("title"), "'title' is a column; join names relations"),
        (lambda r: r.select("titel"), "Did you mean 'title'"),
        (lambda r: r.select(n=Count("titel")), "'titel' on testapp.Article. Did you mean 'title'"),
        (lambda r: r.select("title__upper"), "Unknown"),
        (lambda r: r.where(titel="a"), "Unknown field 'titel' on testapp.Article"),
        (lambda r: r.where(title__icontain="a"), "Did you mean 'icontains'"),
        (lambda r: r.where(**{"_connector": "OR", "title": "a"}), "Unknown field '_connector'"),
        (lambda r: r.where(Q(rating__gt=F("rting"))), "Did you mean 'rating'"),
        (lambda r: r.where(rating="many"), "Report on testapp.Article: Field 'rating' expected"),
        (lambda r: r.where(day="someday"), "Report on testapp.Article: .*invalid date format"),
        (lambda r: r.select("writer__name"), r" .* not joined: add \.join\('writer'\)"),
        (lambda r: r.where(writer__name="a"), "'writer__name' goes through 'writer'"),
        (lambda r: r.where(~Q(remarks__text="a")), "'remarks__text' goes through 'remarks'"),
        (lambda r: r.select(n=Count("remarks")), "goes through 'remarks'"),
        (lambda r: r.select(n=Count("pk", filter=Q(writer__name="a"))), "goes through 'writer'"),
        (lambda r: r.join("writer").select("writer__articles__pk"), "'writer__articles', which"),
        (lambda r: r.select("slug").having(Q(slug="a")), "having has no 'slug'. Known: nothing"),
        (lambda r: r.select(cnt=Count("pk")).having(Q(cn__gt=1)), "Did you mean 'cnt'"),
        (lambda r: r.select(n=Count("pk")).having(Q(n__gt=F("rating"))), "having has no 'rating'"),
        (lambda r: r.select("slug").order("slag"), "order has no 'slag'. Did you mean 'slug'"),
        (lambda r: r.select("slug").order("?"), r"order has no '\?'"),
        (lambda r: r.select("slug").order("--slug"), "order has no '-slug'"),
        (lambda r: r.select("slug").limit(0), "at least one row, not 0"),
        (lambda r: r.select("slug").limit(True), "at least one row, not True"),
        (lambda r: r.select("slug").limit("1"), "at least one row, not '1'"),
        (lambda r: r.select(Count("pk")), "give the expression .* a name"),
        (lambda r: r.select(n=5), r"'n' is int and no .*: wrap a constant in Value"),
        (lambda r: r.select(rating=Avg("rating")), "name it 'rating_value', for example"),
        (lambda r: r.select(writer_id="slug"), "is a field of the model"),
        (lambda r: r.select(n=Count("pk")).select(n=Max("pk")), "'n' is selected already"),
        (lambda r: r.where(GreaterThan(Count("pk"), 1)), r"ask for aggregates in \.having"),
        (lambda r: r.where(Q(rating__gt=Count("pk"))), r"where is about rows"),
        (lambda r: r.where(Exists(Topic.objects.filter(pk=OuterRef("writer__pk")))), "goes thr"),
        (lambda r: r.select(pk="slug"), "'pk' is a field of the model"),
    ],
)  # fmt: skip
def test_a_step_that_names_what_is_not_there_is_refused_at_once(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(Report(Article)).select("pk")._queryset().query.sql_with_params()


def test_a_report_that_says_too_little_is_refused_before_the_query() -> None:
    with pytest.raises(UsageError, match=r"nothing is selected: add \.select"):
        Report(Article).rows()
    with pytest.raises(UsageError, match=r"returns any rows: add \.order"):
        Report(Article).select("slug").limit(1).rows()


# No SQL text.

EVIL = "1); DROP TABLE testapp_article; --"


class Sneaky(Func):
    """A function of somebody's own."""

    template = EVIL


class Expressive:
    """Quacks like an expression."""

    def resolve_expression(self, *args: Any, **kwargs: Any) -> Any:
        return RawSQL(EVIL, ())


class Literal:
    """Compiles like one."""

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        return EVIL, []


def _with(expression: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(expression, name, value)
    return expression


def _connected(q: Q) -> Q:
    q.connector = f"OR {EVIL}"
    return q


HOSTILE: list[Any] = [
    RawSQL(EVIL, ()),
    Func(F("slug"), function=EVIL),
    Func(F("slug"), template=EVIL),
    Func(F("slug")),
    Aggregate("pk", function=EVIL),
    _with(Aggregate("pk"), function=EVIL),
    Count("pk", template=EVIL),
    Count("pk", function=EVIL),
    Max(RawSQL(EVIL, ())),
    Count("pk", filter=Q(rating=RawSQL(EVIL, ()))),
    Count("pk", filter=Q(RawSQL(EVIL, (), output_field=BooleanField()))),
    Sum("rating", default=RawSQL(EVIL, ())),
    fn.Lower("slug", template=EVIL),
    fn.Lower("slug", arg_joiner=EVIL),
    _with(fn.Lower("slug"), template=EVIL),
    _with(fn.Lower("slug"), function=EVIL),
    _with(fn.Lower("slug"), as_sql=lambda *a, **k: (EVIL, [])),
    _with(fn.Lower("slug"), as_sqlite=lambda *a, **k: (EVIL, [])),
    _with(fn.Lower("slug"), get_source_expressions=lambda: []),
    fn.Coalesce("slug", RawSQL(EVIL, ())),
    fn.Concat("slug", fn.Upper(RawSQL(EVIL, ()))),
    fn.Cast("slug", CharField(max_length=EVIL)),  # type: ignore[arg-type]
    fn.Cast("slug", DecimalField(max_digits=EVIL, decimal_places=1)),  # type: ignore[arg-type]
    fn.Cast("slug", _with(IntegerField(), db_type=lambda connection: EVIL)),
    fn.Cast("slug", type("Own", (IntegerField,), {"db_type": lambda self, connection: EVIL})()),
    CombinedExpression(F("rating"), EVIL, F("rating")),
    _with(F("rating") + F("number"), connector=EVIL),
    Case(When(slug="a", then=RawSQL(EVIL, ())), output_field=CharField()),
    Case(When(RawSQL(EVIL, (), output_field=BooleanField()), then=Value(1))),
    Case(When(slug="a", then=Value(1)), template=EVIL),
    Case(default=RawSQL(EVIL, ())),
    ExpressionWrapper(RawSQL(EVIL, ()), output_field=CharField()),
    F("rating") + RawSQL(EVIL, ()),
    _with(F("rating").desc(), template=EVIL),
    Window(Count("pk")),
    Ref(EVIL, Value(1)),
    Sneaky("slug"),
    fn.Upper(Sneaky("slug")),
    Expressive(),
    Literal(),
    FilteredRelation("writer", condition=Q(writer__name="a")),
    GreaterThan(F("rating"), RawSQL(EVIL, ())),
    GreaterThan(RawSQL(EVIL, ()), 1),
    _with(GreaterThan(F("rating"), 1), lookup_name=EVIL, as_sql=lambda *a: (EVIL, [])),
    Exists(Article.objects.extra(where=[EVIL])),
    Exists(Article.objects.filter(pk=RawSQL(EVIL, ()))),
    Exists(Article.objects.filter(pk__in=[RawSQL(EVIL, ())])),
    Exists(Article.objects.filter(writer__in=Writer.objects.extra(where=[EVIL]))),
    Exists(Article.objects.filter(Exists(Writer.objects.annotate(x=RawSQL(EVIL, ()))))),
    Exists(Article.objects.filter(_connected(Q(slug="a") | Q(slug="b")))),
    Subquery(Article.objects.annotate(x=RawSQL(EVIL, ())).values("x")[:1]),
    Subquery(Article.objects.annotate(x=fn.Upper(Sneaky("slug"))).values("x")[:1]),
    Subquery(Article.objects.values("slug"), template=EVIL),
    Subquery(Article.objects.order_by(RawSQL(EVIL, ())).values("slug")[:1]),
    Subquery(Article.objects.extra(order_by=["slug"]).values("slug")[:1]),
    Subquery(Article.objects.extra(tables=[EVIL]).values("slug")[:1]),
    Subquery(Article.objects.extra(select={"x": EVIL}).values("x")[:1]),
    Subquery(Article.objects.values("slug").union(Article.objects.extra(where=[EVIL]))),
    Subquery(
        Article.objects.annotate(
            w=FilteredRelation("writer", condition=Q(writer__name="a"))
        ).values("w__name")[:1]
    ),
    _with(Exists(Article.objects.all()), template=EVIL),
    _with(F("slug"), resolve_expression=lambda *a, **k: RawSQL(EVIL, ())),
    F(RawSQL(EVIL, ())),  # type: ignore[arg-type]
    Value(RawSQL(EVIL, ())),
    Q((RawSQL(EVIL, ()), 1)),
    StdDev("rating", function=EVIL),
    _with(StdDev("rating"), function=EVIL),
    _with(Count("pk"), template=[EVIL]),
    Exists(Article.objects.filter(pk=OuterRef(RawSQL(EVIL, ())))),
    Exists(Article.objects.values("slug").annotate(n=Count("pk", template=EVIL))),
    Article.objects.extra(where=[EVIL]),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_sql_text_is_refused_wherever_it_hides(hostile: Any) -> None:
    with pytest.raises(UsageError, match="may carry SQL text, which reports never take"):
        Report(Article).join("writer").select(x=hostile)
    with pytest.raises(UsageError, match="may carry SQL text"):
        Report(Article).join("writer").select(x=Case(When(rating=hostile, then=Value(1))))
    with pytest.raises(UsageError, match="may carry SQL text"):
        Report(Article).join("writer").where(rating=hostile)
    with pytest.raises(UsageError, match="may carry SQL text"):
        Report(Article).join("writer").where(Q(rating__in=[1, hostile]))
    with pytest.raises(UsageError, match="may carry SQL text"):
        Report(Article).join("writer").where(~Q(Q(slug="a"), Q(rating=hostile)))
    with pytest.raises(UsageError, match="may carry SQL text"):
        Report(Article).select(n=Count("pk")).having(Q(n__gt=hostile))


def test_raw_queries_and_connectors_are_refused_in_conditions() -> None:
    for condition in (
        Q(pk__in=Article.objects.raw(EVIL)),
        _connected(Q(slug="a") & Q(slug="b")),
        Q(_connected(Q(slug="a") & Q(slug="b")), rating=1),
        Q(Exists(Article.objects.extra(where=[EVIL]))),
    ):
        with pytest.raises(UsageError, match="may carry SQL text"):
            Report(Article).where(condition)


@pytest.mark.parametrize(
    "name",
    ["x y", 'x"', "x;--", "x%s", "x.y", "x__y", "_x", "x_", "", "x" * 64, "é", "x)", "x/*"],
)
def test_a_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a column"):
        Report(Article).select(**{name: Count("pk")})


def test_a_positional_column_is_a_path_and_never_text() -> None:
    for path in (EVIL, 'slug" FROM x --', "slug)", "COUNT(*)", "*", "", "slug;", "slug AS x"):
        with pytest.raises(UnknownField):
            Report(Article).select(path)
        with pytest.raises(UnknownField):
            Report(Article).select(x=path)
        with pytest.raises(UnknownField):
            Report(Article).select(x=fn.Upper(F(path)))


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (Value("a"), "a"),
        (Value(EVIL), EVIL),  # a parameter, not text
        (fn.Upper("slug"), "A1"),
        (fn.Lower(fn.Concat("slug", Value("X"))), "a1x"),
        (fn.Coalesce("price", Value(Decimal(0))), Decimal(20)),
        (fn.Cast("rating", CharField(max_length=10)), "5"),
        (fn.Cast("rating", DecimalField(max_digits=5, decimal_places=1)), Decimal(5)),
        (fn.ExtractYear("published_at"), 2026),
        (fn.Extract("published_at", "month"), 5),
        (fn.TruncDate("published_at"), date(2026, 5, 1)),
        (fn.Trunc("published_at", "month"), datetime(2026, 5, 1, tzinfo=UTC)),
        (fn.Round("price", precision=0), Decimal(20)),
        (fn.Substr("slug", 1, 1), "a"),
        (fn.Replace("slug", Value("a"), Value("b")), "b1"),
        (fn.Greatest("rating", Value(7)), 7),
        (fn.NullIf("slug", Value("a1")), None),
        (fn.StrIndex("slug", Value("1")), 2),
        (F("rating") * 2 + 1, 11),
        (ExpressionWrapper(F("rating") % 2, output_field=IntegerField()), 1),
        (F("published_at") - F("published_at"), None),
        (Case(When(Q(rating__gt=4), then=Value("high")), default=Value("low")), "high"),
        (Case(When(GreaterThan(F("rating"), 4), then=Value(1)), default=Value(0)), 1),
        (Exists(Remark.objects.filter(article=OuterRef("pk"))), True),
        (Subquery(Writer.objects.filter(pk=OuterRef("writer")).values("name")[:1]), "Ada"),
        (
            Subquery(
                Remark.objects.filter(article=OuterRef("pk"))
                .values("article")
                .annotate(n=Count("pk"))
                .order_by("-n")
                .values("n")
            ),
            3,
        ),
        (Q(rating=5), True),
        (Sum("rating"), 5),
        (Avg("price", default=0), Decimal(20)),
        (Count("pk", filter=~Q(rating=5)), 0),
        (Sum(F("price") * F("rating"), output_field=DecimalField()), Decimal(100)),
        (Max("published_at") - Min("published_at"), None),
        (Sum(Case(When(rating__gt=1, then=Value(1)), default=Value(0))), 1),
        (fn.Coalesce(Sum("number"), Value(0)), 0),
        (Variance("rating"), 0),
        (StdDev("rating"), 0),
        (Count("*"), 1),
    ],
)  # fmt: skip
def test_django_s_own_expressions_are_welcome(expression: Any, value: Any) -> None:
    report = Report(Article).where(slug="a1").select(x=expression)
    ((found,),) = _values(report)
    assert found == value or (value is None and not found)


@pytest.mark.usefixtures("shelf")
@pytest.mark.postgresql
def test_postgresql_s_own_expressions_are_welcome() -> None:
    from django.contrib.postgres.aggregates import ArrayAgg, BoolAnd
    from django.contrib.postgres.search import SearchQuery, SearchRank, SearchVector

    report = Report(Article).where(slug="a1")
    assert _values(report.select(x=ArrayAgg("slug", distinct=True))) == [(["a1"],)]
    assert _values(report.select(x=BoolAnd("is_live"))) == [(True,)]
    query = SearchQuery("zebra", search_type="websearch")
    assert _values(report.select(x=SearchRank(SearchVector("slug"), query))) == [(0,)]


# Databases and plans.


@pytest.mark.django_db(databases="__all__")
def test_a_report_reads_the_database_it_names() -> None:
    from demo.banking.models import Customer
    from tests.demo.api_support import customer_number_on

    Customer.objects.create(id=customer_number_on("shard_0"), name="Eva")
    assert _values(Report(Customer, using="shard_0").select(n=Count("pk"))) == [(1,)]
    assert _values(Report(Customer, using="shard_1").select(n=Count("pk"))) == [(0,)]
    with pytest.raises(UsageError, match="this query does not name one"):
        Report(Customer).select(n=Count("pk")).rows()


@pytest.mark.usefixtures("shelf")
def test_a_plan_is_of_what_rows_would_run_and_runs_nothing() -> None:
    report = Report(Article).select("slug", n=Count("pk")).order("-n").limit(2)
    with CaptureQueriesContext(connection) as captured:
        assert "testapp_article" in report.explain()
    assert captured[0]["sql"].startswith("EXPLAIN ")
    assert captured[0]["sql"].endswith("LIMIT 2")
    assert "ANALYZE" not in captured[0]["sql"]


@pytest.mark.usefixtures("shelf")
def test_a_plan_is_measured_when_asked_or_the_database_cannot() -> None:
    report = Report(Article).select("slug")
    assert "actual time" not in report.explain()
    if connection.vendor == "postgresql":
        assert "actual time" in report.explain(analyze=True)
        assert report.explain(format="json").startswith("[{")
    else:
        with pytest.raises(UsageError, match="'default' cannot measure a plan: leave analyze"):
            report.explain(analyze=True)


@pytest.mark.django_db
def test_a_subquery_may_compare_its_own_columns() -> None:
    article = Article.objects.create(slug="a", title="same")
    article.remarks.create(text="same")
    Article.objects.create(slug="b", title="same").remarks.create(text="other")
    own = Remark.objects.filter(article=OuterRef("pk"), text=F("article__title"))
    assert Report(Article).where(Q(Exists(own))).select("slug").rows() == [{"slug": "a"}]
