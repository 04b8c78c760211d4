"""An admin that shows a conflict instead of overwriting it.

`VersionedAdmin` needs `"dbpatterns"` in INSTALLED_APPS for its templates.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import TO_FIELD_VAR
from django.contrib.admin.utils import unquote
from django.core import signing
from django.db import router
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from dbpatterns.optimistic.errors import StaleObjectError
from dbpatterns.optimistic.forms import VersionedModelForm, read_version, sign_version
from dbpatterns.optimistic.formsets import (
    VersionedFormSetMixin,
    VersionedInlineFormSet,
    VersionedListFormSet,
    inline_differences,
)
from dbpatterns.optimistic.models import VersionedModel, delete_as_read
from dbpatterns.transactions.several import atomic_on

__all__ = ["VersionedAdmin", "VersionedFormSetMixin", "VersionedInlineFormSet"]
__all__ += ["VersionedInlineMixin"]

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[VersionedModel]
    _Inline = admin.TabularInline[VersionedModel, Any]
else:  # Django's own takes no parameter
    _ModelAdmin, _Inline = admin.ModelAdmin, object

_FASTER = _("Someone else was faster, and nothing was done: look at what is stored now.")
_UNSIGNED = _("It was not said which version was shown, so nothing was done: look at what is here.")
_SALT = "dbpatterns.optimistic.delete_selected"


class VersionedAdmin(_ModelAdmin):
    """A ModelAdmin whose change page ends in a page of both values when someone was faster.

    There the reader keeps their own, which is a save on top of what is stored now, or takes the
    other's. `list_editable` refuses the list, and "delete", of one or many, leaves all, if a row
    is not as the page showed it. An action that loses a race says so. A form of your own inherits
    VersionedModelForm, an inline of a VersionedModel VersionedInlineMixin.
    """

    form: "type[forms.ModelForm[Any]]" = VersionedModelForm
    conflict_template = "admin/dbpatterns/conflict.html"
    delete_selected_confirmation_template = "admin/dbpatterns/delete_selected.html"

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the hidden version to the first fieldset, if the fieldsets do not name it."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or not self.has_change_permission(request, obj):
            return _without_version(fieldsets)
        return _with_version(fieldsets)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: Any = False, **kw: Any
    ) -> Any:
        """Return the form; the version is a field of the form's own, none of the model's."""
        if kw.get("fields"):
            kw["fields"] = [name for name in kw["fields"] if name != "signed_version"]
        return super().get_form(request, obj, change, **kw)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: Any = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        """Show the page again if another is faster between its check and its save."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except StaleObjectError:
            return super().changeform_view(request, object_id, form_url, extra_context)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Render the conflict page if the form or an inline's is stale, else Django's."""
        form = context["adminform"].form
        formsets = [each.formset for each in context["inline_admin_formsets"]]
        inline_forms = [each for formset in formsets for each in formset.initial_forms]
        if not form.is_bound or not any(
            getattr(each, "is_stale", False) for each in (form, *inline_forms)
        ):
            return super().render_change_form(request, context, *args, **kwargs)
        try:
            rows = form.rebase()
        except self.model.DoesNotExist as error:
            raise Http404("It has been deleted.") from error
        sent = form.data.copy()
        for formset in formsets:
            rows += inline_differences(formset, sent)
        context |= {
            "opts": self.opts,
            "title": _("Someone else has changed this since you opened it"),
            "rows": [row for row in rows if row.is_changed],
            "sent": [
                (name, value)
                for name, values in sent.lists()
                if name != "csrfmiddlewaretoken"
                for value in values
            ],
        }
        return TemplateResponse(request, self.conflict_template, context, status=409)

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the form of a row of the list, with its version."""
        return super().get_changelist_form(request, **{"form": VersionedModelForm, **kwargs})

    def get_changelist_formset(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the forms of the list; each row's version stands beside its key."""
        return super().get_changelist_formset(
            request, **{"formset": VersionedListFormSet, **kwargs}
        )

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Say so if an action, or a save of the list, finds that another was faster."""
        try:
            return super().changelist_view(request, extra_context)
        except (StaleObjectError, signing.BadSignature) as error:
            return self._told(request, error, request.get_full_path())

    def action_databases(self) -> Sequence[str]:
        """Return the databases that an action may write to."""
        return [router.db_for_write(self.model)]

    def response_action(self, *args: Any, **kwargs: Any) -> Any:
        """Run the action in a transaction, so that one that loses a race has done nothing.

        A page that asks before it deletes gets the versions of the rows it shows.
        """
        with atomic_on(self.action_databases()):
            response = super().response_action(*args, **kwargs)
        context = getattr(response, "context_data", None) or {}
        if "deletable_objects" in context:
            shown = [(str(row.pk), row.version) for row in context["queryset"]]
            context["signed_versions"] = signing.dumps(shown, salt=_SALT)
        return response

    def delete_queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> None:
        """Delete the rows if all are as the page showed them."""
        shown = dict(signing.loads(request.POST.get("signed_versions", ""), salt=_SALT))
        pks = queryset.values_list("pk", flat=True)
        versions = {pk: shown.get(str(pk), 0) for pk in pks}  # no row is at version 0
        delete_as_read(queryset, versions)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Ask, and delete if the row is as it was then; the version stands in the address."""
        if request.method == "GET" and "signed_version" not in request.GET:
            field = request.GET.get(TO_FIELD_VAR, "")  # of a popup: the address holds no key
            is_allowed = field and self.to_field_allowed(request, field)
            row = self.get_object(request, unquote(object_id), field if is_allowed else None)
            if row is not None and self.has_delete_permission(request, row):
                query = request.GET.copy()
                query["signed_version"] = sign_version(row)
                return redirect(f"{request.path}?{query.urlencode()}")
        try:
            return super().delete_view(request, object_id, extra_context)
        except (StaleObjectError, signing.BadSignature) as error:
            query = request.GET.copy()
            query.pop("signed_version", None)
            return self._told(request, error, f"{request.path}?{query.urlencode()}".rstrip("?"))

    def delete_model(self, request: HttpRequest, obj: VersionedModel) -> None:
        """Delete the row at the version that the page showed."""
        obj.version = read_version(obj, request.GET.get("signed_version", ""))
        super().delete_model(request, obj)

    def _told(self, request: HttpRequest, error: Exception, url: str) -> HttpResponse:
        why = _FASTER if isinstance(error, StaleObjectError) else _UNSIGNED
        self.message_user(request, why, messages.ERROR)
        return redirect(url)


class VersionedInlineMixin(_Inline):
    """Before TabularInline or StackedInline: rows that were changed meanwhile are a conflict.

    A generic inline also names a `formset` of VersionedFormSetMixin and BaseGenericInlineFormSet.
    """

    form: "type[forms.ModelForm[Any]]" = VersionedModelForm
    formset = VersionedInlineFormSet

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the hidden version, if the fieldsets do not name it."""
        fieldsets = super().get_fieldsets(request, obj)
        may_change = self.has_change_permission(request, obj)
        return _with_version(fieldsets) if may_change else _without_version(fieldsets)


def _with_version(fieldsets: Any) -> Any:
    names = [name for _, options in fieldsets for name in options["fields"]]
    if "signed_version" in names or not fieldsets:
        return fieldsets
    (title, options), *others = fieldsets
    return [(title, {**options, "fields": (*options["fields"], "signed_version")}), *others]


def _without_version(fieldsets: Any) -> Any:
    return [
        (title, {**options, "fields": [n for n in options["fields"] if n != "signed_version"]})
        for title, options in fieldsets
    ]
