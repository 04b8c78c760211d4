"""The contract's own tests, on the database of the run and in memory."""

from datetime import date
from typing import Any

import pytest

from dbpatterns.repositories import BaseRepository, InMemoryRepository, Repository
from dbpatterns.testing.contracts import RepositoryContract
from tests.testapp.models import Article, Writer


class ArticleRepository(Repository[Article]):
    """Articles."""


@pytest.mark.django_db
class TestArticles(RepositoryContract[Article]):
    """Articles in the database."""

    column, values, unique = "title", ("One", "Two"), "slug"

    def make_repository(self) -> BaseRepository[Article, Any]:
        return ArticleRepository()

    def make_object(self, number: int) -> Article:
        return Article(slug=f"article-{number}", title="One")


class TestArticlesInMemory(TestArticles):
    """The same class's twin."""

    def make_repository(self) -> BaseRepository[Article, Any]:
        return ArticleRepository.in_memory()


@pytest.mark.django_db
class TestNullableColumn(TestArticles):
    """The same with NULL for the first value."""

    column, values = "rating", (None, 3)

    def make_object(self, number: int) -> Article:
        return Article(slug=f"article-{number}", rating=None)


class TestNullableColumnInMemory(TestNullableColumn):
    """And in memory."""

    def make_repository(self) -> BaseRepository[Article, Any]:
        return InMemoryRepository(Article)


@pytest.mark.django_db
class TestWriters(RepositoryContract[Writer]):
    """A model of few columns, by a repository without a class."""

    column, values, unique = "born", (None, date(1815, 12, 10)), "name"

    def make_repository(self) -> BaseRepository[Writer, Any]:
        return Repository.for_model(Writer)

    def make_object(self, number: int) -> Writer:
        return Writer(name=f"Ada {number}")


def test_a_contract_without_its_factories_says_so() -> None:
    class Bare(RepositoryContract[Writer]):
        """Neither factory."""

    for factory in (Bare().make_repository, lambda: Bare().make_object(1)):
        with pytest.raises(NotImplementedError):
            factory()
