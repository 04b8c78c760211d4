"""More of the catalogue: kinds of relations, of keys and of querysets."""

import contextlib
from typing import Any

from django.core import serializers as fixtures
from django.db import connection, transaction
from django.db.models import Count, Exists, F, OuterRef, Prefetch, Q
from django.db.models.functions import Lower
from django.http import Http404
from django.shortcuts import get_list_or_404, get_object_or_404

from tests.queries.guilty import shape
from tests.testapp.models import (
    Berth,
    Crate,
    Critique,
    Docking,
    Frigate,
    Genre,
    Novel,
    Port,
    Sailor,
    Sale,
    Ship,
    Sticky,
    Synopsis,
    Tanker,
)

# Keys


@shape(
    "Crate.brand",
    '.select_related("brand")',
    fixed=lambda: [str(crate.brand) for crate in Crate.objects.select_related("brand")],
)
def key_to_another_column() -> None:
    for crate in Crate.objects.all():
        str(crate.brand)  # N+1


@shape(
    "Novel.novelist",
    '.select_related("novelist")',
    fixed=lambda: [str(novel.novelist) for novel in Novel.objects.select_related("novelist")],
)
def key_to_one_row_for_all() -> None:
    Novel.objects.update(novelist=Novel.objects.order_by("pk")[0].novelist)
    for novel in Novel.objects.all():
        str(novel.novelist)  # N+1


@shape("Sticky.content_object", '.prefetch_related("content_object")')
def generic_key_to_one_row_for_all() -> None:
    sticky = Sticky.objects.order_by("pk")[0]
    Sticky.objects.update(object_id=sticky.object_id)
    for each in Sticky.objects.all():
        _ = each.content_object  # N+1


@shape(
    "Novel.genres",
    '.prefetch_related("genres")',
    fixed=lambda: fixtures.serialize("json", Novel.objects.prefetch_related("genres")),
)
def fixture_of_rows() -> None:
    fixtures.serialize("json", Novel.objects.all())  # N+1


@shape(
    "Sale.lot",
    '.select_related("lot")',
    fixed=lambda: [str(sale.lot) for sale in Sale.objects.select_related("lot")],
)
def key_of_two_columns() -> None:
    for sale in Sale.objects.all():
        str(sale.lot)  # N+1


@shape(
    "Novel.editor",
    '.select_related("editor")',
    fixed=lambda: [novel.editor for novel in Novel.objects.select_related("editor")],
)
def key_that_may_be_null() -> None:
    Novel.objects.filter(title="novel 0").update(editor=None)
    for novel in Novel.objects.all():
        if novel.editor:  # N+1
            str(novel.editor)


@shape(
    "Docking.ship",
    '.select_related("ship")',
    fixed=lambda: [str(each.ship) for each in Docking.objects.select_related("ship")],
)
def key_of_a_row_whose_own_has_two_columns() -> None:
    for docking in Docking.objects.all():
        str(docking.ship)  # N+1


@shape(
    "Docking.objects.get()",
    "Docking.objects.in_bulk(ids)",
    fixed=lambda: Docking.objects.in_bulk([(p.pk, n) for n, p in enumerate(Port.objects.all())]),
)
def get_by_a_key_of_two_columns() -> None:
    for number, port in enumerate(Port.objects.order_by("pk")):
        Docking.objects.get(pk=(port.pk, number))  # N+1


@shape(
    "Docking.refresh_from_db()",
    "Docking.objects.filter(pk__in=…)",
    fixed=lambda: list(Docking.objects.filter(pk__in=[each.pk for each in Docking.objects.all()])),
)
def refresh_of_rows_with_a_key_of_two_columns() -> None:
    for docking in Docking.objects.all():
        docking.refresh_from_db()  # N+1


# Tables that inherit


@shape(
    "Tanker.home",
    '.select_related("home")',
    fixed=lambda: [str(tanker.home) for tanker in Tanker.objects.select_related("home")],
)
def relation_of_the_parent_table() -> None:
    for tanker in Tanker.objects.all():
        str(tanker.home)  # N+1


@shape(
    "Ship.tanker",
    '.select_related("tanker")',
    fixed=lambda: [
        ship.tanker.volume  # type: ignore[attr-defined]
        for ship in Ship.objects.select_related("tanker").filter(kind="t")
    ],
)
def child_table_of_a_parent() -> None:
    for ship in Ship.objects.filter(kind="t"):
        _ = ship.tanker.volume  # type: ignore[attr-defined]  # N+1


@shape(
    "Tanker.name",
    'read "name" with the rows',
    fixed=lambda: [tanker.name for tanker in Tanker.objects.only("volume", "name")],
)
def deferred_column_of_the_parent_table() -> None:
    for tanker in Tanker.objects.only("volume"):
        _ = tanker.name  # N+1


@shape(
    "Frigate.home",
    '.select_related("home")',
    fixed=lambda: [str(each.home) for each in Frigate.objects.select_related("home")],
)
def relation_of_a_proxy() -> None:
    for frigate in Frigate.objects.filter(kind="f"):
        str(frigate.home)  # N+1


@shape(
    "Tanker.berths.count()",
    '.annotate(berths_count=Count("berths", distinct=True))',
    fixed=lambda: list(Tanker.objects.annotate(berths_count=Count("berths", distinct=True))),
)
def relation_to_many_of_the_parent_table() -> None:
    for tanker in Tanker.objects.all():
        tanker.berths.count()  # N+1


# Relations to many


@shape(
    "Ship.sisters",
    '.prefetch_related("sisters")',
    fixed=lambda: [list(ship.sisters.all()) for ship in Ship.objects.prefetch_related("sisters")],
)
def many_to_many_of_the_same_model() -> None:
    for ship in Ship.objects.all():
        list(ship.sisters.all())  # N+1


@shape(
    "Sailor.ships",
    '.prefetch_related("ships")',
    fixed=lambda: [list(each.ships.all()) for each in Sailor.objects.prefetch_related("ships")],
)
def many_to_many_through_a_model() -> None:
    for sailor in Sailor.objects.all():
        list(sailor.ships.all())  # N+1


@shape(
    "Berth.sailor",
    '.prefetch_related("berths__sailor")',
    fixed=lambda: [
        [str(berth.sailor) for berth in ship.berths.all()]  # type: ignore[attr-defined]
        for ship in Ship.objects.prefetch_related("berths__sailor")
    ],
)
def other_side_of_a_model_between() -> None:
    for ship in Ship.objects.prefetch_related("berths"):
        for berth in ship.berths.all():  # type: ignore[attr-defined]
            str(berth.sailor)  # N+1


@shape(
    "Ship.berths.captains()",
    'Prefetch("berths", queryset=Berth.objects.captains(…), to_attr="some_berths")',
    fixed=lambda: [
        ship.some_berths  # type: ignore[attr-defined]
        for ship in Ship.objects.prefetch_related(
            Prefetch("berths", queryset=Berth.objects.captains(), to_attr="some_berths")
        )
    ],
)
def method_of_a_queryset_of_ones_own() -> None:
    for ship in Ship.objects.all():
        list(ship.berths.captains())  # type: ignore[attr-defined]  # N+1


@shape("Novel.critiques.filter()", 'Prefetch("critiques", queryset=Critique.objects.filter(…)')
def truth_of_a_related_queryset() -> None:
    for novel in Novel.objects.all():
        if novel.critiques.filter(stars=1):  # N+1
            pass


@shape("Novel.critiques.filter()", 'Prefetch("critiques", queryset=Critique.objects.filter(…)')
def falsehood_of_a_related_queryset() -> None:
    for novel in Novel.objects.all():
        _ = not novel.critiques.filter(stars=1)  # N+1


@shape("Novel.critiques", '.prefetch_related("critiques")')
def length_of_a_related_queryset() -> None:
    for novel in Novel.objects.all():
        len(novel.critiques.all())  # N+1


@shape("Novel.genres", '.prefetch_related("genres")')
def membership_in_a_related_queryset() -> None:
    genre = Genre.objects.order_by("pk")[0]
    for novel in Novel.objects.all():
        _ = genre in novel.genres.all()  # N+1


@shape(
    "Novel.genres.contains()",
    ".annotate(has_genres=Exists(",
    fixed=lambda: list(
        Novel.objects.annotate(has_genres=Exists(Genre.objects.filter(novels=OuterRef("pk"))))
    ),
)
def contains_in_a_related_set() -> None:
    genre = Genre.objects.order_by("pk")[0]
    for novel in Novel.objects.all():
        novel.genres.contains(genre)  # N+1


@shape("Novel.critiques.first()", 'Critique.objects.filter(novel=OuterRef("pk"))')
def first_by_index_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        _ = novel.critiques.all()[0]  # N+1


@shape("Novel.critiques.earliest()", '.prefetch_related("critiques")')
def earliest_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.critiques.earliest("stars")  # N+1


@shape("Novel.critiques.iterator()", '.prefetch_related("critiques")')
def iterator_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        for critique in novel.critiques.iterator():  # N+1
            _ = critique.text


@shape("Novel.critiques.union()", '.prefetch_related("critiques")')
def union_of_related_querysets() -> None:
    for novel in Novel.objects.all():
        good, bad = (novel.critiques.filter(text=text) for text in ("good", "bad"))
        list(good.union(bad))  # N+1


@shape("Novel.critiques.annotate()", 'Prefetch("critiques", queryset=Critique.objects.annotate(…)')
def annotation_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        list(novel.critiques.annotate(low=Lower("text")))  # N+1


@shape("Novel.critiques.in_bulk()", '.prefetch_related("critiques")')
def in_bulk_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.critiques.in_bulk()  # N+1


@shape("Novel.stickies.exists()", 'Sticky.objects.filter(object_id=OuterRef("pk")')
def exists_in_a_generic_relation() -> None:
    for novel in Novel.objects.all():
        novel.stickies.exists()  # N+1


@shape(
    "Novel.novelist",
    '.prefetch_related("content_object__novelist")',
    fixed=lambda: [
        s.content_object.novelist
        for s in Sticky.objects.prefetch_related("content_object__novelist")
    ],
)
def second_hop_over_a_generic_key() -> None:
    for sticky in Sticky.objects.prefetch_related("content_object"):
        _ = sticky.content_object.novelist  # N+1


@shape(
    "Critique.novel",
    '.select_related("novel__novelist__nation")',
    fixed=lambda: [
        each.novel.novelist.nation.name
        for each in Critique.objects.select_related("novel__novelist__nation")
    ],
)
def three_hops_at_once() -> None:
    for critique in Critique.objects.all():
        _ = critique.novel.novelist.nation.name  # N+1


@shape(
    "Novel.critiques.count()",
    '.annotate(critiques_count=Count("critiques", filter=Q(…), distinct=True))',
    fixed=lambda: list(
        Novel.objects.annotate(
            critiques_count=Count("critiques", filter=Q(critiques__stars=1), distinct=True)
        )
    ),
)
def count_of_some_related_rows() -> None:
    for novel in Novel.objects.all():
        novel.critiques.filter(stars=1).count()  # N+1


@shape(
    "Novel.critiques.count()",
    '.prefetch_related(Prefetch("novels", queryset=Novel.objects.annotate(critiques_count='
    'Count("critiques", distinct=True))))',
    fixed=lambda: [
        [novel.critiques_count for novel in genre.novels.all()]
        for genre in Genre.objects.prefetch_related(
            Prefetch(
                "novels",
                queryset=Novel.objects.annotate(critiques_count=Count("critiques", distinct=True)),
            )
        )
    ],
)
def count_for_prefetched_rows() -> None:
    for genre in Genre.objects.prefetch_related("novels"):
        for novel in genre.novels.all():
            novel.critiques.count()  # N+1


@shape(
    "Novel.genres.exists()",
    '.annotate(has_genres=Exists(Genre.objects.filter(novels=OuterRef("novel"))))',
    fixed=lambda: list(
        Critique.objects.annotate(has_genres=Exists(Genre.objects.filter(novels=OuterRef("novel"))))
    ),
)
def exists_behind_a_hop() -> None:
    for critique in Critique.objects.select_related("novel"):
        critique.novel.genres.exists()  # N+1


# Querysets of their own


@shape("Critique.objects.filter()", "Critique.objects.filter(novel_id__in=…)")
def list_of_one_key() -> None:
    for novel in Novel.objects.all():
        list(Critique.objects.filter(novel__in=[novel]))  # N+1


@shape("Critique.objects.filter()", "one Critique.objects.filter(…) for all the values")
def column_of_another_table() -> None:
    for name in ("a", "b", "c"):
        list(Critique.objects.filter(novel__title=name))  # N+1


@shape("Critique.objects.aggregate()", 'Critique.objects.values("novel_id").annotate(…)')
def aggregate_by_key() -> None:
    for novel in Novel.objects.all():
        Critique.objects.filter(novel=novel).aggregate(Count("pk"))  # N+1


@shape("Novel.objects.filter()", "before the loop")
def either_of_two_columns() -> None:
    for text in ("a", "b", "c"):
        list(Novel.objects.filter(Q(title=text) | Q(body=text)))  # N+1


@shape("Critique.objects.filter()", "before the loop")
def comparison_of_columns_with_a_value() -> None:
    for number in (1, 2, 3):
        list(Critique.objects.filter(stars__gt=F("novel_id") + number))  # N+1


@shape("Port.objects.first()", "one Port.objects.filter(…) for all the values")
def key_within_json() -> None:
    for number in (1, 2, 3):
        Port.objects.filter(data__depth__metres=number).first()  # N+1


@shape("Novel.objects.filter()", "before the loop")
def subquery_with_a_value() -> None:
    for stars in (1, 2, 3):
        critiques = Critique.objects.filter(novel=OuterRef("pk"), stars=stars)
        list(Novel.objects.filter(Exists(critiques)))  # N+1


@shape("Critique.objects.extra()", "before the loop")
def extra() -> None:
    for stars in (1, 2, 3):
        list(Critique.objects.extra(where=["stars = %s"], params=[stars]))  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def named_database() -> None:
    for synopsis in Synopsis.objects.all():
        Novel.objects.using("default").get(pk=synopsis.novel_id)  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def locked_row_by_row() -> None:
    for pk in [each.pk for each in Novel.objects.all()]:
        with transaction.atomic():
            Novel.objects.select_for_update().get(pk=pk)  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def shortcut_that_answers_404() -> None:
    for pk in [each.pk for each in Novel.objects.all()]:
        get_object_or_404(Novel, pk=pk)  # N+1


@shape("Critique.objects", "Critique.objects.filter(stars__in=…)")
def shortcut_of_a_list_that_answers_404() -> None:
    for stars in range(9):
        with contextlib.suppress(Http404):
            get_list_or_404(Critique, stars=stars)  # N+1


@shape("Novel.objects.first()", "Novel.objects.filter(title__in=…)")
def first_by_a_name_without_case() -> None:
    for title in ("a", "b", "c"):
        Novel.objects.filter(title__iexact=title).first()  # N+1


@shape("Critique.objects.first()", "before the loop")
def walk_by_key_row_by_row() -> None:
    last = 0
    while critique := Critique.objects.filter(pk__gt=last).order_by("pk").first():  # N+1
        last = critique.pk


@shape("Novel.objects.values_list()", "Novel.objects.filter(pk__in=…)")
def value_of_one_row() -> None:
    for pk in [each.pk for each in Novel.objects.all()]:
        list(Novel.objects.filter(pk=pk).values_list("title", flat=True))  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def value_of_one_row_by_get() -> None:
    for pk in [each.pk for each in Novel.objects.all()]:
        Novel.objects.values_list("title", flat=True).get(pk=pk)  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def annotated_row_by_row() -> None:
    for pk in [each.pk for each in Novel.objects.all()]:
        Novel.objects.annotate(n=Count("critiques")).get(pk=pk)  # N+1


@shape("Critique.objects.distinct()", "Critique.objects.filter(novel_id__in=…)")
def distinct_values_by_key() -> None:
    for novel in Novel.objects.all():
        list(Critique.objects.filter(novel=novel).values("stars").distinct())  # N+1


@shape("Novel.objects.earliest()", "before the loop")
def earliest_by_key() -> None:
    for title in ("novel 0", "novel 1", "novel 2"):
        Novel.objects.filter(title=title).earliest("pk")  # N+1


@shape("raw SQL", "WHERE id IN (…)")
def cursor_with_named_values() -> None:
    with connection.cursor() as cursor:
        for pk in (1, 2, 3):
            cursor.execute("SELECT title FROM testapp_novel WHERE id = %(pk)s", {"pk": pk})  # N+1


@shape("raw SQL", "WHERE id IN (…)")
def cursor_with_a_table_of_its_own() -> None:
    sql = "WITH one AS (SELECT title FROM testapp_novel WHERE id = %s) SELECT * FROM one"
    with connection.cursor() as cursor:
        for pk in (1, 2, 3):
            cursor.execute(sql, [pk])  # N+1


def titles_of(pk: int) -> Any:
    return Novel.objects.raw("SELECT id, title FROM testapp_novel WHERE id = %s", [pk])


@shape("Novel.objects.raw()", "WHERE id IN (…)")
def raw_query_made_elsewhere() -> None:
    for pk in (1, 2, 3):
        [each.title for each in titles_of(pk)]  # N+1


@shape(
    "Novel.body",
    'read "body" with the rows',
    fixed=lambda: [each.body for each in Novel.objects.raw("SELECT * FROM testapp_novel")],
)
def column_left_out_of_raw_sql() -> None:
    for novel in Novel.objects.raw("SELECT id, title FROM testapp_novel"):
        _ = novel.body  # N+1
