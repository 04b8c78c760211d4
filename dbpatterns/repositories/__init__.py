"""Repositories: one typed contract over the ORM and in memory, and no query nobody asked for.

    class PostRepository(Repository[Post]):
        ...

Importing needs nothing; the root app "dbpatterns" adds the system checks.
"""

from dbpatterns.repositories.base import BaseRepository
from dbpatterns.repositories.criteria import Criteria, ParsedCriteria
from dbpatterns.repositories.keyset import Page
from dbpatterns.repositories.memory import InMemoryRepository
from dbpatterns.repositories.reading import ReadRepository
from dbpatterns.repositories.reports import Report
from dbpatterns.repositories.repository import Repository
from dbpatterns.repositories.selection import UpsertResult
from dbpatterns.repositories.specifications import Spec
from dbpatterns.repositories.unit_of_work import UnitOfWork

__all__ = [
    "BaseRepository",
    "Criteria",
    "InMemoryRepository",
    "Page",
    "ParsedCriteria",
    "ReadRepository",
    "Report",
    "Repository",
    "Spec",
    "UnitOfWork",
    "UpsertResult",
]
