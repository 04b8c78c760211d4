"""The ledger's tables. Money is whole minor units plus a currency; never a float.

The database guards them itself (`sql/`): an entry and a transfer are never changed or deleted,
the entries of one statement sum to zero for each transfer, and a balance changes only together
with the account's version. So a balance is always what its entries say, whoever writes.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from dbpatterns.conf import require_installed
from dbpatterns.errors import UsageError

require_installed("dbpatterns.ledger")

__all__ = ["MAX_AMOUNT", "MAX_BALANCE", "Account", "Entry", "Transfer"]

MAX_AMOUNT = 10**15
"""The largest amount of one transfer, in minor units."""
MAX_BALANCE = 2**63 - 1
"""What a balance may be, up or down, where the account sets no limit."""


class Account(models.Model):
    """Where money is. Only transfers change the balance; `save()` writes the other columns."""

    name = models.CharField(max_length=200, blank=True)
    currency = models.CharField(max_length=12)
    balance = models.BigIntegerField(default=0, editable=False)
    """Posted, in minor units."""
    pending_debits = models.BigIntegerField(default=0, editable=False)
    """Held by pending transfers out of the account."""
    pending_credits = models.BigIntegerField(default=0, editable=False)
    """Announced by pending transfers into the account."""
    version = models.BigIntegerField(default=0, editable=False)
    """How many entries the account has."""
    min_balance = models.BigIntegerField(default=0, null=True, blank=True)
    """What `balance - pending_debits` never falls under; null for no limit."""
    max_balance = models.BigIntegerField(null=True, blank=True)
    """What `balance + pending_credits` never rises over; null for no limit."""
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    closed_at = models.DateTimeField(null=True, blank=True)
    """Set it, and no more money moves from or to the account."""

    objects: ClassVar[models.Manager["Account"]] = models.Manager()

    class Meta:
        db_table = "dbpatterns_ledger_account"
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(pending_debits__gte=0, pending_credits__gte=0, version__gte=0),
                name="dbpatterns_account_counts",
            ),
            models.CheckConstraint(
                condition=Q(min_balance__isnull=True)
                | Q(balance__gte=F("min_balance") + F("pending_debits")),
                name="dbpatterns_account_min",
            ),
            models.CheckConstraint(
                condition=Q(max_balance__isnull=True)
                | Q(balance__lte=F("max_balance") - F("pending_credits")),
                name="dbpatterns_account_max",
            ),
            models.CheckConstraint(condition=~Q(currency=""), name="dbpatterns_account_currency"),
        ]

    def __str__(self) -> str:
        return self.name or f"account {self.pk}"

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **options: Any) -> None:
        """Save; of an account that exists, only what no transfer changes.

        A whole save would put the balance back to what it was when the object was read.

        Raises: UsageError: `update_fields` names a column that only transfers change.
        """
        if not self._state.adding:
            asked = SETTABLE if update_fields is None else frozenset(update_fields)
            if forbidden := asked - SETTABLE:
                raise UsageError(
                    f"Only transfers change {', '.join(sorted(forbidden))} of an account: "
                    f"save {', '.join(sorted(SETTABLE))}."
                )
            update_fields = asked
        super().save(*args, update_fields=update_fields, **options)

    @property
    def available(self) -> int | None:
        """What may leave the account, as read; None where nothing limits it."""
        if self.min_balance is None:
            return None
        return self.balance - self.pending_debits - self.min_balance


SETTABLE = frozenset({"name", "min_balance", "max_balance", "closed_at"})
"""The columns of an account that `save()` may change."""


class Transfer(models.Model):
    """One movement of money. Written once; a pending one ends once."""

    class Status(models.TextChoices):
        """How far the money got."""

        PENDING = "pending"
        POSTED = "posted"
        VOIDED = "voided"
        EXPIRED = "expired"

    source = models.ForeignKey(Account, models.PROTECT, related_name="+", db_index=False)
    destination = models.ForeignKey(Account, models.PROTECT, related_name="+", db_index=False)
    amount = models.BigIntegerField()
    """What was asked for, in minor units."""
    posted_amount = models.BigIntegerField(default=0)
    """What moved: zero until the transfer is posted, perhaps less than `amount`."""
    currency = models.CharField(max_length=12)
    status = models.CharField(max_length=7, choices=Status)
    reference = models.CharField(max_length=200, blank=True)
    idempotency_key = models.CharField(max_length=200, blank=True)
    """Empty for none."""
    reverses = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="reversals", db_index=False
    )
    """What this one moved back; a transfer is reversed once."""
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    """When a pending transfer was posted, voided or expired."""

    objects: ClassVar[models.Manager["Transfer"]] = models.Manager()

    is_replay = False
    """Whether `transfer()` found its key used before, and so moved nothing now."""

    class Meta:
        db_table = "dbpatterns_ledger_transfer"
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(amount__gt=0, amount__lte=MAX_AMOUNT),
                name="dbpatterns_transfer_amount",
            ),
            models.CheckConstraint(
                condition=Q(status="posted", posted_amount__gt=0, posted_amount__lte=F("amount"))
                | Q(status__in=["pending", "voided", "expired"], posted_amount=0),
                name="dbpatterns_transfer_posted",
            ),
            models.CheckConstraint(
                condition=~Q(source=F("destination")), name="dbpatterns_transfer_two"
            ),
            models.UniqueConstraint(
                fields=["idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="dbpatterns_transfer_key",
            ),
            models.UniqueConstraint(
                fields=["reverses"],
                condition=Q(reverses__isnull=False),
                name="dbpatterns_transfer_reversed_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["expires_at"], condition=Q(status="pending"), name="dbpatterns_pending"
            )
        ]

    def __str__(self) -> str:
        return f"{self.source_id} → {self.destination_id}: {self.amount} {self.currency}"


class Entry(models.Model):
    """One side of a posted transfer: minus on the source, plus on the destination.

    A trigger checks both against the transfer, more closely than foreign keys would.
    """

    transfer = models.ForeignKey(
        Transfer, models.PROTECT, related_name="entries", db_constraint=False, db_index=False
    )
    account = models.ForeignKey(
        Account, models.PROTECT, related_name="entries", db_constraint=False, db_index=False
    )
    account_version = models.BigIntegerField()
    """1 for the account's first entry, and no number left out."""
    amount = models.BigIntegerField()
    """Minor units, signed."""
    balance_after = models.BigIntegerField()

    objects: ClassVar[models.Manager["Entry"]] = models.Manager()

    class Meta:
        db_table = "dbpatterns_ledger_entry"
        ordering = ["pk"]
        verbose_name_plural = "entries"
        constraints = [
            models.UniqueConstraint(
                fields=["account", "account_version"], name="dbpatterns_entry_version"
            ),
            models.UniqueConstraint(fields=["transfer", "account"], name="dbpatterns_entry_side"),
            models.CheckConstraint(condition=~Q(amount=0), name="dbpatterns_entry_amount"),
            models.CheckConstraint(
                condition=Q(account_version__gt=0), name="dbpatterns_entry_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount:+} on {self.account_id}"
