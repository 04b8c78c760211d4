"""Read by mypy, never run: the types that reach a user of optimistic locking."""

from typing import assert_type

from dbpatterns.optimistic import StaleObjectError
from tests.testapp.models import Page


def reading(page: Page, error: StaleObjectError) -> None:
    """What comes back is the model's own type."""
    assert_type(Page.objects.update(title="a"), int)
    assert_type(page.version, int)
    assert_type(error.expected_version, int)
    assert_type(error.stored_version, int | None)
    page.force_increment("default", 1)  # type: ignore[call-arg]
