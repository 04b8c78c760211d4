"""Rows that say who made them, and one that is deleted softly as well."""

from django.db import models

from dbpatterns.repositories.audit import AuditedManager, AuditedModel, AuditedQuerySet
from dbpatterns.repositories.soft_delete import LiveManager, SoftDeleteModel, SoftDeleteQuerySet

__all__ = ["Contract", "Memo", "MemoQuerySet", "PlainMemo"]


class Contract(AuditedModel):
    """An audited row."""

    number = models.CharField(max_length=50, unique=True)
    text = models.CharField(max_length=50, default="")
    parent = models.ForeignKey("self", models.SET_NULL, null=True, related_name="annexes")

    def __str__(self) -> str:
        return self.number


class PlainMemo(models.Model):
    """What Django has: `auto_now`."""

    text = models.CharField(max_length=50)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.text


class MemoQuerySet(AuditedQuerySet["Memo"], SoftDeleteQuerySet["Memo"]):  # type: ignore[override]
    """Both behaviours."""


class Memo(AuditedModel, SoftDeleteModel):
    """Audited, and deleted softly."""

    text = models.CharField(max_length=50)

    objects = LiveManager.from_queryset(MemoQuerySet)()  # type: ignore[assignment]
    everything = AuditedManager.from_queryset(MemoQuerySet)()  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.text


# In an app without migrations the database cannot check a reference to an app that has them.
for model in (Contract, Memo):
    for name in ("created_by", "updated_by"):
        model._meta.get_field(name).db_constraint = False  # type: ignore[union-attr]
