"""Rows with a version, and the same without."""

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models

from dbpatterns.optimistic import VersionedModel


class PlainPage(models.Model):
    """The harm: no version."""

    title = models.CharField(max_length=50)
    amount = models.IntegerField(default=0)

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return self.title


class Page(VersionedModel):
    """A row with a version."""

    title = models.CharField(max_length=50)
    amount = models.IntegerField(default=0)
    views = models.IntegerField(default=0, editable=False)
    seen_at = models.DateTimeField(auto_now=True)
    version_exempt_fields = ("views", "seen_at")

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return self.title


class PageNote(VersionedModel):
    """Belongs to a page, and has a version of its own."""

    page = models.ForeignKey(Page, models.CASCADE, related_name="notes")
    text = models.CharField(max_length=50)

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return self.text


class PageLabel(VersionedModel):
    """Is stuck on anything."""

    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_id = models.PositiveIntegerField()
    content_object = GenericForeignKey()
    text = models.CharField(max_length=50)

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return self.text


class NumberedPage(VersionedModel):
    """Has a key of two columns."""

    pk = models.CompositePrimaryKey("chapter", "number")
    chapter = models.IntegerField()
    number = models.IntegerField()
    title = models.CharField(max_length=50)

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return self.title


class PageProxy(Page):
    """The same rows."""

    class Meta:
        app_label = "testapp"
        proxy = True


class SpecialPage(Page):
    """Its version is in the parent's table."""

    extra = models.CharField(max_length=50, default="")

    class Meta:
        app_label = "testapp"


class VersionedChild(VersionedModel, PlainPage):
    """Its parent's table has no version."""

    extra = models.CharField(max_length=50, default="")

    class Meta:
        app_label = "testapp"


class Album(models.Model):
    """Has tracks in an order."""

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return str(self.pk)


class Track(VersionedModel):
    """Has a place among others."""

    album = models.ForeignKey(Album, models.CASCADE)

    class Meta:
        app_label = "testapp"
        order_with_respect_to = "album"

    def __str__(self) -> str:
        return str(self.pk)


class Leaflet(VersionedModel):
    """Has what a page does not print as it is."""

    data = models.JSONField(default=dict, blank=True)
    scan = models.FileField(blank=True)

    class Meta:
        app_label = "testapp"

    def __str__(self) -> str:
        return str(self.pk)
