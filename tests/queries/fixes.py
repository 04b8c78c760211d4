"""What the messages advise, done by hand, for shapes whose fix is more than a call to add."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.db import connection
from django.db.models import (
    Count,
    Exists,
    F,
    OuterRef,
    Prefetch,
    Q,
    Subquery,
    prefetch_related_objects,
)
from django.db.models.functions import Lower

from tests.queries.guilty import walk
from tests.queries.guilty_loops import descend
from tests.testapp.models import (
    Branch,
    Critique,
    Frigate,
    Genre,
    Nation,
    Novel,
    Port,
    Ship,
    Sticky,
    Synopsis,
)

FIXES: dict[str, Callable[[], object]] = {}
TREE = "children__children__children"


def fixes(*names: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Say which shapes are mended so."""

    def add(function: Callable[[], object]) -> Callable[[], object]:
        FIXES.update(dict.fromkeys(names, function))
        return function

    return add


def run(sql: str, *params: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def critiques_of_all(some: Any) -> object:
    prefetch = Prefetch("critiques", queryset=some, to_attr="some_critiques")
    return [novel.some_critiques for novel in Novel.objects.prefetch_related(prefetch)]


def all_critiques(take: Callable[[list[Critique]], object]) -> object:
    return [
        take(list(novel.critiques.all())) for novel in Novel.objects.prefetch_related("critiques")
    ]


# Keys


@fixes(
    "async_get",
    "cache_of_a_function",
    "coroutine_run_for_each_row",
    "dict_that_fills_itself",
    "gather_of_coroutines",
    "gather_of_methods",
    "group_of_tasks",
    "group_of_tasks_of_methods",
    "lookup_that_is_shielded",
    "lookup_with_a_time_limit",
    "methods_as_they_are_done",
    "named_database",
    "pairs_gathered_in_a_loop",
    "tasks_as_they_are_done",
    "tasks_awaited_one_by_one",
    "tasks_waited_for",
    "workers_of_a_queue",
)
def novels_of_synopses() -> None:
    novels = Novel.objects.in_bulk([each.novel_id for each in Synopsis.objects.all()])
    [novels[each.novel_id].title for each in Synopsis.objects.all()]


@fixes(
    "in_bulk_one_by_one",
    "replacement_in_a_text",
    "shortcut_that_answers_404",
    "threads_that_work_in_this_context",
    "value_of_one_row_by_get",
)
def novels_by_key() -> None:
    Novel.objects.in_bulk([each.pk for each in Novel.objects.all()])


@fixes("locked_row_by_row", "select_for_update_in_a_loop")
def locked_at_once() -> None:
    Novel.objects.select_for_update().order_by("pk").in_bulk([1, 2, 3])


@fixes("annotated_row_by_row")
def annotated_at_once() -> None:
    Novel.objects.annotate(n=Count("critiques")).in_bulk([1, 2, 3])


@fixes("async_refresh", "value_of_one_row")
def read_again_at_once() -> None:
    list(Novel.objects.filter(pk__in=[each.pk for each in Novel.objects.all()]))


@fixes("keys_that_are_looked_up")
def genres_by_key() -> None:
    Genre.objects.in_bulk([each.pk for each in Genre.objects.all()])


@fixes("signal_that_reads_the_old_row")
def old_rows_at_once() -> None:
    Critique.objects.in_bulk([each.pk for each in Critique.objects.all()])


@fixes("list_of_one_key", "distinct_values_by_key")
def critiques_by_novel() -> None:
    list(Critique.objects.filter(novel_id__in=[each.pk for each in Novel.objects.all()]))


@fixes("recursion_by_a_queryset_of_its_own")
def level_by_level() -> None:
    level = list(Branch.objects.filter(parent=None))
    while level:
        level = list(Branch.objects.filter(parent_id__in=[each.pk for each in level]))


# Values


@fixes("column_of_another_table")
def by_the_other_table() -> None:
    list(Critique.objects.filter(novel__title__in=["a", "b", "c"]).select_related("novel"))


@fixes("aggregate_by_key")
def totals_by_key() -> None:
    list(Critique.objects.values("novel_id").annotate(Count("pk")))


@fixes("either_of_two_columns")
def either_at_once() -> None:
    list(Novel.objects.filter(Q(title__in=["a", "b", "c"]) | Q(body__in=["a", "b", "c"])))


@fixes("comparison_of_columns_with_a_value")
def compared_at_once() -> None:
    list(Critique.objects.filter(stars__gt=F("novel_id") + 1))


@fixes("key_within_json")
def json_at_once() -> None:
    list(Port.objects.filter(data__depth__metres__in=[1, 2, 3]))


@fixes("subquery_with_a_value")
def subquery_at_once() -> None:
    critiques = Critique.objects.filter(novel=OuterRef("pk"), stars__in=[1, 2, 3])
    list(Novel.objects.filter(Exists(critiques)))


@fixes("extra", "shortcut_of_a_list_that_answers_404", "rows_by_range", "newest_before")
def by_stars() -> None:
    list(Critique.objects.filter(stars__in=[1, 2, 3]).order_by("stars"))


@fixes("count_by_range_of_dates")
def counts_by_stars() -> None:
    list(Critique.objects.values("stars").annotate(count=Count("pk")))


@fixes("first_by_a_name_without_case", "earliest_by_key")
def by_title() -> None:
    list(Novel.objects.filter(title__in=["novel 0", "novel 1"]).order_by("pk"))


@fixes("walk_by_key_row_by_row")
def all_in_order() -> None:
    list(Critique.objects.filter(pk__gt=0).order_by("pk"))


@fixes("async_exists")
def names_there() -> None:
    set(Genre.objects.filter(name__in=["genre 0", "b"]).values_list("name", flat=True))


@fixes("unique_validator_of_many", "validation_of_many")
def ports_there() -> None:
    set(Port.objects.filter(name__in=["a", "b", "c"]).values_list("name", flat=True))


@fixes("validation_of_each_form")
def titles_there() -> None:
    set(Novel.objects.filter(title__in=["new 0", "new 1"]).values_list("title", flat=True))


@fixes("choices_of_each_form")
def choices_once() -> None:
    class NovelForm(forms.ModelForm):  # type: ignore[type-arg]
        class Meta:
            model = Novel
            fields = ["novelist"]

    formset = forms.modelformset_factory(Novel, form=NovelForm, extra=0)()
    field = formset.empty_form.fields["novelist"]
    choices = list(field.choices)  # type: ignore[attr-defined]
    for form in formset.forms:
        form.fields["novelist"].choices = choices
        str(form["novelist"])


# SQL of one's own


@fixes(
    "cursor_with_values",
    "cursor_with_named_values",
    "cursor_with_a_table_of_its_own",
    "raw_list_of_one",
    "raw_query_made_elsewhere",
)
def titles_at_once() -> None:
    run("SELECT title FROM testapp_novel WHERE id IN (%s, %s, %s)", 1, 2, 3)


@fixes("cursor_with_values_in_the_text")
def titles_by_novelist() -> None:
    run("SELECT title FROM testapp_novel WHERE novelist_id IN (%s, %s, %s)", 1, 2, 3)


@fixes("raw_list_of_one_row_value")
def row_values_at_once() -> None:
    run("SELECT 1 FROM testapp_critique WHERE (id, stars) IN ((%s, %s), (%s, %s))", 1, 1, 2, 1)


@fixes("cursor_that_writes")
def updates_at_once() -> None:
    with connection.cursor() as cursor:
        cursor.executemany("UPDATE testapp_novel SET title = 'x' WHERE id = %s", [[1], [2], [3]])


@fixes("insert_that_returns_its_key")
def inserts_at_once() -> None:
    run("INSERT INTO testapp_genre (name) VALUES (%s), (%s), (%s) RETURNING id", *"abc")


# Related sets


@fixes("filter_of_a_prefetched_set", "truth_of_a_related_queryset", "slice_of_a_related_set")
def some_of_each() -> None:
    critiques_of_all(Critique.objects.filter(stars=1))


@fixes("falsehood_of_a_related_queryset", "first_few_of_each")
def few_of_each() -> None:
    critiques_of_all(Critique.objects.filter(stars__gt=0).order_by("stars"))


@fixes("exclude_of_a_prefetched_set")
def others_of_each() -> None:
    critiques_of_all(Critique.objects.exclude(stars=1))


@fixes("annotation_of_a_related_set")
def annotated_of_each() -> None:
    critiques_of_all(Critique.objects.annotate(low=Lower("text")))


@fixes("values_of_a_prefetched_set")
def stars_in_python() -> None:
    all_critiques(lambda rows: [each.stars for each in rows])


@fixes("iterator_of_a_related_set")
def texts_in_python() -> None:
    all_critiques(lambda rows: [each.text for each in rows])


@fixes("union_of_related_querysets")
def union_in_python() -> None:
    all_critiques(lambda rows: [each for each in rows if each.text in ("good", "bad")])


@fixes("in_bulk_of_a_related_set")
def dict_in_python() -> None:
    all_critiques(lambda rows: {each.pk: each for each in rows})


@fixes("last_of_a_related_set", "first_by_index_of_a_related_set")
def one_in_python() -> None:
    all_critiques(lambda rows: (rows[0], rows[-1]))


@fixes("latest_of_a_related_set", "earliest_of_a_related_set")
def greatest_in_python() -> None:
    all_critiques(lambda rows: max(rows, key=lambda each: each.stars))


@fixes("get_from_a_related_set")
def found_in_python() -> None:
    all_critiques(lambda rows: [each for each in rows if each.text == "good"])


@fixes("template_method", "template_first_filter", "async_first")
def first_by_subquery() -> None:
    first = Critique.objects.filter(novel=OuterRef("pk")).order_by("pk")
    list(Novel.objects.annotate(first_text=Subquery(first.values("text")[:1])))


@fixes(
    "async_count",
    "group_of_tasks_of_threads",
    "jinja_count",
    "serializer_method_field",
    "template_count",
)
def counts_of_all() -> None:
    list(Novel.objects.annotate(critiques_count=Count("critiques", distinct=True)))


@fixes("cached_property_of_each_row")
def crews_of_all() -> None:
    list(Ship.objects.annotate(berths_count=Count("berths", distinct=True)))


@fixes("template_exists")
def whether_criticised() -> None:
    there = Exists(Critique.objects.filter(novel=OuterRef("pk")))
    list(Novel.objects.annotate(has_critiques=there))


@fixes("exists_in_a_generic_relation")
def whether_noted() -> None:
    noted = Sticky.objects.filter(object_id=OuterRef("pk"), content_type__model="novel")
    list(Novel.objects.annotate(has_stickies=Exists(noted)))


@fixes("prefetch_one_by_one", "async_prefetch_one_by_one")
def prefetch_at_once() -> None:
    prefetch_related_objects(list(Novel.objects.all()), "critiques")


@fixes("recursion")
def walk_at_once() -> None:
    walk(Branch.objects.prefetch_related(TREE).get(parent=None))


@fixes("recursion_of_generators", "tree_by_a_stack")
def descend_at_once() -> None:
    list(descend(Branch.objects.prefetch_related(TREE).get(parent=None)))


@fixes("signal_of_each_row_read")
def later_than_the_row() -> None:
    [ship.home for ship in Ship.objects.select_related("home")]


# Writes


@fixes("create_in_a_loop", "async_save", "async_create")
def nations_at_once() -> None:
    Nation.objects.bulk_create([Nation(name=name) for name in "abc"])


@fixes("rows_saved_by_a_serializer")
def genres_at_once() -> None:
    Genre.objects.bulk_create([Genre(name=name) for name in "abc"])


@fixes("update_or_create_in_a_loop")
def upsert_at_once() -> None:
    Genre.objects.bulk_create(
        [Genre(pk=pk, name=f"genre {pk}") for pk in (1, 2, 3)],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["name"],
    )


@fixes("create_of_related_rows")
def critiques_at_once() -> None:
    Critique.objects.bulk_create([Critique(novel=n, text="new") for n in Novel.objects.all()])


@fixes("update_in_a_loop")
def update_at_once() -> None:
    Novel.objects.filter(pk__in=[each.pk for each in Novel.objects.all()]).update(title="new")


@fixes("save_of_one_field", "save_of_an_expression")
def save_at_once() -> None:
    Novel.objects.bulk_update(Novel.objects.all(), ["title"])


@fixes("save_of_an_overridden_model")
def ships_at_once() -> None:
    Frigate.objects.bulk_update(Frigate.objects.filter(kind="f"), ["name"])


@fixes("add_in_a_loop")
def add_at_once() -> None:
    genre, through = Genre.objects.create(name="new"), Novel.genres.through
    through.objects.bulk_create([through(novel=n, genre=genre) for n in Novel.objects.all()])


@fixes("remove_in_a_loop")
def remove_at_once() -> None:
    Novel.genres.through.objects.filter(genre=Genre.objects.order_by("pk")[1]).delete()


@fixes("delete_of_querysets")
def delete_at_once() -> None:
    Sticky.objects.filter(pk__in=[each.pk for each in Sticky.objects.all()]).delete()


@fixes("update_of_related_rows")
def update_related_at_once() -> None:
    Critique.objects.filter(novel__in=Novel.objects.all()).update(stars=F("stars") + 1)


@fixes("get_or_create_of_new_rows")
def new_ports_at_once() -> None:
    there = set(Port.objects.filter(name__in="abc").values_list("name", flat=True))
    Port.objects.bulk_create([Port(name=n, code=n) for n in "abc" if n not in there])
