"""Django REST framework: pages by keyset, in place of `CursorPagination`.

    class NewestFirst(KeysetPagination):
        ordering = ("-published_at", "-id")
        page_size = 20

A list view needs no other change; `DEFAULT_PAGINATION_CLASS` may be one of these. A view with a
repository hands that over instead of a queryset:

    rows = self.paginator.paginate_repository(posts, request, published, load=["tags"])

DRF's own cursor is the value of one column, and counts rows from there where values are equal:
a NULL breaks the list, and a row that is written or deleted among equal ones repeats or hides
another. The cursor here is a row's place in the whole order, and signed.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from django.db.models import Manager, Model, Q, QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.utils.urls import replace_query_param

from dbpatterns.errors import UsageError
from dbpatterns.repositories import BaseRepository, Page, Repository, Spec
from dbpatterns.repositories.conf import RepositoriesSettings
from dbpatterns.repositories.errors import InvalidCursor
from dbpatterns.repositories.keyset import OrderTerm

__all__ = ["KeysetPagination"]

M = TypeVar("M", bound=Model)
R = TypeVar("R")


class KeysetPagination(CursorPagination):
    """Pages by keyset: one query each, either way, right with NULLs and ties.

    Attributes, parameters, answer and schema are those of `CursorPagination`. Who decodes a
    cursor reads the row's values in the columns of the order; nobody can change it.
    """

    ordering: Any = "-pk"
    """One column or several, as `order_by` takes them: text or `F(…).desc(nulls_last=True)`,
    also a column of a relation to one row. The primary key is added where rows could tie. None
    of them may be deferred, or each page reads it again."""

    _page: Page[Any] = Page([])

    def paginate_queryset(
        self, queryset: QuerySet[M, R] | Sequence[R], request: Request, view: Any = None
    ) -> list[R] | None:
        """Return one page of a queryset of objects, with all that it loads; one query.

        None where no `page_size` is set, as with DRF's own.
        Raises: NotFound: the cursor is none of ours, or for another order.
        """
        if not isinstance(queryset, QuerySet):
            raise UsageError(
                f"{type(self).__name__} pages a queryset, or a repository by paginate_repository, "
                f"not a {type(queryset).__name__}."
            )
        if self.get_page_size(request) is None:
            return None
        order_by = self.get_ordering(request, queryset, view)
        repository: Repository[Any, Any] = Repository(manager=_Rows(queryset))
        return self.paginate_repository(repository, request, order_by=order_by)

    def paginate_repository(
        self,
        repository: BaseRepository[M, Any],
        request: Request,
        spec: Spec[M] | Q | None = None,
        /,
        *,
        order_by: Sequence[OrderTerm] = (),
        load: Sequence[str] = (),
        **criteria: Any,
    ) -> list[M]:
        """Return one page of the objects that match; one query, and those of `load`.

        Args:
            order_by: instead of `ordering`.
        Raises: NotFound: the cursor is none of ours, or for another order. UsageError: no
            `page_size` is set.
        """
        size = self.get_page_size(request)
        if size is None:
            raise UsageError(f"{type(self).__name__} has no page_size: set one.")
        self.base_url = request.build_absolute_uri()
        try:
            self._page = repository.page(
                spec,
                size=size,
                cursor=request.query_params.get(self.cursor_query_param),
                order_by=order_by or _terms(self.ordering),
                load=load,
                **criteria,
            )
        except InvalidCursor as error:
            raise NotFound(self.invalid_cursor_message) from error
        self.display_page_controls = self._page.has_other_pages() and self.template is not None
        return self._page.object_list

    def get_page_size(self, request: Request) -> int | None:
        """Return the size asked for or set, at most the MAX_PAGE_SIZE of repositories."""
        size = super().get_page_size(request)
        return min(size, RepositoriesSettings.load().max_page_size) if size else None

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> tuple[Any, ...]:
        """Return the order that an `OrderingFilter` of the view was asked for, else `ordering`."""
        for backend in getattr(view, "filter_backends", ()):
            if hasattr(backend, "get_ordering"):
                return _terms(backend().get_ordering(request, queryset, view) or self.ordering)
        return _terms(self.ordering)

    def get_next_link(self) -> str | None:
        """Return the address of the page after this one, None at the end."""
        return self._link(self._page.next_cursor)

    def get_previous_link(self) -> str | None:
        """Return the address of the page before this one, None at the start."""
        return self._link(self._page.previous_cursor)

    def _link(self, cursor: str | None) -> str | None:
        if cursor is None:
            return None
        assert self.base_url is not None, "there is a page"
        return replace_query_param(self.base_url, self.cursor_query_param, cursor)


class _Rows(Manager[M]):
    """A manager of the rows of one queryset, for a repository over them."""

    def __init__(self, rows: QuerySet[M]) -> None:
        super().__init__()
        self.model = rows.model
        self._rows = rows

    def get_queryset(self) -> QuerySet[M]:
        return self._rows.all()


def _terms(ordering: Any) -> tuple[Any, ...]:
    return tuple(ordering) if isinstance(ordering, list | tuple) else (ordering,)
