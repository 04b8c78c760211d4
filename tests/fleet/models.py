"""What the migrations make, for commands that go by models."""

from django.db import models


class Van(models.Model):
    """A van."""

    id = models.UUIDField(primary_key=True)
    plate = models.CharField(max_length=20)
    load = models.IntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint("plate", name="fleet_plate_once")]

    def __str__(self) -> str:
        return self.plate
