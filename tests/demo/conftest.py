"""Every request of the demo's tests is guarded; fixtures of the API's tests start with `api_`.

`open_page` is for the tests in a browser: each module of them has a demo, with the data its SEED
makes.

Pytest may load this file before the root conftest has set Django up: imports wait till use.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.emptying import emptied_after

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.demo.api_support import Bank
    from tests.demo.browser import Open


@pytest.fixture(autouse=True)
def guarded() -> Iterator[None]:
    """Let the middleware refuse an N+1 in any request; what a test does itself is not watched."""
    from django.conf import settings
    from django.test import override_settings

    strict = {"MODE": "raise", "WRITES": "raise"}  # and nothing allowed
    with override_settings(
        DBPATTERNS={**settings.DBPATTERNS, "QUERIES": strict},
        DATABASE_ROUTERS=settings.DATABASE_ROUTERS[1:],  # the demo's own, see tests/settings.py
    ):
        yield


@pytest.fixture(autouse=True)
def _empty_ledgers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave empty ledgers: on SQLite their guards refuse Django's flush."""

    def empty() -> None:
        from tests.demo.bank_support import empty_bank

        empty_bank()

    yield from emptied_after(request, empty)


@pytest.fixture
def api_bank() -> "Bank":
    """A bank with a few people; mark the test with all databases."""
    from tests.demo.api_support import Bank

    return Bank()


@pytest.fixture
def api_fresh_throttles() -> Iterator[None]:
    """Forget who asked how often: throttles count in the cache."""
    from django.core.cache import cache

    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def api_no_throttles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everybody ask as often as they like."""
    from rest_framework.throttling import SimpleRateThrottle

    for scope in list(SimpleRateThrottle.THROTTLE_RATES):
        monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, scope, None)


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """A browser, or a skip that says what is missing."""
    from tests.demo.browser import running_chromium

    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(
    chromium: "Browser", request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a demo of the module's own, with the data of its SEED."""
    from tests.demo.browser import running_demo

    with running_demo(tmp_path_factory.mktemp("demo"), request.module.SEED) as address:
        yield address


@pytest.fixture
def open_page(chromium: "Browser", site: str) -> "Iterator[Open]":
    """Open an address at a size; fails at the end if any console showed an error."""
    from tests.demo.browser import pages_of

    with pages_of(chromium, site) as open_:
        yield open_
