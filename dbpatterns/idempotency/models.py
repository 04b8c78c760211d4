"""One row for each key: what was asked, as a hash, and what was answered."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now

from dbpatterns.conf import require_installed

require_installed("dbpatterns.idempotency")

__all__ = ["IdempotencyKey"]


class IdempotencyKey(models.Model):
    """A key that was used. `run_once` writes it; nothing else should."""

    LONGEST = 255
    """Characters of a scope and of a key."""

    scope = models.CharField(max_length=LONGEST)
    key = models.CharField(max_length=LONGEST)
    fingerprint = models.CharField(max_length=64)
    # JSON as text: jsonb would reorder its keys and refuse "\u0000", and an answer is replayed
    # as it was. Empty only inside the transaction that is finding the answer.
    response = models.TextField(default="")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(db_index=True)

    objects: ClassVar["models.Manager[IdempotencyKey]"] = models.Manager()

    class Meta:
        db_table = "dbpatterns_idempotency_key"
        constraints = [
            models.UniqueConstraint(fields=["scope", "key"], name="dbpatterns_idempotency_key_once")
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.key}"
