"""A form that knows which version of the row its reader saw."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.signing import BadSignature, Signer
from django.utils.translation import gettext_lazy as _

from dbpatterns.optimistic.models import VersionedModel, expected_version

__all__ = ["STALE", "VersionedModelForm"]

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[VersionedModel]
else:  # Django's own takes no parameter
    _ModelForm = forms.ModelForm

STALE = "stale"
"""The code of the error of a form whose row was changed in the meantime."""


class VersionedModelForm(_ModelForm):
    """A ModelForm that is invalid if its row has changed since the page was made.

    The version travels in a hidden field, signed and bound to the row. No query of its own: the
    object read for the form is compared. `save()` raises StaleObjectError if another is faster
    after that. Works for a new object too, which has no version to compare.
    """

    signed_version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            self.fields["signed_version"].initial = self.sign()

    def sign(self) -> str:
        """Return the hidden field's value for the version that the object has now."""
        return self._signer().sign(str(expected_version(self.instance)))

    def clean(self) -> dict[str, Any] | None:
        """Refuse a version that is missing, forged or not the row's."""
        cleaned = super().clean()
        if self.instance._state.adding:
            return cleaned
        try:
            seen = int(self._signer().unsign(self.cleaned_data.get("signed_version") or ""))
        except BadSignature as error:
            raise ValidationError(
                _("This form does not say which version it was made from. Load the page again."),
                code="unsigned",
            ) from error
        if seen != expected_version(self.instance):
            raise ValidationError(
                _("Someone else has changed this since you opened it. Nothing was saved."),
                code=STALE,
            )
        return cleaned

    @property
    def is_stale(self) -> bool:
        """Whether the form was refused because its row has changed."""
        return self.has_error(NON_FIELD_ERRORS, code=STALE)

    def _signer(self) -> Signer:
        meta = self.instance._meta
        return Signer(salt=f"dbpatterns.optimistic:{meta.label_lower}:{self.instance.pk}")
