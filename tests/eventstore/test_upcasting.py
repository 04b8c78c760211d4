"""Events of old versions are read as today's code would have written them."""

from typing import Any

import pytest
from django.core import checks

from dbpatterns.errors import UsageError
from dbpatterns.eventstore import upcasting
from dbpatterns.eventstore.appending import NewEvent, append
from dbpatterns.eventstore.errors import UnknownEventVersion
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.reading import read, read_all
from dbpatterns.eventstore.upcasting import current_version, upcast, upcaster


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcasting, "_upcasters", {})


def add_currency(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "currency": "EUR"}


def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    data["cents"] = data.pop("euros") * 100
    return data


@pytest.mark.django_db(transaction=True)
def test_an_event_written_before_is_read_through_each_step_and_not_changed() -> None:
    append("s", [NewEvent("Paid", {"euros": 5})], expected_version=0)
    upcaster("Paid", from_version=1)(add_currency)
    append("s", [NewEvent("Paid", {"euros": 6, "currency": "CHF"})], expected_version=1)
    upcaster("Paid", from_version=2)(in_cents)
    append("s", [NewEvent("Paid", {"cents": 7, "currency": "CHF"})], expected_version=2)
    wanted = [
        {"cents": 500, "currency": "EUR"},
        {"cents": 600, "currency": "CHF"},
        {"cents": 7, "currency": "CHF"},
    ]
    assert [each.data for each in read("s")] == wanted
    assert [each.data for each in read_all()] == wanted
    rows = StoredEvent.objects.order_by("version")
    assert [row.type_version for row in rows] == [1, 2, 3]
    assert rows[0].data == {"euros": 5}


def test_a_type_without_upcasters_is_at_its_first_version() -> None:
    assert current_version("Paid") == 1
    assert upcast("Paid", 1, {"a": 1}) == {"a": 1}


def test_an_event_of_newer_code_is_refused() -> None:
    with pytest.raises(UnknownEventVersion, match="Deploy the upcaster before") as caught:
        upcast("Paid", 2, {})
    assert (caught.value.type, caught.value.version, caught.value.newest) == ("Paid", 2, 1)


@pytest.mark.django_db(databases="__all__")  # Django 6.1 asks SQLite about JSON
def test_a_gap_is_an_error_of_the_checks_and_of_reading() -> None:
    upcaster("Whole", from_version=1)(add_currency)
    upcaster("Whole", from_version=2)(add_currency)
    upcaster("Paid", from_version=3)(add_currency)
    found = [each for each in checks.run_checks() if each.id == "dbpatterns_eventstore.E001"]
    assert [each.msg for each in found] == [
        "Nothing upcasts version 1 of event type 'Paid' to 2.",
        "Nothing upcasts version 2 of event type 'Paid' to 3.",
    ]
    assert found[0].hint == 'Write a function for it: @upcaster("Paid", from_version=1).'
    with pytest.raises(UsageError, match="Nothing upcasts version 2 of 'Paid'"):
        upcast("Paid", 2, {})
    assert upcast("Paid", 3, {}) == {"currency": "EUR"}


def test_a_step_has_one_function_and_begins_at_1() -> None:
    upcaster("Paid", from_version=1)(add_currency)
    with pytest.raises(UsageError, match=r"upcast by .*add_currency already, not by .*in_cents"):
        upcaster("Paid", from_version=1)(in_cents)
    with pytest.raises(UsageError, match="begin at 1, not 0"):
        upcaster("Paid", from_version=0)(in_cents)


def test_a_step_that_returns_nothing_is_refused() -> None:
    upcaster("Paid", from_version=1)(lambda data: data.clear())  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError, match="must return a dict, not None"):
        upcast("Paid", 1, {"a": 1})
