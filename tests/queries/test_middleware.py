"""Requests under the guard, sync and async."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.test import AsyncClient, Client, override_settings

from dbpatterns.queries import NPlusOneError, guard
from dbpatterns.queries.capture import current_scope
from tests.testapp.models import Novel


@pytest.fixture(autouse=True)
def guarded(settings: Any) -> Any:
    settings.ROOT_URLCONF = "tests.queries.urls"
    settings.MIDDLEWARE = ["dbpatterns.queries.middleware.NPlusOneMiddleware"]
    settings.DBPATTERNS = {"QUERIES": {"MODE": "raise"}}
    return settings


def test_a_view_with_a_loop_answers_without_the_middleware(
    novels: list[Novel], settings: Any
) -> None:
    settings.MIDDLEWARE = []
    assert Client().get("/loop/").status_code == 200  # the harm: nobody notices


def test_a_loop_in_a_template_is_found_and_told_with_its_line(novels: list[Novel]) -> None:
    with pytest.raises(NPlusOneError) as raised:
        Client().get("/loop/")
    finding = raised.value.finding
    assert finding.place.path == "tests/queries/urls.py"
    assert finding.template == "<unknown source>:1"
    assert finding.fix == '.select_related("novelist")'
    assert "(template <unknown source>:1)" in str(finding)
    assert current_scope() is None


def test_a_view_that_swallows_the_error_is_told_on_all_the_same(novels: list[Novel]) -> None:
    with pytest.raises(NPlusOneError, match=r"Novel\.novelist"):
        Client().get("/swallowing/")
    assert Client(raise_request_exception=False).get("/swallowing/").status_code == 500


def test_two_requests_are_two_scopes(novels: list[Novel]) -> None:
    for novel in novels:
        assert Client().get(f"/once/{novel.pk}/").status_code == 200


def test_requests_under_an_outer_guard_are_places_of_their_own(novels: list[Novel]) -> None:
    with guard("raise") as report:
        for novel in novels:
            Client().get(f"/once/{novel.pk}/")
    assert report.queries >= len(novels)
    with pytest.raises(NPlusOneError), guard("raise"):
        [Novel.objects.get(pk=novel.pk) for novel in novels]


def test_a_loop_under_an_outer_guard_is_the_outer_ones(novels: list[Novel], settings: Any) -> None:
    settings.DBPATTERNS = {"QUERIES": {"MODE": "off"}}
    with guard("log") as report:
        Client().get("/loop/")
    assert [each.count for each in report.findings] == [4]


@pytest.mark.django_db(transaction=True)
def test_an_async_view_is_guarded_and_the_awaiting_line_told() -> None:
    from tests.testapp.models import Nation, Novelist

    novelist = Novelist.objects.create(name="a", nation=Nation.objects.create(name="b"))
    for number in range(3):
        Novel.objects.create(title=str(number), novelist=novelist)

    async def requests() -> Any:
        with pytest.raises(NPlusOneError) as raised:
            await AsyncClient().get("/async-loop/")
        with guard("log") as report:
            assert (await AsyncClient().get("/async-loop/")).status_code == 200
        assert report.findings
        await sync_to_async(connections.close_all)()
        return raised.value.finding

    finding = asyncio.run(requests())
    assert finding.place.path == "tests/queries/urls.py"
    # Python 3.12 and later run a comprehension in the function itself.
    assert finding.place.function in ("async_loop", "<listcomp>")


def test_broken_settings_are_an_error_at_start() -> None:
    with (
        override_settings(DBPATTERNS={"QUERIES": {"MODE": "rise"}}),
        pytest.raises(ImproperlyConfigured, match="mode is 'rise'"),
    ):
        WSGIHandler()
