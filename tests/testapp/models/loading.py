"""A shop of every relation and kind of column that rows may lack when they are read."""

import uuid

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

__all__ = [
    "Badge",
    "Brand",
    "Country",
    "Crate",
    "Gadget",
    "Lot",
    "Maker",
    "Manual",
    "Note",
    "Part",
    "Sale",
    "Toy",
]


class Country(models.Model):
    """The second hop."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Maker(models.Model):
    """Makes gadgets."""

    name = models.CharField(max_length=50)
    country = models.ForeignKey(Country, models.CASCADE, related_name="makers")

    def __str__(self) -> str:
        return self.name


class Badge(models.Model):
    """Is put on many gadgets."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Note(models.Model):
    """Hangs on anything."""

    # In an app without migrations the database cannot check a reference to one that has them.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False, null=True)
    object_id = models.CharField(max_length=50, null=True)  # noqa: DJ001  # may hang on nothing
    subject = GenericForeignKey()
    text = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.text


class Gadget(models.Model):
    """Has every kind of relation."""

    name = models.CharField(max_length=50)
    text = models.TextField(default="")
    file = models.FileField(default="")
    maker = models.ForeignKey(Maker, models.CASCADE, null=True, related_name="gadgets")
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")
    badges = models.ManyToManyField(Badge, related_name="gadgets", related_query_name="badged")
    notes = GenericRelation(Note)

    def __str__(self) -> str:
        return self.name


class Toy(Gadget):
    """A gadget with a table of its own."""

    age = models.IntegerField(default=3)


class Manual(models.Model):
    """One a gadget; not every gadget has one."""

    gadget = models.OneToOneField(Gadget, models.CASCADE, related_name="manual")
    title = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.title


class GoodParts(models.Manager["Part"]):
    """Parts that are not broken."""

    def get_queryset(self) -> models.QuerySet["Part"]:
        """Leave the broken ones out."""
        return super().get_queryset().filter(is_broken=False)


class Part(models.Model):
    """A gadget has many."""

    gadget = models.ForeignKey(Gadget, models.CASCADE, related_name="parts")
    name = models.CharField(max_length=50)
    is_broken = models.BooleanField(default=False)

    objects = models.Manager()
    good = GoodParts()

    def __str__(self) -> str:
        return self.name


class Brand(models.Model):
    """Is found by its code, not by its key."""

    code = models.CharField(max_length=10, unique=True)

    def __str__(self) -> str:
        return self.code


class Crate(models.Model):
    """Its key is a UUID, and its brand's another column than the key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    brand = models.ForeignKey(Brand, models.CASCADE, to_field="code", related_name="crates")
    notes = GenericRelation(Note)

    def __str__(self) -> str:
        return str(self.id)


class Lot(models.Model):
    """Is found by two columns."""

    code = models.CharField(max_length=10)
    year = models.IntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["code", "year"], name="testapp_lot_number")]

    def __str__(self) -> str:
        return f"{self.code}/{self.year}"


class Sale(models.Model):
    """Refers to a lot by two columns, which the database does not check."""

    lot_code = models.CharField(max_length=10)
    lot_year = models.IntegerField()
    lot = models.ForeignObject(
        Lot, models.DO_NOTHING, from_fields=["lot_code", "lot_year"], to_fields=["code", "year"]
    )

    def __str__(self) -> str:
        return f"sale {self.pk}"
