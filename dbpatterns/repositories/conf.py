"""The `REPOSITORIES` section of `DBPATTERNS`."""

from dataclasses import dataclass
from typing import ClassVar

from dbpatterns.conf import Section

__all__ = ["RepositoriesSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoriesSettings(Section):
    """Bounds that keep a repository from reading a whole table by accident."""

    key: ClassVar[str] = "REPOSITORIES"

    max_rows: int = 10_000
    """Rows that `find_all` and a report without a limit may return; more are an error."""
    max_page_size: int = 1_000
    """Rows a page may have, whatever a caller asks for."""
    fat_repository_methods: int = 15
    """Public methods a repository may add before `check` warns (dbpatterns.W010)."""
