"""The ledger's tests leave an empty ledger: on SQLite its guards refuse Django's flush."""

from collections.abc import Iterator

import pytest

from dbpatterns.testing.ledger import empty_ledger
from tests.emptying import emptied_after
from tests.testapp.placement import on_default_only


@pytest.fixture(autouse=True)
def _ledger_on_default() -> Iterator[None]:
    with on_default_only():
        yield


@pytest.fixture(autouse=True)
def _empty_ledger(request: pytest.FixtureRequest) -> Iterator[None]:
    yield from emptied_after(request, empty_ledger)
