"""Read by mypy, never run: the types that reach a user of repositories."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from dbpatterns.repositories import Page, Repository, Spec, UpsertResult
from tests.testapp.models import Article, Writer


class ArticleRepository(Repository[Article]):
    """Integer keys, the default."""


class WriterRepository(Repository[Writer, str]):
    """Keys of another type."""


def reading(articles: ArticleRepository, writers: WriterRepository) -> None:
    """What comes back is the model's own type."""
    assert_type(articles.find_by_id(1), Article | None)
    assert_type(articles.get_by_id(1), Article)
    assert_type(articles.find_by_ids([1]), dict[int, Article])
    assert_type(writers.find_by_ids(["a"]), dict[str, Writer])
    assert_type(articles.find_all(limit="all"), list[Article])
    assert_type(articles.find_by(slug="a"), list[Article])
    assert_type(articles.find_one_by(slug="a"), Article | None)
    assert_type(articles.page(size=2), Page[Article])
    assert_type(articles.page()[0], Article)
    assert_type(articles.page().next_cursor, str | None)
    assert_type(articles.stream(), Iterator[Article])
    assert_type(articles.astream(), AsyncIterator[Article])
    articles.find_by_id("1")  # type: ignore[arg-type]
    writers.find_by_id(1)  # type: ignore[arg-type]
    articles.find_by_ids([1], missing="ignore")  # type: ignore[arg-type]
    articles.find_all(limit="some")  # type: ignore[arg-type]


def writing(articles: ArticleRepository, article: Article, writer: Writer) -> None:
    """Only the model's own objects go in."""
    assert_type(articles.save(article), Article)
    assert_type(articles.save_many([article]), list[Article])
    assert_type(
        articles.upsert_many([article], match=["slug"], update=["title"]), UpsertResult[Article]
    )
    assert_type(articles.delete(article), int)
    assert_type(articles.delete(1), int)
    articles.save(writer)  # type: ignore[arg-type]
    articles.delete(writer)  # type: ignore[arg-type]


async def twins(articles: ArticleRepository, article: Article) -> None:
    """The async twins have the types of what they are twins of."""
    assert_type(await articles.afind_by_id(1), Article | None)
    assert_type(await articles.afind_by(slug="a"), list[Article])
    assert_type(await articles.apage(size=2), Page[Article])
    assert_type(await articles.asave(article), Article)
    assert_type(await articles.adelete(article), int)
    await articles.afind_by_id("1")  # type: ignore[arg-type]


def specifications(article: Article, writer: Writer) -> None:
    """A specification is of one model."""
    live = Spec[Article]("live", is_live=True)
    assert_type(live & ~live, Spec[Article])
    assert_type(live.is_satisfied_by(article), bool)
    live.is_satisfied_by(writer)  # type: ignore[arg-type]


def others(article: Article) -> None:
    """Without a class, and as a manager."""
    assert_type(Repository.for_model(Article).find_by(), list[Article])
    manager = ArticleRepository.as_manager()
    assert_type(manager.repository, ArticleRepository)
    assert_type(manager.repository.find_by(), list[Article])
