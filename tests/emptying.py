"""Emptying tables after a test that commits, where Django's flush is refused."""

from collections.abc import Callable, Iterator

import pytest

__all__ = ["emptied_after"]


def emptied_after(request: pytest.FixtureRequest, empty: Callable[[], None]) -> Iterator[None]:
    """Run the test and then `empty()`, before Django's flush, if the test commits."""
    mark = request.node.get_closest_marker("django_db")
    if mark is None or not mark.kwargs.get("transaction"):
        yield
        return
    request.getfixturevalue("transactional_db")  # torn down after this one
    yield
    empty()
