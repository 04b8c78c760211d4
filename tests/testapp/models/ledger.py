"""Money as a project without a ledger keeps it: a balance, and a row for each payment."""

from django.db import models

__all__ = ["Wallet", "WalletPayment"]


class Wallet(models.Model):
    """A balance that code reads, changes and writes back."""

    balance = models.BigIntegerField(default=0)

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return f"wallet {self.pk}"


class WalletPayment(models.Model):
    """What moved."""

    source = models.ForeignKey(Wallet, models.PROTECT, related_name="+")
    destination = models.ForeignKey(Wallet, models.PROTECT, related_name="+")
    amount = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return f"payment of {self.amount}"
