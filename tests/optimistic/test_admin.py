"""Two editors in one admin: what Django's loses in lists, inlines and deletes, ours does not."""

from typing import Any

import pytest
from django import forms
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.admin import GenericTabularInline
from django.contrib.contenttypes.forms import BaseGenericInlineFormSet
from django.core.exceptions import ValidationError
from django.db.models import F
from django.http import HttpRequest
from django.test import Client
from django.test.utils import modify_settings
from django.urls import path

from dbpatterns.optimistic.admin import (
    VersionedAdmin,
    VersionedFormSetMixin,
    VersionedInlineMixin,
)
from dbpatterns.optimistic.checks import check_versioned_admin
from dbpatterns.optimistic.forms import VersionedModelForm
from tests.testapp.models import Page, PageLabel, PageNote, PlainPage

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


class Lists:
    """What both admins have."""

    list_display = ("title", "amount")
    list_display_links = None
    list_editable = ("title", "amount")
    fields = ("title", "amount")
    actions = ("add_one",)
    ordering = ("pk",)

    @admin.action(description="Add one")
    def add_one(self, request: HttpRequest, chosen: Any) -> None:
        """Save each row that was chosen, after somebody else has."""
        for row in list(chosen):
            meanwhile(row)
            row.amount += 1
            row.save()


def meanwhile(row: Any) -> None:
    """Nothing; a test puts another writer here."""


class PlainAdmin(Lists, admin.ModelAdmin):  # type: ignore[type-arg]
    """The harm."""


class PlainInline(admin.TabularInline):  # type: ignore[type-arg]
    """The harm: it forgets the versions of its rows."""

    model = PageNote
    fields = ("text",)


class NoteInline(VersionedInlineMixin, admin.TabularInline):
    """The cure."""

    model = PageNote
    fields = ("text",)
    extra = 0


class PagesAdmin(Lists, VersionedAdmin):
    """The cure."""

    inlines = (NoteInline,)

    def changeform_view(self, request: HttpRequest, *args: Any, **_: Any) -> Any:
        """Name the context, as Django's documentation does."""
        return super().changeform_view(request, *args[:2], extra_context={"said": "so"})


class ForgetfulAdmin(VersionedAdmin):
    """Half of the cure."""

    fields = ("title", "amount")

    def get_inlines(self, *_: Any) -> Any:
        """Return what the system check does not see, since other tests ask all checks."""
        return (PlainInline,)


class StrictForm(VersionedModelForm[PageNote]):
    """Refuses what is there."""

    def clean(self) -> Any:
        """Refuse it, after its version was found right."""
        super().clean()
        if self.cleaned_data.get("text") == "bad":
            raise ValidationError("It is bad.")


class WholeInline(VersionedInlineMixin, admin.TabularInline):
    """Names no fields."""

    model = PageNote
    form = StrictForm
    extra = 0


class LabelFormSet(VersionedFormSetMixin, BaseGenericInlineFormSet):
    """What a generic inline needs."""


class LabelInline(VersionedInlineMixin, GenericTabularInline):
    """Its rows are stuck on anything."""

    model = PageLabel
    formset = LabelFormSet
    extra = 0


class WholeAdmin(VersionedAdmin):
    """Names no fields."""

    inlines = (WholeInline, LabelInline)


site, forgetful, whole = (
    admin.AdminSite("versions"),
    admin.AdminSite("forgetful"),
    admin.AdminSite("whole"),
)
site.register(PlainPage, PlainAdmin)
site.register(Page, PagesAdmin)
forgetful.register(Page, ForgetfulAdmin)
whole.register(Page, WholeAdmin)
urlpatterns = [
    path("admin/", site.urls),
    path("forgetful/", forgetful.urls),
    path("whole/", whole.urls),
]
BOTH = pytest.mark.parametrize("model", [PlainPage, Page])


def url(model: type[Any], rest: str = "") -> str:
    return f"/admin/testapp/{model._meta.model_name}/{rest}"


def in_browser(response: Any, **changed: Any) -> dict[str, Any]:
    """Return what a browser would send from a page, some fields filled in by hand."""
    from html.parser import HTMLParser

    sent: dict[str, Any] = {}

    class Inputs(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            given = dict(attributes)
            if tag == "input" and given.get("name") and given["type"] not in ("submit", "checkbox"):
                sent[given["name"]] = given.get("value") or ""

    Inputs().feed(response.rendered_content)
    sent = {name: value for name, value in sent.items() if not name.startswith("csrf")}
    assert changed.keys() <= sent.keys() | {"_save", "notes-0-DELETE", "index"}
    return sent | changed


def other(row: Any, **values: Any) -> None:
    type(row).objects.filter(pk=row.pk).update(**values)


@BOTH
def test_a_list_that_is_saved_undoes_what_another_wrote_unless_it_has_versions(
    admin_client: Client, model: Any
) -> None:
    _, theirs = (model.objects.create(title=each) for each in ("mine", "theirs"))
    page = admin_client.get(url(model))
    other(theirs, title="changed")
    sent = in_browser(page, **{"form-0-amount": "7", "_save": "Save"})
    answer: Any = admin_client.post(url(model), sent)
    stored = list(model.objects.order_by("pk").values_list("title", "amount"))
    if model is PlainPage:
        assert stored == [("mine", 7), ("theirs", 0)]  # a row that nobody has touched in the list
    else:
        assert stored == [("mine", 0), ("changed", 0)]
        assert "Someone else has changed this since you opened it" in answer.rendered_content
        again: Any = admin_client.post(url(model), in_browser(answer, _save="Save"))
        assert "Someone else has changed this" in again.rendered_content


def test_a_list_is_saved_if_nobody_else_was_there(admin_client: Client) -> None:
    rows = [Page.objects.create(title=each) for each in ("a", "b")]
    sent = in_browser(admin_client.get(url(Page)), **{"form-1-amount": "7", "_save": "Save"})
    assert admin_client.post(url(Page), sent).status_code == 302
    assert list(Page.objects.order_by("pk").values_list("amount", "version")) == [(0, 1), (7, 2)]
    assert LogEntry.objects.get().object_id == str(rows[1].pk)


def test_a_list_without_versions_is_not_saved(admin_client: Client) -> None:
    Page.objects.create(title="a")
    sent = in_browser(admin_client.get(url(Page)), **{"form-0-amount": "7", "_save": "Save"})
    del sent["form-0-signed_version"]
    answer: Any = admin_client.post(url(Page), sent)
    assert "Load the page again." in answer.rendered_content
    assert Page.objects.get().amount == 0


@pytest.mark.parametrize("which", ["admin", "forgetful"])
@pytest.mark.parametrize("change", [{"text": "theirs"}, {}])
def test_an_inline_undoes_what_another_wrote_unless_it_has_versions(
    admin_client: Client, which: str, change: dict[str, str]
) -> None:
    page = Page.objects.create(title="page")
    note = PageNote.objects.create(page=page, text="old")
    address = f"/{which}/testapp/page/{page.pk}/change/"
    opened = admin_client.get(address)
    other(note, text="theirs")
    wish = {"notes-0-text": "mine"} if change else {"notes-0-DELETE": "on"}
    answer: Any = admin_client.post(address, in_browser(opened, **wish))
    stored = list(PageNote.objects.values_list("text", flat=True))
    if which == "forgetful":
        assert stored == (["mine"] if change else [])
        return
    assert stored == ["theirs"]
    assert answer.status_code == 409
    (row,) = answer.context_data["rows"]
    assert (row.mine, row.theirs) == (("mine", "theirs") if change else ("Deleted", "theirs"))
    again = dict(answer.context_data["sent"])
    assert admin_client.post(address, again).status_code == 302  # both were shown, mine is kept
    assert list(PageNote.objects.values_list("text", flat=True)) == (["mine"] if change else [])


@pytest.mark.parametrize("change", ["text", "DELETE"])
def test_a_generic_inline_is_guarded_too(admin_client: Client, change: str) -> None:
    label = PageLabel.objects.create(content_object=Page.objects.create(title="page"), text="old")
    address = f"/whole/testapp/page/{label.object_id}/change/"
    opened = admin_client.get(address)
    prefix = "testapp-pagelabel-content_type-object_id-0"
    sent = in_browser(opened) | {f"{prefix}-{change}": "on"}
    other(label, text="theirs")
    answer: Any = admin_client.post(address, sent)
    assert answer.status_code == 409
    assert PageLabel.objects.get().text == "theirs"
    assert admin_client.post(address, dict(answer.context_data["sent"])).status_code == 302
    assert [each.text for each in PageLabel.objects.all()] == (["on"] if change == "text" else [])


def test_an_inline_saves_adds_and_deletes(admin_client: Client) -> None:
    page = Page.objects.create(title="page")
    for text in ("one", "two"):
        PageNote.objects.create(page=page, text=text)
    address = url(Page, f"{page.pk}/change/")
    sent = in_browser(admin_client.get(address), **{"notes-0-DELETE": "on"})
    sent |= {"notes-1-text": "2", "notes-TOTAL_FORMS": "3", "notes-2-text": "three"}
    answer: Any = admin_client.post(address, sent)
    assert answer.status_code == 302, answer.context_data["errors"]
    assert sorted(PageNote.objects.values_list("text", "version")) == [("2", 2), ("three", 1)]


def test_a_conflict_shows_the_rows_of_an_inline_too(admin_client: Client) -> None:
    page = Page.objects.create(title="page")
    PageNote.objects.create(page=page, text="old")
    address = f"/forgetful/testapp/page/{page.pk}/change/"
    opened = admin_client.get(address)
    admin_client.post(address, in_browser(opened, **{"notes-0-text": "theirs"}))
    answer: Any = admin_client.post(address, in_browser(opened, **{"notes-0-text": "mine"}))
    assert answer.status_code == 409
    assert [(row.label, row.mine, row.theirs) for row in answer.context_data["rows"]] == [
        ("theirs: Text", "mine", "theirs")
    ]


@BOTH
def test_a_delete_takes_along_what_another_wrote_unless_it_has_versions(
    admin_client: Client, model: Any
) -> None:
    row = model.objects.create(title="old")
    asked: Any = admin_client.get(url(model, f"{row.pk}/delete/"), follow=True)
    address = asked.redirect_chain[-1][0] if asked.redirect_chain else asked.request["PATH_INFO"]
    other(row, title="theirs")
    answer: Any = admin_client.post(address, {"post": "yes"}, follow=True)
    assert model.objects.exists() == (model is Page)
    if model is Page:
        assert "Someone else was faster" in answer.rendered_content
        assert "theirs" in answer.rendered_content
        assert not LogEntry.objects.exists()
        address = answer.redirect_chain[-1][0]
        assert admin_client.post(address, {"post": "yes"}).status_code == 302
        assert not model.objects.exists()


@pytest.mark.parametrize("query", ["", "?signed_version=1", "?signed_version=1:forged"])
def test_a_delete_that_names_no_version_asks_first(admin_client: Client, query: str) -> None:
    row = Page.objects.create(title="old")
    answer: Any = admin_client.post(url(Page, f"{row.pk}/delete/{query}"), {"post": "yes"})
    assert answer.url == url(Page, f"{row.pk}/delete/")
    assert Page.objects.exists()
    assert admin_client.get(url(Page, "99/delete/")).status_code == 302


UNSIGNED = "It was not said which version was shown"


@pytest.mark.parametrize("query", ["", "?signed_version=1", "?signed_version=1:forged"])
def test_a_delete_that_names_no_version_is_not_told_that_someone_was_faster(
    admin_client: Client, query: str
) -> None:
    row = Page.objects.create(title="old")
    address = url(Page, f"{row.pk}/delete/{query}")
    answer: Any = admin_client.post(address, {"post": "yes"}, follow=True)
    assert UNSIGNED in answer.rendered_content
    assert "faster" not in answer.rendered_content


def test_a_delete_in_a_popup_stays_one(admin_client: Client) -> None:
    row = Page.objects.create(title="old")
    address = url(Page, f"{row.pk}/delete/?_popup=1&_to_field=id")
    asked: Any = admin_client.get(address)
    assert asked.url.startswith(f"{address}&signed_version=")
    other(row, title="theirs")
    answer: Any = admin_client.post(asked.url, {"post": "yes", "_popup": "1"})
    assert answer.url == address
    assert Page.objects.exists()


def selected(model: Any, action: str, **more: str) -> dict[str, Any]:
    pks = list(model.objects.order_by("pk").values_list("pk", flat=True))
    return {"action": action, "_selected_action": pks, **more}


@BOTH
def test_deleting_several_takes_along_what_another_wrote_unless_they_have_versions(
    admin_client: Client, model: Any
) -> None:
    rows = [model.objects.create(title=each) for each in ("a", "b", "c")]
    wish = selected(model, "delete_selected")
    asked: Any = admin_client.post(url(model), wish)
    other(rows[1], title="theirs")
    sent = wish | {
        name: value for name, value in in_browser(asked).items() if name != "_selected_action"
    }
    answer: Any = admin_client.post(url(model), sent, follow=True)
    assert model.objects.count() == (3 if model is Page else 0)
    if model is Page:
        assert "Someone else was faster" in answer.rendered_content
        assert not LogEntry.objects.exists()
        assert set(model.objects.values_list("version", flat=True)) == {1, 2}
        asked = admin_client.post(url(model), wish)
        sent["signed_versions"] = in_browser(asked)["signed_versions"]
        admin_client.post(url(model), sent)
        assert not model.objects.exists()


@pytest.mark.parametrize("versions", [None, "forged", "of one"])
def test_several_are_not_deleted_without_the_versions_of_all(
    admin_client: Client, versions: str | None
) -> None:
    Page.objects.create(title="a")
    asked: Any = admin_client.post(url(Page), selected(Page, "delete_selected"))
    Page.objects.create(title="never shown")
    sent = selected(Page, "delete_selected", post="yes")
    if versions:
        shown = in_browser(asked)["signed_versions"]
        sent["signed_versions"] = shown if versions == "of one" else versions
    answer: Any = admin_client.post(url(Page), sent, follow=True)
    assert Page.objects.count() == 2
    said = "Someone else was faster" if versions == "of one" else UNSIGNED
    assert said in answer.rendered_content


@BOTH
def test_an_action_undoes_what_another_wrote_unless_the_rows_have_versions(
    admin_client: Client, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.objects.create(title="a")
    monkeypatch.setattr(
        f"{__name__}.meanwhile", lambda row: other(row, title="theirs", amount=F("amount") + 5)
    )
    wish = selected(model, "add_one", index="0")
    answer: Any = admin_client.post(url(model), wish, follow=True)
    stored = model.objects.values_list("title", "amount").get()
    if model is PlainPage:
        assert stored == ("a", 1)
    else:
        assert stored == ("a", 0)  # the other is in the action's transaction here
        assert "Someone else was faster" in answer.rendered_content


def test_a_change_page_takes_context_of_an_admin_s_own(admin_client: Client) -> None:
    page = Page.objects.create(title="page")
    answer: Any = admin_client.get(url(Page, f"{page.pk}/change/"))
    assert answer.context_data["said"] == "so"


def log_in(client: Client, *permissions: str) -> None:
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission

    user = get_user_model().objects.create_user("looker", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)


@pytest.mark.parametrize("which", ["admin", "whole"])
def test_somebody_who_may_only_look_sees_no_version(client: Client, which: str) -> None:
    page = Page.objects.create(title="page")
    PageNote.objects.create(page=page, text="note")
    log_in(client, "view_page", "view_pagenote")
    answer: Any = client.get(f"/{which}/testapp/page/{page.pk}/change/")
    assert answer.status_code == 200
    assert "igned_version" not in answer.rendered_content
    assert "igned version" not in answer.rendered_content


def test_a_row_of_an_inline_with_an_error_of_another_kind_is_deleted(admin_client: Client) -> None:
    page = Page.objects.create(title="page")
    PageNote.objects.create(page=page, text="bad")
    address = f"/whole/testapp/page/{page.pk}/change/"
    sent = in_browser(admin_client.get(address), **{"notes-0-DELETE": "on"})
    assert admin_client.post(address, sent).status_code == 302
    assert not PageNote.objects.exists()


def test_checks_name_the_admins_and_inlines_that_forget_versions() -> None:
    class Loose(admin.ModelAdmin):  # type: ignore[type-arg]
        """The harm."""

    class OwnForm(VersionedAdmin):
        form = forms.ModelForm

    class OwnFormSet(NoteInline):
        formset = forms.BaseInlineFormSet

    loose = admin.AdminSite("loose")
    loose.register(PageNote, Loose)
    loose.register(Page, OwnForm, inlines=(OwnFormSet, NoteInline, PlainInline))
    try:
        found = check_versioned_admin(None)
        elsewhere = check_versioned_admin([apps.get_app_config("auth")])
    finally:  # a site is known as long as it lives
        loose.unregister([PageNote, Page])
    assert [each.id for each in found] == ["dbpatterns.W042"] * 2 + ["dbpatterns.W043"] * 2
    assert [each.obj for each in found if each.id == "dbpatterns.W043"] == [OwnFormSet, PlainInline]
    assert "Loose overwrites what was written to testapp.PageNote" in found[0].msg
    assert "ModelForm, forgets the version" in found[1].msg
    assert elsewhere == check_versioned_admin(None) == []


@modify_settings(INSTALLED_APPS={"remove": ["django.contrib.admin"]})
def test_without_an_admin_there_is_nothing_to_check() -> None:
    assert check_versioned_admin(None) == []
