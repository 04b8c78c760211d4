"""What the index advisor is tried on."""

from django.db import models

__all__ = ["Tenant", "Ticket"]


class Tenant(models.Model):
    """Owns tickets."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Ticket(models.Model):
    """Few are open, and the newest of those are what everybody looks at."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="tickets", db_index=False)
    title = models.CharField(max_length=100)
    body = models.TextField(default="")
    status = models.CharField(max_length=10, default="done")
    is_open = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    priority = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.title
