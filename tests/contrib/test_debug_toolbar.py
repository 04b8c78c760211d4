"""The panel in the real django-debug-toolbar, around a real request."""

from typing import Any

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path

pytestmark = pytest.mark.django_db


def page(request: HttpRequest) -> HttpResponse:
    """Run one statement twice, and another that fails nobody."""
    with connection.cursor() as cursor:
        for _ in range(2):
            cursor.execute("SELECT '<b>' || %s", ["secret"])
    return HttpResponse("<html><body>A page</body></html>")


@pytest.fixture
def client(settings: Any) -> Client:
    """A client of a site with the toolbar and our panel only."""
    settings.DEBUG = True
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "debug_toolbar"]
    settings.MIDDLEWARE = ["debug_toolbar.middleware.DebugToolbarMiddleware"]
    settings.DEBUG_TOOLBAR_PANELS = ["dbpatterns.contrib.debug_toolbar.QueriesPanel"]
    settings.DEBUG_TOOLBAR_CONFIG = {"SHOW_TOOLBAR_CALLBACK": lambda request: True}
    # Only now: the toolbar has models, which need its app.
    settings.ROOT_URLCONF = (
        path("page/", page),
        path("__debug__/", include("debug_toolbar.urls")),
    )
    return Client()


def test_the_toolbar_shows_what_the_request_asked(client: Client) -> None:
    response = client.get("/page/")
    text = response.content.decode()
    assert "Statements" in text
    assert "2 calls, 1 again" in text
    store = text.partition('data-request-id="')[2].partition('"')[0]
    panel = client.get(
        "/__debug__/render_panel/", {"request_id": store, "panel_id": "QueriesPanel"}
    ).json()["content"]
    assert "SELECT %s || %s" in panel
    assert "secret" not in panel
    assert f"{__file__}:" in panel
    assert "<th>duplicates</th>" in panel


def test_the_panel_leaves_no_wrapper_behind(client: Client) -> None:
    before = list(connection.execute_wrappers)
    for _ in range(3):
        client.get("/page/")
    assert connection.execute_wrappers == before


def test_what_a_page_shows_is_escaped(client: Client) -> None:
    from dbpatterns.contrib.debug_toolbar import QueriesPanel

    class Store(QueriesPanel):
        def _queries(self) -> list[dict[str, Any]]:
            names = ("calls", "duplicates", "total_ms", "p95_ms", "rows", "errors")
            facts = {**dict.fromkeys(names, None), "calls": 1, "duplicates": 0}
            return [{**facts, "fingerprint": "<script>", "site": "<a>"}]

    panel = Store(None, lambda request: HttpResponse())
    assert "<script>" not in panel.content
    assert "&lt;script&gt;" in panel.content
    assert "<td>-</td>" in panel.content
    assert panel.nav_subtitle == "1 call, 0 again"
