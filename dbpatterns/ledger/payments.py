"""What is asked for: a payment, an amount, an account, and the database they are in."""

import datetime
import math
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import router

from dbpatterns.errors import UsageError
from dbpatterns.ledger import errors
from dbpatterns.ledger.models import MAX_AMOUNT, MAX_BALANCE, Account, Transfer

__all__ = ["Payment", "account_id", "checked_amount", "database_of"]

LONGEST = datetime.timedelta(days=36_525)
"""How far the end of a pending payment may lie ahead."""
TEXT = 200
"""Characters of a reference or a key."""


@dataclass(frozen=True, slots=True)
class Payment:
    """One movement of money to be made; the arguments of `transfer()`."""

    source: Account | int
    destination: Account | int
    amount: int
    """Minor units."""
    currency: str | None = None
    """What both accounts must be in; the source's if not given."""
    idempotency_key: str | None = None
    reference: str = ""
    pending: bool = False
    expires_in: datetime.timedelta | None = None
    group: Hashable = None
    """Neighbours of one group are made together, or none of them is."""

    def __post_init__(self) -> None:
        key: Any = self.idempotency_key
        reference: Any = self.reference  # what a caller without types may pass
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= TEXT):
            raise UsageError(f"An idempotency key is a text of 1 to {TEXT} characters: {key!r}.")
        if not isinstance(reference, str) or len(reference) > TEXT:
            raise UsageError(f"A reference is a text of at most {TEXT} characters.")
        if "\0" in f"{key}{reference}{self.currency}":
            raise UsageError("A key, a reference and a currency have no NUL character.")
        currency: Any = self.currency
        if currency is not None and not (isinstance(currency, str) and currency):
            raise UsageError(f"A currency is a text such as 'EUR', not {currency!r}.")
        if type(self.pending) is not bool:
            raise UsageError(f"`pending` is True or False, not {self.pending!r}.")
        if self.expires_in is not None and not (
            self.pending and datetime.timedelta(0) < self.expires_in <= LONGEST
        ):
            raise UsageError(
                "`expires_in` is above zero and at most 100 years, and for a pending payment only."
            )


def checked_amount(amount: Any, limit: int = MAX_AMOUNT) -> int:
    """Return the amount if it is a whole number of minor units, 1 to `limit`.

    Raises: InvalidAmount.
    """
    fault = None
    if type(amount) is not int:
        is_number = (isinstance(amount, float) and math.isfinite(amount)) or (
            isinstance(amount, Decimal) and amount.is_finite()
        )
        is_whole = not is_number or abs(amount) > MAX_BALANCE or amount == int(amount)
        fault = errors.AmountFault.NO_INTEGER if is_whole else errors.AmountFault.OVER_PRECISE
    elif amount < 1:
        fault = errors.AmountFault.NEGATIVE if amount else errors.AmountFault.ZERO
    elif amount > limit:
        fault = errors.AmountFault.TOO_LARGE
    if fault:
        raise errors.InvalidAmount(amount=amount, fault=fault, limit=limit)
    return int(amount)


def account_id(account: Account | int) -> int:
    """Return the primary key of an account, given as itself or as its key.

    Raises: UsageError: it is neither, or was never saved.
    """
    found = account.pk if isinstance(account, Account) else account
    if type(found) is not int:
        raise UsageError(f"An account is a saved Account or its id, not {account!r}.")
    return found


def database_of(*accounts: Account | int, using: str | None) -> str:
    """Return the database to write to: `using`, or where the accounts live.

    Ids of two databases may be the same number, so accounts of another one are refused.
    Raises: UsageError.
    """
    aliases = {
        router.db_for_write(Transfer, instance=each)
        for each in accounts
        if isinstance(each, Account)
    }
    aliases |= {using} if using else set()
    if len(aliases) > 1:
        raise UsageError(
            f"The accounts and `using` name several databases, {', '.join(sorted(aliases))}: a "
            "transfer is one transaction, so both accounts live in one."
        )
    return aliases.pop() if aliases else router.db_for_write(Transfer)
