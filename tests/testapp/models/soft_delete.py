"""Rows that are deleted softly, and what hangs on them by every kind of relation."""

import uuid

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

from dbpatterns.repositories.soft_delete import (
    LiveOneToOneField,
    SoftDeleteModel,
    unique_among_live,
)

__all__ = [
    "Annex",
    "Binder",
    "Book",
    "Catalogue",
    "Chapter",
    "Cover",
    "Deposit",
    "Envelope",
    "Footnote",
    "Imprint",
    "Label",
    "Loan",
    "Reading",
    "Shelf",
    "Sticker",
    "Volume",
]


class Imprint(SoftDeleteModel):
    """Publishes books; the root of most cascades."""

    name = models.CharField(max_length=50)

    class Meta:
        constraints = [unique_among_live("name", name="testapp_imprint_name")]

    def __str__(self) -> str:
        return self.name


class Shelf(SoftDeleteModel):
    """Shelves stand in shelves, as deep as one likes."""

    name = models.CharField(max_length=50)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")

    def __str__(self) -> str:
        return self.name


class Label(SoftDeleteModel):
    """Is put on many books."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Sticker(SoftDeleteModel):
    """Is stuck on anything; its key is text."""

    # In an app without migrations the database cannot check a reference to one that has them.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_id = models.CharField(max_length=50)
    content_object = GenericForeignKey()
    text = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.text


class Book(SoftDeleteModel):
    """Has every kind of relation."""

    slug = models.SlugField(max_length=50)
    number = models.IntegerField(null=True)
    pages = models.IntegerField(default=0)
    imprint = models.ForeignKey(Imprint, models.CASCADE, related_name="books")
    shelf = models.ForeignKey(Shelf, models.SET_NULL, null=True, related_name="books")
    labels = models.ManyToManyField(Label, related_name="books")
    stickers = GenericRelation(Sticker)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(pages__gte=0), name="testapp_book_pages"),
            unique_among_live("slug", name="testapp_book_slug"),
            unique_among_live("imprint", "number", name="testapp_book_number"),
        ]

    def __str__(self) -> str:
        return self.slug


class Volume(Book):
    """A book with a table of its own."""

    position = models.IntegerField(default=1)


class Annex(SoftDeleteModel):
    """Belongs to volumes only."""

    volume = models.ForeignKey(Volume, models.CASCADE, related_name="annexes")

    def __str__(self) -> str:
        return f"annex {self.pk}"


class Chapter(SoftDeleteModel):
    """A part of a book."""

    book = models.ForeignKey(Book, models.CASCADE, related_name="chapters")
    title = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.title


class Footnote(SoftDeleteModel):
    """Stands in a chapter and, perhaps, belongs to a book as well: two ways to one row."""

    chapter = models.ForeignKey(Chapter, models.CASCADE, related_name="footnotes")
    book = models.ForeignKey(Book, models.CASCADE, null=True, related_name="footnotes")
    text = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.text


class Cover(SoftDeleteModel):
    """One a book, through our field."""

    book = LiveOneToOneField(Book, models.CASCADE, related_name="cover")
    colour = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.colour


class Reading(models.Model):
    """Is not soft-deletable and goes with its book when that is really deleted."""

    book = models.ForeignKey(Book, models.CASCADE, related_name="readings")

    def __str__(self) -> str:
        return f"reading {self.pk}"


class Loan(SoftDeleteModel):
    """Keeps its book from being deleted."""

    book = models.ForeignKey(Book, models.PROTECT, related_name="loans")
    chapter = models.ForeignKey(Chapter, models.CASCADE, null=True, related_name="loans")

    def __str__(self) -> str:
        return f"loan {self.pk}"


class Deposit(models.Model):
    """Keeps its book from being deleted, and is not soft-deletable."""

    book = models.ForeignKey(Book, models.PROTECT, related_name="deposits")

    def __str__(self) -> str:
        return f"deposit {self.pk}"


class Catalogue(SoftDeleteModel):
    """Restricts its book, and goes with its imprint."""

    imprint = models.ForeignKey(Imprint, models.CASCADE, related_name="catalogues")
    book = models.ForeignKey(Book, models.RESTRICT, related_name="catalogues")

    def __str__(self) -> str:
        return f"catalogue {self.pk}"


class Binder(models.Model):
    """A plain row whose soft-deletable children go with it for good."""

    name = models.CharField(max_length=50)
    labels = models.ManyToManyField(Label, related_name="binders")

    def __str__(self) -> str:
        return self.name


class Envelope(SoftDeleteModel):
    """Its key is a UUID, which text writes with hyphens and SQLite without."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    stickers = GenericRelation(Sticker)

    def __str__(self) -> str:
        return str(self.id)
