"""What N+1s hide behind: tables that inherit, keys of two columns, and models that do more."""

from functools import cached_property
from typing import Any

from django.db import models

__all__ = ["Berth", "Docking", "Frigate", "Port", "Sailor", "Ship", "Tanker"]


class Port(models.Model):
    """Where ships are at home."""

    name = models.CharField(max_length=50, unique=True)
    code = models.CharField(max_length=10, unique=True)
    data: "models.JSONField[Any, Any]" = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name


class Sailor(models.Model):
    """Sails on many ships."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Ship(models.Model):
    """Inherited by a table and by a proxy."""

    name = models.CharField(max_length=50)
    kind = models.CharField(max_length=1, choices=[("f", "frigate"), ("t", "tanker")], default="f")
    home = models.ForeignKey(Port, models.CASCADE, null=True, related_name="ships")
    sisters = models.ManyToManyField("self")
    sailors = models.ManyToManyField(Sailor, through="Berth", related_name="ships")

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Query for a part of the address."""
        return f"/{self.home.code}/{self.pk}/" if self.home else "/"  # mark: url

    @cached_property
    def crew(self) -> int:
        """Query once for each object, which is once for each row."""
        return self.berths.count()  # type: ignore[attr-defined, no-any-return]  # mark: crew


class Frigate(Ship):
    """The same table under another name, with a `save()` that reads."""

    class Meta:
        proxy = True

    def save(self, **options: Any) -> None:
        """Name the ship after its port."""
        if self.home is not None:  # mark: save
            self.name = f"{self.home.name} {self.pk}"
        super().save(**options)


class Tanker(Ship):
    """A table of its own beside its parent's."""

    volume = models.IntegerField(default=0)


class BerthQuerySet(models.QuerySet["Berth"]):
    """Says what a captain is."""

    def captains(self) -> "BerthQuerySet":
        """Leave everybody else out."""
        return self.filter(rank="captain")


class Berth(models.Model):
    """A sailor's place on a ship."""

    ship = models.ForeignKey(Ship, models.CASCADE, related_name="berths")
    sailor = models.ForeignKey(Sailor, models.CASCADE, related_name="berths")
    rank = models.CharField(max_length=20, default="mate")

    objects = BerthQuerySet.as_manager()

    def __str__(self) -> str:
        return self.rank


class Docking(models.Model):
    """Is found by a port and a day."""

    pk = models.CompositePrimaryKey("port_id", "day")
    port = models.ForeignKey(Port, models.CASCADE, related_name="dockings")
    day = models.IntegerField()
    ship = models.ForeignKey(Ship, models.CASCADE, related_name="dockings")

    def __str__(self) -> str:
        return f"day {self.day}"
