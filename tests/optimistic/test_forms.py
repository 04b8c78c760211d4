"""Forms, admin, API and checks: a stale page is told so, and shown both values."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django import forms
from django.contrib.admin.sites import AdminSite
from django.contrib.auth import get_user_model
from django.contrib.messages.storage.cookie import CookieStorage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.signing import BadSignature
from django.db import models
from django.http.request import HttpHeaders
from django.test import RequestFactory
from django.test.utils import isolate_apps
from django.utils import timezone
from rest_framework.serializers import ModelSerializer
from rest_framework.test import APIRequestFactory
from rest_framework.viewsets import ModelViewSet

from dbpatterns.contrib.drf_versions import VersionedViewMixin, check_if_match, etag
from dbpatterns.optimistic import StaleObjectError, VersionedModel
from dbpatterns.optimistic.admin import VersionedAdmin
from dbpatterns.optimistic.checks import check_versioned_models
from dbpatterns.optimistic.forms import (
    REKEYED,
    UNSIGNED,
    VersionedModelForm,
    read_version,
    sign_version,
)
from tests.testapp.models import Leaflet, NumberedPage, Page, PageNote

pytestmark = pytest.mark.django_db(transaction=True)


class PageForm(VersionedModelForm[Page]):
    class Meta:
        model = Page
        fields = ("title", "amount")


def sent(page: Page, **values: Any) -> dict[str, Any]:
    return {"title": "mine", "amount": 1, "signed_version": PageForm(instance=page).sign()} | values


def test_a_form_saves_a_row_that_is_as_it_was() -> None:
    page = Page.objects.create(title="old")
    form = PageForm(sent(page), instance=Page.objects.get())
    assert form.is_valid()
    form.save()
    assert Page.objects.values_list("title", "version").get() == ("mine", 2)


def test_a_form_of_a_row_that_changed_is_invalid() -> None:
    page = Page.objects.create(title="old")
    data = sent(page)
    Page.objects.update(title="theirs")
    form = PageForm(data, instance=Page.objects.get())
    assert not form.is_valid()
    assert form.is_stale


@pytest.mark.parametrize("version", ["", "1", "2:forged"])
def test_a_version_that_is_not_signed_is_refused(version: str) -> None:
    page = Page.objects.create(title="old")
    form = PageForm(sent(page, signed_version=version), instance=page)
    assert not form.is_valid()
    assert not form.is_stale


def test_a_version_of_another_row_is_refused() -> None:
    page, other = Page.objects.create(title="old"), Page.objects.create(title="other")
    assert not PageForm(sent(other), instance=page).is_valid()


def test_a_clean_of_ones_own_that_forgets_ours_takes_no_guard_away() -> None:
    class ForgetfulForm(PageForm):
        def clean(self) -> dict[str, Any]:
            return self.cleaned_data

    page = Page.objects.create(title="old")
    data = sent(page)
    Page.objects.update(title="theirs")
    form = ForgetfulForm(data, instance=Page.objects.get())
    assert not form.is_valid()
    assert form.is_stale


def test_a_clean_that_returns_values_of_its_own_may_leave_ours_out() -> None:
    class TidyForm(PageForm):
        def clean(self) -> dict[str, Any]:
            return {"title": self.cleaned_data["title"].strip(), "amount": 5}

    page = Page.objects.create(title="old")
    form = TidyForm(sent(page, title=" mine "), instance=Page.objects.get())
    assert form.is_valid(), form.errors
    form.save()
    assert Page.objects.values_list("title", "amount", "version").get() == ("mine", 5, 2)


def test_a_form_does_not_move_a_row_onto_another() -> None:
    class NumberedForm(VersionedModelForm[NumberedPage]):
        class Meta:
            model = NumberedPage
            fields = ("chapter", "number", "title")

    mine, theirs = (
        NumberedPage.objects.create(chapter=1, number=number, title="old") for number in (1, 2)
    )
    mine.number = 2
    mine.title = "mine"
    mine.save()  # the harm: both are at version 1
    theirs.refresh_from_db()
    assert theirs.title == "mine"
    row = NumberedPage.objects.get(number=1)
    data = {"chapter": 1, "number": 2, "title": "mine", "signed_version": sign_version(row)}
    form = NumberedForm(data, instance=row)
    assert form.has_error("__all__", REKEYED)
    assert not form.has_error("__all__", UNSIGNED)
    assert NumberedForm(
        data | {"number": 1}, instance=NumberedPage.objects.get(number=1)
    ).is_valid()


def test_a_form_with_arguments_of_its_own_says_how_it_is_made() -> None:
    class ReadersForm(PageForm):
        def __init__(self, *args: Any, reader: str, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.reader = reader

        def form_of(self, row: Page) -> "ReadersForm":
            return type(self)(instance=row, prefix=self.prefix, reader=self.reader)

    page = Page.objects.create(title="old")
    data = sent(page)
    Page.objects.update(title="theirs")
    form = ReadersForm(data, instance=Page.objects.get(), reader="me")
    assert not form.is_valid()
    assert next((row.mine, row.theirs) for row in form.rebase()) == ("mine", "theirs")


def test_a_form_makes_a_new_row() -> None:
    form = PageForm({"title": "new", "amount": 1})
    assert form.is_valid()
    assert form.save().version == 1


def test_a_form_that_loses_the_race_raises() -> None:
    page = Page.objects.create(title="old")
    form = PageForm(sent(page), instance=page)
    assert form.is_valid()
    Page.objects.update(title="theirs")
    with pytest.raises(StaleObjectError):
        form.save()


def test_a_version_of_another_model_is_refused() -> None:
    page = Page.objects.create(pk=7, title="old")
    note = PageNote.objects.create(pk=7, page=page, text="old")
    assert read_version(page, sign_version(page)) == 1
    with pytest.raises(BadSignature):
        read_version(note, sign_version(page))


class LongForm(PageForm):
    agreed = forms.BooleanField(required=False, initial=False)
    at = forms.DateTimeField(initial=datetime(2026, 3, 1, 12, tzinfo=UTC))
    count = forms.IntegerField(required=False)


def test_both_values_are_written_as_people_read_them() -> None:
    page = Page.objects.create(title="old")
    data = sent(page, agreed="on", at="2026-03-01 13:00", amount="many")
    Page.objects.update(amount=5)
    with timezone.override("Europe/Prague"):
        form = LongForm(data, instance=Page.objects.get())
        assert not form.is_valid()
        shown = {each.name: (each.mine, each.theirs, each.is_changed) for each in form.rebase()}
    assert shown == {
        "title": ("mine", "old", True),
        "amount": ("many", "5", True),
        "agreed": ("Yes", "No", True),
        "at": ("March 1, 2026, 1 p.m.", "March 1, 2026, 1 p.m.", False),
        "count": ("", "", False),
    }


class LeafletForm(VersionedModelForm[Leaflet]):
    class Meta:
        model = Leaflet
        fields = ("data", "scan")


def test_files_are_written_by_their_names_and_json_as_it_is_typed() -> None:
    leaflet = Leaflet.objects.create(data={"a": 1})
    for stored, name in (("", ""), ("never/read.txt", "never/read.txt")):
        opened = LeafletForm(instance=Leaflet.objects.get()).sign()
        Leaflet.objects.update(data={"a": 2, "ž": []}, scan=stored)
        data = {"data": '{"a": 3}', "signed_version": opened}
        files = {"scan": SimpleUploadedFile("mine.txt", b"one\ntwo\n")}
        form = LeafletForm(data, files, instance=Leaflet.objects.get(pk=leaflet.pk))
        assert not form.is_valid()
        assert [(each.mine, each.theirs) for each in form.rebase()] == [
            ('{"a": 3}', '{"a": 2, "ž": []}'),
            ("mine.txt", name),
        ]


def ask(method: str, page: Page, data: Any = None, model_admin: Any = None) -> Any:
    request = getattr(RequestFactory(), method)("/page/", data)
    request.user = get_user_model()(is_superuser=True, is_staff=True, is_active=True, pk=1)
    request._dont_enforce_csrf_checks = True
    request._messages = CookieStorage(request)
    model_admin = model_admin or SilentAdmin(Page, AdminSite())
    response = model_admin.changeform_view(request, str(page.pk))
    if hasattr(response, "render") and not response.is_rendered:
        response.context_data["request"] = request
    return response


class SilentAdmin(VersionedAdmin):
    fields = ("title", "amount")

    def log_change(self, *args: Any) -> Any:
        """Write no log entry: its user is not stored."""

    def response_change(self, request: Any, obj: Any) -> Any:
        return obj


def test_the_admin_s_form_has_the_version_and_saves() -> None:
    page = Page.objects.create(title="old")
    form = ask("get", page).context_data["adminform"].form
    data = {"title": "mine", "amount": 1, "signed_version": form["signed_version"].value()}
    assert (
        "signed_version"
        in SilentAdmin(Page, AdminSite()).get_fieldsets(ask_request(), page)[0][1]["fields"]
    )
    assert ask("post", page, data).version == 2


def ask_request() -> Any:
    request = RequestFactory().get("/")
    request.user = get_user_model()(is_superuser=True, is_active=True)
    return request


def test_the_admin_shows_both_values_and_keeps_mine() -> None:
    page = Page.objects.create(title="old")
    data = sent(page)
    Page.objects.update(title="theirs")
    response = ask("post", page, data)
    assert response.status_code == 409
    shown = {row.label: (row.mine, row.theirs) for row in response.context_data["rows"]}
    assert shown == {"Title": ("mine", "theirs"), "Amount": ("1", "0")}
    ask("post", page, dict(response.context_data["sent"]))
    assert Page.objects.values_list("title", "version").get() == ("mine", 3)


def test_the_admin_that_loses_the_race_shows_the_conflict() -> None:
    page = Page.objects.create(title="old")
    is_first = [True]

    class Late(SilentAdmin):
        def save_model(self, *args: Any) -> None:
            if is_first.pop() if is_first else False:
                raise_version(page)
            super().save_model(*args)

    def raise_version(page: Page) -> None:
        raise StaleObjectError(
            "lost", model="testapp.Page", pks=[page.pk], expected_version=1, stored_version=2
        )

    data = sent(page)
    response = ask("post", page, data, Late(Page, AdminSite()))
    assert response.version == 2


class PageSerializer(ModelSerializer):
    class Meta:
        model = Page
        fields = ("id", "title")


class Pages(VersionedViewMixin, ModelViewSet):
    queryset = Page.objects.all()
    serializer_class = PageSerializer
    authentication_classes = ()
    permission_classes = ()

    def perform_update(self, serializer: Any) -> None:
        if serializer.validated_data["title"] == "late":
            Page.objects.update(amount=9)
        super().perform_update(serializer)

    def perform_destroy(self, instance: Page) -> None:
        if instance.title == "late":
            Page.objects.update(amount=9)
        super().perform_destroy(instance)


def call(method: str, page: Page, if_match: str | None = None, title: str = "mine") -> Any:
    view = Pages.as_view({"get": "retrieve", "put": "update", "delete": "destroy"})
    headers = {"If-Match": if_match} if if_match else None
    request = getattr(APIRequestFactory(), method)(
        "/", {"title": title}, headers=headers, format="json"
    )
    return view(request, pk=page.pk)


def test_the_api_writes_what_was_read_and_nothing_else() -> None:
    page = Page.objects.create(title="old")
    tag = call("get", page)["ETag"]
    assert tag == f'"{page.pk}-1"'
    assert call("put", page).status_code == 428
    assert call("put", page, '"1-99"').status_code == 412
    assert call("put", page, tag)["ETag"] == f'"{page.pk}-2"'
    assert call("delete", page, tag).status_code == 412
    assert call("put", page, "*", title="late").status_code == 412
    page.refresh_from_db()
    Page.objects.update(title="late")
    assert call("delete", page, "*").status_code == 412
    assert call("delete", page, "*").status_code == 412
    Page.objects.update(title="old")
    assert call("delete", page, "*").status_code == 204


@pytest.mark.parametrize("key", ["plain", "a,b", 'a"b', "žluť", "a b", (1, 2)])
def test_a_key_of_any_letters_has_a_tag_that_matches(key: Any) -> None:
    row = NumberedPage(chapter=1, number=2) if isinstance(key, tuple) else Page(pk=key)
    tag = etag(row)
    assert tag.isascii()
    check_if_match(HttpHeaders({"HTTP_IF_MATCH": f'"x-1", {tag}'}), row)


def test_the_api_guards_actions_of_its_own_and_answers_options() -> None:
    class Acting(Pages):
        def publish(self, request: Any, pk: Any) -> Any:
            row = self.get_object()
            Page.objects.update(amount=9)
            row.save()

    page = Page.objects.create(title="old")
    asked = APIRequestFactory()
    publish = Acting.as_view({"post": "publish"})
    assert publish(asked.post("/"), pk=page.pk).status_code == 428
    assert publish(asked.post("/", headers={"If-Match": "*"}), pk=page.pk).status_code == 412
    options = Acting.as_view({"get": "retrieve", "put": "update"})(asked.options("/"), pk=page.pk)
    assert "PUT" in options.data["actions"]


def test_the_api_may_leave_if_match_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pages, "if_match_required", False)
    assert call("put", Page.objects.create(title="old")).status_code == 200


@isolate_apps("tests.testapp")
def test_checks_find_what_goes_round_the_version() -> None:
    class Loose(VersionedModel):
        views = models.IntegerField(default=0)
        plain = models.Manager()
        page = models.ForeignKey(Page, models.CASCADE, editable=False)
        version_exempt_fields = ("views", "nothing", "page_id")

        class Meta:
            app_label = "testapp"

        def __str__(self) -> str:
            return ""

    from types import SimpleNamespace

    config: Any = SimpleNamespace(get_models=lambda: [Loose, Page, get_user_model()])
    assert [each.id for each in check_versioned_models([config])] == [
        "dbpatterns.E040",
        "dbpatterns.E040",
        "dbpatterns.E040",
        "dbpatterns.W041",
    ]
    assert check_versioned_models(None) == []
