"""A manager with a repository's methods, for those who want `Post.objects` to have them.

class PostRepository(Repository["Post"]): ...

class Post(models.Model):
    objects = PostRepository.as_manager()

Post.objects.find_by(status="draft")        # the repository's
Post.objects.filter(status="draft")         # Django's, as ever
author.posts.page(size=20)                  # a related manager knows its rows
"""

from typing import Any, ClassVar, Generic, TypeVar

from django.db.models import Manager, Model

from dbpatterns.repositories.base import BaseRepository

__all__ = ["RepositoryManager"]

M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=BaseRepository[Any, Any])


class RepositoryManager(Manager[M], Generic[M, R]):
    """Django's manager; where it has a method of the same name (`count`), its own is meant."""

    repository_class: ClassVar[Any] = None

    @property
    def repository(self) -> R:
        """Return the typed repository over this manager's rows; no query."""
        found: R = self.repository_class(manager=self, using=self._db)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self.repository_class, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.repository, name)
