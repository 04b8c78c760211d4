"""One account kept as several, so that several transfers at a time may change it.

    shop = Slots.open("shop", currency="EUR")
    shop.receive(buyer, 1_250)       # on one of sixteen accounts, each a row with a lock of its own
    shop.pay(supplier, 90_000)       # from one of them, to which the others give what it lacks
    shop.balance()

A `Batcher` serves more callers in a second, but commits by itself. Slots are for a payment that is
one transaction with the caller's own work, and for postings that are folded into one account now
and then: `fold`.
"""

import random
import zlib
from collections.abc import Iterable
from functools import partial
from typing import Any, Self

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import Sum

from dbpatterns.errors import UsageError
from dbpatterns.ledger.booking import Sheet
from dbpatterns.ledger.errors import InsufficientFunds
from dbpatterns.ledger.models import MAX_AMOUNT, Account, Transfer
from dbpatterns.ledger.payments import Payment, account_id, database_of
from dbpatterns.ledger.posting import KeyTaken, load_sheet, write
from dbpatterns.ledger.transfers import transfer

__all__ = ["Slots"]


class Slots:
    """Accounts that stand for one. They may be kept by name: `Slots(Account.objects.filter(…))`.

    A payment with an idempotency key takes the slot that the key says, so that a repeated one finds
    its transfer, and is refused where that is closed; without a key any slot that was open when it
    was read.
    """

    def __init__(self, accounts: Iterable[Account], *, using: str | None = None) -> None:
        """Take accounts of one database; one query if they are a queryset.

        Raises: UsageError: there are none, or of several databases or currencies.
        """
        self.accounts = tuple(sorted(accounts, key=account_id))
        if not self.accounts:
            raise UsageError("Slots are one account or more, and here is none: open some first.")
        currencies = sorted({each.currency for each in self.accounts})
        if len(currencies) > 1:
            raise UsageError(f"Slots are one account, of one currency: not {currencies}.")
        self.using = database_of(*self.accounts, using=using)
        self._ids = [account_id(each) for each in self.accounts]
        self._open = [account_id(each) for each in self.accounts if each.closed_at is None]

    @classmethod
    def open(
        cls,
        name: str,
        *,
        currency: str,
        count: int = 16,
        min_balance: int | None = 0,
        using: str = DEFAULT_DB_ALIAS,
    ) -> Self:
        """Open accounts of one name; two statements.

        Args:
            min_balance: of all together; each gets its part. None for no limit.
        Raises: UsageError: `count` is below 1.
        """
        if count < 1:
            raise UsageError(f"Slots are one account or more, not {count}.")
        part, rest = divmod(min_balance or 0, count)
        made = [
            Account(
                name=name,
                currency=currency,
                min_balance=None if min_balance is None else part + (number < rest),
            )
            for number in range(count)
        ]
        with transaction.atomic(using=using):
            Account.objects.using(using).bulk_create(made)
        return cls(made, using=using)

    def balance(self) -> int:
        """Return what all slots have, as one query sees it."""
        rows = Account.objects.using(self.using).filter(pk__in=self._ids)
        return int(rows.aggregate(total=Sum("balance"))["total"])

    def receive(self, source: Account | int, amount: int, **options: Any) -> Transfer:
        """Move money into one slot. Options, cost and errors are those of `transfer`."""
        slot = self._slot(options.get("idempotency_key"))
        return transfer(source, slot, amount, using=self.using, **options)

    def pay(
        self,
        destination: Account | int,
        amount: int,
        *,
        currency: str | None = None,
        idempotency_key: str | None = None,
        reference: str = "",
    ) -> Transfer:
        """Move money out of one slot.

        As `transfer` where the slot has enough, in a savepoint within a transaction. Else one
        transaction, or savepoint, more: it locks all slots and moves what is lacking into this
        one first, by transfers of their own.

        Raises: TransferError: as `transfer`; InsufficientFunds tells what all slots have together.
        """
        slot = self._slot(idempotency_key)
        pay = partial(
            transfer,
            slot,
            destination,
            amount,
            currency=currency,
            idempotency_key=idempotency_key,
            reference=reference,
            using=self.using,
        )
        try:
            if not connections[self.using].in_atomic_block:
                return pay()
            with transaction.atomic(using=self.using):  # a refusal lets go of what it has locked
                return pay()
        except InsufficientFunds:
            payment = Payment(slot, destination, amount, currency, idempotency_key, reference)
        try:
            with transaction.atomic(using=self.using):
                number, is_replay = self._gather_and_pay(slot, payment)
        except KeyTaken:  # by a transfer between other accounts, as this one will say
            return pay()
        made = Transfer.objects.using(self.using).get(pk=number)
        made.is_replay = is_replay
        return made

    def fold(self, destination: Account | int) -> int:
        """Move all that lies on the open slots to one account; return how much it was.

        One transaction of two statements, which locks all of them.
        Raises: TransferError: the destination takes no money, or not so much.
        """
        with transaction.atomic(using=self.using):
            sheet = load_sheet(self.using, [*self._ids, account_id(destination)], [])
            moved = 0
            for slot in self._ids:
                state = sheet.accounts[slot]
                left = 0 if state.is_closed else min(state.balance, state.available)
                while left > 0:
                    piece = min(left, MAX_AMOUNT)
                    sheet.book(Payment(slot, destination, piece, reference="fold"))
                    left -= piece
                    moved += piece
            write(self.using, sheet)
        return moved

    def _slot(self, key: str | None) -> int:
        if key is None:
            return random.choice(self._open or self._ids)  # no secret
        return self._ids[zlib.crc32(key.encode()) % len(self._ids)]

    def _gather_and_pay(self, slot: int, payment: Payment) -> tuple[int, bool]:
        keys = [payment.idempotency_key] if payment.idempotency_key else []
        sheet = load_sheet(self.using, [*self._ids, account_id(payment.destination)], keys)
        try:
            booking, is_replay = sheet.book(payment)  # paid, or filled, while this waited
        except InsufficientFunds as refused:
            self._gather(sheet, slot, refused)
            booking, is_replay = sheet.book(payment)  # or all of them have too little together
        write(self.using, sheet)
        return booking.id or 0, is_replay

    def _gather(self, sheet: Sheet, slot: int, refused: InsufficientFunds) -> None:
        have, wanted = refused.facts["available"], refused.facts["amount"]
        others = [sheet.accounts[each] for each in self._ids if each != slot]
        spare = {each.id: each.available for each in others if not each.is_closed}
        for each in sorted(spare, key=lambda each: -spare[each]):
            piece = min(spare[each], wanted - have)
            if piece > 0:
                sheet.book(Payment(each, slot, piece, reference="gather"))
                have += piece
