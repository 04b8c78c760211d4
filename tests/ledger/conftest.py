"""The ledger's tests leave an empty ledger: on SQLite its guards refuse Django's flush."""

from collections.abc import Iterator

import pytest

from dbpatterns.testing.ledger import empty_ledger
from tests.testapp.placement import on_default_only


@pytest.fixture(autouse=True)
def _ledger_on_default() -> Iterator[None]:
    with on_default_only():
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
