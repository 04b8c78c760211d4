"""An admin that shows a conflict instead of overwriting it.

`VersionedAdmin` needs `"dbpatterns"` in INSTALLED_APPS for its template.
"""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from dbpatterns.optimistic.errors import StaleObjectError
from dbpatterns.optimistic.forms import VersionedModelForm
from dbpatterns.optimistic.models import VersionedModel

__all__ = ["VersionedAdmin"]

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[VersionedModel]
else:  # Django's own takes no parameter
    _ModelAdmin = admin.ModelAdmin


class VersionedAdmin(_ModelAdmin):
    """A ModelAdmin whose change page ends in a page of both values when someone was faster.

    There the reader keeps their own, which is a save on top of what is stored now, or takes the
    other's. A form of your own inherits VersionedModelForm.
    """

    form = VersionedModelForm
    conflict_template = "admin/dbpatterns/conflict.html"

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the hidden version to the first fieldset, if the fieldsets do not name it."""
        fieldsets = super().get_fieldsets(request, obj)
        names = [name for _, options in fieldsets for name in options["fields"]]
        if obj is None or "signed_version" in names or not fieldsets:
            return fieldsets
        (title, options), *others = fieldsets
        fields = (*options["fields"], "signed_version")
        return [(title, {**options, "fields": fields}), *others]

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: Any = False, **kw: Any
    ) -> Any:
        """Return the form; the version is a field of the form's own, none of the model's."""
        if kw.get("fields"):
            kw["fields"] = [name for name in kw["fields"] if name != "signed_version"]
        return super().get_form(request, obj, change, **kw)

    def changeform_view(
        self, request: HttpRequest, object_id: Any = None, form_url: str = "", extra: Any = None
    ) -> Any:
        """Show the page again if another is faster between its check and its save."""
        try:
            return super().changeform_view(request, object_id, form_url, extra)
        except StaleObjectError:
            return super().changeform_view(request, object_id, form_url, extra)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Render the conflict page for a form that is stale, else Django's."""
        form = context["adminform"].form
        if not (form.is_bound and getattr(form, "is_stale", False)):
            return super().render_change_form(request, context, *args, **kwargs)
        rows = form.rebase()
        context |= {
            "opts": self.opts,
            "title": "",
            "rows": rows,
            "sent": [
                (name, value)
                for name, values in form.data.lists()
                if name != "csrfmiddlewaretoken"
                for value in values
            ],
        }
        return TemplateResponse(request, self.conflict_template, context, status=409)
