"""What a batch is made of, and what became of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbpatterns.ledger.payments import Payment

__all__ = ["BatchResult", "Item", "ItemResult"]

Item = Payment | Callable[[], Any]
"""A payment, or work of your own that "bisect" and "savepoint" run in a transaction."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item."""

    code: str
    """"made", "replayed", or the `code` of the refusal; "failed" for work that raised."""
    transfer: int | None = None
    """The id of the transfer."""
    error: Exception | None = None
    value: Any = field(default=None, compare=False)
    """What a function of yours returned."""

    @property
    def is_made(self) -> bool:
        """Whether the money moved, now or under the same key before."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """A result for each item, in the order given."""

    results: Sequence[ItemResult]

    @property
    def made(self) -> int:
        """How many were made, now or before."""
        return sum(each.is_made for each in self.results)

    @property
    def refused(self) -> int:
        """How many were not."""
        return len(self.results) - self.made
