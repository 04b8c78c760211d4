"""The `TRANSACTIONS` section of `DBPATTERNS`."""

from dataclasses import dataclass
from typing import ClassVar

from dbpatterns.conf import Section

__all__ = ["TransactionsSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionsSettings(Section):
    """When savepoints become too many for PostgreSQL."""

    key: ClassVar[str] = "TRANSACTIONS"

    warn_savepoints: int = 50
    """Savepoints of one transaction at which a warning is logged."""
    strict_savepoints: bool = False
    """Whether `atomic` and `savepoint` of this package refuse to make the 65th savepoint of a
    transaction that one of them began. Django's own are counted, and not refused."""
