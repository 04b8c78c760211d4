"""Read by mypy, never run: the types that reach a user of optimistic locking."""

from typing import assert_type

from django.contrib import admin
from django.db import DatabaseError
from django.http.request import HttpHeaders
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ModelViewSet

from dbpatterns.contrib.drf_versions import VersionedViewMixin, check_if_match, etag
from dbpatterns.optimistic import (
    StaleObjectError,
    VersionedManager,
    VersionedModel,
    VersionedQuerySet,
)
from dbpatterns.optimistic.admin import VersionedAdmin, VersionedInlineMixin
from dbpatterns.optimistic.forms import Difference, VersionedModelForm
from tests.testapp.models import Page, PageNote, PlainPage, SpecialPage


def reading(page: Page) -> None:
    """What comes back is the model's own type."""
    assert_type(Page.objects, VersionedManager[Page])
    assert_type(Page.objects.get(), Page)
    assert_type(SpecialPage.objects.get().extra, str)
    assert_type(Page.objects.filter(title="a"), VersionedQuerySet[Page])
    assert_type(Page.objects.filter(title="a").first(), Page | None)
    assert_type(page.version, int)


async def writing(page: Page, plain: PlainPage) -> None:
    """The version is nothing to pass, and what is written in bulk has one."""
    assert_type(Page.objects.update(title="a"), int)
    assert_type(Page.objects.bulk_update([page], ["title"]), int)
    Page.objects.bulk_update([plain], ["title"])  # type: ignore[list-item]
    page.save(update_fields=["title"])
    page.force_increment("default", 1)  # type: ignore[call-arg]
    await page.arefresh_or_raise(using="default")


def refused(error: StaleObjectError) -> None:
    """It is what a generic handler catches, with its facts."""
    caught: DatabaseError = error
    assert_type(error.model, str)
    assert_type(error.pks, tuple[object, ...])
    assert_type(error.expected_version, int)
    assert_type(error.stored_version, int | None)
    error.stored_version + 1  # type: ignore[operator]  # it may have been deleted
    raise caught


class PageForm(VersionedModelForm[Page]):
    """Knows its model."""


class PlainForm(VersionedModelForm[PlainPage]):  # type: ignore[type-var]
    """A model without a version has no such form."""


def asking(form: PageForm) -> None:
    """The object is the model's own, and so is each difference a name and two texts."""
    assert_type(form.instance, Page)
    assert_type(form.save(), Page)
    assert_type(form.is_stale, bool)
    assert_type(form.sign(), str)
    assert_type(form.rebase(), list[Difference])
    form.rebase()[0].mine = "other"  # type: ignore[misc]  # frozen


class NoteInline(VersionedInlineMixin, admin.TabularInline[PageNote, Page]):
    """Goes before Django's base."""

    model = PageNote


class PageAdmin(VersionedAdmin):
    """Takes a form of one's own."""

    form = PageForm
    inlines = (NoteInline,)


class Pages(VersionedViewMixin, ModelViewSet[Page]):
    """Goes before the generic view."""

    queryset = Page.objects.all()
    if_match_required = False


def answering(view: Pages, request: Request, headers: HttpHeaders, page: Page) -> None:
    """A tag is a text, and of a row with a version only."""
    assert_type(view.retrieve(request), Response)
    assert_type(view.update(request, partial=True), Response)
    assert_type(view.destroy(request), Response)
    assert_type(etag(page), str)
    etag(PlainPage())  # type: ignore[arg-type]
    check_if_match(headers, page, required=False)
    check_if_match(headers, page, False)  # type: ignore[call-arg]


def own_manager(rows: VersionedQuerySet[Page], model: type[VersionedModel]) -> None:
    """A queryset of one's own makes a manager."""
    assert_type(rows.get(), Page)
    assert_type(model.objects.get(), VersionedModel)


def no_version(rows: VersionedQuerySet[PlainPage]) -> None:  # type: ignore[type-var]
    """A model without a version has no such queryset."""
