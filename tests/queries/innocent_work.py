"""More that is no N+1: batches and queues, requests, users, forms, the admin, fixtures."""

import asyncio
import functools
import io
import itertools
import json
from typing import Any

import factory
from asgiref.sync import async_to_sync, sync_to_async
from django import forms
from django.contrib import admin
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.db import SessionStore
from django.core import serializers as fixtures
from django.core.cache import cache
from django.core.management import call_command
from django.core.paginator import Paginator
from django.db import connection, connections, transaction
from django.db.models import Count, Exists, F, OuterRef, Prefetch, Q, Subquery, Window
from django.db.models.functions import RowNumber
from django.db.models.signals import post_save
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from rest_framework import serializers

from tests.queries.innocent import find, innocent
from tests.testapp.models import (
    Berth,
    Branch,
    Critique,
    Docking,
    Frigate,
    Genre,
    Nation,
    Novel,
    Novelist,
    Port,
    Ship,
    Sticky,
    Synopsis,
    Tanker,
)

# Batches, pages and queues


@innocent
def queue_of_work() -> None:
    """Polls for what is left and says so by key; one row a turn is the point of a queue."""
    for _ in range(3):
        with transaction.atomic():
            Critique.objects.select_for_update(skip_locked=True).filter(text="good").first()


@innocent
def queue_of_work_in_batches() -> None:
    while True:
        with transaction.atomic():
            rows = Critique.objects.select_for_update(skip_locked=True).filter(text="good")[:2]
            pks = [row.pk for row in rows]
            if not pks:
                return
            Critique.objects.filter(pk__in=pks).update(text="done")


@innocent
def pages_by_slices() -> None:
    rows = Critique.objects.order_by("pk")
    for start in itertools.count(0, 3):
        if not rows[start : start + 3]:
            return


@innocent
def pages_of_one() -> None:
    paginator = Paginator(Critique.objects.order_by("pk"), 1)
    for number in paginator.page_range:
        list(paginator.page(number))


@innocent
def pages_with_relations() -> None:
    paginator = Paginator(
        Novel.objects.order_by("pk").select_related("novelist").prefetch_related("critiques"), 2
    )
    for number in paginator.page_range:
        [str(novel) for novel in paginator.page(number)]


@innocent
def pages_by_a_nullable_key() -> None:
    last = ""
    while rows := list(
        Novel.objects.filter(Q(title__gt=last) | Q(title=None)).order_by("title")[:2]
    ):
        last = rows[-1].title


@innocent
def pages_backwards() -> None:
    last = Critique.objects.order_by("-pk")[0].pk
    while rows := list(Critique.objects.filter(pk__lt=last).order_by("-pk").values("pk")[:3]):
        last = rows[-1]["pk"]


@innocent
def batches_by_islice() -> None:
    pks = iter([row.pk for row in Critique.objects.all()])
    while batch := list(itertools.islice(pks, 3)):
        list(Critique.objects.filter(pk__in=batch).select_related("novel"))


@innocent
def batches_of_foreign_keys() -> None:
    pks = [novel.pk for novel in Novel.objects.all()]
    for start in (0, 2):
        list(Critique.objects.filter(novel__in=pks[start : start + 2]).order_by("pk"))
        Critique.objects.filter(novel_id__in=pks[start : start + 2]).count()


@innocent
def batches_of_update_by_range() -> None:
    for start in range(0, 9, 3):
        Critique.objects.filter(pk__gte=start, pk__lt=start + 3).update(text="new")


@innocent
def batches_of_upserts() -> None:
    for start in range(3):
        Port.objects.bulk_create(
            [Port(name=f"{start} {n}", code=f"{start}{n}") for n in range(2)],
            update_conflicts=True,
            unique_fields=["name"],
            update_fields=["code"],
        )


@innocent
def batches_of_a_table_that_inherits() -> None:
    for start in range(0, 9, 3):
        list(Tanker.objects.filter(pk__gte=start, pk__lt=start + 3))


@innocent
def one_last_batch_of_one() -> None:
    pks = [row.pk for row in Critique.objects.all()][:7]
    for start in range(0, 7, 2):
        list(Critique.objects.filter(pk__in=pks[start : start + 2]))


@innocent
def rows_of_a_cursor_in_pieces() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM testapp_critique")
        while cursor.fetchmany(2):
            pass


@innocent
def raw_batches() -> None:
    with connection.cursor() as cursor:
        for pks in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
            marks = ", ".join(["%s"] * len(pks))
            cursor.execute(f"SELECT text FROM testapp_critique WHERE id IN ({marks})", pks)


@innocent
def raw_batches_in_the_text() -> None:
    with connection.cursor() as cursor:
        for pks in ("1, 2, 3", "4, 5, 6"):
            cursor.execute(f"SELECT text FROM testapp_critique WHERE id IN ({pks})")


@innocent
def async_batches() -> None:
    async def run() -> None:
        pks = [row.pk async for row in Critique.objects.all()]
        for start in range(0, len(pks), 4):
            [row async for row in Critique.objects.filter(pk__in=pks[start : start + 4])]
            await Critique.objects.ain_bulk(pks[start : start + 4])

    async_to_sync(run)()


@innocent
def polling_of_one_row() -> None:
    novel = Novel.objects.order_by("pk")[0]
    for _ in range(3):
        novel.refresh_from_db()


@innocent
def polling_in_async_code() -> None:
    async def run() -> None:
        for _ in range(3):
            await Novel.objects.filter(title="ready").aexists()

    async_to_sync(run)()


# Relations read at once


@innocent
def prefetch_with_querysets_of_its_own() -> None:
    critiques = Critique.objects.filter(stars__gt=0).select_related("novel__novelist")
    rows = Novel.objects.prefetch_related(
        Prefetch("critiques", queryset=critiques, to_attr="starred"),
        Prefetch("genres", queryset=Genre.objects.order_by("name")),
        "novelist__nation__novelists",
    )
    for novel in rows:
        [str(each.novel) for each in novel.starred]  # type: ignore[attr-defined]
        list(novel.genres.all()), novel.novelist.nation.novelists.all()


@innocent
def prefetch_of_mixed_generic_keys() -> None:
    Sticky.objects.create(content_object=Genre.objects.order_by("pk")[0], text="on a genre")
    Sticky.objects.create(content_object=Port.objects.order_by("pk")[0], text="on a port")
    [each.content_object.pk for each in Sticky.objects.prefetch_related("content_object")]


@innocent
def methods_of_prefetched_sets() -> None:
    for novel in Novel.objects.prefetch_related("critiques", "genres"):
        novel.critiques.count(), novel.critiques.exists(), len(novel.genres.all())
        bool(novel.genres.all()), novel.critiques.all()[0]


@innocent
def one_row_read_again_and_again() -> None:
    pk = Novel.objects.order_by("pk")[0].pk
    for _ in range(3):
        str(Novel.objects.get(pk=pk).novelist)


@innocent
def subqueries() -> None:
    newest = Critique.objects.filter(novel=OuterRef("pk")).order_by("-pk").values("text")[:1]
    rows = Novel.objects.annotate(
        newest=Subquery(newest),
        starred=Exists(Critique.objects.filter(novel=OuterRef("pk"), stars=1)),
        critics=Count("critiques", distinct=True),
        place=Window(RowNumber(), order_by="pk"),
    )
    [(row.newest, row.starred, row.critics, row.place) for row in rows]


@innocent
def keys_without_their_rows() -> None:
    for novel in Novel.objects.all():
        _ = novel.novelist_id, novel.get_deferred_fields()  # type: ignore[attr-defined]


@innocent
def display_of_choices() -> None:
    for ship in Ship.objects.all():
        ship.get_kind_display()  # type: ignore[attr-defined]


@innocent
def parent_of_a_row_that_inherits() -> None:
    for tanker in Tanker.objects.all():
        _ = tanker.ship_ptr.name  # type: ignore[attr-defined]


@innocent
def rows_put_together_in_python() -> None:
    novelists = Novelist.objects.in_bulk()
    critiques: dict[int, list[Critique]] = {}
    for critique in Critique.objects.all():
        critiques.setdefault(critique.novel_id, []).append(critique)  # type: ignore[attr-defined]
    for novel in Novel.objects.all():
        novel.novelist = novelists[novel.novelist_id]  # type: ignore[attr-defined]
        str(novel), critiques[novel.pk]


@innocent
def tree_in_one_query() -> None:
    children: dict[Any, list[Branch]] = {}
    for branch in Branch.objects.all():
        children.setdefault(branch.parent_id, []).append(branch)  # type: ignore[attr-defined]

    def walk(pk: Any) -> None:
        for child in children.get(pk, ()):
            walk(child.pk)

    walk(None)


@innocent
def tree_level_by_level() -> None:
    """As many queries as the tree is deep, whatever its width."""
    level = list(Branch.objects.filter(parent=None).order_by("pk")[:1])
    level += list(Branch.objects.filter(name="leaf 0"))
    while level:
        level = list(Branch.objects.filter(parent__in=level))


@innocent
def relation_read_once_for_all() -> None:
    novelist = Novelist.objects.order_by("pk")[0]
    for novel in novelist.novels.all():  # type: ignore[attr-defined]
        str(novel)


# Different things on one line


@innocent
def different_models_in_a_loop() -> None:
    for model in (Novel, Genre, Nation, Port):
        model.objects.order_by("pk").first()  # type: ignore[attr-defined]
        model.objects.get(pk=model.objects.order_by("pk")[0].pk)  # type: ignore[attr-defined]


@innocent
def different_columns_in_a_loop() -> None:
    for name, value in (("title", "a"), ("body", "b"), ("novelist__name", "c")):
        Novel.objects.filter(**{name: value}).exists()


@innocent
def figures_of_a_page() -> None:
    _ = {
        "one": Critique.objects.filter(stars=1).count(),
        "two": Critique.objects.filter(stars=2).count(),
        "three": Critique.objects.filter(stars=3).count(),
    }


@innocent
def chain_over_one_row() -> None:
    leaf = Branch.objects.filter(name="leaf 0").order_by("pk")[0]
    assert leaf.parent is not None
    assert leaf.parent.parent is not None
    _ = leaf.parent.parent.name


@innocent
def chain_over_one_row_in_a_template() -> None:
    leaf = Branch.objects.filter(name="leaf 0").order_by("pk")[0]
    Engine().from_string("{{ leaf.parent.parent.name }}").render(Context({"leaf": leaf}))


@innocent
def chain_over_one_row_in_a_serializer() -> None:
    class LeafSerializer(serializers.Serializer[Branch]):
        top = serializers.CharField(source="parent.parent.name")

    _ = LeafSerializer(Branch.objects.filter(name="leaf 0").order_by("pk")[0]).data


@innocent
def one_row_on_many_lines_of_a_template() -> None:
    novels = Novel.objects.order_by("pk")
    source = "{{ a.novelist.name }}\n{{ a.critiques.count }}\n{{ b.novelist.name }}"
    Engine().from_string(source).render(Context({"a": novels[0], "b": novels[1]}))


@innocent
def cache_filled_by_key() -> None:
    cache.clear()
    first, second = Novel.objects.order_by("pk")[:2]
    cache.get_or_set("one", lambda: Novel.objects.get(pk=first.pk))
    cache.get_or_set("two", lambda: Novel.objects.get(pk=second.pk))
    for _ in range(3):
        cache.get_or_set("one", lambda: Novel.objects.get(pk=first.pk))
    cache.clear()


@innocent
def memory_of_a_function() -> None:
    remembered = functools.lru_cache(find)
    pk = Novel.objects.order_by("pk")[0].pk
    for _ in range(3):
        remembered(pk)


@innocent
def different_helpers_of_one_helper() -> None:
    def one(pk: int) -> Novel:
        return find(pk)

    def other(pk: int) -> Novel:
        return find(pk)

    first, second = Novel.objects.order_by("pk")[:2]
    one(first.pk), other(second.pk)


@innocent
def gather_of_two_lookups() -> None:
    async def both() -> None:
        first, second = [each async for each in Novel.objects.order_by("pk")[:2]]
        await asyncio.gather(sync_to_async(find)(first.pk), Genre.objects.afirst())
        await asyncio.gather(Novel.objects.aget(pk=second.pk), Port.objects.afirst())

    async_to_sync(both)()


@innocent
def gather_of_calls_written_one_by_one() -> None:
    async def one(pk: int) -> Novel | None:
        return await Novel.objects.filter(pk=pk).afirst()

    async def all_of_them() -> None:
        first, second, third = [each async for each in Novel.objects.order_by("pk")[:3]]
        await asyncio.gather(Novel.objects.aget(pk=first.pk), Novel.objects.aget(pk=second.pk))
        await asyncio.gather(
            one(first.pk),
            one(second.pk),
            one(third.pk),
        )

    async_to_sync(all_of_them)()


@innocent
def introspection() -> None:
    with connection.cursor() as cursor:
        for model in (Novel, Genre, Nation):
            table = model._meta.db_table
            connection.introspection.get_constraints(cursor, table)
            connection.introspection.get_table_description(cursor, table)
            connection.introspection.get_relations(cursor, table)


@innocent
def get_or_create_on_separate_lines() -> None:
    nation, _ = Nation.objects.get_or_create(name="nation 0")
    Novelist.objects.get_or_create(name="ann", defaults={"nation": nation})
    Novelist.objects.get_or_create(name="bob", defaults={"nation": nation})
    Genre.objects.update_or_create(name="genre 0")
    Genre.objects.update_or_create(name="genre 9")


def on_saved(instance: Critique, **_: object) -> None:
    Novel.objects.get(pk=instance.novel_id)  # type: ignore[attr-defined]


@innocent
def signal_of_two_saves() -> None:
    first, last = Critique.objects.order_by("pk")[:2]
    last.novel_id = first.novel_id + 1  # type: ignore[attr-defined]
    post_save.connect(on_saved, sender=Critique)
    try:
        first.save()
        last.save()
    finally:
        post_save.disconnect(on_saved, sender=Critique)


@innocent
def retries_with_a_savepoint() -> None:
    for _ in range(3):
        with transaction.atomic():
            Novel.objects.filter(title="novel 0").update(body=F("body"))


@innocent
def copies_between_databases() -> None:
    for alias in ("default", "shard_0"):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1 WHERE 1 = %s", [len(alias)])


@innocent
def rows_of_two_columns_keys() -> None:
    list(Docking.objects.filter(pk__in=[(1, 2), (3, 4)]).select_related("port", "ship"))
    list(Docking.objects.filter(pk__in=[(5, 6), (7, 8)]).select_related("port", "ship"))


# Requests and users


def detail(request: HttpRequest, pk: int) -> HttpResponse:
    request.session["seen"] = pk
    novel = Novel.objects.select_related("novelist").get(pk=pk)
    return HttpResponse(f"{novel} for {request.user}")


site = admin.AdminSite()


class CritiqueInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Critique
    extra = 1


class NovelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("title", "novelist", "editor")
    list_filter = ("novelist", "genres", "critiques__stars")
    search_fields = ("title", "novelist__name")
    list_select_related = ("novelist", "editor")
    list_per_page = 2
    inlines = (CritiqueInline,)
    filter_horizontal = ("genres",)


site.register(Novel, NovelAdmin)


class ShipAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("pk", "name")
    list_editable = ("name",)


site.register(Ship, ShipAdmin)
urlpatterns = [path("novels/<int:pk>/", detail), path("admin/", site.urls)]


def client() -> Client:
    users: Any = get_user_model().objects
    user = users.create_superuser("root")
    made = Client()
    made.force_login(user)
    return made


@innocent
def requests_in_a_loop() -> None:
    with override_settings(ROOT_URLCONF=__name__):
        browser = client()
        for novel in Novel.objects.all():
            assert browser.get(f"/novels/{novel.pk}/").status_code == 200


@innocent
def async_requests_in_a_loop() -> None:
    async def browse() -> None:
        async for novel in Novel.objects.all():
            with override_settings(ROOT_URLCONF="tests.queries.urls", MIDDLEWARE=[]):
                await AsyncClient().get(f"/once/{novel.pk}/")

    async_to_sync(browse)()


@innocent
def changelist_of_the_admin() -> None:
    with override_settings(ROOT_URLCONF=__name__):
        browser = client()
        for query in ("", "?p=2", "?q=novel", "?genres__id__exact=1"):
            assert browser.get(f"/admin/testapp/novel/{query}").status_code == 200


@innocent
def pages_of_the_admin() -> None:
    novel = Novel.objects.order_by("pk")[0]
    with override_settings(ROOT_URLCONF=__name__):
        browser = client()
        for page in ("add/", f"{novel.pk}/change/", f"{novel.pk}/history/", f"{novel.pk}/delete/"):
            assert browser.get(f"/admin/testapp/novel/{page}").status_code == 200
        assert browser.get("/admin/").status_code == 200


@innocent
def form_sent_to_the_admin() -> None:
    novel = Novel.objects.order_by("pk")[0]
    data: dict[str, Any] = {
        "title": "new",
        "body": "text",
        "novelist": novel.novelist_id,  # type: ignore[attr-defined]
        "editor": novel.novelist_id,  # type: ignore[attr-defined]
        "genres": [genre.pk for genre in Genre.objects.all()],
        "critiques-TOTAL_FORMS": 2,
        "critiques-INITIAL_FORMS": 2,
    }
    for number, critique in enumerate(novel.critiques.order_by("pk")):  # type: ignore[attr-defined]
        data |= {
            f"critiques-{number}-id": critique.pk,
            f"critiques-{number}-novel": novel.pk,
            f"critiques-{number}-stars": 4,
            f"critiques-{number}-text": "text",
        }
    with override_settings(ROOT_URLCONF=__name__):
        response = client().post(f"/admin/testapp/novel/{novel.pk}/change/", data)
    assert response.status_code == 302, response.context["errors"]


@innocent
def rows_edited_in_a_changelist() -> None:
    ships = list(Ship.objects.order_by("-pk"))
    data: dict[str, Any] = {"_save": "", "form-TOTAL_FORMS": len(ships)}
    data["form-INITIAL_FORMS"] = len(ships)
    for number, ship in enumerate(ships):
        data |= {f"form-{number}-id": ship.pk, f"form-{number}-name": f"new {number}"}
    with override_settings(ROOT_URLCONF=__name__):
        assert client().post("/admin/testapp/ship/", data).status_code == 302


@innocent
def rows_deleted_by_an_action() -> None:
    data = {"action": "delete_selected", "post": "yes"}
    data["_selected_action"] = [ship.pk for ship in Ship.objects.all()]  # type: ignore[assignment]
    with override_settings(ROOT_URLCONF=__name__):
        assert client().post("/admin/testapp/ship/", data).status_code == 302


@innocent
def login_and_permissions() -> None:
    users: Any = get_user_model().objects
    user = users.create_user("ada", password="secret")
    group = Group.objects.create(name="staff")
    group.permissions.set(Permission.objects.order_by("pk")[:3])
    user.groups.add(group)
    for _ in range(2):
        assert authenticate(username="ada", password="secret")
    user.has_perms(["auth.add_user", "auth.view_user", "auth.change_group"])
    user.get_all_permissions(), user.get_group_permissions()
    users.with_perm("auth.add_user", backend="django.contrib.auth.backends.ModelBackend").count()


@innocent
def sessions_that_are_saved() -> None:
    for number in range(3):
        session = SessionStore()
        session["number"] = number
        session.create()
        session.cycle_key()
        session.flush()


@innocent
def content_types_of_objects() -> None:
    ContentType.objects.clear_cache()
    rows = [model.objects.order_by("pk")[0] for model in (Novel, Genre, Frigate)]  # type: ignore[attr-defined]
    for row in rows:
        ContentType.objects.get_for_model(row)
    ContentType.objects.clear_cache()
    for name in ("novel", "genre", "nation"):
        ContentType.objects.get_by_natural_key("testapp", name)


# Forms, fixtures and commands


class PortForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Port
        fields = ["name", "code", "data"]


@innocent
def form_with_two_unique_fields() -> None:
    form = PortForm({"name": "new", "code": "new", "data": '{"depth": 1}'})
    assert form.is_valid(), form.errors
    form.save()


class PairForm(forms.Form):
    first = forms.ModelChoiceField(Novelist.objects.all())
    second = forms.ModelChoiceField(Novelist.objects.all())
    genres = forms.ModelMultipleChoiceField(Genre.objects.all())


@innocent
def two_choices_of_one_form() -> None:
    first, second = Novelist.objects.order_by("pk")[:2]
    genres = [genre.pk for genre in Genre.objects.all()]
    form = PairForm({"first": first.pk, "second": second.pk, "genres": genres})
    assert form.is_valid(), form.errors
    form.as_p()
    for field in form:
        str(field)


@innocent
def two_forms_on_two_lines() -> None:
    form, other = PairForm(prefix="one"), PairForm(prefix="other")
    str(form["first"])
    str(other["first"])


class NationFactory(factory.django.DjangoModelFactory):  # type: ignore[type-arg]
    class Meta:
        model = Nation
        django_get_or_create = ("name",)

    name = factory.Sequence(lambda number: f"made {number}")


class NovelistFactory(factory.django.DjangoModelFactory):  # type: ignore[type-arg]
    class Meta:
        model = Novelist

    name = factory.Sequence(lambda number: f"made {number}")
    nation = factory.SubFactory(NationFactory)


@innocent
def factories() -> None:
    NovelistFactory.create_batch(3)
    for _ in range(3):
        NovelistFactory()


@innocent
def loading_data() -> None:
    out = io.StringIO()
    call_command("dumpdata", "testapp.critique", "auth.group", verbosity=0, stdout=out)
    rows = [each.object for each in fixtures.deserialize("json", out.getvalue())]
    assert len(rows) == len(json.loads(out.getvalue()))


@innocent
def commands_of_django() -> None:
    call_command("clearsessions")
    call_command("remove_stale_contenttypes", interactive=False, verbosity=0)


@innocent
def many_to_many_of_one_row() -> None:
    novel, genres = Novel.objects.order_by("pk")[0], list(Genre.objects.all())
    novel.genres.add(*genres)
    novel.genres.set(genres[:2], clear=True)
    novel.genres.remove(*genres)
    novel.genres.clear()


@innocent
def deletion_of_many_rows_with_what_hangs_on_them() -> None:
    Novel.objects.all().delete()
    Ship.objects.filter(kind="t").delete()


@innocent
def related_rows_created_at_once() -> None:
    ship = Ship.objects.order_by("pk")[0]
    sailors = [berth.sailor for berth in Berth.objects.select_related("sailor")]
    Berth.objects.bulk_create([Berth(ship=ship, sailor=sailor) for sailor in sailors])
    Synopsis.objects.filter(novel__title="novel 0").delete()
