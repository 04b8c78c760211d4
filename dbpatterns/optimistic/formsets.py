"""Rows of the admin's inlines and lists, each with the version that was shown."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db.models import QuerySet
from django.forms.formsets import DELETION_FIELD_NAME
from django.http import QueryDict
from django.utils.safestring import mark_safe
from django.utils.translation import gettext

from dbpatterns.optimistic.forms import STALE, UNSIGNED, Difference, VersionedModelForm, differences
from dbpatterns.optimistic.models import VersionedModel

__all__ = ["VersionedFormSetMixin", "VersionedInlineFormSet", "VersionedListFormSet"]
__all__ += ["inline_differences"]

if TYPE_CHECKING:
    _Validated = forms.BaseFormSet[VersionedModelForm[VersionedModel]]
    _FormSet = forms.BaseModelFormSet[VersionedModel, Any]
    _InlineFormSet = forms.BaseInlineFormSet[VersionedModel, Any, Any]
else:  # Django's own take no parameter
    _Validated = object
    _FormSet, _InlineFormSet = forms.BaseModelFormSet, forms.BaseInlineFormSet


class VersionedFormSetMixin(_Validated):
    """Before a formset's base: it deletes no row that is not as it was shown.

    Django does not validate the rows that are deleted. Their forms are VersionedModelForms.
    """

    initial_forms: Any

    def clean(self) -> None:
        """Look at the rows that are to be deleted."""
        super().clean()
        for form in self.initial_forms:
            is_refused = any(form.has_error(NON_FIELD_ERRORS, code) for code in (STALE, UNSIGNED))
            if form.cleaned_data.get(DELETION_FIELD_NAME) and is_refused:
                raise ValidationError(form.non_field_errors())


class VersionedInlineFormSet(VersionedFormSetMixin, _InlineFormSet):
    """Django's inline formset, which deletes no row that is not as it was shown."""


def inline_differences(formset: Any, sent: QueryDict) -> Iterator[Difference]:
    """Yield what an inline's rows are to be and are, and put the versions shown among the sent."""
    changed = {form.instance.pk: form for form in formset.initial_forms if form.has_changed()}
    stored: dict[Any, Any] = QuerySet(formset.model, using=formset.queryset.db).in_bulk(
        list(changed)
    )
    for pk, row in stored.items():
        form = changed[pk]
        if isinstance(form, VersionedModelForm):
            now = form.form_of(row)
            sent[form.add_prefix("signed_version")] = now.sign()
        else:
            now = type(form)(instance=row, prefix=form.prefix)
        if form.cleaned_data.get(DELETION_FIELD_NAME):
            yield Difference("", str(row), gettext("Deleted"), str(row), is_changed=True)
            continue
        for each in differences(form, now):
            label = f"{row}: {each.label}"
            yield Difference(each.name, label, each.mine, each.theirs, each.is_changed)


class _KeyAndVersion(forms.HiddenInput):
    """The list's template shows of hidden fields only the key."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self._form = form

    def render(self, *args: Any, **kwargs: Any) -> Any:
        key = super().render(*args, **kwargs)
        return mark_safe(f"{key}{self._form['signed_version']}")


class VersionedListFormSet(_FormSet):
    """The rows of a list that is edited in place; each row's version stands beside its key."""

    model: type[VersionedModel]

    def add_fields(self, form: Any, index: Any) -> None:
        """Add Django's own fields, and show the version with the key."""
        super().add_fields(form, index)
        form.fields[self.model._meta.pk.name].widget = _KeyAndVersion(form)
