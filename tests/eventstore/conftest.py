"""The tests of the event store have it on `default`; the demo has one on each of its shards."""

from collections.abc import Iterator

import pytest

from tests.testapp.placement import on_default_only


@pytest.fixture(autouse=True)
def _events_on_default() -> Iterator[None]:
    with on_default_only():
        yield
