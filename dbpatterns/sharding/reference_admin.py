"""An admin of reference models: pages that read one shard, and write every one.

    class CurrencyAdmin(ReferenceAdmin):
        search_fields = ("name",)

Django opens a page's transaction on one database; a row that is to be the same on all shards needs
one on each.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from dbpatterns.sharding.context import current_shard, on
from dbpatterns.sharding.shard_map import shards
from dbpatterns.transactions.several import atomic_on

__all__ = ["ReferenceAdmin"]

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:  # Django's own takes no parameter
    _ModelAdmin = admin.ModelAdmin


class ReferenceAdmin(_ModelAdmin):
    """A ModelAdmin of a reference model.

    A request that may write holds a transaction on each shard, and they commit together at the
    end. What is deleted with a row is shown, and deleted, on each shard.
    """

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Show the rows, or run an action."""
        with _page(request):
            return super().changelist_view(request, *args, **kwargs)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Show or save a row."""
        with _page(request):
            return super().changeform_view(request, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Ask, and delete a row."""
        with _page(request):
            return super().delete_view(request, *args, **kwargs)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return what goes with the rows, of each shard; the rows themselves once."""
        rows, counts, needed, protected = list[Any](), Counter[Any](), set[str](), list[Any]()
        own = str(self.opts.verbose_name_plural)
        for alias in shards():
            with on(alias):
                found = super().get_deleted_objects(objs, request)
            rows += [each for each in found[0] if each not in rows]
            counts.update(found[1])
            counts[own] = found[1].get(own, 0)
            needed |= found[2]
            protected += found[3]
        return rows, counts, needed, protected


@contextmanager
def _page(request: HttpRequest) -> Iterator[None]:
    may_write = request.method not in ("GET", "HEAD")
    with on(current_shard() or shards()[0]), atomic_on(shards() if may_write else ()):
        yield
