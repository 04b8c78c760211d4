"""The twin in memory: what it keeps like the database, and what it refuses to guess."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.db import DatabaseError, DataError, IntegrityError, models
from django.db.models import Count, Exists, F, OuterRef, Q, Value
from django.db.models.functions import Lower, Now

from dbpatterns.repositories import InMemoryRepository, Repository
from dbpatterns.repositories.errors import InvalidValue, UnknownField, UnsupportedInMemory
from dbpatterns.repositories.evaluation import POSTGRESQL, SQLITE, Profile
from tests.testapp.models import Article, Contract, Imprint, Remark, Writer


class ArticleRepository(Repository[Article]):
    """With a finder that is portable and one that is not."""

    def rated(self, rating: int) -> list[Article]:
        return self.find_by(rating=rating, order_by=["slug"])

    def counted(self) -> Any:
        return self._queryset().annotate(remarked=Count("remarks"))


@contextmanager
def model(**attributes: Any) -> Iterator[type[models.Model]]:
    """A model that lives as long as the block."""
    meta = type("Meta", (), {"app_label": "testapp", **attributes.pop("meta", {})})
    made = type("Fleeting", (models.Model,), {"__module__": __name__, "Meta": meta, **attributes})
    try:
        yield made  # type: ignore[misc]
    finally:
        del apps.all_models["testapp"]["fleeting"]
        apps.clear_cache()


@pytest.fixture(params=[POSTGRESQL, SQLITE], ids=["postgresql", "sqlite"])
def profile(request: pytest.FixtureRequest) -> Profile:
    found: Profile = request.param
    return found


@pytest.fixture
def articles(profile: Profile) -> ArticleRepository:
    return ArticleRepository.in_memory(profile=profile)


def test_no_database_is_touched(articles: ArticleRepository) -> None:
    """Without the `db` fixture any query fails the test."""
    articles.save_many([Article(slug="a", rating=1), Article(slug="b")])
    assert [each.slug for each in articles.rated(1)] == ["a"]
    assert articles.page(size=1).has_next()
    assert articles.delete_by(rating=None) == 1


def test_its_own_finders_work_until_they_need_the_database(articles: ArticleRepository) -> None:
    assert isinstance(articles, ArticleRepository)
    assert isinstance(articles, InMemoryRepository)
    with pytest.raises(UnsupportedInMemory, match="InMemoryArticleRepository has no queryset"):
        articles.counted()


@pytest.mark.parametrize(
    "refused",
    [
        Q(remarks__text="x"),
        Q(topics=1),
        Q(slug__regex="^a$"),
        Q(Exists(Remark.objects.filter(article=OuterRef("pk")))),
        Q(slug=Lower("title")),
        ~Q(Q(remarks__isnull=True) | Q(slug="a")),
    ],
    ids=str,
)
def test_a_condition_it_cannot_answer_is_refused_and_nothing_is_deleted(
    articles: ArticleRepository, refused: Q
) -> None:
    articles.save(Article(slug="a"))
    for call in (articles.find_by, articles.count, articles.exists, articles.delete_by):
        with pytest.raises(UnsupportedInMemory, match=r"testapp\.Article"):
            call(refused)
    assert articles.count() == 1


def test_conditions_are_checked_on_an_empty_table_too(articles: ArticleRepository) -> None:
    with pytest.raises(UnknownField):
        articles.find_by(titel="x")
    with pytest.raises(InvalidValue):
        articles.count(rating="x")
    with pytest.raises(UnsupportedInMemory):
        articles.exists(remarks__text="x")


def test_relations_are_those_the_objects_were_saved_with(articles: ArticleRepository) -> None:
    ada, ben = Writer(pk=1, name="Ada"), Writer(pk=2, name="Ben")
    articles.save_many([Article(slug="a", writer=ada), Article(slug="b", writer=ben)])
    articles.save(Article(slug="c"))
    assert [each.slug for each in articles.find_by(writer__name="Ben")] == ["b"]
    assert [each.slug for each in articles.find_by(writer=ada)] == ["a"]
    loaded = articles.find_by(load=["writer"], order_by=["slug"])
    assert [each.writer and each.writer.name for each in loaded] == ["Ada", "Ben", None]
    articles.save(Article(slug="d", writer_id=1))
    with pytest.raises(UnsupportedInMemory, match=r"load='writer'.*saved without it"):
        articles.find_by(load=["writer"])
    with pytest.raises(UnsupportedInMemory, match="load='remarks', a relation of many"):
        articles.find_by(load=["remarks"])
    with pytest.raises(UnknownField):
        articles.find_by(load=["writr"])
    with pytest.raises(UnsupportedInMemory, match="not loaded"):
        articles.find_by(writer__name="Ada")


def test_values_come_back_as_the_database_stores_them(articles: ArticleRepository) -> None:
    odd: Any = Article(
        slug="a",
        rating="7",
        price="1.5",
        day="2024-02-29",
        token="00000000-0000-0000-0000-000000000001",
        published_at=datetime.datetime(
            2024, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
        ),
    )
    articles.save(odd)
    found = articles.get_by_id(odd.pk)
    assert (found.rating, found.price) == (7, Decimal("1.50"))
    assert str(found.price) == "1.50"
    assert found.day == datetime.date(2024, 2, 29)
    assert found.token is not None
    assert found.token.int == 1
    assert found.published_at is not None
    assert found.published_at.isoformat() == "2023-12-31T23:00:00+00:00"


def test_only_what_was_saved_is_stored(articles: ArticleRepository) -> None:
    article = articles.save(Article(slug="a", title="One"))
    article.title = "Two"
    assert articles.get_by_id(article.pk).title == "One"
    articles.save(article, update_fields=[])
    assert articles.get_by_id(article.pk).title == "One"
    articles.save(article, update_fields=["title"])
    assert articles.get_by_id(article.pk).title == "Two"
    articles.delete(article.pk)
    with pytest.raises(DatabaseError, match="found no row to update"):
        articles.save(article, update_fields=["title"])
    articles.save(article)  # Django inserts it again
    assert articles.get_by_id(article.pk).title == "Two"


def test_expressions_are_refused(articles: ArticleRepository) -> None:
    article = articles.save(Article(slug="a", rating=1))
    later: Any = article
    for expression in (F("rating") + 1, Now(), Value(3)):
        later.rating = expression
        with pytest.raises(UnsupportedInMemory, match="only the database computes"):
            articles.save(later)
    assert articles.get_by_id(article.pk).rating == 1


def test_constraints_are_those_of_the_backend(articles: ArticleRepository) -> None:
    articles.save(Article(slug="a", language="en", number=1))
    cases = [
        Article(slug="a"),
        Article(slug="b", language="en", number=1),
        Article(pk=1, slug="b", language="en", number=None, score=None),  # type: ignore[misc]
    ]
    for refused in cases:
        with pytest.raises(IntegrityError):
            articles.save(refused)
    articles.save(Article(slug="c", language="en", number=None))
    articles.save(Article(slug="d", language="en", number=None))  # NULLs are distinct
    assert articles.count() == 3


def test_a_failed_insert_leaves_the_object_unsaved(articles: ArticleRepository) -> None:
    articles.save(Article(slug="a"))
    twin = Article(slug="a")
    with pytest.raises(IntegrityError):
        articles.save(twin)
    assert (twin.pk, twin._state.adding) == (None, True)
    with pytest.raises(IntegrityError):
        articles.save_many([Article(slug="b"), twin])
    assert (twin.pk, articles.count()) == (None, 1)


def test_keys_are_generated_as_the_backend_does() -> None:
    postgresql, sqlite = (
        ArticleRepository.in_memory(profile=profile) for profile in (POSTGRESQL, SQLITE)
    )
    for articles in (postgresql, sqlite):
        articles.save(Article(pk=7, slug="given"))
    assert sqlite.save(Article(slug="a")).pk == 8
    assert postgresql.save(Article(slug="a")).pk == 1
    for articles in (postgresql, sqlite):
        with pytest.raises(IntegrityError):
            articles.save_many([Article(slug="b"), Article(slug="a")])
    assert sqlite.save(Article(slug="c")).pk == 9
    assert postgresql.save(Article(slug="c")).pk == 4  # a sequence never goes back


def test_text_that_is_too_long_is_refused_where_the_backend_does() -> None:
    long = Article(slug="a", title="x" * 101)
    with pytest.raises(DataError, match="title holds 100 characters, not 101"):
        ArticleRepository.in_memory(profile=POSTGRESQL).save(long)
    both: Any = Article(slug="a", title="x" * 101, score=None)  # type: ignore[misc]
    with pytest.raises(DataError):  # of two faults, the one that the backend meets first
        ArticleRepository.in_memory(profile=POSTGRESQL).save(both)
    with pytest.raises(IntegrityError):
        ArticleRepository.in_memory(profile=SQLITE).save(both)
    assert ArticleRepository.in_memory(profile=SQLITE).save(long).pk == 1


def test_decimals_are_rounded_as_the_server_rounds_or_refused() -> None:
    articles = ArticleRepository.in_memory(profile=POSTGRESQL)
    article = articles.save(Article(slug="a", price=Decimal("0.105")))
    assert str(articles.get_by_id(article.pk).price) == "0.11"
    with pytest.raises(DataError, match="has no room for"):
        articles.save(Article(slug="b", price=Decimal(10) ** 8))
    sqlite = ArticleRepository.in_memory(profile=SQLITE)
    with pytest.raises(UnsupportedInMemory, match="SQLite keeps more places"):
        sqlite.save(Article(slug="a", price=Decimal("0.105")))
    assert sqlite.save(Article(slug="a", price=Decimal("0.100"))).pk == 1


def test_an_order_without_terms_is_the_model_s() -> None:
    with model(number=models.IntegerField(), meta={"ordering": ["-number"]}) as made:
        numbers: Any = InMemoryRepository(made)
        numbers.save_many([made(number=each) for each in (2, 3, 1)])
        assert [each.number for each in numbers.find_all()] == [3, 2, 1]
        assert [each.number for each in numbers.find_all(order_by=["number"])] == [1, 2, 3]


def test_checks_let_the_unknown_pass_and_refuse_the_false(profile: Profile) -> None:
    low = models.CheckConstraint(condition=Q(low__gte=1) & ~Q(high=9), name="low")
    fields = {"low": models.IntegerField(null=True), "high": models.IntegerField(null=True)}
    with model(**fields, meta={"constraints": [low]}) as made:
        rows: Any = InMemoryRepository(made, profile=profile)
        rows.save_many([made(low=1, high=1), made(low=None, high=None), made(low=2, high=None)])
        for low_value, high_value in ((0, 1), (1, 9), (0, None), (None, 9)):
            with pytest.raises(IntegrityError, match="violates check constraint 'low'"):
                rows.save(made(low=low_value, high=high_value))
        assert rows.count() == 3


def test_conditional_and_null_unique_constraints(profile: Profile) -> None:
    constraints = [
        models.UniqueConstraint(fields=["name"], condition=Q(gone=False), name="live"),
        models.UniqueConstraint(fields=["code"], nulls_distinct=False, name="code"),
    ]
    fields = {
        "name": models.CharField(max_length=9),
        "gone": models.BooleanField(default=False),
        "code": models.IntegerField(null=True),
    }
    with model(**fields, meta={"constraints": constraints}) as made:
        rows: Any = InMemoryRepository(made, profile=profile)
        rows.save(made(name="a", code=1, gone=True))
        kept = rows.save(made(name="a", code=None))
        for name, code in (("a", 2), ("b", 1), ("b", None)):
            with pytest.raises(IntegrityError):
                rows.save(made(name=name, code=code))
        kept.gone = True
        rows.save(kept)
        rows.save(made(name="a", code=3))  # the name is free again


def test_values_that_can_change_in_place_are_copies(profile: Profile) -> None:
    with model(data=models.JSONField(default=dict)) as made:
        rows: Any = InMemoryRepository(made, profile=profile)
        data = {"tags": ["a"]}
        row = rows.save(made(data=data))
        data["tags"].append("b")
        found = rows.get_by_id(row.pk)
        assert found.data == {"tags": ["a"]}
        found.data["tags"].append("c")
        assert rows.get_by_id(row.pk).data == {"tags": ["a"]}
        with pytest.raises(UnsupportedInMemory):
            rows.find_by(data__tags=["a"])


@pytest.mark.parametrize(
    "meta",
    [
        {"constraints": [models.UniqueConstraint(Lower("name"), name="lower")]},
        {
            "constraints": [
                models.CheckConstraint(condition=Exists(Writer.objects.all()), name="exists")
            ]
        },
    ],
    ids=["expression", "subquery"],
)
def test_a_constraint_only_the_database_knows_is_refused(meta: dict[str, Any]) -> None:
    with (
        model(name=models.CharField(max_length=9), meta=meta) as made,
        pytest.raises(UnsupportedInMemory, match=r"testapp\.Fleeting cannot be kept in memory"),
    ):
        InMemoryRepository(made)


def test_a_generated_column_is_refused() -> None:
    double = models.GeneratedField(
        expression=F("number") * 2, output_field=models.IntegerField(), db_persist=True
    )
    with (
        model(number=models.IntegerField(), double=double) as made,
        pytest.raises(UnsupportedInMemory, match="'double' is generated by the database"),
    ):
        InMemoryRepository(made)


def test_a_model_s_own_save_runs(profile: Profile) -> None:
    contracts = InMemoryRepository(Contract, profile=profile)
    contract = contracts.save(Contract(number="a"))
    assert contract.created_at is not None
    before = contract.updated_at
    contract.text = "b"
    contracts.save(contract, update_fields=["text"])
    assert contracts.get_by_id(contract.pk).updated_at > before
    assert "save_base" not in vars(contract)


def test_a_model_that_hides_rows_or_deletes_its_own_way_is_refused() -> None:
    """The database would keep the row and hide it; the twin would lose it."""
    with pytest.raises(UnsupportedInMemory, match=r"testapp\.Imprint.*default manager hides rows"):
        InMemoryRepository(Imprint)


def test_a_model_with_its_own_delete_is_refused() -> None:
    def delete(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("not run")

    with model(number=models.IntegerField(), delete=delete) as made:
        rows: Any = InMemoryRepository(made)
        row = rows.save(made(number=1))
        with pytest.raises(UnsupportedInMemory, match=r"Fleeting\.delete\(\) is its own"):
            rows.delete(row)
        assert rows.count() == 1


def test_bulk_writes_of_a_query_set_of_its_own_are_refused(profile: Profile) -> None:
    contracts = InMemoryRepository(Contract, profile=profile)
    calls: list[Any] = [
        lambda: contracts.save_many([Contract(number="a")]),
        lambda: contracts.upsert_many([Contract(number="a")], match=["number"], update=["text"]),
    ]
    for call in calls:
        with pytest.raises(UnsupportedInMemory, match=r"AuditedQuerySet\.bulk_create\(\)"):
            call()
    assert contracts.count() == 0


def test_unique_together_and_a_key_that_is_no_number(profile: Profile) -> None:
    fields = {
        "code": models.CharField(max_length=3, primary_key=True),
        "a": models.IntegerField(null=True),
        "b": models.IntegerField(null=True),
        "note": models.CharField(max_length=9, default=""),
    }
    with model(**fields, meta={"unique_together": [("a", "b")]}) as made:
        rows: Any = InMemoryRepository(made, profile=profile)
        rows.save(made(code="x", a=1, b=1))
        rows.save(made(code="x", a=1, b=2))  # an update: the row is there
        assert rows.count() == 1
        with pytest.raises(IntegrityError):
            rows.save_many([made(code="x")])  # an insert
        with pytest.raises(IntegrityError):
            rows.save(made(code=None))
        with pytest.raises(IntegrityError):
            rows.save(made(code="y", a=1, b=2))
        result = rows.upsert_many([made(code="z", a=1, b=2)], match=["b", "a"], update=["note"])
        assert [each.pk for each in result.updated] == ["x"]
