"""Specifications: the rule that was written twice and drifted, then one that is asked of both."""

from dataclasses import FrozenInstanceError

import pytest
from django.db import connection
from django.db.models import Exists, Q
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from dbpatterns.repositories import Repository, Spec
from dbpatterns.repositories.errors import InvalidValue, UnknownField, UnsupportedInMemory
from tests.testapp.models import Article, Remark, Writer

popular = Spec[Article]("popular", rating__gte=3)
live = Spec[Article]("live", is_live=True)
by_ada = Spec[Article]("by Ada", writer__name="Ada")


@pytest.fixture
def rows(db: None) -> list[Article]:
    return make_rows()


def make_rows() -> list[Article]:
    """Articles of every rating, live or not, by Ada, by Ben and by nobody."""
    writers = [None, Writer.objects.create(name="Ada"), Writer.objects.create(name="Ben")]
    Article.objects.bulk_create(
        Article(slug=f"{number}", rating=rating, is_live=number % 2 > 0, writer=writers[number % 3])
        for number, rating in enumerate([None, 0, 1, 2, 3, 4, 5, None, 3, 2, 1, 0])
    )
    return list(Article.objects.select_related("writer"))


def test_a_rule_written_twice_drifts_where_a_value_is_null(rows: list[Article]) -> None:
    def is_popular(article: Article) -> bool:
        return not (article.rating is not None and article.rating < 3)

    in_python = {each.slug for each in rows if is_popular(each)}
    assert in_python != {each.slug for each in Article.objects.filter(rating__gte=3)}  # the harm
    assert {each for each in rows if popular.is_satisfied_by(each)} == set(
        Article.objects.filter(popular.to_q())
    )


def test_a_specification_is_named_and_frozen() -> None:
    assert (popular.name, str(popular)) == ("popular", "popular")
    assert repr(popular) == "Spec(name='popular')"
    with pytest.raises(FrozenInstanceError):
        popular.name = "other"  # type: ignore[misc]
    assert popular == Spec[Article]("popular", Q(rating__gte=3))
    assert popular != Spec[Article]("popular", rating__gte=4)
    assert hash(popular) == hash(Spec[Article]("popular", rating__gte=3))


def test_a_condition_and_keywords_are_joined() -> None:
    both = Spec[Article]("both", Q(rating=1) | Q(rating=2), is_live=True)
    assert both.to_q() == (Q(rating=1) | Q(rating=2)) & Q(is_live=True)
    assert Spec[Article]("all").to_q() == Q()


def test_changing_the_q_given_or_taken_leaves_the_specification_as_it_was() -> None:
    given = Q(rating=1)
    spec = Spec[Article]("one", given)
    given.negate()
    given.add(Q(rating=2), Q.OR)
    taken = spec.to_q()
    taken.negate()
    taken.add(Q(rating=2), Q.OR)
    assert spec.to_q() == Q(rating=1)


def test_operators_join_specifications_and_plain_conditions() -> None:
    q = Q(number=1)
    for spec, name, expected in (
        (popular & live, "(popular & live)", Q(rating__gte=3) & Q(is_live=True)),
        (popular | live, "(popular | live)", Q(rating__gte=3) | Q(is_live=True)),
        (~popular, "~popular", ~Q(rating__gte=3)),
        (popular & ~live, "(popular & ~live)", Q(rating__gte=3) & ~Q(is_live=True)),
        (popular & q, "(popular & Q(number))", Q(rating__gte=3) & q),
        (popular | ~q, "(popular | ~Q(number))", Q(rating__gte=3) | ~q),
        (popular & (q | Q(pk=1)), "(popular & Q(number OR pk))", Q(rating__gte=3) & (q | Q(pk=1))),
    ):
        assert isinstance(spec, Spec)
        assert (spec.name, spec.to_q()) == (name, expected)


def test_a_plain_condition_does_not_take_a_specification_on_its_right() -> None:
    with pytest.raises(TypeError):
        Q(number=1) & popular  # type: ignore[operator]
    with pytest.raises(TypeError):
        Q(number=1) | popular  # type: ignore[operator]


def test_naming_a_condition_runs_no_query_and_tells_no_value(rows: list[Article]) -> None:
    secret = Q(writer__in=Writer.objects.all()) & ~Q(Exists(Remark.objects.all()), slug="secret")
    with CaptureQueriesContext(connection) as captured:
        spec = popular & secret
    assert len(captured) == 0
    assert spec.name == "(popular & Q(writer__in AND ~Q(Exists AND slug)))"


def test_a_repository_and_an_object_agree_without_a_query(rows: list[Article]) -> None:
    rule = popular & live & ~by_ada
    found = Repository.for_model(Article).find_by(rule)
    with CaptureQueriesContext(connection) as captured:
        satisfied = [each for each in rows if rule.is_satisfied_by(each)]
    assert len(captured) == 0
    assert {each.pk for each in satisfied} == {each.pk for each in found}
    assert satisfied


def test_an_object_that_was_never_saved_is_asked_by_the_default_database_s_rules() -> None:
    capital = Spec[Article]("has an A", title__contains="A")
    is_sqlite = connection.vendor == "sqlite"
    assert capital.is_satisfied_by(Article(title="a")) is is_sqlite
    assert capital.is_satisfied_by(Article(title="a"), using="default") is is_sqlite
    assert capital.is_satisfied_by(Article(title="A"))


def test_what_an_object_cannot_answer_is_refused() -> None:
    article = Article(writer_id=1)
    for spec, error in (
        (by_ada, UnsupportedInMemory),
        (Spec[Article]("remarked", remarks__text="a"), UnsupportedInMemory),
        (Spec[Article]("typo", ratin=1), UnknownField),
        (Spec[Article]("wrong", rating="five"), InvalidValue),
    ):
        with pytest.raises(error):
            spec.is_satisfied_by(article)


class TestAnySpecification(HypothesisTestCase):
    """Combinations as hypothesis likes them."""

    rows: list[Article]

    @classmethod
    def setUpTestData(cls) -> None:
        cls.rows = make_rows()

    @settings(max_examples=100, deadline=None)
    @given(
        spec=st.recursive(
            st.sampled_from([popular, live, by_ada, Spec[Article]("unrated", rating=None)]),
            lambda specs: st.one_of(
                st.builds(lambda one, other: one & other, specs, specs),
                st.builds(lambda one, other: one | other, specs, specs),
                specs.map(lambda spec: ~spec),
            ),
        )
    )
    def test_satisfied_objects_are_the_rows_found(self, spec: Spec[Article]) -> None:
        found = set(Article.objects.filter(spec.to_q()).values_list("pk", flat=True))
        assert {each.pk for each in self.rows if spec.is_satisfied_by(each)} == found
