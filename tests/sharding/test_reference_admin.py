"""Reference models in Django's admin: each page writes every shard, or none."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import IntegrityError, connections
from django.test import Client
from django.urls import path, reverse

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard, shard_for, shards
from dbpatterns.sharding.reference_admin import ReferenceAdmin
from tests.sharding.support import BUYERS, say_nothing
from tests.shop.models import Buyer, Country

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.urls(__name__),
    pytest.mark.usefixtures("filled"),
]


@admin.action(description="Shout")
def shout(model_admin: Any, request: Any, chosen: Any) -> None:
    rows = list(chosen)
    for row in rows:
        row.name = row.name.upper()
    Country.objects.bulk_update(rows, ["name"])
    if "fails" in request.POST:
        raise IntegrityError("after the last")


class PlainAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    pass


class CountryAdmin(ReferenceAdmin):
    list_display = ("code", "name")
    list_editable = ("name",)
    ordering = ("code",)
    actions = (shout,)


plain, ours = admin.AdminSite("plain"), admin.AdminSite("ours")
plain.register(Country, PlainAdmin)
ours.register(Country, CountryAdmin)
urlpatterns = [path("plain/", plain.urls), path("ours/", ours.urls)]
handler500 = say_nothing
NEW = {"code": "IT", "name": "Italy"}


def url(page: str, *arguments: object, site: str = "ours") -> str:
    return reverse(f"admin:shop_country_{page}", args=arguments, current_app=site)


def names() -> dict[str, str]:
    """Read the table, which is the same on all shards."""
    of_shard = [
        dict(Country.objects.using(alias).values_list("code", "name")) for alias in shards()
    ]
    assert all(each == of_shard[0] for each in of_shard)
    return of_shard[0]


def fail_on_the_last(execute: Any, sql: str, *rest: Any) -> Any:
    if sql.startswith(('INSERT INTO "shop_', "UPDATE", "DELETE")):
        raise IntegrityError("on the last shard")
    return execute(sql, *rest)


def test_a_plain_admin_cannot_save(staff: Client) -> None:
    with pytest.raises(UsageError, match="ReferenceAdmin"):
        staff.post(url("add", site="plain"), NEW)


def test_a_row_is_added_changed_and_deleted_on_every_shard(staff: Client) -> None:
    assert staff.get(url("add")).status_code == 200
    staff.post(url("add"), NEW)
    assert names()["IT"] == "Italy"
    assert staff.get(url("change", "IT")).status_code == 200
    staff.post(url("change", "IT"), NEW | {"name": "Italia"})
    assert names()["IT"] == "Italia"
    page = staff.get(url("delete", "IT"))
    assert [count for _, count in page.context["model_count"]] == [1]  # not once for each shard
    staff.post(url("delete", "IT"), {"post": "yes"})
    assert "IT" not in names()
    assert LogEntry.objects.count() == 3


@pytest.mark.parametrize("page", ["add", "change", "delete", "list", "action"])
def test_if_one_shard_fails_none_is_written(staff: Client, page: str) -> None:
    before = names()
    formset = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "_save": "1", "form-0-code": "DE"}
    chosen = {"action": "shout", "_selected_action": ["DE"], "index": 0}
    sent: dict[str, tuple[str, dict[str, Any]]] = {
        "add": (url("add"), NEW),
        "change": (url("change", "DE"), {"code": "DE", "name": "other"}),
        "delete": (url("delete", "IS"), {"post": "yes"}),
        "list": (url("changelist") + "?code=DE", formset | {"form-0-name": "other"}),
        "action": (url("changelist"), chosen),
    }
    for alias in shards():
        Buyer.objects.using(alias).update(country=None)
    lost = connections[shards()[-1]].execute_wrapper(fail_on_the_last)
    with lost, pytest.raises(IntegrityError):
        staff.post(*sent[page])
    assert names() == before


def test_an_action_that_fails_has_done_nothing(staff: Client) -> None:
    before = names()
    chosen = {"action": "shout", "_selected_action": ["DE", "FR"], "index": 0}
    with pytest.raises(IntegrityError):
        staff.post(url("changelist"), chosen | {"fails": "yes"})
    assert names() == before
    staff.post(url("changelist"), chosen)
    assert names() == before | {"DE": "GERMANY", "FR": "FRANCE"}


def test_rows_that_any_shard_protects_are_shown_and_stay(staff: Client) -> None:
    for alias in shards():
        Buyer.objects.using(alias).update(country=None)
    last = next(each for each in BUYERS if shard_for(each) == shards()[-1])
    Buyer.objects.filter(pk=last).update(country="DE")
    page = staff.get(url("delete", "DE"))
    assert len(page.context["protected"]) == 1
    chosen = {"action": "delete_selected", "_selected_action": ["DE"], "index": 0, "post": "yes"}
    page = staff.post(url("changelist"), chosen)
    assert len(page.context["protected"]) == 1
    assert "DE" in names()


def test_in_a_request_of_one_shard_its_rows_are_read_and_all_written(staff: Client) -> None:
    Country.objects.using(shard_for(BUYERS[1])).filter(code="DE").update(name="there")
    with shard(BUYERS[1]):
        page = staff.get(url("change", "DE"))
        assert page.context["original"].name == "there"
        staff.post(url("change", "DE"), {"code": "DE", "name": "everywhere"})
    assert names()["DE"] == "everywhere"
