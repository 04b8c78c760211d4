"""What is made from events, and what a guarded piece of work writes."""

from typing import ClassVar

from django.db import models

from dbpatterns.eventstore.models import ProjectedModel

__all__ = ["Balance", "Effect"]


class Effect(models.Model):
    """One effect of a request; that there is one row of each key is what the tests prove."""

    key = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.key


class Balance(ProjectedModel):
    """What an account has, as its events say."""

    account = models.CharField(max_length=50)
    amount = models.BigIntegerField(default=0)
    events = models.IntegerField(default=0)

    objects: ClassVar["models.Manager[Balance]"] = models.Manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["generation", "account"], name="balance_once")
        ]

    def __str__(self) -> str:
        return self.account
