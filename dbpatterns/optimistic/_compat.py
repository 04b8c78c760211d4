"""The only module of the package that touches private names of Django; each says when it can go.

# Note [One UPDATE]
`Model._do_update` (5.2 to 6.1, which adds `returning_fields`) is the one place every UPDATE of a
`save` goes through, once for each table, with the values that are about to be written. A guard
anywhere else costs a second statement. Can go when `save` takes a condition.
"""

from typing import Any

from django.db import models
from django.db.models.lookups import Exact

__all__ = ["GuardedSaves", "take_related_keys", "write_alias"]


_PLAIN_LOOKUPS = ("django.db.models.lookups", "django.db.models.fields.related_lookups")


class _AtVersion(Exact):
    """`pk = %s AND version = %s` of a query's own table, ready made.

    To have `filter` look up the two names, and to compile what it finds, is a third of a save.
    A lookup, as `filter` takes them. `resolve_expression`, `conditional` and `as_sql` are the
    protocol of expressions; `Field.cached_col`, `Col.alias` and `Col.target` (5.2 to 6.1) are not
    documented. Can go when `save` takes a condition.
    """

    conditional = True

    def __init__(self, pk: Any, field: Any, version: int) -> None:
        super().__init__(field.cached_col, version)
        self._pk = pk

    def resolve_expression(self, *_: Any, **__: Any) -> "_AtVersion":
        """Return it as it is: it names its columns already."""
        return self

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        """Write the comparisons."""
        quote, target = connection.ops.quote_name, self.lhs.target
        version, _ = compiler.compile(self.lhs)  # an alias is quoted by some versions of Django
        table, key = version.removesuffix(quote(target.column)), target.model._meta.pk
        sql = f"({table}{quote(key.column)} = %s AND {version} = %s)"
        return sql, [key.get_db_prep_value(self._pk, connection), self.rhs]


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
        def send(values: Any, field: Any = None, version: int = 0) -> Any:
            if field is None:
                return plain(
                    base_qs, using, pk_val, values, update_fields, forced_update, *returning
                )
            compare = field.model._meta.pk.get_lookup("exact")
            if compare.__module__ in _PLAIN_LOOKUPS:
                guarded = base_qs.filter(_AtVersion(pk_val, field, version))
            else:  # a key of several columns, or one that is compared in a way of its own
                guarded = base_qs.filter(pk=pk_val, version=version)
            return guarded._update(values, *returning)  # type: ignore[attr-defined]

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


def take_related_keys(row: models.Model, fields: "list[models.Field[Any, Any]]") -> None:
    """Give an object the keys of related objects that were saved after they were assigned.

    Calls `Model._prepare_related_fields_for_save` (5.2 to 6.1), as Django's own `bulk_update`
    does. Can go when `bulk_update` takes a condition. Raises: ValueError: one was never saved.
    """
    prepare: Any = row._prepare_related_fields_for_save  # type: ignore[attr-defined]
    prepare(operation_name="bulk_update", fields=fields)
