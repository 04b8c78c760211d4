"""The ledger's tests leave an empty ledger: on SQLite its guards refuse Django's flush."""

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import override_settings

from dbpatterns.testing.ledger import empty_ledger


@pytest.fixture(autouse=True)
def _ledger_on_default() -> Iterator[None]:
    """Have one ledger: those of the demo's shards are not this folder's."""
    sharding = {**settings.DBPATTERNS["SHARDING"], "APPS": ["banking"]}
    with override_settings(DBPATTERNS={**settings.DBPATTERNS, "SHARDING": sharding}):
        yield


@pytest.fixture(autouse=True)
def _empty_ledger(request: pytest.FixtureRequest) -> Iterator[None]:
    mark = request.node.get_closest_marker("django_db")
    if mark is None or not mark.kwargs.get("transaction"):
        yield
        return
    request.getfixturevalue("transactional_db")  # torn down after this one
    yield
    empty_ledger()
