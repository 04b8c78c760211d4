"""A deleted row is seen nowhere, comes back whole, and is deleted once."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib import admin
from django.contrib.admin.sites import AdminSite
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import (
    IntegrityError,
    NotSupportedError,
    connection,
    connections,
    models,
    transaction,
)
from django.db.models import Count, Prefetch, ProtectedError, RestrictedError
from django.db.models.fields.related_descriptors import ReverseOneToOneDescriptor
from django.db.models.signals import post_delete, pre_delete
from django.template import Context, Template
from django.test import RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.utils import timezone

from dbpatterns.repositories.errors import UnsavedObject
from dbpatterns.repositories.soft_delete import (
    LiveManager,
    LiveOneToOneField,
    RestoreConflict,
    SoftDeleteModel,
    live,
    unique_among_live,
)
from tests.testapp.models import (
    Annex,
    Binder,
    Book,
    Catalogue,
    Chapter,
    Cover,
    Deposit,
    Envelope,
    Footnote,
    Imprint,
    Label,
    Loan,
    Reading,
    Shelf,
    Sticker,
    Volume,
)

NOWHERE: list[Any] = []


@pytest.fixture
def imprint(db: None) -> Imprint:
    return Imprint.objects.create(name="Faber")


@pytest.fixture
def book(imprint: Imprint) -> Book:
    return Book.objects.create(slug="emma", imprint=imprint, pages=100)


def statements(action: Callable[[], Any], word: str = "") -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        action()
    return [each["sql"] for each in queries if each["sql"].startswith(word)]


# What shows a deleted row, and what does not


READS: dict[str, Callable[[Any], Any]] = {
    "all": lambda rows: list(rows.all()),
    "filter": lambda rows: list(rows.filter(slug="emma")),
    "exclude": lambda rows: list(rows.exclude(slug="other")),
    "count": lambda rows: rows.count(),
    "exists": lambda rows: rows.exists(),
    "aggregate": lambda rows: rows.aggregate(n=Count("pk"))["n"],
    "in_bulk": lambda rows: rows.in_bulk(),
    "first": lambda rows: rows.first(),
    "values_list": lambda rows: list(rows.values_list("slug")),
    "iterator": lambda rows: list(rows.iterator()),
    "update": lambda rows: rows.update(pages=1),
    "union": lambda rows: list(rows.all().union(rows.all())),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_no_read_of_the_default_manager_shows_a_deleted_row(
    book: Book, read: Callable[[Any], Any]
) -> None:
    assert read(Book.objects)
    book.delete()
    assert not read(Book.objects)
    assert read(Book.everything)


def test_get_of_a_deleted_row_is_does_not_exist(book: Book) -> None:
    book.delete()
    with pytest.raises(Book.DoesNotExist):
        Book.objects.get(pk=book.pk)
    assert Book.everything.get(pk=book.pk).is_deleted


def test_the_row_stays_and_the_object_knows(book: Book) -> None:
    assert not book.is_deleted
    assert book.delete() == (1, {"testapp.Book": 1})
    row = Book.everything.get(pk=book.pk)
    assert book.is_deleted
    assert (row.deleted_at, row.deletion) == (book.deleted_at, book.deletion)


def related(book: Book) -> dict[str, tuple[Any, Callable[[], Any], Callable[[], Any]]]:
    """By relation: the row to delete, the related manager, and prefetched rows."""
    shelf = Shelf.objects.create(name="A")
    Book.objects.update(shelf=shelf)
    chapter = Chapter.objects.create(book=book, title="I")
    label = Label.objects.create(name="novel")
    book.labels.add(label)
    sticker = Sticker.objects.create(content_object=book, text="sale")
    binder = Binder.objects.create(name="b")
    binder.labels.add(label)
    return {
        "reverse FK": (
            chapter,
            lambda: book.chapters.all(),
            lambda: Book.objects.prefetch_related("chapters").get().chapters.all(),
        ),
        "m2m": (
            label,
            lambda: book.labels.all(),
            lambda: Book.objects.prefetch_related("labels").get().labels.all(),
        ),
        "m2m from a plain model": (
            label,
            lambda: binder.labels.all(),
            lambda: Binder.objects.prefetch_related("labels").get().labels.all(),
        ),
        "m2m backwards": (
            book,
            lambda: label.books.all(),
            lambda: Label.objects.prefetch_related("books").get().books.all(),
        ),
        "generic": (
            sticker,
            lambda: book.stickers.all(),
            lambda: Book.objects.prefetch_related("stickers").get().stickers.all(),
        ),
        "SET_NULL": (
            book,
            lambda: shelf.books.all(),
            lambda: Shelf.objects.prefetch_related("books").get().books.all(),
        ),
    }


@pytest.mark.parametrize(
    "name",
    ["reverse FK", "m2m", "m2m from a plain model", "m2m backwards", "generic", "SET_NULL"],
)
def test_no_related_manager_or_prefetch_shows_a_deleted_row(book: Book, name: str) -> None:
    row, manager, prefetched = related(book)[name]
    assert list(manager()) == list(prefetched()) == [row]
    row.delete()
    assert list(manager()) == list(prefetched()) == NOWHERE
    assert manager().count() == 0
    assert not manager().exists()


def test_nested_and_explicit_prefetches_show_no_deleted_row(book: Book) -> None:
    kept = Chapter.objects.create(book=book, title="I")
    Chapter.objects.create(book=book, title="II").delete()
    note = Footnote.objects.create(chapter=kept, text="x")
    note.delete()
    found = Imprint.objects.prefetch_related(
        Prefetch(
            "books",
            queryset=Book.objects.prefetch_related(
                Prefetch("chapters", to_attr="parts"), "chapters__footnotes"
            ),
        )
    ).get()
    with CaptureQueriesContext(connection) as queries:
        (found_book,) = found.books.all()
        assert found_book.parts == list(found_book.chapters.all()) == [kept]
        assert list(found_book.chapters.all()[0].footnotes.all()) == NOWHERE
    assert len(queries) == 0


def test_a_related_manager_shows_deleted_rows_when_asked(book: Book) -> None:
    chapter = Chapter.objects.create(book=book, title="I")
    chapter.delete()
    assert list(book.chapters(manager="everything").all()) == [chapter]
    assert list(book.chapters(manager="everything").deleted()) == [chapter]
    assert list(book.chapters(manager="everything").live()) == NOWHERE


def test_django_s_reverse_one_to_one_shows_a_deleted_row(book: Book) -> None:
    cover = Cover.objects.create(book=book, colour="red")
    cover.delete()
    plain = ReverseOneToOneDescriptor(Book._meta.get_field("cover"))
    assert plain.__get__(Book.objects.get()) == cover


@pytest.mark.parametrize(
    "load",
    [
        lambda: Book.objects.get(),
        lambda: Book.objects.select_related("cover").get(),
        lambda: Book.objects.prefetch_related("cover").get(),
    ],
    ids=["lazy", "select_related", "prefetch_related"],
)
def test_a_live_reverse_one_to_one_has_no_deleted_row(book: Book, load: Callable[[], Book]) -> None:
    cover = Cover.objects.create(book=book, colour="red")
    assert load().cover == cover
    cover.delete()
    with pytest.raises(Cover.DoesNotExist):
        load().cover  # noqa: B018
    assert not hasattr(load(), "cover")
    cover.restore()
    assert load().cover == cover


def test_a_cached_reverse_one_to_one_that_is_deleted_since_says_so(book: Book) -> None:
    Cover.objects.create(book=book, colour="red")
    book.cover.delete()
    with pytest.raises(ObjectDoesNotExist, match="Book has no cover: it is deleted"):
        book.cover  # noqa: B018
    assert isinstance(Book.cover, ReverseOneToOneDescriptor)


def test_a_foreign_key_to_a_deleted_row_still_leads_there(book: Book) -> None:
    chapter = Chapter.objects.create(book=book, title="I")
    Book.everything.filter(pk=book.pk).update(deleted_at=timezone.now())
    found = Chapter.objects.get(pk=chapter.pk)
    assert found.book == book
    assert found.book.is_deleted
    assert Chapter.objects.select_related("book").get().book.is_deleted
    assert Chapter.objects.prefetch_related("book").get().book.is_deleted


def test_a_generic_foreign_key_to_a_deleted_row_still_leads_there(book: Book) -> None:
    sticker = Sticker.objects.create(content_object=book, text="x")
    book.delete()
    sticker.restore()
    assert Sticker.objects.get().content_object == book


def test_a_join_sees_deleted_rows_and_live_mends_it(book: Book, imprint: Imprint) -> None:
    empty = Imprint.objects.create(name="Empty")
    Book.objects.create(slug="kept", imprint=imprint)
    book.delete()
    assert list(Imprint.objects.filter(books__slug="emma")) == [imprint]  # the harm
    assert list(Imprint.objects.filter(live("books"), books__slug="emma")) == NOWHERE
    assert list(Imprint.objects.filter(live("books"), books__slug="kept")) == [imprint]
    assert empty not in Imprint.objects.filter(live("books"))
    counted = Imprint.objects.annotate(
        every=Count("books"), living=Count("books", filter=live("books"))
    )
    assert [(each.every, each.living) for each in counted.order_by("name")] == [(0, 0), (2, 1)]


def test_live_takes_several_paths(book: Book, imprint: Imprint) -> None:
    chapter = Chapter.objects.create(book=book, title="I")
    rows = Imprint.objects.filter(live("books", "books__chapters"), books__chapters__title="I")
    assert list(rows) == [imprint]
    chapter.delete()
    assert list(rows.all()) == NOWHERE


# Saving


@isolate_apps("tests.testapp")
@pytest.mark.django_db
def test_a_base_manager_that_filters_turns_save_into_an_insert(book: Book) -> None:
    class Broken(SoftDeleteModel):
        slug = models.SlugField()
        imprint_id = models.IntegerField()
        pages = models.IntegerField(default=0)

        class Meta:
            app_label = "testapp"
            db_table = "testapp_book"
            base_manager_name = "objects"

    book.delete()
    row = Broken.everything.get(pk=book.pk)
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()  # the harm: INSERT of a key that is there


def test_save_of_a_deleted_row_updates_it(book: Book) -> None:
    book.delete()
    row = Book.everything.get(pk=book.pk)
    row.pages = 7
    assert [each[:6] for each in statements(row.save)] == ["UPDATE"]
    row.refresh_from_db()
    assert row.pages == 7
    assert row.is_deleted


@pytest.mark.parametrize("update_fields", [None, ["pages", "deleted_at", "deletion"]])
def test_save_of_a_stale_object_does_not_bring_its_row_back(
    book: Book, update_fields: list[str] | None
) -> None:
    stale = Book.objects.get()
    book.delete()
    stale.pages = 7
    stale.save(update_fields=update_fields)
    row = Book.everything.get()
    assert (row.pages, row.deleted_at, row.deletion) == (7, book.deleted_at, book.deletion)


def test_a_row_may_be_created_deleted(imprint: Imprint) -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    book = Book.objects.create(slug="old", imprint=imprint, deleted_at=at)
    assert Book.everything.get().deleted_at == at
    assert book not in Book.objects.all()


def test_migrations_name_django_s_fields() -> None:
    for model, name in ((Book, "deleted_at"), (Book, "deletion"), (Cover, "book")):
        _, path, _, _ = model._meta.get_field(name).deconstruct()
        assert path.startswith("django.db.models.")
        assert hasattr(models, path.rpartition(".")[2])


# Unique values


def test_a_new_row_may_take_a_deleted_row_s_value(book: Book, imprint: Imprint) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Book.objects.create(slug="emma", imprint=imprint)
    book.delete()
    Book(slug="emma", imprint=imprint).full_clean(exclude=["labels", "shelf", "number"])
    Book.objects.create(slug="emma", imprint=imprint)
    with pytest.raises(ValidationError, match="testapp_book_slug"):
        Book(slug="emma", imprint=imprint).validate_constraints()


@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
def test_get_or_create_makes_a_new_row_beside_a_deleted_one(
    book: Book, imprint: Imprint, method: str
) -> None:
    book.delete()
    found, created = getattr(Book.objects, method)(slug="emma", defaults={"imprint": imprint})
    assert created
    assert found.pk != book.pk
    again, created = getattr(Book.objects, method)(slug="emma", defaults={"imprint": imprint})
    assert (again, created) == (found, False)


def test_restore_refuses_a_value_that_is_taken_and_restores_nothing(
    book: Book, imprint: Imprint
) -> None:
    chapter = Chapter.objects.create(book=book, title="I")
    book.delete()
    taker = Book.objects.create(slug="emma", imprint=imprint)
    with pytest.raises(RestoreConflict) as caught:
        book.restore()
    assert caught.value.constraint == "testapp_book_slug"
    assert caught.value.model == "testapp.Book"
    assert str(caught.value) == (
        "testapp.Book cannot be restored: a live row has its slug already (constraint "
        "'testapp_book_slug'). Change or delete that row, or change this one, and restore again."
    )
    assert book.is_deleted
    assert list(Book.objects.all()) == [taker]
    assert not Chapter.objects.exists()
    taker.delete()
    assert book.restore()[0] == 2
    assert chapter in Chapter.objects.all()


def test_restore_names_a_constraint_over_several_columns_and_of_a_child(
    book: Book, imprint: Imprint
) -> None:
    Book.objects.update(number=1)
    imprint.delete()
    other = Imprint.objects.create(name="Other")
    Book.objects.create(slug="emma", imprint=other)
    with pytest.raises(RestoreConflict, match="testapp_book_slug") as caught:
        imprint.restore()
    assert caught.value.model == "testapp.Book"
    Book.objects.update(slug="else")
    Book.objects.create(slug="third", imprint=imprint, number=1)
    with pytest.raises(RestoreConflict, match="its imprint and number already"):
        imprint.restore()


def test_two_deleted_rows_of_one_value_are_not_both_restored(book: Book, imprint: Imprint) -> None:
    book.delete()
    Book.objects.create(slug="emma", imprint=imprint).delete()
    with pytest.raises(RestoreConflict, match="testapp_book_slug"):
        Book.everything.filter(slug="emma").restore()
    assert not Book.objects.exists()


def test_restore_tells_the_database_s_words_if_no_model_knows_the_constraint(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE UNIQUE INDEX hidden ON testapp_label (name) WHERE deleted_at IS NULL"
        )
    label = Label.objects.create(name="x")
    label.delete()
    Label.objects.create(name="x")
    with pytest.raises(
        RestoreConflict, match=r"testapp\.Label cannot be restored, for the"
    ) as caught:
        label.restore()
    assert (caught.value.model, caught.value.constraint) == ("testapp.Label", "")
    assert "hidden" in str(caught.value) or "testapp_label.name" in str(caught.value)


# Deletion, by sets


def tree(imprint: Imprint, *, books: int, chapters: int) -> None:
    made = Book.objects.bulk_create(
        Book(slug=f"b{imprint.pk}-{n}", imprint=imprint) for n in range(books)
    )
    parts = Chapter.objects.bulk_create(
        Chapter(book=each, title=str(n)) for each in made for n in range(chapters)
    )
    Footnote.objects.bulk_create(Footnote(chapter=each, book=each.book, text="") for each in parts)


def test_a_deletion_takes_all_below_with_one_instant_and_one_token(imprint: Imprint) -> None:
    tree(imprint, books=3, chapters=2)
    count, by_model = Imprint.objects.all().delete()
    assert count == 1 + 3 + 6 + 6
    assert by_model == {
        "testapp.Imprint": 1,
        "testapp.Book": 3,
        "testapp.Chapter": 6,
        "testapp.Footnote": 6,
    }
    stamps = {
        (each.deleted_at, each.deletion)
        for model in (Imprint, Book, Chapter, Footnote)
        for each in model.everything.all()
    }
    assert len(stamps) == 1


def test_the_number_of_queries_depends_on_relations_only(db: None) -> None:
    """Imprint, Book, Chapter, two ways to Footnote, and relations that lead to no row."""
    for model in (Imprint, Book, Volume, Chapter, Footnote):  # which Django reads once a process
        ContentType.objects.get_for_model(model)
    counts = []
    for size in (1, 3, 40):  # 40 books, 1,600 chapters
        imprint = Imprint.objects.create(name=str(size))
        tree(imprint, books=size, chapters=size)
        found = statements(Imprint.objects.filter(pk=imprint.pk).delete)
        counts.append((len(found), len([each for each in found if each.startswith("UPDATE")])))
        assert not [
            each
            for each in found
            if each.startswith("SELECT")
            and "loan" not in each
            and "deposit" not in each
            and "catalogue" not in each
        ]
    assert counts == [counts[0]] * 3
    assert counts[0][1] <= 12


def test_a_tree_takes_one_update_a_level(db: None) -> None:
    levels = []
    for depth in (2, 5):
        parent = None
        for number in range(depth):
            parent = Shelf.objects.create(name=str(number), parent=parent)
        root = Shelf.objects.get(parent=None)
        levels.append(len(statements(root.delete, "UPDATE")))
        assert not Shelf.objects.exists()
        root.hard_delete()
    assert levels == [3, 6]  # the last finds nothing below


def test_a_tree_that_is_a_ring_ends(db: None) -> None:
    first = Shelf.objects.create(name="1")
    second = Shelf.objects.create(name="2", parent=first)
    Shelf.objects.filter(pk=first.pk).update(parent=second)
    assert first.delete()[0] == 2
    assert first.restore()[0] == 2


def test_deleted_rows_are_not_deleted_again(book: Book) -> None:
    book.delete()
    at, token = book.deleted_at, book.deletion
    assert Book.everything.all().delete() == (0, {})
    assert Book.everything.get().deleted_at == at
    stale = Book.everything.get()
    stale.deleted_at = stale.deletion = None
    assert stale.delete() == (0, {})
    assert (stale.deleted_at, stale.deletion) == (at, token)


def test_delete_of_a_row_that_is_gone_is_nothing(book: Book) -> None:
    Book.objects.get().hard_delete()
    assert book.delete() == (0, {})
    assert not book.is_deleted


def test_only_the_filtered_rows_are_deleted(book: Book, imprint: Imprint) -> None:
    other = Book.objects.create(slug="other", imprint=imprint)
    Chapter.objects.create(book=other, title="I")
    assert Book.objects.filter(chapters__title="I").delete()[1]["testapp.Book"] == 1
    assert Book.objects.annotate(n=Count("chapters")).filter(n=1).delete() == (0, {})
    assert list(Book.objects.all()) == [book]
    assert Book.objects.order_by("slug").annotate(n=Count("chapters")).filter(n=0).delete()[0] == 1


def test_generic_relations_cascade(book: Book) -> None:
    sticker = Sticker.objects.create(content_object=book, text="on")
    elsewhere = Sticker.objects.create(
        content_type=ContentType.objects.get_for_model(Imprint), object_id=book.pk, text="off"
    )
    book.delete()
    assert list(Sticker.objects.all()) == [elsewhere]
    book.restore()
    assert sticker in Sticker.objects.all()


def test_generic_relations_of_a_row_with_a_uuid_cascade(db: None) -> None:
    first, second = (Envelope.objects.create() for _ in range(2))
    for each in (first, second):
        Sticker.objects.create(content_object=each, text="x")
    assert first.delete()[0] == 2
    assert Sticker.objects.get().content_object == second
    assert first.restore()[0] == 2
    assert Sticker.objects.count() == 2


def test_rows_of_two_tables_are_deleted_as_one(imprint: Imprint) -> None:
    volume = Volume.objects.create(slug="v", imprint=imprint)
    annex = Annex.objects.create(volume=volume)
    chapter = Chapter.objects.create(book=volume, title="I")
    assert volume.delete() == (
        3,
        {"testapp.Book": 1, "testapp.Chapter": 1, "testapp.Annex": 1},
    )
    assert volume.is_deleted
    assert not Volume.objects.exists()
    assert not Book.objects.exists()
    assert volume.restore()[0] == 3
    Book.objects.get().delete()  # from the parent's side
    assert not Volume.objects.exists()
    assert annex not in Annex.objects.all()
    Volume.everything.all().restore()
    assert chapter in Chapter.objects.all()
    assert annex in Annex.objects.all()


def test_children_that_are_not_soft_deletable_stay(book: Book) -> None:
    reading = Reading.objects.create(book=book)
    book.delete()
    assert Reading.objects.get() == reading
    assert Reading.objects.get().book.is_deleted


def test_set_null_leaves_the_reference_for_a_restore(book: Book) -> None:
    shelf = Shelf.objects.create(name="A")
    Book.objects.update(shelf=shelf)
    shelf.delete()
    assert Book.objects.get().shelf_id == shelf.pk
    shelf.restore()
    assert list(shelf.books.all()) == [book]


@pytest.mark.parametrize("model", [Loan, Deposit])
def test_protect_refuses_with_django_s_error_and_deletes_nothing(
    book: Book, imprint: Imprint, model: type[Loan] | type[Deposit]
) -> None:
    row = model.objects.create(book=book)
    Chapter.objects.create(book=book, title="I")
    with pytest.raises(ProtectedError) as ours:
        book.delete()
    with pytest.raises(ProtectedError) as django_s:
        book.hard_delete()
    assert ours.value.args[0] == django_s.value.args[0]
    assert ours.value.protected_objects == django_s.value.protected_objects == {row}
    with pytest.raises(ProtectedError):
        imprint.delete()  # a level deeper
    assert Book.objects.get() == book
    assert Chapter.objects.exists()
    assert not book.is_deleted


def test_a_deleted_row_protects_nothing(book: Book) -> None:
    Loan.objects.create(book=book).delete()
    assert book.delete()[0] == 1
    with pytest.raises(ProtectedError):  # the database's reference is still there
        book.hard_delete()


def test_protect_refuses_even_if_the_row_goes_as_well(book: Book) -> None:
    chapter = Chapter.objects.create(book=book, title="I")
    loan = Loan.objects.create(book=book, chapter=chapter)
    with pytest.raises(ProtectedError) as ours:
        book.delete()
    with pytest.raises(ProtectedError):
        book.hard_delete()
    assert ours.value.protected_objects == {loan}
    assert Loan.objects.get() == loan


def test_restrict_refuses_unless_the_row_goes_as_well(book: Book, imprint: Imprint) -> None:
    row = Catalogue.objects.create(imprint=imprint, book=book)
    with pytest.raises(RestrictedError) as ours:
        book.delete()
    with pytest.raises(RestrictedError) as django_s:
        book.hard_delete()
    assert ours.value.args[0] == django_s.value.args[0]
    assert ours.value.restricted_objects == {row}
    assert imprint.delete()[0] == 3
    assert not Catalogue.objects.exists()


@pytest.mark.parametrize("method", ["delete", "restore"])
def test_what_django_refuses_to_delete_is_refused(book: Book, method: str) -> None:
    rows = Book.everything
    with pytest.raises(TypeError, match="slice"):
        getattr(rows.all()[:1], method)()
    with pytest.raises(NotSupportedError, match="union"):
        getattr(rows.all().union(rows.all()), method)()
    with pytest.raises(TypeError, match=rf"{method}\(\) after .values"):
        getattr(rows.values("pk"), method)()
    assert not hasattr(rows, method)
    assert Book.objects.exists()


@pytest.mark.parametrize("method", ["delete", "restore", "hard_delete"])
def test_an_object_without_a_row_is_refused(method: str) -> None:
    error: type[Exception] = ValueError if method == "hard_delete" else UnsavedObject
    with pytest.raises(error):
        getattr(Book(), method)()


def test_no_template_deletes(book: Book) -> None:
    template = Template(
        "{{ book.delete }}{{ book.hard_delete }}{{ books.delete }}{{ books.hard_delete }}"
    )
    assert template.render(Context({"book": book, "books": Book.objects.all()})) == ""
    assert Book.objects.get() == book


def test_soft_deletion_sends_no_signal_and_hard_deletion_django_s(book: Book) -> None:
    heard: list[str] = []

    def before(**_: Any) -> None:
        heard.append("pre")

    def after(**_: Any) -> None:
        heard.append("post")

    pre_delete.connect(before, sender=Book)
    post_delete.connect(after, sender=Book)
    try:
        book.delete()
        Book.everything.all().restore()
        assert heard == []
        book.hard_delete()
    finally:
        pre_delete.disconnect(before, sender=Book)
        post_delete.disconnect(after, sender=Book)
    assert heard == ["pre", "post"]


def test_the_admin_deletes_softly(book: Book) -> None:
    model_admin = admin.ModelAdmin(Book, AdminSite())
    request = RequestFactory().get("/")
    request.user = get_user_model()(is_superuser=True)
    other = Book.objects.create(slug="other", imprint=book.imprint)
    assert set(model_admin.get_queryset(request)) == {book, other}
    model_admin.delete_model(request, book)
    model_admin.delete_queryset(request, Book.objects.all())
    assert not model_admin.get_queryset(request).exists()
    assert Book.everything.count() == 2


# Restoring


def test_restore_brings_back_exactly_what_that_deletion_took(imprint: Imprint) -> None:
    tree(imprint, books=2, chapters=2)
    chapter = Chapter.objects.all()[0]
    chapter.delete()  # another deletion, before
    first, second = imprint.books.order_by("pk")
    assert imprint.delete()[0] == 1 + 2 + 3 + 3
    assert imprint.restore() == (
        9,
        {"testapp.Imprint": 1, "testapp.Book": 2, "testapp.Chapter": 3, "testapp.Footnote": 3},
    )
    assert not imprint.is_deleted
    assert list(Chapter.everything.deleted()) == [chapter]
    assert set(Imprint.everything.values_list("deletion", "deleted_at")) == {(None, None)}
    assert set(Book.everything.values_list("deletion", "deleted_at")) == {(None, None)}
    assert chapter.restore()[0] == 2
    assert {first, second} == set(Book.objects.all())


def test_restore_of_one_row_of_a_deletion_leaves_the_others(imprint: Imprint) -> None:
    tree(imprint, books=2, chapters=1)
    Book.objects.all().delete()
    book = Book.everything.all()[0]
    assert book.restore() == (
        3,
        {"testapp.Book": 1, "testapp.Chapter": 1, "testapp.Footnote": 1},
    )
    assert list(Book.objects.all()) == [book]


def test_deletions_at_one_instant_are_told_apart(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = timezone.now()
    monkeypatch.setattr("django.utils.timezone.now", lambda: frozen)
    chapters = [Chapter.objects.create(book=book, title=each) for each in "ab"]
    chapters[0].delete()
    book.delete()
    assert Chapter.everything.filter(deleted_at=frozen).count() == 2
    book.restore()
    assert list(Chapter.objects.all()) == [chapters[1]]


def test_a_queryset_restores_rows_of_several_deletions(imprint: Imprint) -> None:
    tree(imprint, books=3, chapters=1)
    for each in Book.objects.all():
        each.delete()
    assert Book.everything.deleted().restore()[0] == 9
    assert Book.objects.count() == 3
    assert Book.everything.all().restore() == (0, {})


def test_restore_of_a_child_leaves_its_parent_deleted(book: Book) -> None:
    chapter = Chapter.objects.create(book=book, title="I")
    book.delete()
    assert chapter.restore()[0] == 1
    assert not Book.objects.exists()
    assert book.restore()[0] == 1


def test_restore_of_a_live_row_is_nothing_and_leaves_children_alone(book: Book) -> None:
    Chapter.objects.create(book=book, title="I").delete()
    assert book.restore() == (0, {})
    assert not Chapter.objects.exists()


def test_rows_deleted_by_other_means_come_back_alone(book: Book) -> None:
    chapter = Chapter.objects.create(book=book, title="I")
    Book.everything.update(deleted_at=timezone.now())
    Chapter.everything.update(deleted_at=timezone.now())
    assert book.restore() == (1, {"testapp.Book": 1})
    assert not book.is_deleted
    assert not Chapter.objects.exists()
    assert chapter.restore()[0] == 1


# Hard deletion


def test_hard_delete_takes_deleted_children_and_all_that_django_takes(book: Book) -> None:
    Chapter.objects.create(book=book, title="I").delete()
    Reading.objects.create(book=book)
    assert book.hard_delete()[0] == 3
    assert not Book.everything.exists()
    assert not Chapter.everything.exists()


def test_a_purge_takes_old_deleted_rows_only(book: Book, imprint: Imprint) -> None:
    Book.objects.create(slug="old", imprint=imprint).delete()
    Book.everything.deleted().update(deleted_at=datetime(2020, 1, 1, tzinfo=UTC))
    Book.objects.create(slug="young", imprint=imprint).delete()
    cut = datetime(2021, 1, 1, tzinfo=UTC)
    assert Book.everything.filter(deleted_at__lt=cut).hard_delete()[0] == 1
    assert set(Book.everything.values_list("slug", flat=True)) == {"emma", "young"}


def test_a_plain_parent_s_deletion_is_not_stopped_by_deleted_children(imprint: Imprint) -> None:
    tree(imprint, books=1, chapters=1)
    Chapter.objects.all().delete()
    assert imprint.hard_delete()[0] == 4
    assert not Footnote.everything.exists()


# Async


@pytest.mark.django_db(transaction=True)
def test_async_twins_do_the_same() -> None:
    async def story() -> list[int]:
        imprint = await Imprint.objects.acreate(name="x")
        await Book.objects.acreate(slug="b", imprint=imprint)
        counts = [(await imprint.adelete())[0]]
        assert imprint.is_deleted
        counts.append(await Book.objects.acount())
        counts.append((await imprint.arestore())[0])
        assert not imprint.is_deleted
        counts.append((await Imprint.objects.all().adelete())[0])
        counts.append((await Imprint.everything.all().arestore())[0])
        counts.append((await Book.everything.all().ahard_delete())[0])
        counts.append((await imprint.ahard_delete())[0])
        counts.append(await Imprint.everything.acount())
        return counts

    assert async_to_sync(story)() == [2, 0, 2, 2, 2, 1, 1, 0]


# Other databases, and columns other than the key


@pytest.fixture
def elsewhere() -> Iterator[tuple[type[Any], type[Any]]]:
    """Two models whose tables are on a shard only, one referring to the other by a code."""
    with isolate_apps("tests.testapp"):

        class Region(SoftDeleteModel):
            code = models.CharField(max_length=5, unique=True)

            class Meta:
                app_label = "testapp"

        class Town(SoftDeleteModel):
            region = models.ForeignKey(Region, models.CASCADE, to_field="code")
            name = models.CharField(max_length=5)

            class Meta:
                app_label = "testapp"
                constraints = [unique_among_live("name", name="testapp_town_name")]

        with connections["shard_0"].schema_editor() as editor:
            editor.create_model(Region)
            editor.create_model(Town)
        try:
            yield Region, Town
        finally:
            with connections["shard_0"].schema_editor() as editor:
                editor.delete_model(Town)
                editor.delete_model(Region)


@pytest.mark.django_db(transaction=True, databases=["default", "shard_0"])
def test_all_happens_on_the_database_named(elsewhere: tuple[type[Any], type[Any]]) -> None:
    region_model, town_model = elsewhere
    region = region_model.objects.using("shard_0").create(code="N")
    town_model.objects.using("shard_0").create(region=region, name="t")
    with CaptureQueriesContext(connections["default"]) as stray:
        assert region.delete(using="shard_0")[0] == 2
        assert region.restore(using="shard_0")[0] == 2
        rows = region_model.everything.using("shard_0")
        assert rows.delete()[0] == 2
        assert not town_model.objects.using("shard_0").exists()
        town_model.objects.using("shard_0").create(region=region, name="t")
        with pytest.raises(RestoreConflict, match="testapp_town_name"):
            rows.restore()
        assert region.hard_delete(using="shard_0")[0] == 3
    assert len(stray) == 0


class ReadsElsewhere:
    """A router with a replica, which has none of the tables."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str:
        return "shard_0"

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return "default"


@pytest.mark.django_db(databases=["default", "shard_0"])
def test_a_deletion_reads_nothing_from_a_replica() -> None:
    imprint = Imprint.objects.create(name="x")
    tree(imprint, books=1, chapters=1)
    with (
        override_settings(DATABASE_ROUTERS=[ReadsElsewhere()]),
        CaptureQueriesContext(connections["shard_0"]) as replica,
    ):
        assert Imprint.objects.all().delete()[0] == 4
        assert Imprint.everything.all().restore()[0] == 4
    assert len(replica) == 0


# Concurrency


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("by_set", [False, True])
def test_of_two_deletions_at_once_the_first_wins(by_set: bool) -> None:
    imprint = Imprint.objects.create(name="x")
    tree(imprint, books=1, chapters=1)
    chapter = Chapter.objects.get()
    results: list[Any] = []

    def second() -> None:
        try:
            rows = Chapter.objects.filter(book__imprint__name="x")
            results.append((rows if by_set else chapter).delete())
        finally:
            connection.close()

    with transaction.atomic():
        imprint.delete()
        thread = threading.Thread(target=second)
        thread.start()
        wait_for_a_blocked_statement()
    thread.join(timeout=30)
    assert results == [(0, {})]
    assert set(Chapter.everything.values_list("deletion", flat=True)) == {imprint.deletion}
    if not by_set:
        assert chapter.deletion == imprint.deletion
    assert imprint.restore()[0] == 4


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_of_two_restores_at_once_the_first_wins() -> None:
    imprint = Imprint.objects.create(name="x")
    tree(imprint, books=1, chapters=1)
    imprint.delete()
    results: list[Any] = []

    def second() -> None:
        try:
            results.append(Imprint.everything.get().restore())
        finally:
            connection.close()

    with transaction.atomic():
        assert imprint.restore()[0] == 4
        thread = threading.Thread(target=second)
        thread.start()
        wait_for_a_blocked_statement()
    thread.join(timeout=30)
    assert results == [(0, {})]
    assert Chapter.objects.count() == 1


def wait_for_a_blocked_statement() -> None:
    waiting = False
    with connection.cursor() as cursor:
        while not waiting:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            (waiting,) = cursor.fetchone()


def test_the_public_face_is_usable_without_our_managers() -> None:
    assert isinstance(Book._default_manager, LiveManager)
    assert not isinstance(Book._base_manager, LiveManager)
    assert isinstance(Cover._meta.get_field("book"), LiveOneToOneField)
