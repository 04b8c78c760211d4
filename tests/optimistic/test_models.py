"""A save writes the row that was read, or nothing."""

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.models import F
from django.db.models.signals import pre_save
from django.test.utils import CaptureQueriesContext, isolate_apps

from dbpatterns.errors import UsageError
from dbpatterns.optimistic import StaleObjectError, UnknownVersion
from dbpatterns.optimistic.models import VersionedManager, VersionedModel, delete_as_read
from dbpatterns.sharding import shards
from tests.testapp.models import (
    Album,
    NumberedPage,
    Page,
    PageNote,
    PageProxy,
    PlainPage,
    SpecialPage,
    Track,
    VersionedChild,
)

pytestmark = pytest.mark.django_db(transaction=True)

MODELS = [Page, PageProxy, SpecialPage, VersionedChild]


def write_title(row: Any) -> None:
    row.title = "mine"
    row.save()


def write_some(row: Any) -> None:
    row.title = "mine"
    row.save(update_fields=["title"])


def write_expression(row: Any) -> None:
    row.amount = F("amount") + 1
    row.save(update_fields=["amount"])


def write_in_bulk(row: Any) -> None:
    row.title = "mine"
    type(row).objects.bulk_update([row], ["title"])


def delete_mine(row: Any) -> None:
    row.delete()


def force_increment(row: Any) -> None:
    row.force_increment()


def refresh_or_raise(row: Any) -> None:
    row.refresh_or_raise()


def write_async(row: Any) -> None:
    row.title = "mine"
    async_to_sync(row.asave)()


def delete_async(row: Any) -> None:
    async_to_sync(row.adelete)()


def update(row: Any) -> None:
    type(row).objects.filter(pk=row.pk).update(title="theirs")


def delete(row: Any) -> None:
    type(row).objects.get(pk=row.pk).delete()


WRITES: list[Callable[[Any], None]] = [
    write_title,
    write_some,
    write_expression,
    write_in_bulk,
    delete_mine,
    force_increment,
    refresh_or_raise,
]


@pytest.mark.parametrize("write", [write_title, write_some, write_in_bulk])
def test_a_plain_model_loses_what_another_wrote(write: Callable[[Any], None]) -> None:
    mine = PlainPage.objects.create(title="old")
    update(mine)
    write(mine)
    assert PlainPage.objects.get().title == "mine"


def test_a_plain_model_re_creates_what_another_deleted() -> None:
    mine = PlainPage.objects.create(title="old")
    delete(mine)
    PlainPage.objects.filter(pk=mine.pk).delete()
    write_title(mine)
    assert PlainPage.objects.count() == 1


@pytest.mark.parametrize("other", [update, delete, write_title, write_some, write_in_bulk])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("model", MODELS)
def test_a_stale_write_is_refused_however_often_it_is_tried(
    model: Any, write: Callable[[Any], None], other: Callable[[Any], None]
) -> None:
    mine = model.objects.create(title="old", amount=5)
    other(model.objects.get(pk=mine.pk))
    before = list(model.objects.values("title", "amount", "version"))
    for _ in range(2):
        with pytest.raises(StaleObjectError) as caught:
            write(mine)
        assert caught.value.pk == mine.pk
        assert caught.value.expected_version == 1
        assert caught.value.stored_version == (None if other is delete else 2)
    assert list(model.objects.values("title", "amount", "version")) == before
    assert mine.version == 1


@pytest.mark.parametrize("write", WRITES[:4])
@pytest.mark.parametrize("model", MODELS)
def test_a_write_raises_the_version_in_the_row_and_in_memory(
    model: Any, write: Callable[[Any], None]
) -> None:
    mine = model.objects.create(title="old", amount=5)
    for version in (2, 3):
        write(mine)
        mine.refresh_from_db(fields=["amount"])
        assert mine.version == version
        assert model.objects.get().version == version


@pytest.mark.parametrize("write", [*WRITES[:4], force_increment, update])
@pytest.mark.parametrize("model", [Page, PageProxy])
def test_a_write_is_one_update(model: Any, write: Callable[[Any], None]) -> None:
    mine = model.objects.create(title="old")
    with CaptureQueriesContext(connection) as queries:
        write(mine)
    sent = [q["sql"] for q in queries if q["sql"].startswith(("UPDATE", "SELECT", "INSERT"))]
    assert len(sent) == 1
    assert sent[0].startswith("UPDATE")
    assert sent[0].partition("WHERE")[0].count('"version" = ') == 1
    if write is not update:
        assert '"version" = ' in sent[0].partition("WHERE")[2]


def test_inserting_is_one_insert_even_with_a_key_of_one_s_own() -> None:
    with CaptureQueriesContext(connection) as queries:
        Page(pk=7, title="new").save()
    assert [q["sql"][:6] for q in queries] == ["INSERT"]


def test_a_new_object_never_overwrites_a_row() -> None:
    Page.objects.create(pk=7, title="old")
    with pytest.raises(IntegrityError):
        Page(pk=7, title="new").save()
    with pytest.raises(IntegrityError):
        Page(pk=7, title="new").save(force_insert=True)
    assert Page.objects.get().title == "old"


def force(row: Any) -> None:
    row.save(force_update=True)


@pytest.mark.parametrize("write", [*WRITES[1:-1], force])
@pytest.mark.parametrize("model", MODELS)
def test_an_object_that_was_never_read_overwrites_and_deletes_no_row(
    model: Any, write: Callable[[Any], None]
) -> None:
    theirs = model.objects.create(title="theirs", amount=5)
    with pytest.raises(UnknownVersion, match="was never read"):
        write(model(pk=theirs.pk, title="mine"))
    assert model.objects.values_list("title", "amount", "version").get() == ("theirs", 5, 1)


def test_the_order_of_rows_is_set_again_and_again_and_raises_their_versions() -> None:
    album = Album.objects.create()
    rows = [Track.objects.create(album=album) for _ in range(2)]
    for order in (rows[::-1], rows):
        pks = [row.pk for row in order]
        album.set_track_order(pks)
        assert list(album.get_track_order()) == pks
    with pytest.raises(StaleObjectError):
        rows[0].save()


def test_a_version_from_the_future_is_refused() -> None:
    mine = Page.objects.create(title="old")
    mine.version = 9
    with pytest.raises(StaleObjectError, match="which it never had") as caught:
        mine.save()
    assert (caught.value.expected_version, caught.value.stored_version) == (9, 1)
    assert isinstance(caught.value, DatabaseError)


@pytest.mark.parametrize("write", WRITES)
def test_a_deferred_version_is_an_error_and_no_query(write: Callable[[Any], None]) -> None:
    Page.objects.create(title="old")
    mine = Page.objects.defer("version").get()
    with CaptureQueriesContext(connection) as queries, pytest.raises(UnknownVersion):
        write(mine)
    assert not [q for q in queries if q["sql"].startswith(("UPDATE", "SELECT", "DELETE"))]
    mine.version = None  # type: ignore[assignment]
    with pytest.raises(UnknownVersion, match="is None"):
        write(mine)


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_a_deferred_version_is_not_read_to_write_another_database() -> None:
    Page.objects.create(title="old")
    mine = Page.objects.defer("version").get()
    with CaptureQueriesContext(connection) as queries, pytest.raises(UnknownVersion):
        mine.save(using=shards()[0])
    assert not queries.captured_queries


def test_update_fields_may_be_read_only_once() -> None:
    mine = Page.objects.create(title="old")
    mine.title = "mine"
    mine.save(update_fields=iter(["title", "version"]))
    assert Page.objects.values_list("title", "version").get() == ("mine", 2)


def test_a_deferred_column_is_left_alone() -> None:
    Page.objects.create(title="old", amount=3)
    write_title(Page.objects.only("title", "version").get())
    assert Page.objects.values_list("title", "amount", "version").get() == ("mine", 3, 2)


@pytest.mark.parametrize("write", WRITES[:4])
@pytest.mark.parametrize("model", MODELS)
def test_after_a_rollback_the_object_can_be_saved(model: Any, write: Callable[[Any], None]) -> None:
    mine = model.objects.create(title="old", amount=1)
    with transaction.atomic():
        write(mine)
        mine.refresh_from_db()
        write(mine)
        transaction.set_rollback(True)
    assert mine.version == 1
    write_title(model.objects.get())
    mine.refresh_from_db()
    write(mine)
    assert model.objects.get().version == 3


def test_a_rolled_back_savepoint_gives_back_only_its_own_version() -> None:
    mine = Page.objects.create(title="old")
    with transaction.atomic():
        mine.save()
        with transaction.atomic():
            mine.save()
            transaction.set_rollback(True)
        assert mine.version == 2
        mine.save()
    assert (mine.version, Page.objects.get().version) == (3, 3)


@pytest.mark.parametrize("model", MODELS)
def test_what_was_inserted_or_deleted_in_a_rollback_can_be_saved(model: Any) -> None:
    with transaction.atomic():
        mine = model.objects.create(title="new")
        transaction.set_rollback(True)
    mine.save()
    pk = mine.pk
    with transaction.atomic():
        mine.delete()
        transaction.set_rollback(True)
    assert mine.pk == pk
    mine.save()
    assert model.objects.get().version == 2


def test_what_was_inserted_in_bulk_in_a_rollback_can_be_saved() -> None:
    rows = [Page(title="a"), Page(title="b")]
    with transaction.atomic():
        Page.objects.bulk_create(rows)
        transaction.set_rollback(True)
    for row in rows:
        row.save()
    with transaction.atomic():
        Page.objects.bulk_create([Page(title="c")])
        Page.objects.bulk_create([forgotten := Page(title="d")])
        del forgotten
        transaction.set_rollback(True)
    Page.objects.bulk_update(rows, ["title"])
    assert list(Page.objects.order_by("title").values_list("title", "version")) == [
        ("a", 2),
        ("b", 2),
    ]


def test_exempt_fields_alone_leave_the_version_and_a_save_leaves_them() -> None:
    mine = Page.objects.create(title="old")
    Page.objects.update(views=F("views") + 1)
    other = Page.objects.get()
    other.views += 1
    other.save(update_fields=["views"])
    assert Page.objects.get().version == 1
    write_title(mine)
    assert Page.objects.values_list("title", "views", "version").get() == ("mine", 2, 2)


@pytest.mark.parametrize("is_deferred", [True, False])
def test_a_whole_save_leaves_exempt_fields_whatever_is_deferred(is_deferred: bool) -> None:
    Page.objects.create(title="old")
    mine = Page.objects.defer(*["amount"] * is_deferred).get()
    Page.objects.update(views=F("views") + 1)
    write_title(mine)
    mine.views = 5
    mine.save(update_fields=["title", "views"])  # who names it means it
    write_title(mine)
    assert Page.objects.values_list("title", "views", "version").get() == ("mine", 5, 4)


def test_a_whole_save_stays_one_if_a_signal_saves_some_fields() -> None:
    def note(instance: Page, update_fields: Any, **_: Any) -> None:
        if update_fields != {"amount"}:
            instance.amount = 1
            instance.save(update_fields=["amount"])

    Page.objects.create(title="old")
    mine = Page.objects.defer("seen_at").get()
    Page.objects.update(views=F("views") + 1)
    pre_save.connect(note, sender=Page)
    try:
        write_title(mine)
    finally:
        pre_save.disconnect(note, sender=Page)
    assert Page.objects.values_list("title", "amount", "views").get() == ("mine", 1, 1)


def test_a_whole_save_writes_the_date_of_an_exempt_auto_now() -> None:
    mine = Page.objects.create(title="old")
    before = mine.seen_at
    write_title(mine)
    assert Page.objects.get().seen_at == mine.seen_at >= before


def test_bulk_update_names_the_stale_ones_and_writes_none() -> None:
    rows = [Page.objects.create(title="old", amount=n) for n in range(5)]
    update(rows[1])
    delete(rows[3])
    for row in rows:
        row.title = "mine"
    with pytest.raises(StaleObjectError, match="2 of 5") as caught:
        Page.objects.bulk_update(rows, ["title"])
    assert caught.value.pks == (rows[1].pk, rows[3].pk)
    assert not Page.objects.filter(title="mine").exists()
    assert {row.version for row in rows} == {1}


def test_bulk_update_takes_batches_and_expressions() -> None:
    rows = [Page.objects.create(title="old", amount=n) for n in range(5)]
    for row in rows:
        row.amount = F("amount") + 10  # type: ignore[assignment]
    assert Page.objects.bulk_update(rows, ["amount"], batch_size=2) == 5
    assert {row.version for row in rows} == {2}
    amounts = Page.objects.order_by("amount").values_list("amount", flat=True)
    assert list(amounts) == [10, 11, 12, 13, 14]


def test_bulk_update_writes_the_key_of_what_was_saved_later() -> None:
    old, later = Page.objects.create(title="old"), Page(title="later")
    note = PageNote.objects.create(page=old, text="")
    note.page = later
    with pytest.raises(ValueError, match="unsaved related object"):
        PageNote.objects.bulk_update([note], ["page"])
    later.save()
    PageNote.objects.bulk_update([note], ["page"])
    assert PageNote.objects.values_list("page", "version").get() == (later.pk, 2)


def test_bulk_update_writes_a_moment_to_the_microsecond() -> None:
    mine = Page.objects.create(title="old")
    mine.seen_at = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    Page.objects.bulk_update([mine], ["seen_at"])
    assert Page.objects.get().seen_at == mine.seen_at


@pytest.mark.parametrize("model", [Page, SpecialPage, VersionedChild])
def test_bulk_update_leaves_rows_that_the_queryset_leaves_out(model: Any) -> None:
    mine, theirs = model.objects.create(title="mine"), model.objects.create(title="theirs")
    for row in (mine, theirs):
        row.amount = 7
    with pytest.raises(StaleObjectError, match="1 of 2") as caught:
        model.objects.filter(title="mine").bulk_update([mine, theirs], ["amount"])
    assert caught.value.pks == (theirs.pk,)
    with pytest.raises(StaleObjectError, match="or is not among the rows"):
        model.objects.exclude(title="theirs").bulk_update([theirs], ["amount"])
    assert model.objects.filter(title="mine").bulk_update([mine], ["amount"]) == 1
    assert list(model.objects.order_by("pk").values_list("amount", "version")) == [(7, 2), (0, 1)]


def test_bulk_update_of_a_related_manager_writes_its_own_rows() -> None:
    page, other = Page.objects.create(title="a"), Page.objects.create(title="b")
    note = PageNote.objects.create(page=page, text="old")
    with pytest.raises(StaleObjectError):
        other.notes.bulk_update([note], ["text"])
    assert page.notes.bulk_update([note], ["text"]) == 1


def test_bulk_update_of_a_child_writes_both_tables() -> None:
    rows = [SpecialPage.objects.create(title="old") for _ in range(2)]
    for row in rows:
        row.title, row.extra = "mine", "more"
    SpecialPage.objects.bulk_update(rows, ["title", "extra"])
    assert set(SpecialPage.objects.values_list("title", "extra", "version")) == {
        ("mine", "more", 2)
    }


def test_bulk_update_refuses_a_row_twice_and_the_version() -> None:
    row = Page.objects.create(title="old")
    for rows, fields in (([row, row], ["title"]), ([row], ["version"])):
        with pytest.raises(UsageError):
            Page.objects.bulk_update(rows, fields)
    with pytest.raises(ValueError, match="primary key"):
        Page.objects.bulk_update([row], ["id"])
    assert Page.objects.bulk_update([], ["title"]) == 0


@pytest.mark.parametrize("values", [{"title": "theirs"}, {"extra": "x"}])
def test_an_update_of_a_child_raises_the_version(values: dict[str, str]) -> None:
    SpecialPage.objects.create(title="old")
    assert SpecialPage.objects.filter(title="old").update(**values) == 1
    assert SpecialPage.objects.get().version == 2


@pytest.mark.parametrize("values", [{"title": "mine"}, {"extra": "mine"}])
def test_an_update_of_a_child_leaves_a_row_that_another_has_claimed(
    values: dict[str, str],
) -> None:
    SpecialPage.objects.create(title="free", extra="free")

    def claim(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("UPDATE") and '"version" + ' in sql:  # the rows have been selected
            with connection.cursor() as cursor:
                cursor.cursor.execute("UPDATE testapp_specialpage SET extra = 'theirs'")
        return execute(sql, *rest)

    with connection.execute_wrapper(claim):
        assert SpecialPage.objects.filter(extra="free").update(**values) == 0
    assert SpecialPage.objects.values_list("title", "extra").get() == ("free", "theirs")


def test_an_update_of_a_child_takes_annotations() -> None:
    SpecialPage.objects.create(title="old", extra="more")
    assert SpecialPage.objects.annotate(same=F("extra")).update(extra=F("same")) == 1
    assert SpecialPage.objects.values_list("extra", "version").get() == ("more", 2)


def test_an_update_of_the_version_is_refused() -> None:
    with pytest.raises(UsageError):
        Page.objects.update(version=5)


def test_update_or_create_and_get_or_create() -> None:
    page, _ = Page.objects.get_or_create(title="a")
    page, _ = Page.objects.update_or_create(title="a", defaults={"amount": 2})
    assert (page.version, Page.objects.get().version) == (2, 2)
    with transaction.atomic():
        locked = Page.objects.select_for_update().get()
        locked.save()
    assert Page.objects.get().version == 3


def test_a_copy_and_a_pickle_keep_the_version() -> None:
    mine = Page.objects.create(title="old")
    for twin in (copy.copy(mine), copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert twin.version == 1
        write_title(Page.objects.get())
        with pytest.raises(StaleObjectError):
            twin.save()
    twin = copy.copy(mine)
    twin.pk = None
    twin._state.adding = True
    twin.save()
    assert Page.objects.count() == 2


def test_a_fixture_overwrites() -> None:
    mine = Page.objects.create(title="old")
    write_title(Page.objects.get())
    mine.save_base(raw=True)
    assert Page.objects.values_list("title", "version").get() == ("old", 1)
    update(mine)
    with pytest.raises(StaleObjectError):  # no fixture by now
        mine.save()


def test_a_child_is_made_of_a_parent_s_row() -> None:
    page = Page.objects.create(title="old")
    child = SpecialPage(page_ptr=page, title="old", extra="x", version=page.version)
    child.save()
    assert SpecialPage.objects.get().version == 2


@pytest.mark.parametrize("write", [write_async, delete_async])
def test_the_async_twins_are_guarded(write: Callable[[Any], None]) -> None:
    mine = Page.objects.create(title="old")
    update(mine)
    with pytest.raises(StaleObjectError):
        write(mine)


def test_the_async_twins_of_our_own() -> None:
    mine = Page.objects.create(title="old")
    async_to_sync(mine.aforce_increment)()
    async_to_sync(mine.arefresh_or_raise)()
    assert mine.version == 2


def test_deleting_what_was_never_saved_is_django_s_error() -> None:
    with pytest.raises(ValueError, match=r"primary key|set to None"):
        Page(title="x").delete()


def test_a_key_of_two_columns_is_guarded_too() -> None:
    mine, *_ = [NumberedPage.objects.create(chapter=1, number=n, title="old") for n in (1, 2, 3)]
    twin = NumberedPage.objects.get(pk=mine.pk)
    write_title(twin)
    for write in (write_title, write_some, delete_mine, force_increment):
        with pytest.raises(StaleObjectError):
            write(mine)
    write_title(twin)
    assert sorted(NumberedPage.objects.values_list("number", "title", "version")) == [
        (1, "mine", 3),
        (2, "old", 1),
        (3, "old", 1),
    ]
    twin.delete()
    assert NumberedPage.objects.count() == 2


def test_rows_are_deleted_as_they_were_read_or_stay_as_they_are() -> None:
    rows = [Page.objects.create(title="old") for _ in range(3)]
    shown = {row.pk: row.version for row in rows}
    update(rows[1])
    with pytest.raises(StaleObjectError) as caught:
        delete_as_read(Page.objects.all(), shown)
    assert caught.value.pks == (rows[1].pk,)
    assert list(Page.objects.order_by("pk").values_list("version", flat=True)) == [1, 2, 1]
    delete_as_read(Page.objects.all(), shown | {rows[1].pk: 2})
    assert not Page.objects.exists()


@isolate_apps("tests.testapp")
def test_a_base_manager_that_joins_is_guarded_too() -> None:
    class OfPages(VersionedManager["NoteOfPage"]):
        def get_queryset(self) -> Any:
            return super().get_queryset().exclude(page__title="hidden")

    class NoteOfPage(VersionedModel):  # which shares the table of PageNote
        page = models.ForeignKey(Page, models.CASCADE, related_name="+")
        text = models.CharField(max_length=50)
        joined = OfPages()

        class Meta:
            app_label = "testapp"
            db_table = PageNote._meta.db_table
            base_manager_name = "joined"

        def __str__(self) -> str:
            return self.text

    page = Page.objects.create(title="page")
    PageNote.objects.create(page=page, text="old")
    mine, theirs = NoteOfPage.joined.get(), NoteOfPage.joined.get()
    theirs.text = "theirs"
    theirs.save()
    mine.text = "mine"
    with pytest.raises(StaleObjectError):
        mine.save()
    assert PageNote.objects.get().text == "theirs"
