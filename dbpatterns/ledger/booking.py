"""What a payment does to accounts, in plain Python: the rules, without a database.

`Sheet` books payments one after the other on copies of locked accounts. PostgreSQL's function
`dbpatterns_ledger_move` has the same rules in the same order, and the tests hold the two against
each other. Batches are booked here on every vendor, and single transfers on SQLite.
"""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dbpatterns.ledger import errors
from dbpatterns.ledger.models import MAX_BALANCE
from dbpatterns.ledger.payments import Payment, account_id, checked_amount

__all__ = ["AccountState", "Booking", "Sheet"]


@dataclass(slots=True)
class AccountState:
    """The columns of an account that decide, as they are when it is locked."""

    id: int
    currency: str
    balance: int
    pending_debits: int
    pending_credits: int
    version: int
    min_balance: int | None
    max_balance: int | None
    is_closed: bool

    @property
    def available(self) -> int:
        """What may leave."""
        least = -MAX_BALANCE if self.min_balance is None else self.min_balance
        return self.balance - self.pending_debits - least

    @property
    def room(self) -> int:
        """What may arrive."""
        most = MAX_BALANCE if self.max_balance is None else self.max_balance
        return most - self.balance - self.pending_credits


@dataclass(slots=True)
class Booking:
    """A transfer with what it leaves behind on both sides; `id` once it is a row."""

    source: int
    destination: int
    amount: int
    currency: str
    key: str
    reference: str
    is_pending: bool
    expires_in: datetime.timedelta | None = None
    reverses: int | None = None
    source_version: int = 0
    source_balance: int = 0
    destination_version: int = 0
    destination_balance: int = 0
    id: int | None = None

    def answers(self, payment: Payment, reverses: int | None) -> bool:
        """Tell whether the payment is the one this transfer was made for."""
        return (
            self.source == account_id(payment.source)
            and self.destination == account_id(payment.destination)
            and self.amount == payment.amount
            and self.reference == payment.reference
            and self.currency == (payment.currency or self.currency)
            and self.is_pending == payment.pending
            and self.reverses == reverses
        )


class Sheet:
    """Locked accounts, and the transfers booked on them so far; nothing here is a row yet."""

    def __init__(self, accounts: Iterable[AccountState], keyed: Mapping[str, Booking]) -> None:
        self.accounts = {each.id: each for each in accounts}
        self.made: list[Booking] = []
        self.reversals: Mapping[int, int] = {}
        """By transfer, what reversed it."""
        self._keyed = dict(keyed)

    @property
    def changed(self) -> list[AccountState]:
        """The accounts that the bookings touch."""
        touched = {side for each in self.made for side in (each.source, each.destination)}
        return [self.accounts[each] for each in sorted(touched)]

    def book(self, payment: Payment, *, reverses: int | None = None) -> tuple[Booking, bool]:
        """Book a payment; return its transfer, and whether that came before under its key.

        Raises: TransferError: the accounts stay as they were.
        """
        checked_amount(payment.amount)
        key = payment.idempotency_key or ""
        source_id, destination_id = account_id(payment.source), account_id(payment.destination)
        if source_id == destination_id:
            raise errors.SameAccount(account=source_id)
        if before := self._keyed.get(key):
            if before.answers(payment, reverses):
                return before, True
            raise errors.IdempotencyConflict(key=key, transfer=before.id)
        if reverses is not None and reverses in self.reversals:
            raise errors.AlreadyReversed(transfer=reverses, reversal=self.reversals[reverses])
        source = self.accounts.get(source_id)
        destination = self.accounts.get(destination_id)
        if source is None or destination is None:
            raise errors.AccountNotFound(account=destination_id if source else source_id)
        _refuse(payment, source, destination)
        booking = Booking(
            source_id,
            destination_id,
            payment.amount,
            source.currency,
            key,
            payment.reference,
            payment.pending,
            payment.expires_in,
            reverses,
        )
        if payment.pending:
            source.pending_debits += payment.amount
            destination.pending_credits += payment.amount
        else:
            move(booking, source, destination, payment.amount)
        self.made.append(booking)
        if key:
            self._keyed[key] = booking
        return booking, False

    def mark(self, payments: Iterable[Payment]) -> "Mark":
        """Return a point to come back to from these payments; copies their accounts."""
        sides = {account_id(side) for each in payments for side in (each.source, each.destination)}
        copies = [replace(self.accounts[each]) for each in sides if each in self.accounts]
        return copies, len(self.made)

    def undo(self, mark: "Mark") -> list[Booking]:
        """Forget what was booked since the mark, and return it."""
        copies, length = mark
        undone = self.made[length:]
        self.accounts.update({each.id: each for each in copies})
        for each in undone:
            self._keyed.pop(each.key, None)
        del self.made[length:]
        return undone


Mark = tuple[list[AccountState], int]


def move(booking: Booking, source: AccountState, destination: AccountState, amount: int) -> None:
    """Take the amount from one side to the other, and note what each has then."""
    source.balance -= amount
    source.version += 1
    destination.balance += amount
    destination.version += 1
    booking.source_version, booking.source_balance = source.version, source.balance
    booking.destination_version = destination.version
    booking.destination_balance = destination.balance


def _refuse(payment: Payment, source: AccountState, destination: AccountState) -> None:
    for each in (source, destination):
        if each.is_closed:
            raise errors.AccountClosed(account=each.id)
    wanted = payment.currency or source.currency
    for each in (source, destination):
        if each.currency != wanted:
            raise errors.CurrencyMismatch(account=each.id, currency=each.currency, wanted=wanted)
    amount = payment.amount
    if source.available < amount:
        raise errors.InsufficientFunds(account=source.id, available=source.available, amount=amount)
    if destination.room < amount:
        raise errors.LimitExceeded(account=destination.id, room=destination.room, amount=amount)
