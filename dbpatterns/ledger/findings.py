"""What can be wrong with the books, and where it was found."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Damage", "Finding"]


class Damage(StrEnum):
    """What can be wrong."""

    WRONG_BALANCE = "wrong balance"
    """An account's balance is not the sum of its entries."""
    VERSION_GAP = "version gap"
    """An account's entries are not numbered 1 to its version."""
    WRONG_BALANCE_AFTER = "wrong balance after"
    """An entry's `balance_after` is not the sum up to it."""
    WRONG_HOLD = "wrong hold"
    """What an account holds is not what its pending transfers ask for."""
    MISSING_ENTRY = "missing entry"
    """A posted transfer has not both entries."""
    NOT_ZERO = "entries do not sum to zero"
    """A transfer makes money, or loses some."""
    WRONG_ENTRY = "wrong entry"
    """A transfer's entries are of other accounts or amounts, or of a transfer not posted."""
    WRONG_CURRENCY = "wrong currency"
    """A transfer is in another currency than one of its accounts."""
    ORPHAN = "orphan"
    """The transfer of an entry, or the account of an entry or a transfer, is not there."""
    BEYOND_LIMITS = "beyond limits"
    """An account is under its `min_balance` or over its `max_balance`."""
    WRONG_REVERSAL = "wrong reversal"
    """A transfer does not move back what the one that it reverses has moved."""
    DOUBLE = "double"
    """Two transfers of one key, or two that reverse the same: an index is broken."""
    NO_GUARD = "no guard"
    """A trigger or function of the ledger is missing, or the trigger is disabled."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what it should be and what it is."""

    damage: Damage
    subject: str
    expected: Any = None
    found: Any = None

    def __str__(self) -> str:
        told = f"{self.subject}: {self.damage}"
        if self.expected is None:
            return told
        return f"{told}, {self.found} instead of {self.expected}"
