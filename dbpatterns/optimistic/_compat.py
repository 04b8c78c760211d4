"""The only module of the package that touches private names of Django; each says when it can go.

# Note [One UPDATE]
`Model._do_update` (5.2 to 6.1, which adds `returning_fields`) is the one place every UPDATE of a
`save` goes through, once for each table, with the values that are about to be written. A guard
anywhere else costs a second statement. Can go when `save` takes a condition.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import models

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

__all__ = ["GuardedSaves", "model_admins", "write_alias"]


class GuardedSaves(models.Model):
    """A model that is asked before each UPDATE of a save, and told after each INSERT."""

    _is_raw = False

    class Meta:
        abstract = True

    def _save_table(self, raw: bool = False, *args: Any, **kwargs: Any) -> bool:
        if not raw:
            return bool(super()._save_table(raw, *args, **kwargs))  # type: ignore[misc]
        self._is_raw = True  # a fixture brings versions of its own
        try:
            return bool(super()._save_table(raw, *args, **kwargs))  # type: ignore[misc]
        finally:
            del self._is_raw

    def _do_update(  # type: ignore[override]  # of 6.1, which always has `returning_fields`
        self,
        base_qs: "models.QuerySet[Any]",
        using: str | None,
        pk_val: object,
        values: list[tuple[Any, Any, Any]],
        update_fields: Any,
        forced_update: Any,
        *returning: Any,
    ) -> Any:
        def send(values: Any, **guard: Any) -> Any:
            if guard:
                return base_qs.filter(pk=pk_val, **guard)._update(values, *returning)  # type: ignore[attr-defined]
            return plain(base_qs, using, pk_val, values, update_fields, forced_update, *returning)

        plain: Any = super()._do_update
        if self._is_raw:
            return send(values)
        return self._guarded_update(base_qs, values, update_fields, forced_update, send)

    def _do_insert(self, manager: Any, using: str | None, *args: Any, **kwargs: Any) -> Any:
        results = super()._do_insert(manager, using, *args, **kwargs)  # type: ignore[misc]
        self._inserted(using)
        return results

    def _guarded_update(
        self, base_qs: Any, values: Any, update_fields: Any, forced_update: Any, send: Any
    ) -> Any:
        raise NotImplementedError

    def _inserted(self, using: str | None) -> None:
        raise NotImplementedError


def write_alias(queryset: "models.QuerySet[Any]") -> str:
    """Return the database that a queryset writes to, and have it read there too.

    Sets `QuerySet._for_write` (5.2 to 6.1), as Django's own `update` does.
    """
    queryset._for_write = True  # type: ignore[attr-defined]
    return queryset.db


def model_admins() -> "Iterator[ModelAdmin[Any]]":
    """Yield what is registered with any admin site; nothing if there is no admin.

    Reads `all_sites` and `AdminSite._registry` (5.2 to 6.1), as the admin's own checks do. Can go
    when Django lists the sites, or lets checks be added to a ModelAdmin.
    """
    if apps.is_installed("django.contrib.admin"):
        from django.contrib.admin.sites import all_sites

        for site in all_sites:
            yield from site._registry.values()
