"""What the pages of `ShardedAdmin` list, offer and hold within them.

    class LineInline(ShardedInlineMixin, admin.TabularInline):
        model = Line

A list, and the page to add a row, are of all shards; the page of a row is of its shard.
"""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import ForeignKeyRawIdWidget
from django.db.models import QuerySet
from django.http import HttpRequest

from dbpatterns.sharding.every_shard import every_shard
from dbpatterns.sharding.keys import end_field, is_sharded, key_field, key_of

__all__ = ["ShardedInlineFormSet", "ShardedInlineMixin", "ShardedRows"]

if TYPE_CHECKING:
    from django.contrib import admin

    _Base = admin.options.BaseModelAdmin[Any]
    _Inline = admin.TabularInline[Any, Any]
    _FormSet = forms.BaseInlineFormSet[Any, Any, Any]
else:  # Django's own take no parameters
    _Base, _Inline, _FormSet = object, object, forms.BaseInlineFormSet


class ShardedRows(_Base):
    """Rows and choices of all shards, and within a block, such as a row's page, of its shard."""

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        """Return the rows."""
        return every_shard(super().get_queryset(request))

    def get_field_queryset(
        self, db: str | None, db_field: Any, request: HttpRequest
    ) -> "QuerySet[Any] | None":
        """Return what a foreign key may refer to."""
        rows: Any = super().get_field_queryset(db, db_field, request)
        model = db_field.remote_field.model
        if is_sharded(model):
            rows = every_shard(model._default_manager.all() if rows is None else rows)
        found: QuerySet[Any] | None = rows
        return found

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Have a sharded row chosen by its id, where no other way is named."""
        named = {*self.get_autocomplete_fields(request), *self.radio_fields}
        if is_sharded(db_field.remote_field.model) and db_field.name not in named:
            by_id = ForeignKeyRawIdWidget(db_field.remote_field, self.admin_site)
            kwargs.setdefault("widget", by_id)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


class ShardedInlineFormSet(_FormSet):
    """Gives new rows the shard key of the page's row, if their forms do not ask for it."""

    def save_new(self, form: Any, commit: bool = True) -> Any:
        """Save a row that was added."""
        model: Any = self.model
        key = key_field(model)
        if key.name not in form.fields and key != self.fk:
            setattr(form.instance, key.attname, key_of(self.instance))
        return super().save_new(form, commit)


class ShardedInlineMixin(ShardedRows, _Inline):
    """Before TabularInline or StackedInline, for rows that lie with the page's row.

    Their shard key is the page's and not asked for, unless `fields` or `fieldsets` name it.
    """

    formset = ShardedInlineFormSet

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the shard key, where it is the same as the page's."""
        names = super().get_exclude(request, obj)
        if self.fields is not None or self.fieldsets is not None:
            return names
        model: Any = self.model
        page: Any = self.parent_model
        key = key_field(model)
        refers = key.remote_field is not None and key.remote_field.model is page
        if refers or end_field(key) != end_field(key_field(page)):
            return names
        return (*(names or ()), key.name)
