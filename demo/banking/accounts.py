"""Accounts as a queryset makes and changes them: each with one of the ledger's, money by booking.

Nothing writes a balance here, because nothing can: the ledger's tables refuse it. Whoever sets
one gets a booking from or to the shard's opening account, and the books stay right.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.utils import timezone

from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.ledger.transfers import transfer
from demo.banking.events import BALANCE_SET, Movement, record

if TYPE_CHECKING:
    from demo.banking.models import Account

__all__ = ["AccountQuerySet", "closed_at", "ledger_account"]


def closed_at(status: str) -> datetime | None:
    """Return what the ledger's account says of an open or closed one."""
    return None if status == "open" else timezone.now()


def ledger_account(account: "Account") -> LedgerAccount:
    """Return the ledger's account for a new one, not saved yet; a customer's is never overdrawn."""
    return LedgerAccount(
        name=account.number,
        currency=account.currency,
        min_balance=0 if account.kind == account.Kind.CUSTOMER else None,
        closed_at=closed_at(account.status),
    )


class AccountQuerySet(models.QuerySet["Account"]):
    """Accounts of one shard; each method below is one transaction."""

    def create(self, *, balance: int = 0, **values: Any) -> "Account":
        """Open an account; two statements, and with a balance those of a transfer and four."""
        with transaction.atomic(using=self.db):
            account = super().create(**values)
            if balance:
                self._settle(account, balance)
        return account

    def bulk_create(self, objs: Iterable["Account"], *args: Any, **options: Any) -> list["Account"]:
        """Open accounts without money; a statement for the ledger's, one for the bank's."""
        accounts = list(objs)
        with transaction.atomic(using=self.db):
            made = LedgerAccount.objects.using(self.db).bulk_create(map(ledger_account, accounts))
            for account, each in zip(accounts, made, strict=True):
                account.ledger = each
            return super().bulk_create(accounts, *args, **options)

    def update(self, **values: Any) -> int:
        """Change columns; a status is the ledger's too, and a balance is booked for each row."""
        if not {"balance", "status"} & values.keys():
            return super().update(**values)
        balance = values.pop("balance", None)
        with transaction.atomic(using=self.db):
            accounts = list(self.select_related("ledger"))
            rows = self.model._default_manager.using(self.db).filter(
                pk__in=[each.pk for each in accounts]
            )
            if values:
                super(AccountQuerySet, rows.all()).update(**values)
            if "status" in values:
                LedgerAccount.objects.using(self.db).filter(bank__in=rows).update(
                    closed_at=closed_at(values["status"])
                )
            for account in accounts if balance is not None else ():
                self._settle(account, balance)
        return len(accounts)

    def _settle(self, account: "Account", balance: int) -> None:
        is_usual = account._meta.get_field("currency").get_default() == account.currency
        opening, _ = self.model._default_manager.using(self.db).get_or_create(
            kind=account.Kind.OPENING,
            currency=account.currency,
            defaults={
                "number": f"opening-{self.db}" + ("" if is_usual else f"-{account.currency}")
            },
        )
        change = balance - account.ledger.balance
        payer, payee = (opening, account) if change > 0 else (account, opening)
        if change:
            made = transfer(
                payer.ledger_id,
                payee.ledger_id,
                abs(change),
                reference=f"balance set to {balance}",
                using=self.db,
            )
            moved = Movement(payer, payee, abs(change), BALANCE_SET, "", made.created_at)
            record([moved], using=self.db)
            account.ledger.refresh_from_db()
