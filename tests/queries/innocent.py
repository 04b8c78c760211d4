"""What looks like an N+1 and is none: each must pass in silence, writes too."""

import asyncio
import datetime
import io
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.core.paginator import Paginator
from django.db import connection, connections, transaction
from django.db.models import Q
from django.forms import ModelForm, inlineformset_factory
from django.template import Context, Engine
from rest_framework import serializers

from dbpatterns.repositories import Repository
from tests.testapp.models import (
    Branch,
    Critique,
    Genre,
    Nation,
    Novel,
    Novelist,
    Sticky,
    Synopsis,
)

INNOCENT: list[Callable[[], object]] = []


def innocent(function: Callable[[], object]) -> Callable[[], object]:
    """Add a function to the catalogue."""
    INNOCENT.append(function)
    return function


@innocent
def select_related() -> None:
    for novel in Novel.objects.select_related("novelist__nation", "synopsis"):
        str(novel), novel.novelist.nation.name, novel.synopsis.text


@innocent
def prefetch_related() -> None:
    for novel in Novel.objects.prefetch_related("critiques", "genres", "stickies", "novelist"):
        list(novel.critiques.all()), list(novel.genres.all()), list(novel.stickies.all())


@innocent
def prefetch_of_one_row_up_a_tree() -> None:
    """Level by level the same statement with one key each: no loop of rows."""
    leaf = Branch.objects.filter(name="leaf 0").prefetch_related("parent__parent")[0]
    assert leaf.parent is not None
    assert leaf.parent.parent is not None


@innocent
def prefetch_of_iterator_chunks() -> None:
    for novel in Novel.objects.prefetch_related("critiques").iterator(chunk_size=2):
        list(novel.critiques.all())


@innocent
def iterator_chunks() -> None:
    for novel in Novel.objects.iterator(chunk_size=1):
        _ = novel.title


@innocent
def pages_by_offset() -> None:
    paginator = Paginator(Critique.objects.order_by("pk"), 2)
    for page in paginator:
        list(page)


@innocent
def pages_by_key() -> None:
    last = 0
    while rows := list(Critique.objects.filter(pk__gt=last).order_by("pk")[:3]):
        last = rows[-1].pk


@innocent
def pages_by_two_keys() -> None:
    stars, pk = 100, 0
    while rows := list(
        Critique.objects.filter(Q(stars__lt=stars) | Q(stars=stars, pk__gt=pk)).order_by(
            "-stars", "pk"
        )[:3]
    ):
        stars, pk = rows[-1].stars, rows[-1].pk


@innocent
def pages_of_a_repository() -> None:
    critiques, cursor = Repository.for_model(Critique), None
    while True:
        page = critiques.page(size=3, cursor=cursor, order_by=["stars", "pk"])
        cursor = page.next_cursor
        if not cursor:
            break


@innocent
def raw_pages() -> None:
    with connection.cursor() as cursor:
        for offset in (0, 2, 4):
            cursor.execute("SELECT id FROM testapp_critique LIMIT %s OFFSET %s", [2, offset])
        for last in (0, 2, 4):
            cursor.execute(
                "SELECT id FROM testapp_critique WHERE id > %s ORDER BY id LIMIT %s", [last, 2]
            )
        for last in (0, 2, 4):
            cursor.execute(f"SELECT id FROM testapp_critique WHERE id > {last} ORDER BY id LIMIT 2")


@innocent
def chunks_of_in_bulk() -> None:
    pks = [each.pk for each in Critique.objects.all()]
    for start in range(0, len(pks), 3):
        Critique.objects.in_bulk(pks[start : start + 3])


@innocent
def batches_of_bulk_create() -> None:
    for start in range(3):
        Nation.objects.bulk_create(Nation(name=f"{start} {number}") for number in range(3))


@innocent
def one_bulk_create_in_batches() -> None:
    Nation.objects.bulk_create([Nation(name=str(number)) for number in range(9)], batch_size=3)


@innocent
def batches_of_bulk_update() -> None:
    rows = list(Critique.objects.all())
    Critique.objects.bulk_update(rows, ["text"], batch_size=2)


@innocent
def batches_of_delete() -> None:
    pks = [each.pk for each in Sticky.objects.all()]
    for start in (0, 2):
        Sticky.objects.filter(pk__in=pks[start : start + 2]).delete()


@innocent
def executemany() -> None:
    with connection.cursor() as cursor:
        for _ in range(3):
            cursor.executemany("UPDATE testapp_novel SET title = %s WHERE id = %s", [["a", 1]])


@innocent
def polling() -> None:
    for _ in range(4):
        Novel.objects.filter(title="ready").exists()


@innocent
def retries() -> None:
    for _ in range(3):
        try:
            Novel.objects.get(title="missing")
        except Novel.DoesNotExist:
            continue


@innocent
def two_lookups_on_two_lines() -> None:
    first, second = Novel.objects.order_by("pk")[:2]
    Novel.objects.get(pk=first.pk)
    Novel.objects.get(pk=second.pk)


@innocent
def two_lookups_on_one_line() -> None:
    one, two = Novel.objects.order_by("pk")[:2]
    _ = one.novelist.name, two.novelist.name


def find(pk: int) -> Novel:
    return Novel.objects.get(pk=pk)


@innocent
def helper_called_from_two_lines() -> None:
    first, second = Novel.objects.order_by("pk")[:2]
    find(first.pk)
    find(second.pk)


@innocent
def two_keys_to_one_table() -> None:
    novel = Novel.objects.order_by("pk")[0]
    for name in ("novelist", "editor"):
        getattr(novel, name)


@innocent
def two_keys_in_a_template_of_one_row() -> None:
    novel = Novel.objects.order_by("pk")[0]
    source = "{{ novel.novelist.name }}{{ novel.editor.name }}"
    Engine().from_string(source).render(Context({"novel": novel}))


@innocent
def one_partial_included_twice() -> None:
    novels = list(Novel.objects.order_by("pk")[:2])
    loader = {
        "one.html": "{{ novel.novelist.name }}",
        "both.html": '{% include "one.html" with novel=a %}\n{% include "one.html" with novel=b %}',
    }
    engine = Engine(loaders=[("django.template.loaders.locmem.Loader", loader)])
    engine.get_template("both.html").render(Context({"a": novels[0], "b": novels[1]}))


class PairSerializer(serializers.ModelSerializer[Novel]):
    novelist: Any = serializers.StringRelatedField()
    editor: Any = serializers.StringRelatedField()

    class Meta:
        model = Novel
        fields = ["novelist", "editor"]


@innocent
def two_fields_of_a_serializer() -> None:
    _ = PairSerializer(Novel.objects.order_by("pk")[0]).data


class WritingSerializer(serializers.ModelSerializer[Novel]):
    class Meta:
        model = Novel
        fields = ["title", "novelist", "editor"]


@innocent
def two_keys_in_the_input_of_a_serializer() -> None:
    first, second = Novelist.objects.order_by("pk")[:2]
    data = {"title": "new", "novelist": first.pk, "editor": second.pk}
    WritingSerializer(data=data).is_valid(raise_exception=True)


class NovelForm(ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Novel
        fields = ["title", "novelist", "editor"]


@innocent
def two_keys_of_a_form() -> None:
    first, second = Novelist.objects.order_by("pk")[:2]
    data = {"title": "new", "novelist": first.pk, "editor": second.pk}
    form = NovelForm(data)
    assert form.is_valid(), form.errors
    form.as_p()


@innocent
def two_keys_of_full_clean() -> None:
    first, second = Novelist.objects.order_by("pk")[:2]
    Novel(title="new", body="b", novelist=first, editor=second).full_clean()


@innocent
def inline_formset() -> None:
    novel = Novel.objects.order_by("pk")[0]
    formset = inlineformset_factory(Novel, Critique, fields=["stars", "text"])
    critiques = list(novel.critiques.all())
    data: dict[str, Any] = {"critiques-TOTAL_FORMS": 2, "critiques-INITIAL_FORMS": 2}
    for number, critique in enumerate(critiques):
        data[f"critiques-{number}-id"] = critique.pk
        data[f"critiques-{number}-novel"] = novel.pk
        data[f"critiques-{number}-stars"] = 4
        data[f"critiques-{number}-text"] = "text"
    bound = formset(data, instance=novel)
    assert bound.is_valid(), bound.errors


@innocent
def delete_of_one_row_with_a_chain_below() -> None:
    Branch.objects.get(parent=None).delete()


@innocent
def get_or_create_once() -> None:
    Genre.objects.get_or_create(name="genre 0")
    Genre.objects.get_or_create(name="other")


@innocent
def set_of_one_row() -> None:
    novel = Novel.objects.order_by("pk")[0]
    novel.genres.set(Genre.objects.order_by("-pk")[:3])


@innocent
def savepoints() -> None:
    for _ in range(3):
        with transaction.atomic():
            Novel.objects.count()


@innocent
def different_filters_in_sequence() -> None:
    rows = Critique.objects.all()
    for lookup in ({"stars": 1}, {"text": "good"}, {"stars__gt": 1}, {"novel__title": "x"}):
        rows.filter(**lookup).count()


@innocent
def count_then_list() -> None:
    rows = Novel.objects.filter(title__startswith="novel")
    rows.count(), list(rows[:2]), rows.exists()


@innocent
def cached_values() -> None:
    novels = list(Novel.objects.select_related("novelist"))
    for _ in range(3):
        [novel.novelist.name for novel in novels]


@innocent
def content_types() -> None:
    ContentType.objects.clear_cache()
    for model in (Novel, Nation, Genre, Synopsis):
        ContentType.objects.get_for_model(model)


@innocent
def content_types_by_id() -> None:
    pks = [ContentType.objects.get_for_model(model).pk for model in (Novel, Nation, Genre)]
    ContentType.objects.clear_cache()
    for pk in pks:
        ContentType.objects.get_for_id(pk)


@innocent
def sessions() -> None:
    for key in ("one", "two", "three"):
        SessionStore(session_key=key).load()


@innocent
def explain() -> None:
    for title in ("a", "b"):
        Novel.objects.filter(title=title).explain()


@innocent
def permissions_of_a_user() -> None:
    user = get_user_model().objects.create(username="ada")
    for permission in ("auth.add_user", "auth.change_user"):
        user.has_perm(permission)


@innocent
def migrations() -> None:
    call_command("migrate", verbosity=0)


@innocent
def databases_one_after_another() -> None:
    for number, alias in enumerate(("default", "shard_0")):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1 WHERE 1 = %s", [number])


@innocent
def dumping_data() -> None:
    call_command("dumpdata", "testapp.novel", verbosity=0, stdout=io.StringIO())


@innocent
def async_on_two_lines() -> None:
    async def both() -> None:
        first, second = [each async for each in Novel.objects.order_by("pk")[:2]]
        await Novel.objects.aget(pk=first.pk)
        await Novel.objects.aget(pk=second.pk)

    async_to_sync(both)()


@innocent
def async_gather_of_different_things() -> None:
    async def both() -> None:
        await asyncio.gather(Novel.objects.acount(), Genre.objects.acount())

    async_to_sync(both)()


@innocent
def deadline_that_moves() -> None:
    """A queue polled with the time of day."""
    users = get_user_model().objects
    for minute in range(3):
        now = datetime.datetime(2026, 1, 1, 0, minute, tzinfo=datetime.UTC)
        list(users.filter(date_joined__lte=now).order_by("date_joined")[:10])


@innocent
def batches_without_an_order() -> None:
    for start in (0, 3, 6):
        list(Critique.objects.filter(pk__gt=start).order_by()[:3])


@innocent
def batches_by_range_of_keys() -> None:
    for start in (0, 3, 6):
        list(Critique.objects.filter(pk__range=(start, start + 2)))
        list(Critique.objects.filter(pk__gte=start, pk__lt=start + 2))


@innocent
def batches_with_a_prefetch() -> None:
    for start in (0, 2):
        list(Novel.objects.order_by("pk")[start : start + 2].prefetch_related("novelist"))


@innocent
def pages_of_one_row_with_a_prefetch() -> None:
    for start in (0, 1, 2):
        list(Novel.objects.order_by("pk").prefetch_related("critiques")[start : start + 1])


@innocent
def related_rows_by_keys_of_two_columns() -> None:
    with connection.cursor() as cursor:
        for start in (0, 2):
            cursor.execute(
                "SELECT id FROM testapp_critique WHERE (id, stars) IN ((%s, %s), (%s, %s))",
                [start, 1, start + 1, 1],
            )
