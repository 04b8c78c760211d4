"""What N+1s are tried on: every kind of relation, second hops, properties, a tree."""

from typing import Any

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

__all__ = ["Branch", "Critique", "Genre", "Nation", "Novel", "Novelist", "Sticky", "Synopsis"]


class Nation(models.Model):
    """The second hop."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Novelist(models.Model):
    """The first hop."""

    name = models.CharField(max_length=50)
    nation = models.ForeignKey(Nation, models.CASCADE, related_name="novelists")

    def __str__(self) -> str:
        return self.name

    @property
    def nation_name(self) -> str:
        """A query behind a property."""
        return str(self.nation.name)  # mark: property


class Genre(models.Model):
    """The other side of a many-to-many."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Sticky(models.Model):
    """Is stuck on anything."""

    # In an app without migrations the database cannot check a reference to one that has them.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_id = models.PositiveIntegerField()
    content_object = GenericForeignKey()
    text = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.text


class Novel(models.Model):
    """The rows of most loops."""

    title = models.CharField(max_length=50)
    body = models.TextField(default="")
    novelist = models.ForeignKey(Novelist, models.CASCADE, related_name="novels")
    editor = models.ForeignKey(Novelist, models.CASCADE, null=True, related_name="edited")
    genres = models.ManyToManyField(Genre, related_name="novels")
    stickies = GenericRelation(Sticky)

    def __str__(self) -> str:
        return f"{self.title} by {self.novelist.name}"  # mark: str

    @property
    def author_name(self) -> str:
        """A query behind a property."""
        return str(self.novelist.name)  # mark: author_name

    def first_critique(self) -> Any:
        """A query behind a method that templates call."""
        return self.critiques.first()  # type: ignore[attr-defined]  # mark: first_critique


class Synopsis(models.Model):
    """One a novel."""

    novel = models.OneToOneField(Novel, models.CASCADE, related_name="synopsis")
    text = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.text


class Critique(models.Model):
    """Many a novel."""

    novel = models.ForeignKey(Novel, models.CASCADE, related_name="critiques")
    stars = models.IntegerField(default=3)
    text = models.CharField(max_length=50, default="")

    def __str__(self) -> str:
        return self.text


class Branch(models.Model):
    """A tree."""

    name = models.CharField(max_length=50)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")

    def __str__(self) -> str:
        return self.name
