"""A form that knows which version of the row its reader saw."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.files.base import File
from django.core.serializers.json import DjangoJSONEncoder
from django.core.signing import BadSignature, Signer
from django.db.models import Manager, Model
from django.utils.formats import localize
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from dbpatterns.optimistic.models import VersionedModel
from dbpatterns.optimistic.versions import expected_version, stored_row

__all__ = ["REKEYED", "STALE", "UNSIGNED", "Difference", "VersionedModelForm", "differences"]
__all__ += ["read_version", "sign_version"]

M = TypeVar("M", bound=VersionedModel)

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm
else:

    class _ModelForm(forms.ModelForm):
        """Django's, which takes no parameter."""

        def __class_getitem__(cls, model: object) -> type:
            return cls


STALE = "stale"
"""The code of the error of a form whose row was changed in the meantime."""
UNSIGNED = "unsigned"
"""The code of the error of a form that does not say which version it was made from."""
REKEYED = "rekeyed"
"""The code of the error of a form that would give a row another key: another row's, perhaps."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a field is to be, and what is stored, both as people read it."""

    name: str
    label: str
    mine: str
    theirs: str
    is_changed: bool
    """Whether they are two values; a time with other digits of the same moment is the same."""


class VersionedModelForm(_ModelForm[M]):
    """A ModelForm that is invalid if its row has changed since the page was made.

    The version travels in a hidden field, signed and bound to the row. No query of its own: the
    object read for the form is compared. `save()` raises StaleObjectError if another is faster
    after that. Works for a new object too, which has no version to compare. For a type checker
    it takes its model, `VersionedModelForm[Page]`, as ModelForm does in the stubs.
    """

    signed_version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pk = self.instance.pk
        if not self.instance._state.adding:
            self.fields["signed_version"].initial = self.sign()

    def sign(self) -> str:
        """Return the hidden field's value for the version that the object has now."""
        return sign_version(self.instance)

    def full_clean(self) -> None:
        """Refuse a version that is missing, forged or not the row's, whatever `clean` does."""
        super().full_clean()
        is_left_empty = self.empty_permitted and not self.has_changed()
        if not self.is_bound or self.instance._state.adding or is_left_empty:
            return
        try:
            self._check_version()
        except ValidationError as error:
            self.add_error(None, error)

    def _check_version(self) -> None:
        if self.instance.pk != self._pk:
            raise ValidationError(_("A stored row keeps its key. Nothing was saved."), code=REKEYED)
        try:
            seen = read_version(self.instance, self["signed_version"].data or "")
        except BadSignature as error:
            raise ValidationError(
                _("This form does not say which version it was made from. Load the page again."),
                code=UNSIGNED,
            ) from error
        if seen != expected_version(self.instance):
            raise ValidationError(
                _("Someone else has changed this since you opened it. Nothing was saved."),
                code=STALE,
            )

    @property
    def is_stale(self) -> bool:
        """Whether the form was refused because its row has changed."""
        return self.has_error(NON_FIELD_ERRORS, code=STALE)

    def rebase(self) -> list[Difference]:
        """Put a stale form on top of what is stored now, and return both values of each field.

        Shown and sent again, it overwrites what is stored now, and nothing that comes later. One
        query for the row, and one for each related row or list of them; `instance` keeps the
        form's own values.
        Raises: the model's DoesNotExist: the row has been deleted.
        """
        stored = stored_row(self.instance)
        now = self.form_of(stored)
        data: Any = self.data.copy()  # type: ignore[attr-defined]  # a request's cannot be written
        data[self.add_prefix("signed_version")] = now.sign()
        self.data = data
        return differences(self, now)

    def form_of(self, row: M) -> Self:
        """Return an unbound form of a row; a form that takes arguments of its own overrides it."""
        return type(self)(instance=row, prefix=self.prefix)


def sign_version(row: VersionedModel) -> str:
    """Return the version that an object has, signed and bound to its row."""
    return _signer(row).sign(str(expected_version(row)))


def read_version(row: VersionedModel, signed: str) -> int:
    """Return the version that was signed. Raises: BadSignature: not for this row, or not by us."""
    return int(_signer(row).unsign(signed))


def _signer(row: VersionedModel) -> Signer:
    return Signer(salt=f"dbpatterns.optimistic:{row._meta.label_lower}:{row.pk}")


def differences(sent: "forms.ModelForm[Any]", now: "forms.ModelForm[Any]") -> list[Difference]:
    """Compare a form that was sent with one of the row as it is stored, field by field."""
    return [_difference(name, sent, now) for name in now.fields if name != "signed_version"]


def _difference(name: str, sent: "forms.ModelForm[Any]", now: "forms.ModelForm[Any]") -> Difference:
    if name in sent.cleaned_data:
        mine = _as_text(sent.instance, name, sent.cleaned_data[name])
    else:
        mine = str(sent[name].data or "")  # it is no value
    return Difference(
        name=name,
        label=str(sent[name].label),
        mine=mine,
        theirs=_as_text(now.instance, name, getattr(now.instance, name, now[name].initial)),
        is_changed=sent.fields[name].has_changed(now[name].initial, sent[name].data),
    )


def _as_text(row: Model, name: str, value: Any) -> str:
    """Write a value as its reader knows it: the word of a choice, the names of related rows."""
    if (word := getattr(row, f"get_{name}_display", None)) is not None:
        return str(word())
    if isinstance(value, Manager):
        value = value.all()
    if isinstance(value, File):
        return value.name or ""  # to go through it would read it
    if isinstance(value, dict):
        return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return ", ".join(map(str, value))
    if value is None:
        return ""
    if isinstance(value, bool):
        return gettext("Yes") if value else gettext("No")
    if isinstance(value, datetime) and is_aware(value):
        value = localtime(value)
    return str(localize(value))
