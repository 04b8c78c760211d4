"""The bank's tables: whose accounts, what for, and standing orders. The money is the ledger's.

Everything here is sharded by customer: a customer's accounts, transfers and orders live
together, beside the clearing accounts of the other banks on that shard and the ledger that books
them, so each booking is one local transaction. The bank's own accounts have no customer: they
belong to a shard, and are asked for by `using`. Money is whole minor units (cents); never a float.
"""

from typing import Any, ClassVar

import uuid6
from django.db import models, router, transaction
from django.db.models import F, Q

from dbpatterns.eventstore.models import ProjectedModel
from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.ledger.models import Transfer as LedgerTransfer
from dbpatterns.sharding import ShardedIdField, ShardedModel, ShardedUUIDField
from demo.banking.accounts import AccountManager, AccountQuerySet, closed_at, ledger_account

__all__ = [
    "Account",
    "Customer",
    "Entry",
    "StandingOrder",
    "StandingOrderExecution",
    "StatementLine",
    "Transfer",
]


class Customer(ShardedModel):
    """Someone with accounts; the customer number is the shard key."""

    shard_key = "id"

    id = models.BigIntegerField("customer number", primary_key=True)
    name = models.CharField(max_length=200)
    birth_date = models.DateField(null=True, blank=True)
    district = models.CharField(max_length=100, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.CheckConstraint(condition=Q(id__gt=0), name="bank_customer_positive")]

    def __str__(self) -> str:
        return self.name


class Account(ShardedModel):
    """Whose money it is; how much it is, the ledger's account says, which is made with this one.

    A customer's account is never overdrawn. A clearing account stands for another bank, one
    per bank and shard; the opening account is where opening balances come from, one per shard.
    """

    class Kind(models.TextChoices):
        """Whose money it is."""

        CUSTOMER = "customer"
        CLEARING = "clearing"
        OPENING = "opening"

    class Status(models.TextChoices):
        """Whether it may be booked on."""

        OPEN = "open"
        CLOSED = "closed"

    shard_key = "customer"

    id = models.UUIDField(primary_key=True, default=uuid6.uuid7, editable=False)
    """Carries no slot: the bank's own accounts have no key that it could be of."""
    number = models.CharField(max_length=40, unique=True)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.CUSTOMER)
    customer = models.ForeignKey(
        Customer, models.PROTECT, null=True, blank=True, related_name="accounts"
    )
    bank_code = models.CharField(max_length=11, blank=True)
    """The other bank a clearing account stands for."""
    currency = models.CharField(max_length=3, default="CZK")
    ledger = models.OneToOneField(
        LedgerAccount, models.PROTECT, related_name="bank", editable=False
    )
    status = models.CharField(max_length=6, choices=Status, default=Status.OPEN)
    opened_on = models.DateField(null=True, blank=True)

    objects: ClassVar[AccountQuerySet] = AccountManager()

    class Meta:
        ordering = ["number"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="customer", customer__isnull=False, bank_code="")
                | Q(kind="clearing", customer__isnull=True) & ~Q(bank_code="")
                | Q(kind="opening", customer__isnull=True, bank_code=""),
                name="bank_account_kind_fits",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["open", "closed"]), name="bank_account_status_known"
            ),
            models.UniqueConstraint(
                fields=["bank_code", "currency"],
                condition=Q(kind="clearing"),
                name="bank_account_one_per_bank",
            ),
        ]

    def __str__(self) -> str:
        return self.number

    def save(self, *, using: str | None = None, **options: Any) -> None:
        """Save, in one transaction with the ledger's account: made with it, closed with it."""
        alias = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=alias):
            if self._state.adding:
                made = ledger_account(self)
                made.save(using=alias)
                self.ledger = made
            else:
                rows = LedgerAccount.objects.using(alias).filter(pk=self.ledger_id)
                rows.filter(closed_at__isnull=self.status == self.Status.CLOSED).update(
                    closed_at=closed_at(self.status)
                )
            super().save(using=alias, **options)

    @property
    def balance(self) -> int:
        """What is on it, in minor units, as read; a query when `ledger` was not loaded with it."""
        return self.ledger.balance


class Transfer(ShardedModel):
    """An order to move `amount` from the payer to the payee, written with its booking."""

    class Kind(models.TextChoices):
        """Why the money moved."""

        TRANSFER = "transfer"
        STANDING_ORDER = "standing_order"
        OPENING = "opening"

    shard_key = "customer"

    id = ShardedUUIDField()
    customer = models.ForeignKey(Customer, models.PROTECT, related_name="transfers")
    """Whose key `idempotency_key` is: the payer's owner, or the payee's for an opening."""
    idempotency_key = models.CharField(max_length=100)
    """Once for each kind: what a customer sends is never the key of one of the bank's own."""
    kind = models.CharField(max_length=14, choices=Kind, default=Kind.TRANSFER)
    payer = models.ForeignKey(Account, models.PROTECT, related_name="outgoing_transfers")
    payee = models.ForeignKey(Account, models.PROTECT, related_name="incoming_transfers")
    amount = models.BigIntegerField()
    """Minor units."""
    currency = models.CharField(max_length=3)
    memo = models.CharField(max_length=140, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    booking = models.OneToOneField(
        LedgerTransfer, models.PROTECT, related_name="bank", null=True, editable=False
    )
    """What moved the money; without one nothing did, and the proof of the books says so."""

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="bank_transfer_positive"),
            models.CheckConstraint(
                condition=~Q(payer=F("payee")), name="bank_transfer_two_accounts"
            ),
            models.UniqueConstraint(
                fields=["customer", "kind", "idempotency_key"], name="bank_transfer_once_per_key"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.payer_id} → {self.payee_id}: {self.amount} {self.currency}"


class Entry(ShardedModel):
    """The ledger's entries in the bank's words: a view, to be read only."""

    shard_key = "customer"

    id = models.BigIntegerField(primary_key=True)
    """The ledger's, which each shard counts for itself."""
    customer = models.ForeignKey(Customer, models.DO_NOTHING, related_name="entries", null=True)
    transfer = models.ForeignKey(Transfer, models.DO_NOTHING, related_name="entries", null=True)
    account = models.ForeignKey(Account, models.DO_NOTHING, related_name="entries")
    amount = models.BigIntegerField()
    """Minor units, signed."""
    balance_after = models.BigIntegerField()
    """What was on the account then, in minor units."""
    created_at = models.DateTimeField()

    class Meta:
        managed = False  # made by a migration
        db_table = "banking_entry"
        ordering = ["pk"]
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.amount:+} on {self.account_id}"


class StatementLine(ProjectedModel):
    """A movement on a customer's account; written by the projection `Statements` alone."""

    account = models.CharField(max_length=40)
    """Its number. No foreign key: a line is what its event says, whatever became of the rest."""
    version = models.BigIntegerField()
    """Of the account's stream: 1 for its first line, and no number left out."""
    position = models.BigIntegerField()
    """Of the event, rising with what was booked on the account."""
    at = models.DateTimeField()
    kind = models.CharField(max_length=14)
    counterparty = models.CharField(max_length=40)
    """The number of the account at the other side."""
    memo = models.CharField(max_length=140, blank=True)
    amount = models.BigIntegerField()
    """Minor units, signed."""
    balance = models.BigIntegerField()
    """What was on the account then, in minor units."""

    class Meta:
        ordering = ["account", "version"]
        constraints = [
            models.UniqueConstraint(
                fields=["generation", "account", "version"], name="bank_statement_line_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.amount:+} on {self.account}"


class StandingOrder(ShardedModel):
    """A customer's wish to pay the same amount to the same account again and again."""

    shard_key = "customer"

    id = ShardedUUIDField()
    order_number = models.BigIntegerField(null=True, blank=True, unique=True)
    """The number in the file it was imported from."""
    customer = models.ForeignKey(Customer, models.PROTECT, related_name="standing_orders")
    account = models.ForeignKey(Account, models.PROTECT, related_name="standing_orders")
    bank_code = models.CharField(max_length=11)
    payee_account = models.CharField(max_length=34)
    amount = models.BigIntegerField()
    """Minor units."""
    category = models.CharField(max_length=20, blank=True)
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="bank_order_positive"),
            models.CheckConstraint(
                condition=~Q(bank_code="") & ~Q(payee_account=""), name="bank_order_has_payee"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} to {self.payee_account}/{self.bank_code}"


class StandingOrderExecution(ShardedModel):
    """What became of one order on one date; the row that makes a second run do nothing."""

    shard_key = "order"

    class Status(models.TextChoices):
        """Paid in full, or not at all."""

        PAID = "paid"
        REFUSED = "refused"

    id = ShardedIdField()
    order = models.ForeignKey(StandingOrder, models.PROTECT, related_name="executions")
    due_on = models.DateField()
    status = models.CharField(max_length=7, choices=Status)
    reason = models.CharField(max_length=200, blank=True)
    transfer = models.OneToOneField(Transfer, models.PROTECT, null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["order", "due_on"], name="bank_execution_once_a_day"),
            models.CheckConstraint(
                condition=Q(status="paid", transfer__isnull=False, reason="")
                | Q(status="refused", transfer__isnull=True) & ~Q(reason=""),
                name="bank_execution_paid_or_refused",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.order_id} on {self.due_on}: {self.status}"
