"""An admin for operational tables, which are to be looked at: what writes them is code.

A table that several databases have, as on shards, is shown of one at a time; a filter beside the
list chooses which, and the links of the list go on to rows of the same.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils.translation import gettext_lazy

from dbpatterns.placement import databases_of

__all__ = ["DatabaseFilter", "ReadOnlyAdmin"]

PARAMETER = "database"


class DatabaseFilter(admin.SimpleListFilter):
    """Which of the databases that have the table; not shown where one has it."""

    title = gettext_lazy("database")
    parameter_name = PARAMETER

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the databases."""
        self._shown = model_admin.database(request)
        return [(alias, alias) for alias in databases_of(model_admin.model)]

    def has_output(self) -> bool:
        """Tell whether there is a choice."""
        return len(self.lookup_choices) > 1

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows as they are: the admin has read them where they are asked for."""
        return queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield the databases without "all", which no query could show."""
        for alias, title in self.lookup_choices:
            yield {
                "selected": alias == self._shown,
                "query_string": changelist.get_query_string({PARAMETER: alias}),
                "display": title,
            }


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Nobody adds, changes or deletes; and a long table is not counted for each page."""

    show_full_result_count = False

    def database(self, request: HttpRequest) -> str | None:
        """Return the database that the request asks for, or the first; None if there is one."""
        known = databases_of(self.model)
        asked = request.GET.get(PARAMETER)
        if asked is None:  # a row's page is told by the list it was opened from
            asked = QueryDict(request.GET.get("_changelist_filters", "")).get(PARAMETER)
        if len(known) < 2:
            return None
        return asked if asked in known else known[0]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        """Return the rows of one database."""
        rows: QuerySet[Model] = super().get_queryset(request)
        alias = self.database(request)
        return rows if alias is None else rows.using(alias)

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Put the database before the other filters."""
        return [DatabaseFilter, *super().get_list_filter(request)]

    def changeform_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        """Show a row; refuse a change before a transaction is opened for it, on no database."""
        _refuse_writing(request)
        return super().changeform_view(request, *args, **options)

    def delete_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        """Refuse, in the same way."""
        _refuse_writing(request)
        return super().delete_view(request, *args, **options)

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Nobody may."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False


def _refuse_writing(request: HttpRequest) -> None:
    if request.method not in ("GET", "HEAD", "OPTIONS", "TRACE"):
        raise PermissionDenied
