"""An admin of sharded models: lists of all shards, and pages that work on their row's shard.

    class OrderAdmin(ShardedAdmin):
        search_fields = ("buyer__name",)

Django opens a page's transaction before it has seen the row, where the router says by the model
alone. So the page runs in a block of the row's shard, which the router knows of.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.options import TO_FIELD_VAR
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core import checks
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from dbpatterns.sharding.context import current_shard, on
from dbpatterns.sharding.covering import open_elsewhere
from dbpatterns.sharding.every_shard import every_shard
from dbpatterns.sharding.fields import home_by_lot
from dbpatterns.sharding.keys import end_field, home_of, key_field
from dbpatterns.sharding.shard_map import shards
from dbpatterns.sharding.sharded_inlines import (
    ShardedInlineFormSet,
    ShardedInlineMixin,
    ShardedRows,
)
from dbpatterns.transactions.several import atomic_on

__all__ = ["ShardedAdmin", "ShardedChangeList", "ShardedInlineFormSet", "ShardedInlineMixin"]

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:  # Django's own takes no parameter
    _ModelAdmin = admin.ModelAdmin


class ShardedAdmin(ShardedRows, _ModelAdmin):
    """A ModelAdmin of a sharded model.

    Its list is a fan-out: three statements on each shard. A row's page asks all shards for the
    row, unless its id tells the shard; then all that the page reads and writes is on that shard,
    in one transaction. The shard key is shown there, not changed. Actions and "delete selected"
    write on each shard, in transactions that commit together at the end.

    A list leaves out a shard that does not answer within `shard_seconds`, and says so.
    """

    shard_seconds = 5.0

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        """Return the rows of all shards, each asked for so long; in a block those of its shard."""
        return every_shard(super().get_queryset(request), timeout=self.shard_seconds)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return a list that a missing shard does not prevent."""
        return ShardedChangeList

    def shard_of_new(self, request: HttpRequest) -> str:
        """Return the shard of a row to add, by the key that was sent; no query.

        Override it where the form does not ask for the key. Where nothing says it, any shard: the
        form has an error then, or the row is its own key and gets an id of that shard.
        """
        model: Any = self.model
        field = key_field(model)
        row, sent = model(), request.POST.get(field.name)
        with suppress(ValidationError):
            setattr(row, field.attname, end_field(field).to_python(sent) if sent else None)
        return home_of(row) or current_shard() or home_by_lot(row, None) or shards()[0]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the shard key of a row that is there: it never changes."""
        names = super().get_readonly_fields(request, obj)
        model: Any = self.model
        key = key_field(model)
        if obj is None or key.name in names or not key.editable:
            return names
        return (*names, key.name)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: Any = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        """Show or save a row on its shard."""
        view = super().changeform_view
        if object_id is not None and "_saveasnew" not in request.POST:
            alias = self._shard_of(request, object_id)
        elif request.method == "POST":
            alias = self.shard_of_new(request)
        else:
            return view(request, object_id, form_url, extra_context)
        return _on(alias, lambda: view(request, object_id, form_url, extra_context))

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Ask, and delete the row on its shard."""
        view = super().delete_view
        alias = self._shard_of(request, object_id)
        return _on(alias, lambda: view(request, object_id, extra_context))

    def action_databases(self) -> Sequence[str]:
        """Return the databases that an action may write to; for a VersionedAdmin behind this."""
        here = current_shard()
        return tuple(shards()) if here is None else (here,)

    def response_action(
        self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Run an action; in a transaction on each shard, if the request is in one."""
        # What is open elsewhere is open by ATOMIC_REQUESTS, which covers no shard.
        with atomic_on([alias for alias in self.action_databases() if open_elsewhere(alias)]):
            return super().response_action(request, queryset, *args, **kwargs)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Delete rows on each shard, all or none."""
        with every_shard(queryset).parts() as parts:
            for part in parts:
                super().delete_queryset(request, part)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return what goes with rows of several shards, shard by shard."""
        of_shard: dict[str, list[Any]] = {}
        for row in objs:
            of_shard.setdefault(row._state.db, []).append(row)
        rows, counts, needed, protected = list[Any](), Counter[Any](), set[str](), list[Any]()
        for alias, some in of_shard.items():
            with on(alias):
                found = super().get_deleted_objects(some, request)
            rows += found[0]
            counts.update(found[1])
            needed |= found[2]
            protected += found[3]
        return rows, counts, needed, protected

    def check(self, **kwargs: Any) -> Any:
        """Refuse what would work on one database: `list_editable`, and a base before this one."""
        found = list(super().check(**kwargs))
        for each in type(self).__mro__[: type(self).__mro__.index(ShardedAdmin)]:
            if issubclass(each, admin.ModelAdmin) and not issubclass(each, ShardedAdmin):
                found.append(
                    checks.Error(
                        f"{type(self).__name__} derives from {each.__name__} before ShardedAdmin, "
                        "so that it looks for one database before there is a shard.",
                        hint="Name ShardedAdmin first.",
                        obj=type(self),
                        id="dbpatterns_sharding.E023",
                    )
                )
        if self.list_editable:
            found.append(
                checks.Error(
                    f"{type(self).__name__}.list_editable is not possible in a ShardedAdmin: a "
                    "list has rows of several shards, which no one transaction saves.",
                    hint="Leave it out, and change rows on their pages or by an action.",
                    obj=type(self),
                    id="dbpatterns_sharding.E022",
                )
            )
        return found

    def _shard_of(self, request: HttpRequest, object_id: str) -> str:
        named = request.POST.get(TO_FIELD_VAR, request.GET.get(TO_FIELD_VAR))  # of a popup
        field = named if named and self.to_field_allowed(request, named) else None
        row = self.get_object(request, unquote(object_id), field)
        return shards()[0] if row is None else row._state.db or shards()[0]


class ShardedChangeList(ChangeList):
    """A list of all shards, without those that do not answer; an action asks for all of them."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        """Return the rows that filters and search leave."""
        rows: Any = super().get_queryset(request, exclude_parameters)
        self._missing: dict[str, str] = {}
        if request.method != "GET":
            return rows
        of: Any = self.model_admin
        terms = {"timeout": of.shard_seconds, "missing": self._missing}
        self.root_queryset: Any = every_shard(self.root_queryset, **terms)
        return every_shard(rows, **terms)

    def get_results(self, request: HttpRequest) -> None:
        """Read a page, and say what it lacks."""
        super().get_results(request)
        len(self.result_list)  # now, while one can still say so
        for alias, why in self._missing.items():
            messages.warning(
                request,
                gettext("The list is without the rows of shard %(shard)s: %(why)s.")
                % {"shard": alias, "why": why},
            )


def _on(alias: str, view: Callable[[], Any]) -> Any:
    """Answer on a shard, and render what is answered there too, which Django does later."""
    with on(alias):
        response: HttpResponse = view()
    render: Any = getattr(response, "render", None)
    if render is not None:

        def rendered() -> Any:
            with on(alias):
                return render()

        response.render = rendered  # type: ignore[attr-defined]
    return response
