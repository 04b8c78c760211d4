"""Sharded models in Django's admin: what a plain ModelAdmin does, and what ShardedAdmin does."""

from collections.abc import Iterator
from inspect import signature
from typing import Any
from uuid import UUID

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import IntegrityError, InterfaceError, OperationalError, connections
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard, shard_for, shards
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired, ShardUnavailable
from dbpatterns.sharding.every_shard import every_shard
from dbpatterns.sharding.sharded_admin import ShardedAdmin, ShardedInlineMixin
from tests.sharding.support import BUYERS, say_nothing
from tests.shop.models import Buyer, Line, Marking, Order

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.urls(__name__),
    pytest.mark.usefixtures("filled"),
]
ONE, OTHER = BUYERS[0], BUYERS[1]
"""On two shards."""


class LineInline(ShardedInlineMixin, admin.TabularInline):  # type: ignore[type-arg]
    model = Line
    extra = 1


@admin.action(description="Mark as paid")
def pay(model_admin: Any, request: HttpRequest, chosen: Any) -> None:
    chosen.update(is_paid=True)


@admin.action(description="Mark as paid, one by one")
def pay_each(model_admin: Any, request: HttpRequest, chosen: Any) -> None:
    for row in chosen:
        row.is_paid = True
        row.save()
    if "fails" in request.POST:
        raise IntegrityError("after the last")


class OrderAdmin(ShardedAdmin):
    list_display = ("number", "buyer", "is_paid")
    list_filter = ("is_paid",)
    search_fields = ("buyer__name", "lines__amount")
    ordering = ("-number", "id")
    list_per_page = 7
    actions = (pay, pay_each)
    inlines = (LineInline,)


class BuyerAdmin(ShardedAdmin):
    search_fields = ("name",)
    ordering = ("name", "id")


class LineAdmin(ShardedAdmin):
    autocomplete_fields = ("buyer",)


class PlainOrderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    pass


plain, ours = admin.AdminSite("plain"), admin.AdminSite("ours")
plain.register(Order, PlainOrderAdmin)
ours.register(Order, OrderAdmin)
ours.register(Buyer, BuyerAdmin)
ours.register(Line, LineAdmin)
urlpatterns = [path("plain/", plain.urls), path("ours/", ours.urls)]
handler500 = say_nothing


def url(page: str, model: type = Order, *arguments: object, site: str = "ours") -> str:
    return reverse(f"admin:shop_{model.__name__.lower()}_{page}", args=arguments, current_app=site)


def order_of(buyer: int) -> Order:
    found: Order = Order.objects.filter(buyer=buyer).order_by("id")[0]
    return found


def no_lines(buyer: int, **values: Any) -> dict[str, Any]:
    """Return what a form of an order sends."""
    formset = {"lines-TOTAL_FORMS": 0, "lines-INITIAL_FORMS": 0}
    return {"id": str(UUID(int=9)), "buyer": buyer, "number": 77, **formset, **values}


class TestPlainAdmin:
    """The harm: not one page."""

    def test_the_list(self, staff: Client) -> None:
        with pytest.raises(ShardKeyRequired):
            staff.get(url("changelist", site="plain"))

    @pytest.mark.parametrize("page", ["change", "delete"])
    def test_a_row(self, staff: Client, page: str) -> None:
        with pytest.raises(ShardKeyRequired):
            staff.get(url(page, Order, order_of(ONE).pk, site="plain"))

    def test_a_new_row(self, staff: Client) -> None:
        with pytest.raises(ShardKeyRequired):
            staff.get(url("add", site="plain")).content  # noqa: B018  # its choices of buyers
        with pytest.raises(UsageError, match="does not say where"):
            staff.post(url("add", site="plain"), no_lines(ONE))


@pytest.mark.parametrize("view", ["changeform_view", "delete_view"])
def test_views_take_what_django_s_take_by_the_same_names(view: str) -> None:
    """An admin of one's own hands them on as it likes."""
    taken, theirs = (signature(getattr(each, view)) for each in (ShardedAdmin, admin.ModelAdmin))
    assert list(taken.parameters) == list(theirs.parameters)


class TestLists:
    def test_all_shards_rows_in_one_order_page_by_page(self, staff: Client) -> None:
        found: list[Any] = []
        while len(found) < len(BUYERS) * 2:
            page = staff.get(url("changelist"), {"p": len(found) // 7 + 1}).context["cl"]
            assert page.result_count == len(BUYERS) * 2
            assert len(page.result_list) == min(7, len(BUYERS) * 2 - len(found))
            found += page.result_list
        assert found == sorted(found, key=lambda row: (-row.number, row.id))
        assert {row._state.db for row in found} == set(shards())

    def test_filters_and_search(self, staff: Client) -> None:
        paid = staff.get(url("changelist"), {"is_paid__exact": 1}).context["cl"]
        assert paid.result_count == len(BUYERS)
        page = staff.get(url("changelist"), {"q": f'"buyer {OTHER}"'})
        assert {row.buyer_id for row in page.context["cl"].result_list} == {OTHER}
        amount = staff.get(url("changelist"), {"q": str(ONE)}).context["cl"]
        assert {row.buyer_id for row in amount.result_list} >= {ONE}
        assert len(set(amount.queryset)) == amount.result_count

    def test_what_a_page_costs(self, staff: Client) -> None:
        asked = 0
        for alias in shards():
            with CaptureQueriesContext(connections[alias]) as there:
                staff.get(url("changelist"))
            asked += len(there)
            assert len(there) == 3  # how many of all, how many of these, and the rows
        assert asked == 3 * len(shards())

    def test_in_a_request_of_one_shard_its_rows(self, staff: Client) -> None:
        with shard(ONE):
            page = staff.get(url("changelist")).context["cl"]
        assert {row._state.db for row in page.result_list} == {shard_for(ONE)}


@pytest.mark.django_db(databases="__all__", transaction=True)
class TestMissingShard:
    LOST = shards()[-1]

    @pytest.fixture
    def lost(self) -> Iterator[None]:
        """A shard that ends the connection of every statement."""

        def fail(*_: Any) -> Any:
            raise InterfaceError("gone")

        with connections[self.LOST].execute_wrapper(fail):
            yield

    def test_the_list_is_without_it_and_says_so(self, staff: Client, lost: None) -> None:
        found: list[Any] = []
        page = staff.get(url("changelist"))
        while len(found) < page.context["cl"].result_count:
            found += page.context["cl"].result_list
            page = staff.get(url("changelist"), {"p": len(found) // 7 + 1})
        assert {row._state.db for row in found} == {*shards()} - {self.LOST}
        [said] = page.context["messages"]
        assert str(said) == f"The list is without the rows of shard {self.LOST}: gone."

    def test_a_list_of_all_says_nothing(self, staff: Client) -> None:
        assert list(staff.get(url("changelist")).context["messages"]) == []

    def test_an_action_is_not_done_on_a_part(self, staff: Client, lost: None) -> None:
        rows = [order_of(ONE).pk, UUID(int=1)]
        for action in ({"action": "pay"}, {"action": "delete_selected", "post": "yes"}):
            with pytest.raises(OperationalError):
                staff.post(url("changelist"), {"_selected_action": rows, "index": 0, **action})
        assert Order.objects.filter(buyer=ONE).count() == 2

    def test_a_row_that_may_be_there_is_not_denied(self, staff: Client, lost: None) -> None:
        assert staff.get(url("change", Order, order_of(ONE).pk)).status_code == 200
        with pytest.raises(ShardUnavailable):
            staff.get(url("change", Order, UUID(int=1)))


class TestActions:
    def chosen(self, action: str, **values: Any) -> dict[str, Any]:
        rows = [order_of(ONE).pk, order_of(OTHER).pk]
        return {"action": action, "_selected_action": rows, "index": 0, **values}

    def test_an_update_writes_on_each_shard(self, staff: Client) -> None:
        Order.objects.using(shard_for(ONE)).update(is_paid=False)
        Order.objects.using(shard_for(OTHER)).update(is_paid=False)
        staff.post(url("changelist"), self.chosen("pay"))
        paid = Order.objects.fanout().filter(buyer__in=[ONE, OTHER], is_paid=True)
        assert sorted(row.buyer_id for row in paid) == sorted([ONE, OTHER])

    def test_delete_selected_asks_and_deletes_with_what_hangs_on_them(self, staff: Client) -> None:
        page = staff.post(url("changelist"), self.chosen("delete_selected"))
        assert dict(page.context["model_count"]) == {"orders": 2, "lines": 4, "markings": 2}
        lines = Line.objects.fanout().count()
        staff.post(url("changelist"), self.chosen("delete_selected", post="yes"))
        assert Order.objects.fanout().count() == len(BUYERS) * 2 - 2
        assert Line.objects.fanout().count() == lines - 4
        assert LogEntry.objects.count() == 2

    def test_in_a_request_that_is_a_transaction_an_action_is_one_on_each_shard(
        self, staff: Client
    ) -> None:
        every_shard(Order.objects.all()).update(is_paid=False)
        paid = every_shard(Order.objects.filter(is_paid=True))
        with pytest.raises(IntegrityError):
            staff.post(url("changelist"), self.chosen("pay_each", fails="yes"))
        is_one = connections["default"].settings_dict["ATOMIC_REQUESTS"]
        assert paid.count() == (0 if is_one else 2)
        staff.post(url("changelist"), self.chosen("pay_each"))
        assert paid.count() == 2

    def test_it_deletes_on_all_shards_or_on_none(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alias = sorted((shard_for(ONE), shard_for(OTHER)), key=shards().index)[1]

        def fail(execute: Any, sql: str, *rest: Any) -> Any:
            if sql.startswith("DELETE"):
                raise IntegrityError("on the second shard")
            return execute(sql, *rest)

        with connections[alias].execute_wrapper(fail), pytest.raises(IntegrityError):
            staff.post(url("changelist"), self.chosen("delete_selected", post="yes"))
        assert Order.objects.fanout().count() == len(BUYERS) * 2


class TestPages:
    def test_a_row_is_shown_with_its_shard_s_choices(self, staff: Client) -> None:
        row = order_of(OTHER)
        page = staff.get(url("change", Order, row.pk))
        assert page.status_code == 200
        text = page.content.decode()
        assert f"buyer {OTHER}" in text
        assert 'name="buyer"' not in text  # the key is there to look at

    def test_a_row_is_saved_on_its_shard_with_its_inlines(self, staff: Client) -> None:
        row = order_of(OTHER)
        lines = {
            "lines-TOTAL_FORMS": 1,
            "lines-INITIAL_FORMS": 0,
            "lines-0-id": str(UUID(int=8)),
            "lines-0-amount": 5,
        }
        sent = {"id": str(row.pk), "number": 78, **lines}
        with CaptureQueriesContext(connections[shard_for(ONE)]) as elsewhere:
            answer = staff.post(url("change", Order, row.pk), sent)
        assert answer.status_code == 302, answer.context["errors"]
        row.refresh_from_db()
        assert row.number == 78
        assert Line.objects.get(buyer=OTHER, id=UUID(int=8)).order_id == row.pk
        assert [each["sql"][:6] for each in elsewhere.captured_queries] == ["SELECT"]

    def test_an_error_leaves_nothing_of_it(self, staff: Client) -> None:
        """One transaction, on the row's shard."""
        row = order_of(OTHER)

        def fail(execute: Any, sql: str, *rest: Any) -> Any:
            if sql.startswith("INSERT"):
                raise IntegrityError("a line")
            return execute(sql, *rest)

        lines = {
            "lines-TOTAL_FORMS": 1,
            "lines-INITIAL_FORMS": 0,
            "lines-0-id": str(UUID(int=8)),
            "lines-0-amount": 5,
        }
        with (
            connections[shard_for(OTHER)].execute_wrapper(fail),
            pytest.raises(IntegrityError),
        ):
            staff.post(url("change", Order, row.pk), {"id": str(row.pk), "number": 78, **lines})
        row.refresh_from_db()
        assert row.number != 78

    def test_a_row_is_added_on_its_key_s_shard(self, staff: Client) -> None:
        for buyer in (ONE, OTHER):
            answer = staff.post(url("add"), no_lines(buyer, id=str(UUID(int=buyer))))
            assert answer.status_code == 302, answer.context["errors"]
            assert Order.objects.using(shard_for(buyer)).get(number=77).buyer_id == buyer
        assert LogEntry.objects.count() == 2

    @pytest.mark.parametrize("sent", ["", "nobody", "10000001"])
    def test_a_key_that_is_none_is_an_error_of_the_form(self, staff: Client, sent: str) -> None:
        page = staff.post(url("add"), {**no_lines(ONE), "buyer": sent})
        assert page.status_code == 200
        assert list(page.context["adminform"].errors) == ["buyer"]
        assert Order.objects.fanout().filter(number=77).count() == 0

    def test_a_new_row_s_buyer_is_named_by_her_id_as_a_list_would_be_all_shards(
        self, staff: Client
    ) -> None:
        with CaptureQueriesContext(connections[shard_for(ONE)]) as asked:
            text = staff.get(url("add")).content.decode()
        assert 'id="lookup_id_buyer"' in text  # the magnifying glass
        assert not [each for each in asked.captured_queries if "shop_buyer" in each["sql"]]

    def test_choices_are_the_shard_s_in_a_select_of_one_s_own(self, staff: Client) -> None:
        class WithSelect(ShardedAdmin):
            fields = ("buyer",)
            radio_fields = {"buyer": admin.VERTICAL}

        request = RequestFactory().get("/")
        request.user = get_user_model().objects.get()
        form = WithSelect(Line, ours).get_form(request)
        assert len(list(form.base_fields["buyer"].choices)) == len(BUYERS)
        with shard(ONE):
            form = WithSelect(Line, ours).get_form(request)
            found = {str(value) for value, _ in form.base_fields["buyer"].choices} - {""}
        assert found == {str(key) for key in BUYERS if shard_for(key) == shard_for(ONE)}

    def test_a_row_of_another_shard_is_no_choice(self, staff: Client) -> None:
        sent = {"id": str(UUID(int=7)), "buyer": ONE, "order": order_of(OTHER).pk, "amount": 1}
        page = staff.post(url("add", Line), sent)
        assert list(page.context["adminform"].errors) == ["order"]
        answer = staff.post(url("add", Line), {**sent, "order": order_of(ONE).pk})
        assert answer.status_code == 302

    def test_autocomplete_asks_all_shards(self, staff: Client) -> None:
        asked = {"app_label": "shop", "model_name": "line", "field_name": "buyer"}
        address = reverse("admin:autocomplete", current_app="ours")
        found = staff.get(address, {**asked, "term": "buyer"}).json()["results"]
        assert {each["text"] for each in found} == {f"buyer {key}" for key in BUYERS}

    def test_raw_ids_show_what_they_are(self, staff: Client) -> None:
        """Which Django asks for when the page is rendered, after the view."""
        line = Line.objects.filter(buyer=OTHER)[0]
        text = staff.get(url("change", Line, line.pk)).content.decode()
        assert f">order {line.order.number}</a>" in text

    def test_a_row_is_found_by_the_field_that_a_popup_names(self, staff: Client) -> None:
        text = staff.get(url("change", Buyer, OTHER), {"_to_field": "id"}).content.decode()
        assert f'value="buyer {OTHER}"' in text

    def test_a_row_is_deleted_with_what_hangs_on_it(self, staff: Client) -> None:
        row = order_of(OTHER)
        page = staff.get(url("delete", Order, row.pk))
        assert dict(page.context["model_count"]) == {"orders": 1, "lines": 2, "markings": 1}
        assert staff.post(url("delete", Order, row.pk), {"post": "yes"}).status_code == 302
        assert not Order.objects.filter(buyer=OTHER, pk=row.pk).exists()
        assert Marking.objects.fanout().count() == len(BUYERS) * 2 - 1

    @pytest.mark.parametrize("page", ["change", "delete", "history"])
    def test_a_row_that_is_not_there(self, staff: Client, page: str) -> None:
        for method in (staff.get, staff.post):
            answer = method(url(page, Order, UUID(int=1)))
            assert answer.status_code == 302
        page_of = staff.get(url("history", Order, order_of(ONE).pk))
        assert page_of.status_code == 200

    def test_save_as_new_goes_to_the_shard_of_what_was_sent(self, staff: Client) -> None:
        OrderAdmin.save_as = True
        try:
            sent = no_lines(OTHER, _saveasnew="1")
            answer = staff.post(url("change", Order, order_of(ONE).pk), sent)
        finally:
            OrderAdmin.save_as = False
        assert answer.status_code == 302
        assert Order.objects.get(buyer=OTHER, number=77)._state.db == shard_for(OTHER)

    def test_a_request_that_is_held_to_another_shard_is_refused(self, staff: Client) -> None:
        with shard(ONE, lock=True), pytest.raises(CrossShardError):
            staff.post(url("add"), no_lines(OTHER))


def test_a_list_to_edit_is_refused_at_start() -> None:
    class Editable(ShardedAdmin):
        list_display = ("number", "is_paid")
        list_editable = ("is_paid",)

    ids = [each.id for each in Editable(Order, ours).check()]
    assert ids == ["dbpatterns_sharding.E022"]


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No page leaves its shard behind."""
    from dbpatterns.sharding import current_shard

    yield
    assert current_shard() is None
