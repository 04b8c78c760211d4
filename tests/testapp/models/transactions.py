"""Models of the tests of transactions: an account, and an order of a shop."""

from django.db import models

__all__ = ["Purse", "PurseOwner", "SavingsPurse"]


class PurseOwner(models.Model):
    name = models.CharField(max_length=20)

    def __str__(self) -> str:
        return self.name


class Purse(models.Model):
    balance = models.BigIntegerField(default=0)
    owner = models.ForeignKey(PurseOwner, models.CASCADE, null=True)

    def __str__(self) -> str:
        return f"{self.pk}: {self.balance}"


class SavingsPurse(Purse):
    rate = models.IntegerField(default=0)


class YouthPurse(SavingsPurse):
    limit = models.IntegerField(default=0)
