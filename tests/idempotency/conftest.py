"""The tests of idempotency keys have them on `default`; the demo has them on its shards."""

from collections.abc import Iterator

import pytest

from tests.testapp.placement import on_default_only


@pytest.fixture(autouse=True)
def _keys_on_default() -> Iterator[None]:
    with on_default_only():
        yield
