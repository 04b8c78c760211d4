"""Sharded models that are versioned too: each row's shard decides who was first."""

from typing import Any

import pytest
from django.contrib import admin
from django.db import connections, transaction
from django.http import HttpRequest
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse

from dbpatterns.optimistic.admin import VersionedAdmin
from dbpatterns.optimistic.errors import StaleObjectError
from dbpatterns.sharding import shard, shard_for
from dbpatterns.sharding.every_shard import every_shard
from dbpatterns.sharding.sharded_admin import ShardedAdmin
from tests.sharding.support import BUYERS
from tests.shop.models import Ticket

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]
ONE, OTHER = BUYERS[0], BUYERS[1]
"""On two shards."""


@pytest.fixture
def tickets() -> list[Ticket]:
    return [Ticket.objects.create(buyer_id=buyer, text="new") for buyer in (ONE, OTHER)]


def stored(ticket: Ticket) -> tuple[str, int]:
    found: Any = Ticket.objects.using(shard_for(ticket.buyer_id)).get(pk=ticket.pk)
    return found.text, found.version


def of_somebody_else(ticket: Ticket) -> None:
    other: Any = Ticket.objects.get(buyer=ticket.buyer_id, pk=ticket.pk)
    other.text = "theirs"
    other.save()


def test_a_save_is_one_update_on_the_key_s_shard(tickets: list[Ticket]) -> None:
    with CaptureQueriesContext(connections[shard_for(ONE)]) as sent:
        tickets[0].text = "mine"
        tickets[0].save()
    assert [each["sql"].split()[0] for each in sent] == ["UPDATE"]
    assert stored(tickets[0]) == ("mine", 2)


@pytest.mark.parametrize("way", ["save", "update_fields", "delete", "bulk_update"])
def test_who_comes_second_is_told(tickets: list[Ticket], way: str) -> None:
    for ticket in tickets:
        of_somebody_else(ticket)
        ticket.text = "mine"
    ways = {
        "save": lambda: tickets[0].save(),
        "update_fields": lambda: tickets[0].save(update_fields=["text"]),
        "delete": lambda: tickets[0].delete(),
        "bulk_update": lambda: Ticket.objects.bulk_update(tickets, ["text"]),
    }
    first, second = map(shard_for, (ONE, OTHER))
    with (
        pytest.raises(StaleObjectError),
        transaction.atomic(using=first),  # so that the test, which is in transactions, can go on
        transaction.atomic(using=second),
    ):
        ways[way]()
    assert [stored(each) for each in tickets] == [("theirs", 2)] * 2


def test_one_stale_row_leaves_those_of_all_shards(tickets: list[Ticket]) -> None:
    of_somebody_else(max(tickets, key=lambda each: shard_for(each.buyer_id)))  # written last
    for ticket in tickets:
        ticket.text = "mine"
    with pytest.raises(StaleObjectError):
        Ticket.objects.bulk_update(tickets, ["text"])
    assert sorted(stored(each) for each in tickets) == [("new", 1), ("theirs", 2)]
    assert [each.version for each in tickets] == [1, 1]  # as they were read


def test_rows_of_all_shards_are_written_and_at_their_next_version(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        ticket.text = "mine"
    assert Ticket.objects.bulk_update(tickets, ["text"]) == 2
    assert [stored(each) for each in tickets] == [("mine", 2)] * 2
    assert [each.version for each in tickets] == [2, 2]
    assert every_shard(Ticket.objects.all()).update(text="all") == 2
    assert [stored(each) for each in tickets] == [("all", 3)] * 2


def test_a_rollback_gives_the_version_back(tickets: list[Ticket]) -> None:
    with transaction.atomic(using=shard_for(ONE)):
        tickets[0].text = "mine"
        tickets[0].save()
        transaction.set_rollback(True, using=shard_for(ONE))
    assert tickets[0].version == 1
    tickets[0].save()
    assert stored(tickets[0]) == ("mine", 2)


class TicketAdmin(ShardedAdmin, VersionedAdmin):
    actions = ("close_all",)

    @admin.action(description="Close")
    def close_all(self, request: HttpRequest, chosen: Any) -> None:
        for row in chosen:
            row.text = "closed"
            if "meanwhile" in request.POST and str(row.pk) == request.POST["meanwhile"]:
                of_somebody_else(row)
            row.save()


site = admin.AdminSite("tickets")
site.register(Ticket, TicketAdmin)
urlpatterns = [path("tickets/", site.urls)]


def url(page: str, *arguments: object) -> str:
    return reverse(f"admin:shop_ticket_{page}", args=arguments, current_app="tickets")


@pytest.mark.urls(__name__)
class TestAdmin:
    def chosen(self, tickets: list[Ticket], action: str, **values: Any) -> dict[str, Any]:
        rows = [each.pk for each in tickets]
        return {"action": action, "_selected_action": rows, "index": 0, **values}

    def test_a_page_of_a_row_that_changed_is_a_conflict(
        self, staff: Client, tickets: list[Ticket]
    ) -> None:
        page = staff.get(url("change", tickets[1].pk))
        signed = page.context["adminform"].form.sign()
        of_somebody_else(tickets[1])
        sent = {"id": str(tickets[1].pk), "text": "mine", "signed_version": signed}
        answer = staff.post(url("change", tickets[1].pk), sent)
        assert answer.status_code == 409
        assert stored(tickets[1]) == ("theirs", 2)
        answer = staff.post(
            url("change", tickets[1].pk), dict(answer.context["sent"]) | {"text": "mine"}
        )
        assert answer.status_code == 302
        assert stored(tickets[1]) == ("mine", 3)

    def test_an_action_writes_on_all_shards_or_on_none(
        self, staff: Client, tickets: list[Ticket]
    ) -> None:
        lost = max(tickets, key=lambda each: shard_for(each.buyer_id))
        answer = staff.post(
            url("changelist"), self.chosen(tickets, "close_all", meanwhile=lost.pk), follow=True
        )
        assert "Someone else was faster" in answer.content.decode()
        assert [stored(each) for each in tickets] == [("new", 1)] * 2  # theirs was within it too
        staff.post(url("changelist"), self.chosen(tickets, "close_all"))
        assert [stored(each) for each in tickets] == [("closed", 2)] * 2

    def test_chosen_rows_are_deleted_as_they_were_shown_or_all_stay(
        self, staff: Client, tickets: list[Ticket]
    ) -> None:
        page = staff.post(url("changelist"), self.chosen(tickets, "delete_selected"))
        versions = {"post": "yes", "signed_versions": page.context["signed_versions"]}
        sent = self.chosen(tickets, "delete_selected", **versions)
        of_somebody_else(tickets[1])
        answer = staff.post(url("changelist"), sent, follow=True)
        assert "Someone else was faster" in answer.content.decode()
        assert [stored(each) for each in tickets] == [("new", 1), ("theirs", 2)]
        page = staff.post(url("changelist"), self.chosen(tickets, "delete_selected"))
        sent["signed_versions"] = page.context["signed_versions"]
        staff.post(url("changelist"), sent)
        assert not Ticket.objects.fanout().exists()

    @pytest.mark.parametrize("action", ["close_all", "delete_selected"])
    def test_in_a_request_of_one_shard_no_other_hears_of_it(
        self, staff: Client, tickets: list[Ticket], action: str
    ) -> None:
        sent = self.chosen(tickets[:1], action)
        with shard(ONE), CaptureQueriesContext(connections[shard_for(OTHER)]) as heard:
            page = staff.post(url("changelist"), sent)
            if action == "delete_selected":
                versions = {"post": "yes", "signed_versions": page.context["signed_versions"]}
                staff.post(url("changelist"), sent | versions)
        assert [each["sql"] for each in heard] == []
        assert Ticket.objects.filter(buyer=ONE, text="new").count() == 0

    def test_a_row_is_deleted_as_it_was_shown(self, staff: Client, tickets: list[Ticket]) -> None:
        asked = staff.get(url("delete", tickets[0].pk))["Location"]
        of_somebody_else(tickets[0])
        staff.post(asked, {"post": "yes"})
        assert stored(tickets[0]) == ("theirs", 2)
        asked = staff.get(url("delete", tickets[0].pk))["Location"]
        staff.post(asked, {"post": "yes"})
        assert not Ticket.objects.filter(buyer=ONE).exists()


def test_the_admin_of_shards_comes_first() -> None:
    class Turned(VersionedAdmin, ShardedAdmin):
        pass

    assert [each.id for each in Turned(Ticket, site).check()] == ["dbpatterns_sharding.E023"]
    assert TicketAdmin(Ticket, site).check() == []
