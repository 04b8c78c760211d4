"""The contract over the ORM: what it finds, saves and refuses, and what each call costs."""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldError, ObjectDoesNotExist
from django.db import DataError, IntegrityError, connection, connections, transaction
from django.db.models import Count, F, Model, Q, Value
from django.db.models.functions import Lower
from django.db.models.lookups import GreaterThan
from django.test.utils import CaptureQueriesContext, override_settings

from dbpatterns.errors import UsageError
from dbpatterns.repositories import BaseRepository, Repository, Spec
from dbpatterns.repositories.errors import (
    DuplicateKeys,
    EmptyCriteria,
    InvalidValue,
    TooManyRows,
    UnknownField,
    UnsavedObject,
    VanishedRows,
)
from dbpatterns.repositories.reading import ReadRepository
from demo.banking.models import Customer
from tests.demo.api_support import customer_number_on
from tests.testapp.models import Article, Contract, Imprint, Remark, Topic, Writer

T = TypeVar("T")


class ArticleRepository(Repository[Article]):
    """Articles, and a finder of their own."""

    def rated(self, rating: int) -> list[Article]:
        """Find by rating, best title first."""
        return self.find_by(rating=rating, order_by=["title", "pk"])


class LaterRepository(Repository["Article"]):
    """Names its model as text, as one written above the model must."""


@pytest.fixture
def repository(db: None) -> ArticleRepository:
    return ArticleRepository()


@contextmanager
def queries(count: int) -> Iterator[CaptureQueriesContext]:
    with CaptureQueriesContext(connection) as captured:
        yield captured
    assert len(captured) == count, [each["sql"] for each in captured]


# Which model


def test_the_model_comes_from_the_type_argument() -> None:
    assert ArticleRepository.model is Article
    assert LaterRepository().model is Article
    assert Repository.for_model(Writer).model is Writer
    assert type(Repository.for_model(Writer)) is type(Repository.for_model(Writer))


def test_a_repository_without_a_model_is_refused() -> None:
    class Nameless(Repository[Any]):
        """Says nothing."""

    with pytest.raises(UsageError, match=r"class Nameless\(Repository\[Post\]\)"):
        Nameless()


def test_a_repository_may_have_other_generic_bases() -> None:
    class Shelf(Generic[T]):
        """Says nothing of a model."""

    class Shelved(Shelf[int], Repository[Writer]):
        """Says it second."""

    assert Shelved.model is Writer


# Reading


def test_finding_by_id_is_one_query(repository: ArticleRepository, articles: list[Article]) -> None:
    with queries(1):
        assert repository.find_by_id(articles[3].pk) == articles[3]
    with queries(1):
        assert repository.find_by_id(0) is None
    with queries(1):
        assert repository.get_by_id(articles[3].pk) == articles[3]
    with pytest.raises(Article.DoesNotExist, match=r"no testapp\.Article with primary key 0"):
        repository.get_by_id(0)


def test_finding_by_ids_is_one_query_in_the_order_given(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    keys = [articles[place].pk for place in (5, 2, 9)]
    with queries(1):
        found = repository.find_by_ids([keys[0], 0, keys[1], keys[0], keys[2]])
    assert list(found.items()) == [(key, Article.objects.get(pk=key)) for key in keys]
    with queries(0):
        assert repository.find_by_ids([]) == {}
    with pytest.raises(ObjectDoesNotExist, match="primary key 0, -1"):
        repository.find_by_ids([keys[0], 0, -1], missing="raise")
    with pytest.raises(ObjectDoesNotExist, match="-8, -9, …"):
        repository.find_by_ids(range(0, -12, -1), missing="raise")


def test_keys_are_read_as_the_field_reads_them(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    key: Any = str(articles[0].pk)
    assert list(repository.find_by_ids([key, articles[0].pk])) == [articles[0].pk]
    bad: Any = "x"
    for refused in (
        lambda: repository.find_by_ids([bad]),
        lambda: repository.find_by_id(bad),
        lambda: repository.delete(bad),
    ):
        with pytest.raises(InvalidValue, match=r"'x'.*") as caught:
            refused()
        assert caught.value.model == "testapp.Article"


def test_finding_all_is_bounded(repository: ArticleRepository, articles: list[Article]) -> None:
    assert len(repository.find_all()) == 40
    assert repository.find_all(order_by=["-number"], limit=2) == articles[:-3:-1]
    with override_settings(DBPATTERNS={"REPOSITORIES": {"MAX_ROWS": 39}}):
        with queries(1) as captured, pytest.raises(TooManyRows, match="more than 39 rows"):
            repository.find_all()
        assert "LIMIT 40" in captured[0]["sql"]
        assert len(repository.find_all(limit="all")) == 40
    with override_settings(DBPATTERNS={"REPOSITORIES": {"MAX_ROWS": 40}}):
        assert len(repository.find_all()) == 40


def test_what_comes_back_is_evaluated(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    with queries(1):
        found = repository.find_by(rating=1)
        assert len(found) == len(list(found)) > 0
    assert type(found) is list


def test_criteria_are_a_spec_a_condition_or_keywords(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    rated = Spec[Article]("rated", rating__isnull=False)
    by_ada = Q(writer__name="Ada")
    expected = {
        a.pk for a in articles if a.rating is not None and a.writer_id == articles[1].writer_id
    }
    assert {a.pk for a in repository.find_by(rated & by_ada)} == expected
    assert {a.pk for a in repository.find_by(rated, writer__name="Ada")} == expected
    assert {a.pk for a in repository.find_by(by_ada, rating__isnull=False)} == expected
    assert repository.count(rated, writer__name="Ada") == len(expected)
    assert repository.exists(rated & by_ada)
    assert not repository.exists(rated & ~rated)
    assert len(repository.find_by()) == 40
    assert repository.find_by(limit=0) == []
    assert repository.rated(1)[0].title == ""


def test_finding_one_refuses_two(repository: ArticleRepository, articles: list[Article]) -> None:
    with queries(1):
        assert repository.find_one_by(slug="article-07") == articles[7]
    assert repository.find_one_by(slug="none") is None
    with queries(1) as captured, pytest.raises(Article.MultipleObjectsReturned, match="More than"):
        repository.find_one_by(rating=1)
    assert "LIMIT 2" in captured[0]["sql"]


def test_relations_are_loaded_the_way_that_costs_least(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    Remark.objects.bulk_create(Remark(article=each, text="x") for each in articles)
    articles[1].topics.add(Topic.objects.create(name="sea"))
    with queries(41):  # the harm: 1 + N
        assert [each.remarks.count() for each in Article.objects.all()]
    with queries(1):  # a join
        assert [each.writer and each.writer.name for each in repository.find_all(load=["writer"])]
    with queries(3):  # and one query for each relation of many
        for each in repository.find_all(load=["writer", "remarks", "topics"]):
            assert len(each.remarks.all()) == 1
            assert len(each.topics.all()) == (each.pk == articles[1].pk)
    with queries(2):  # a join on the way to many
        for each in repository.find_by(writer__isnull=False, load=["writer__articles"]):
            assert each.writer is not None
            assert each in each.writer.articles.all()


def test_a_relation_to_load_is_checked(repository: ArticleRepository) -> None:
    with pytest.raises(UnknownField, match="Did you mean 'writer'"):
        repository.find_by(load=["writr"])
    with pytest.raises(UnknownField, match=r"'title' on testapp\.Article is no relation"):
        repository.find_by(load=["title"])


def test_streaming_holds_a_chunk_and_loads_relations_by_chunk(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    with CaptureQueriesContext(connection) as captured:
        rows = repository.stream(order_by=["pk"], load=["remarks"], chunk=16)
        assert [row.number for row in rows for _ in row.remarks.all() or [0]] == [*range(40)]
    remarks = [each for each in captured if "testapp_remark" in each["sql"]]
    assert len(remarks) == 3  # 16 + 16 + 8
    with pytest.raises(UnknownField):  # at once, not at the first row
        repository.stream(titel="x")


def test_nothing_is_found_in_another_database(db: None) -> None:
    with pytest.raises(AssertionError, match="Database queries to 'shard_0' are not allowed"):
        Repository.for_model(Article, using="shard_0").find_all()


@pytest.mark.django_db(databases="__all__")
def test_a_repository_keeps_to_its_database() -> None:
    here, there = (Repository.for_model(Customer, using=alias) for alias in ("shard_0", "shard_1"))
    first, second = (customer_number_on("shard_0", nth=nth) for nth in range(2))
    eva = here.save(Customer(pk=first, name="Eva"))
    here.save_many([Customer(pk=second, name="Jan")])
    assert (eva._state.db, here.count(), there.count()) == ("shard_0", 2, 0)
    assert there.delete(second) == 0
    assert here.delete(second) == 1
    assert here.delete_by(name="Eva") == 1
    with pytest.raises(UsageError, match="this query does not name one"):
        Repository.for_model(Customer).find_all()


def test_a_manager_decides_what_exists(articles: list[Article]) -> None:
    class Rated(type(Article.objects)):  # type: ignore[misc]
        def get_queryset(self) -> Any:
            return super().get_queryset().filter(rating=1).annotate(remarked=Count("remarks"))

    manager = Rated()
    manager.model = Article
    rated = Repository.for_model(Article).__class__(manager=manager)
    assert rated.count() == Article.objects.filter(rating=1).count()
    assert rated.count(remarked=0) == rated.count()  # an annotation is no unknown field
    hidden = Article.objects.exclude(rating=1)[0]
    assert rated.find_by_id(hidden.pk) is None
    assert rated.delete(hidden.pk) == 0


# Bad input


@pytest.mark.parametrize(
    ("criteria", "sentence"),
    [
        ({"titel": 1}, "Unknown field 'titel' on testapp.Article. Did you mean 'title'?"),
        ({"writer__nam": 1}, "Unknown field 'nam' on testapp.Writer"),
        ({"title__contain": 1}, "Unknown lookup 'contain' for 'title' on testapp.Article"),
        ({"published_at__dat": 1}, "Unknown lookup 'dat' for 'published_at'"),
        ({"published_at__year__gtt": 1}, "Unknown lookup 'gtt' for 'published_at'"),
        ({"_connector": "OR"}, "Unknown field '_connector'"),
        ({"_negated": True}, "Unknown field '_negated'"),
        ({"": 1}, "Unknown field ''"),
    ],
)
def test_an_unknown_name_is_refused_by_every_method(
    repository: ArticleRepository, criteria: dict[str, Any], sentence: str
) -> None:
    calls: list[Callable[..., Any]] = [
        repository.find_by,
        repository.find_one_by,
        repository.exists,
        repository.count,
        repository.page,
        repository.stream,
        repository.delete_by,
    ]
    for call in calls:
        with queries(0), pytest.raises(UnknownField) as caught:
            call(**criteria)
        assert sentence in str(caught.value)
        assert isinstance(caught.value, FieldError)


@pytest.mark.parametrize(
    ("criteria", "sentence"),
    [
        ({"rating": "x"}, "testapp.Article: rating cannot be compared with 'x'"),
        ({"rating__in": [1, "x"]}, "rating__in cannot be compared with [1, 'x']"),
        ({"rating__gt": None}, "rating__gt cannot be compared with None"),
        ({"published_at": "soon"}, "published_at cannot be compared with 'soon'"),
        ({"token": "x"}, "token cannot be compared with 'x'"),
        ({"writer": "x"}, "writer cannot be compared with 'x'"),
        ({"title__isnull": "maybe"}, "title__isnull cannot be compared with 'maybe'"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_field(
    repository: ArticleRepository, criteria: dict[str, Any], sentence: str
) -> None:
    for call in (repository.find_by, repository.count, repository.page, repository.delete_by):
        with queries(0), pytest.raises(InvalidValue) as caught:
            call(title="ok", **criteria) if "title__isnull" not in criteria else call(**criteria)
        assert sentence in str(caught.value)
        assert caught.value.field == next(iter(criteria))


def test_a_message_neither_queries_nor_grows_with_its_value(repository: ArticleRepository) -> None:
    rows = Article.objects.values("slug")  # not limited to one
    with queries(0), pytest.raises(InvalidValue, match="cannot be compared with <QuerySet>"):
        repository.find_by(rating=rows)
    with pytest.raises(InvalidValue) as caught:
        repository.find_by(rating="x" * 10_000)
    assert len(str(caught.value)) < 600


def test_an_order_by_an_unknown_column_is_refused(repository: ArticleRepository) -> None:
    for order in ("titel", "-titel", F("titel"), F("titel").desc()):
        with pytest.raises(UnknownField, match="Did you mean 'title'"):
            repository.find_by(order_by=[order])
    assert repository.find_by(order_by=["?"]) == []


def test_the_field_at_fault_is_found_beside_what_is_right(repository: ArticleRepository) -> None:
    with pytest.raises(UnknownField, match="Unknown field 'titel'"):
        repository.find_by(titel="x", order_by=["?", "-slug", Lower("title")])
    with pytest.raises(FieldError, match="Cannot resolve keyword 'nope'"):
        repository.find_by(Q(GreaterThan(F("nope"), 1)))


def test_relations_without_a_way_back_are_no_suggestion(db: None) -> None:
    users = Repository.for_model(get_user_model())
    with pytest.raises(UnknownField) as caught:
        users.find_by(contract=1)
    assert "contract" not in str(caught.value).partition("Known:")[2]


def test_a_negative_limit_is_refused(repository: ArticleRepository) -> None:
    for call in (repository.find_by, repository.find_all):
        with pytest.raises(UsageError, match="zero or more rows, not -1"):
            call(limit=-1)


# Writing


def test_saving_inserts_and_updates(repository: ArticleRepository) -> None:
    article = repository.save(Article(slug="a", title="One"))
    article.title, article.rating = "Two", 5
    assert repository.save(article, update_fields=["title"]) is article
    stored = repository.get_by_id(article.pk)
    assert (stored.title, stored.rating) == ("Two", None)


def test_saving_takes_expressions(repository: ArticleRepository) -> None:
    article = repository.save(Article(slug="a", rating=1))
    counted: Any = article
    counted.rating = F("rating") + 1
    repository.save(article, update_fields=["rating"])
    assert repository.get_by_id(article.pk).rating == 2


def test_a_value_that_does_not_fit_is_refused_and_the_transaction_lives_on(
    repository: ArticleRepository,
) -> None:
    broken: Any = Article(slug="a", rating="much")
    with transaction.atomic():
        with pytest.raises(InvalidValue, match=r"testapp\.Article\.rating cannot hold 'much'"):
            repository.save(broken)
        with pytest.raises(InvalidValue, match=r"testapp\.Article\.rating cannot hold 'much'"):
            repository.save_many([Article(slug="b"), broken])
        with pytest.raises(InvalidValue, match=r"testapp\.Article\.rating cannot hold 'much'"):
            repository.upsert_many([Article(slug="b"), broken], match=["slug"], update=["rating"])
        assert repository.count() == 0


def test_an_unsaved_related_object_is_refused_by_name(repository: ArticleRepository) -> None:
    article = Article(slug="a", writer=Writer(name="Ada"))
    calls: list[Callable[[], Any]] = [
        lambda: repository.save(article),
        lambda: repository.save_many([article]),
        lambda: repository.upsert_many([article], match=["slug"], update=["title"]),
    ]
    for call in calls:
        with pytest.raises(InvalidValue, match=r"Article\.writer .*Writer is unsaved: save that"):
            call()
    assert repository.count() == 0


def test_unknown_columns_to_update_are_refused(repository: ArticleRepository) -> None:
    article = repository.save(Article(slug="a"))
    with pytest.raises(UnknownField, match="Did you mean 'title'"):
        repository.save(article, update_fields=["titel"])
    for name in ("writer__name", "remarks", "topics"):
        with pytest.raises(UnknownField, match="not a column of its own table"):
            repository.save(article, update_fields=[name])


def test_another_model_s_object_is_refused(repository: ArticleRepository) -> None:
    stranger: Any = Writer(name="Ada")
    calls: list[Callable[..., Any]] = [
        repository.save,
        repository.delete,
        lambda each: repository.save_many([each]),
        lambda each: repository.upsert_many([each], match=["slug"], update=["title"]),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"ArticleRepository keeps testapp\.Article, not"):
            call(stranger)


def test_saving_many_costs_a_statement_a_batch(repository: ArticleRepository) -> None:
    with transaction.atomic():
        new = [Article(slug=f"{number}") for number in range(10)]
        with queries(2 + 2):  # two batches in a savepoint
            assert repository.save_many(iter(new), batch=5) == new
        for each in new:
            each.title = "changed"
        with queries(2 + 2):  # one update of ten and one insert, in a savepoint
            repository.save_many([*new, Article(slug="last")], batch=50)
    assert repository.count(title="changed") == 10
    assert repository.count() == 11
    with queries(0):
        assert repository.save_many([]) == []


def test_saving_many_is_all_or_none(repository: ArticleRepository) -> None:
    taken = repository.save(Article(slug="taken", title="old"))
    taken.title = "new"
    fresh = [Article(slug="fresh"), Article(slug="taken")]
    with pytest.raises(IntegrityError), transaction.atomic():
        repository.save_many([taken, *fresh], batch=1)
    assert [each.title for each in repository.find_all()] == ["old"]
    assert [(each.pk, each._state.adding) for each in fresh] == [(None, True)] * 2


def test_saving_many_says_when_a_row_is_gone(repository: ArticleRepository) -> None:
    kept, gone = repository.save_many([Article(slug="kept"), Article(slug="gone")])
    Article.objects.filter(pk=gone.pk).delete()
    kept.title = gone.title = "new"
    harm = Article.objects.bulk_update([kept, gone], ["title"])
    assert harm == 1  # Django only counts
    kept.title = "newer"
    with pytest.raises(VanishedRows, match=r"1 of 2 testapp\.Article to update are gone"):
        repository.save_many([kept, gone])
    assert repository.get_by_id(kept.pk).title == "new"


@pytest.mark.postgresql
def test_saving_many_never_cuts_text_off(repository: ArticleRepository) -> None:
    article = repository.save(Article(slug="a"))
    article.title = "x" * 101
    Article.objects.bulk_update([article], ["title"])
    assert Article.objects.get().title == "x" * 100  # the harm: no error, and a letter less
    with pytest.raises(DataError, match=r"Article\.title holds 100 characters, not 101"):
        repository.save_many([article, Article(slug="b")])
    assert repository.count() == 1


def test_saving_one_row_by_two_objects_is_refused(repository: ArticleRepository) -> None:
    first = repository.save(Article(slug="a"))
    new = Article(slug="b")
    for twice in ([first, repository.get_by_id(first.pk)], [new, new]):
        with queries(0), pytest.raises(DuplicateKeys, match=r"1 keys \(pk\)"):
            repository.save_many(twice)
    assert repository.count() == 1


def test_deleting_takes_an_object_or_a_key(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    Remark.objects.create(article=articles[0], text="goes too")
    assert repository.delete(articles[0]) == 1
    assert repository.delete(articles[1].pk) == 1
    assert repository.delete(articles[2].pk + 1000) == 0
    assert (repository.count(), Remark.objects.count()) == (38, 0)


def test_deleting_what_was_never_saved_is_refused(repository: ArticleRepository) -> None:
    with pytest.raises(UnsavedObject, match=r"This testapp\.Article was never saved"):
        repository.delete(Article(slug="a"))


def test_deleting_by_nothing_is_refused(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    everything = Spec[Article]("everything")
    for call in (
        repository.delete_by,
        lambda: repository.delete_by(Q()),
        lambda: repository.delete_by(everything),
        lambda: repository.delete_by(everything & Q()),
        lambda: repository.delete_by(~Q()),
    ):
        with pytest.raises(EmptyCriteria, match="allow_all=True"):
            call()
    assert repository.count() == 40
    assert repository.delete_by(rating=1) == sum(each.rating == 1 for each in articles)
    assert repository.delete_by(allow_all=True) > 0
    assert repository.count() == 0


def test_deleting_by_a_relation_of_many_counts_rows_once(
    repository: ArticleRepository, articles: list[Article]
) -> None:
    for _ in range(2):
        Remark.objects.create(article=articles[0], text="bad")
    assert repository.count(remarks__text="bad") == 1
    assert repository.delete_by(remarks__text="bad") == 1
    assert repository.count() == 39


def test_an_expression_is_no_key(repository: ArticleRepository, articles: list[Article]) -> None:
    """`filter(pk=F("pk"))` is every row, and `filter(pk=Q(…))` on SQLite the one with key 1."""
    assert Article.objects.filter(pk=F("pk")).count() == 40  # the harm
    for key in (F("pk"), Q(title="One"), Value(1), Article.objects.all()):
        anything: Any = key
        for call in (repository.delete, repository.find_by_id, repository.get_by_id):
            with queries(0), pytest.raises(InvalidValue, match=r"is no primary key of testapp"):
                call(anything)
        with queries(0), pytest.raises(InvalidValue, match=r"is no primary key of testapp"):
            repository.find_by_ids([anything])
    assert repository.count() == 40


def test_one_text_where_a_list_is_meant_is_refused(repository: ArticleRepository) -> None:
    one: Any = "title"
    row = [Article(slug="a")]
    calls: list[Callable[[], Any]] = [
        lambda: repository.find_by(order_by=one),
        lambda: repository.find_by(load=one),
        lambda: repository.find_all(order_by=one),
        lambda: repository.page(order_by=one),
        lambda: repository.page(load=one),
        lambda: repository.stream(load=one),
        lambda: repository.save(row[0], update_fields=one),
        lambda: repository.upsert_many(row, match=one, update=["title"]),
        lambda: repository.upsert_many(row, match=["slug"], update=one),
    ]
    for call in calls:
        with queries(0), pytest.raises(UsageError, match=r"is one text: it takes a list, \['title"):
            call()


@pytest.mark.parametrize("number", ["3", 2.0, None, True])
def test_a_number_that_is_none_is_refused(repository: ArticleRepository, number: Any) -> None:
    with pytest.raises(UsageError, match="1 to 1,000 rows, not"):
        repository.page(size=number)
    if number is not None:
        with pytest.raises(UsageError, match="zero or more rows, not"):
            repository.find_by(limit=number)


@pytest.mark.parametrize("rows", [0, -1, "2"])
def test_a_batch_has_a_row(repository: ArticleRepository, rows: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: repository.save_many([Article(slug="a")], batch=rows),
        lambda: repository.upsert_many(
            [Article(slug="a")], match=["slug"], update=["title"], batch=rows
        ),
        lambda: repository.stream(chunk=rows),
    ]
    for call in calls:
        with queries(0), pytest.raises(UsageError, match=r"is no number of rows"):
            call()


def test_what_a_manager_does_on_writing_is_done(db: None) -> None:
    """An audited model stamps in `save` and in its query set's bulk methods."""
    repository = Repository.for_model(Contract)
    first, second = repository.save_many([Contract(number="a"), Contract(number="b")])
    assert first.created_at is not None
    before = first.updated_at
    first.text = "c"
    repository.save_many([first])
    assert repository.get_by_id(first.pk).updated_at > before
    again = [Contract(number="b", text="d"), Contract(number="c")]
    result = repository.upsert_many(again, match=["number"], update=["text"])
    assert (result.created, result.updated) == ([again[1]], [again[0]])
    stored = repository.get_by_id(second.pk)
    assert (stored.text, stored.created_at) == ("d", second.created_at)
    assert stored.updated_at > second.updated_at


def test_saving_many_keeps_what_a_column_keeps_for_itself(db: None) -> None:
    repository = Repository.for_model(Imprint)
    imprint = repository.save(Imprint(name="a"))
    stale = repository.get_by_id(imprint.pk)
    stale.name = "b"
    repository.save_many([stale])
    assert (stale.deleted_at, stale.is_deleted) == (None, False)
    assert repository.get_by_id(imprint.pk).name == "b"
    stale.name = "c"
    repository.delete(imprint)
    repository.save_many([stale])  # it is out of sight, and does not come back
    assert repository.count() == 0
    assert Imprint.everything.get().is_deleted


# Upserts


def test_an_upsert_says_what_was_created_and_what_updated(repository: ArticleRepository) -> None:
    old = repository.save(Article(slug="old", title="before", rating=1))
    objs = [Article(slug="old", title="after", rating=9), Article(slug="new", title="first")]
    result = repository.upsert_many(objs, match=["slug"], update=["title"])
    assert (result.created, result.updated) == ([objs[1]], [objs[0]])
    assert objs[0].pk == old.pk
    assert repository.get_by_id(objs[1].pk).title == "first"
    stored = repository.get_by_id(old.pk)
    assert (stored.title, stored.rating) == ("after", 1)  # others keep their values
    again = repository.upsert_many(objs, match=["slug"], update=["title"])
    assert (again.created, len(again.updated)) == ([], 2)
    empty = repository.upsert_many([], match=["slug"], update=["title"])
    assert (empty.created, empty.updated) == ([], [])


def test_an_upsert_matches_by_a_constraint_over_two_columns(repository: ArticleRepository) -> None:
    first = repository.save(Article(slug="a", language="en", number=1))
    result = repository.upsert_many(
        [
            Article(slug="b", language="en", number=1, title="same"),
            Article(slug="c", language="de", number=1),
            Article(slug="d", language="en", number=None),
            Article(slug="e", language="en", number=None),  # NULLs never match
        ],
        match=["language", "number"],
        update=["title"],
    )
    assert [each.pk for each in result.updated] == [first.pk]
    assert [each.slug for each in result.created] == ["c", "d", "e"]


def test_an_upsert_reads_keys_as_the_field_reads_them(repository: ArticleRepository) -> None:
    repository.save(Article(slug="a", language="en", number=1))
    odd: Any = "1"
    result = repository.upsert_many(
        [Article(slug="b", language="en", number=odd)],
        match=["language", "number"],
        update=["title"],
    )
    assert len(result.updated) == 1


def test_an_upsert_costs_a_statement_a_batch(repository: ArticleRepository) -> None:
    objs = [Article(slug=f"{number}") for number in range(250)]
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        repository.upsert_many(objs, match=["slug"], update=["title"], batch=50)
    inserts = [each["sql"] for each in captured if each["sql"].startswith("INSERT")]
    reads = [each["sql"] for each in captured if each["sql"].startswith("SELECT")]
    assert len(inserts) == 5
    assert len(reads) == (0 if connection.vendor == "postgresql" else 1)


@pytest.mark.parametrize(
    ("match", "update", "sentence"),
    [
        (["title"], ["body"], "no unique constraint covers"),
        (["slug", "title"], ["body"], "no unique constraint covers"),
        ([], ["body"], "no unique constraint covers"),
        (["slug"], [], "needs the columns to update"),
        (["slug"], ["slug", "title"], "needs the columns to update"),
        (["slug"], ["pk", "title"], "needs the columns to update"),
    ],
)
def test_an_upsert_that_could_only_guess_is_refused(
    repository: ArticleRepository, match: list[str], update: list[str], sentence: str
) -> None:
    with queries(0), pytest.raises(UsageError, match=sentence):
        repository.upsert_many([Article(slug="a")], match=match, update=update)


def test_an_upsert_of_the_same_key_twice_is_refused(repository: ArticleRepository) -> None:
    objs = [Article(slug=slug) for slug in ("a", "b", "a", "c", "c", "c")]
    with queries(0), pytest.raises(DuplicateKeys, match=r"2 keys \(slug\).*\('a',\)") as caught:
        repository.upsert_many(objs, match=["slug"], update=["title"])
    assert caught.value.keys == [("a",), ("c",)]


def test_an_upsert_is_all_or_none(repository: ArticleRepository) -> None:
    repository.save(Article(slug="x", language="en", number=1))
    objs = [Article(slug="a"), Article(slug="b", language="en", number=1)]
    with pytest.raises(IntegrityError), transaction.atomic():
        repository.upsert_many(objs, match=["slug"], update=["title"], batch=1)
    assert [each.slug for each in repository.find_all()] == ["x"]


@pytest.mark.django_db(transaction=True)
def test_two_upserts_at_once_create_each_row_once_and_both_know_who_did() -> None:
    """A SELECT beforehand would let both believe that they created the row."""
    barrier, results, errors = threading.Barrier(2), [], []

    def work() -> None:
        try:
            repository = ArticleRepository()
            for number in range(60):
                barrier.wait(30)
                mine = [Article(slug=f"{number}")]
                results.append(repository.upsert_many(mine, match=["slug"], update=["title"]))
        except BaseException as error:
            errors.append(error)
            barrier.abort()
        finally:
            connections["default"].close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    created = [each.slug for result in results for each in result.created]
    updated = [each.slug for result in results for each in result.updated]
    assert sorted(created) == sorted(updated) == sorted(str(number) for number in range(60))


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_row_that_appears_while_the_upsert_waits_counts_as_updated() -> None:
    """Fixed interleaving: the other's insert is uncommitted when ours begins, then commits."""
    repository, outcome = ArticleRepository(), []

    def upsert() -> None:
        try:
            objs = [Article(slug="a", title="ours")]
            outcome.append(repository.upsert_many(objs, match=["slug"], update=["title"]))
        finally:
            connections["default"].close()

    thread = threading.Thread(target=upsert)
    with transaction.atomic():
        theirs = Article.objects.create(slug="a", title="theirs")
        thread.start()
        waiting = 0
        while not waiting:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                waiting = cursor.fetchone()[0]
    thread.join()
    assert [each.pk for each in outcome[0].updated] == [theirs.pk]
    assert outcome[0].created == []


# Async twins


PUBLIC = {**vars(ReadRepository), **vars(BaseRepository)}


def twins() -> dict[str, Callable[..., Any]]:
    public = {
        name: method
        for name, method in PUBLIC.items()
        if not name.startswith("_") and inspect.isfunction(method)
    }
    return {name: method for name, method in public.items() if f"a{name}" in public}


def test_every_public_method_has_a_twin_of_the_same_signature() -> None:
    names = {name for name in PUBLIC if not name.startswith("_")}
    assert len(twins()) == 15
    assert names == {*twins(), *(f"a{name}" for name in twins())}
    for name, method in twins().items():
        twin = getattr(BaseRepository, f"a{name}")
        assert inspect.signature(twin).parameters == inspect.signature(method).parameters
        assert inspect.iscoroutinefunction(twin) or inspect.isasyncgenfunction(twin)
        assert twin.__name__ == f"a{name}"
        assert twin.__doc__


@pytest.mark.django_db(transaction=True)
def test_twins_do_what_they_are_twins_of() -> None:
    repository = ArticleRepository()

    async def work() -> None:
        article = await repository.asave(Article(slug="a", title="One"))
        await repository.asave_many([Article(slug="b"), Article(slug="c")])
        result = await repository.aupsert_many(
            [Article(slug="a", title="Two")], match=["slug"], update=["title"]
        )
        assert result.updated[0].pk == article.pk
        found = await repository.afind_by_id(article.pk)
        assert found is not None
        assert found.title == "Two"
        assert (await repository.aget_by_id(article.pk)) == found
        assert await repository.afind_by_ids([article.pk]) == {article.pk: found}
        assert len(await repository.afind_all()) == 3
        assert await repository.afind_by(slug="a", load=["writer"]) == [found]
        assert await repository.afind_one_by(slug="a") == found
        assert await repository.aexists(slug="a")
        assert await repository.acount() == 3
        page = await repository.apage(size=2)
        assert len(await repository.apage(size=2, cursor=page.next_cursor)) == 1
        assert [row.slug async for row in repository.astream(order_by=["slug"], chunk=2)] == [
            "a",
            "b",
            "c",
        ]
        assert await repository.adelete(found) == 1
        assert await repository.adelete_by(slug="b") == 1
        await sync_to_async(connections.close_all)()

    async_to_sync(work)()
    assert repository.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_twin_runs_the_subclass_s_own_method() -> None:
    class Loud(ArticleRepository):
        def count(self, spec: Any = None, /, **criteria: Any) -> int:
            return 1000 + super().count(spec, **criteria)

    assert async_to_sync(Loud().acount)() == 1000


# As a manager


def test_a_manager_has_the_repository_s_methods_beside_django_s(articles: list[Article]) -> None:
    manager = ArticleRepository.as_manager()
    manager.contribute_to_class(Article, "shelf")
    try:
        shelf: Any = Article.shelf  # type: ignore[attr-defined]
        assert shelf.rated(1) == ArticleRepository().rated(1)
        assert shelf.find_by(rating=1, limit=1)
        assert shelf.filter(rating=1).count() > 1
        assert shelf.count() == 40  # Django's own
        assert isinstance(shelf.repository, ArticleRepository)
        assert shelf.using("default").count() == 40
        assert shelf.db_manager("default").repository._using == "default"
        with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
            shelf.unheard_of  # noqa: B018
        with pytest.raises(AttributeError):
            shelf._private_of_nobody  # noqa: B018
    finally:
        Article._meta.local_managers.remove(
            next(each for each in Article._meta.local_managers if each.name == "shelf")
        )
        Article._meta._expire_cache()
        del Article.shelf  # type: ignore[attr-defined]


def test_values_may_be_expressions(repository: ArticleRepository, articles: list[Article]) -> None:
    same = repository.find_by(rating=F("number"))
    assert {each.number for each in same} == {1, 2}
    assert repository.count(title=Value("One")) == 10


def test_errors_are_what_a_generic_handler_already_catches() -> None:
    assert issubclass(UnknownField, FieldError)
    assert issubclass(InvalidValue, ValueError)
    assert issubclass(EmptyCriteria, ValueError)
    assert issubclass(Article, Model)
