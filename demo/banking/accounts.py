"""Accounts as a queryset makes and changes them: each with one of the ledger's, money by booking.

Nothing writes a balance here, because nothing can: the ledger's tables refuse it. Whoever sets
one gets a booking from or to the shard's opening account, and the books stay right.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import router, transaction
from django.db.models import Model
from django.utils import timezone

from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.ledger.transfers import transfer
from dbpatterns.sharding import ShardedManager, ShardedQuerySet
from demo.banking.events import BALANCE_SET, Movement, record

if TYPE_CHECKING:
    from demo.banking.models import Account

__all__ = ["AccountManager", "AccountQuerySet", "closed_at", "ledger_account"]


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


class AccountQuerySet(ShardedQuerySet):
    """Accounts; each method below is one transaction, `bulk_create` one on each shard."""

    def create(self, *, balance: int = 0, **values: Any) -> "Account":
        """Open an account; two statements, and with a balance those of a transfer and four."""
        with transaction.atomic(using=self._home(self.model(**values))):
            account: Account = super().create(**values)
            if balance:
                self._settle(account, balance)
        return account

    def bulk_create(self, objs: Iterable["Account"], *args: Any, **options: Any) -> list["Account"]:
        """Open accounts without money; on each shard a statement for the ledger's, one for ours."""
        accounts = list(objs)
        by_shard: dict[str, list[Account]] = {}
        for account in accounts:
            by_shard.setdefault(self._home(account), []).append(account)
        with ExitStack() as stack:
            for alias, some in by_shard.items():
                stack.enter_context(transaction.atomic(using=alias))
                made = LedgerAccount.objects.using(alias).bulk_create(map(ledger_account, some))
                for account, each in zip(some, made, strict=True):
                    account.ledger = each
            opened: list[Account] = super().bulk_create(accounts, *args, **options)
        return opened

    def update(self, **values: Any) -> int:
        """Change columns; a status is the ledger's too, and a balance is booked for each row."""
        if not {"balance", "status"} & values.keys():
            return super().update(**values)
        balance = values.pop("balance", None)
        with transaction.atomic(using=self.db):
            accounts = list(self.select_related("ledger"))
            found: Any = self.model._default_manager.using(self.db)
            rows = found.filter(pk__in=[each.pk for each in accounts])
            if values:
                super(AccountQuerySet, rows).update(**values)
            if "status" in values:
                LedgerAccount.objects.using(self.db).filter(bank__in=rows).update(
                    closed_at=closed_at(values["status"])
                )
            for account in accounts if balance is not None else ():
                self._settle(account, balance)
        return len(accounts)

    def _home(self, account: Model) -> str:
        return self._db or router.db_for_write(self.model, instance=account)

    def _settle(self, account: "Account", balance: int) -> None:
        alias = str(account._state.db)
        is_usual = account._meta.get_field("currency").get_default() == account.currency
        here: Any = self.model._default_manager.using(alias)
        opening, _ = here.get_or_create(
            kind=account.Kind.OPENING,
            currency=account.currency,
            defaults={"number": f"opening-{alias}" + ("" if is_usual else f"-{account.currency}")},
        )
        change = balance - account.ledger.balance
        payer, payee = (opening, account) if change > 0 else (account, opening)
        if change:
            made = transfer(
                payer.ledger_id,
                payee.ledger_id,
                abs(change),
                reference=f"balance set to {balance}",
                using=alias,
            )
            moved = Movement(payer, payee, abs(change), BALANCE_SET, "", made.created_at)
            record([moved], using=alias)
            account.ledger.refresh_from_db()


class AccountManager(ShardedManager.from_queryset(AccountQuerySet)):  # type: ignore[misc]
    """Accounts, each on its customer's shard."""
