"""A small shop on the shards, and the same on one database."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def filled(db: None) -> Iterator[None]:
    """The shop with its rows, on the shards and on one database; at the end all are in place."""
    from tests.plainshop import models as plain  # models, which are there when Django is set up
    from tests.sharding.support import fill, misplaced
    from tests.shop import models as shop

    fill(shop)
    fill(plain)
    yield
    assert misplaced() == []
