"""Models of the shapes that a repository meets least often."""

from typing import Any

from django.db import models

__all__ = [
    "Cafe",
    "Compound",
    "Kitchen",
    "Measured",
    "Named",
    "Parted",
    "PlaceByAnotherName",
    "Signed",
    "Venue",
    "Visible",
]


class Venue(models.Model):
    """A parent, by multi-table inheritance, of a Cafe."""

    name = models.CharField(max_length=50, unique=True)
    rank = models.IntegerField(null=True)
    within = models.ForeignKey("self", models.CASCADE, null=True, related_name="parts")

    def __str__(self) -> str:
        return self.name


class Cafe(Venue):
    """Columns in two tables."""

    seats = models.IntegerField(default=0)


class PlaceByAnotherName(Venue):
    """A proxy."""

    class Meta:
        proxy = True


class Kitchen(models.Model):
    """Its primary key is a relation."""

    venue = models.OneToOneField(Venue, models.CASCADE, primary_key=True)
    ovens = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"kitchen {self.pk}"


class Compound(models.Model):
    """Its primary key has two columns."""

    pk = models.CompositePrimaryKey("tenant", "number")
    tenant = models.IntegerField()
    number = models.IntegerField()
    title = models.CharField(max_length=50, default="")

    def __str__(self) -> str:
        return self.title


class Named(models.Model):
    """Its primary key is text that the caller chooses."""

    code = models.CharField(max_length=50, primary_key=True)
    amount = models.IntegerField(default=0)
    count = models.PositiveSmallIntegerField(default=0)

    def __str__(self) -> str:
        return self.code


class Measured(models.Model):
    """A unique column whose equal values have several spellings."""

    price = models.DecimalField(max_digits=10, decimal_places=2, unique=True)
    note = models.CharField(max_length=50, default="")
    double = models.GeneratedField(
        expression=models.F("price") * 2,
        output_field=models.DecimalField(max_digits=11, decimal_places=2),
        db_persist=True,
    )

    def __str__(self) -> str:
        return self.note


class VisibleManager(models.Manager["Visible"]):
    """Hides rows."""

    def get_queryset(self) -> models.QuerySet["Visible"]:
        """Return those that may be seen."""
        return super().get_queryset().filter(is_visible=True)


class Visible(models.Model):
    """Its default manager hides rows."""

    is_visible = models.BooleanField(default=True)

    objects = VisibleManager()

    def __str__(self) -> str:
        return str(self.pk)


class Signed(models.Model):
    """Saves and deletes in its own way."""

    text = models.CharField(max_length=50, default="")

    def __str__(self) -> str:
        return self.text

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Sign and save."""
        self.text = f"{self.text}, signed"
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Keep the row."""
        return 0, {}


class Parted(models.Model):
    """A partitioned table, which its test creates."""

    slug = models.CharField(max_length=50, unique=True)
    amount = models.IntegerField(default=0)

    class Meta:
        managed = False

    def __str__(self) -> str:
        return self.slug
