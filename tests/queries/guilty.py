"""The catalogue of N+1s: each marked on the line that is to blame, with its fix where one is."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.db.models import Avg, Count, Exists, OuterRef, Prefetch, prefetch_related_objects
from django.db.models.signals import post_save
from django.template import Context, Engine
from rest_framework import serializers

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

MARK = "# N+1"


@dataclass(frozen=True)
class Shape:
    """One kind of N+1."""

    guilty: Callable[[], object]
    label: str
    fix: str
    fixed: Callable[[], object] | None = None
    is_write: bool = False
    line: tuple[str, int] | None = None
    """File and line when the blame is not in `guilty` itself."""
    template: str = ""
    """File and line; `*` for a template that is not ours."""
    serializer: str = ""

    @property
    def name(self) -> str:
        return self.guilty.__name__

    @property
    def place(self) -> tuple[str, int]:
        """Where the finding must point."""
        if self.line:
            return self.line
        return marked(inspect.unwrap(self.guilty))


SHAPES: list[Shape] = []


def marked(function: Callable[..., object], mark: str = MARK) -> tuple[str, int]:
    """Return the file and line of the mark in a function's source."""
    lines, start = inspect.getsourcelines(function)
    number = next(number for number, line in enumerate(lines) if mark in line)
    return inspect.getsourcefile(function) or "", start + number


def shape(label: str, fix: str, **options: Any) -> Callable[[Callable[[], object]], Any]:
    """Add a function to the catalogue."""

    def add(function: Callable[[], object]) -> Callable[[], object]:
        SHAPES.append(Shape(function, label, fix, **options))
        return function

    return add


def in_async(function: Callable[[], Awaitable[object]]) -> Callable[[], object]:
    """Run a coroutine function from sync code."""

    def call() -> object:
        return async_to_sync(function)()

    call.__name__ = function.__name__
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


# Relations to one


@shape(
    "Novel.novelist",
    '.select_related("novelist")',
    fixed=lambda: [novel.novelist.name for novel in Novel.objects.select_related("novelist")],
)
def lazy_foreign_key() -> None:
    for novel in Novel.objects.all():
        _ = novel.novelist.name  # N+1


@shape(
    "Novelist.nation",
    '.select_related("novelist__nation")',
    fixed=lambda: [
        n.novelist.nation.name for n in Novel.objects.select_related("novelist__nation")
    ],
)
def second_hop() -> None:
    for novel in Novel.objects.select_related("novelist"):
        _ = novel.novelist.nation.name  # N+1


@shape(
    "Novelist.nation",
    '.select_related("novelist__nation")',
    fixed=lambda: [
        n.novelist.nation_name for n in Novel.objects.select_related("novelist__nation")
    ],
    line=marked(Novelist, "# mark: property"),
)
def property_through_second_model() -> None:
    for novel in Novel.objects.select_related("novelist"):
        _ = novel.novelist.nation_name


@shape(
    "Novel.synopsis",
    '.select_related("synopsis")',
    fixed=lambda: [novel.synopsis.text for novel in Novel.objects.select_related("synopsis")],
)
def reverse_one_to_one() -> None:
    for novel in Novel.objects.all():
        _ = novel.synopsis.text  # N+1


@shape(
    "Synopsis.novel",
    '.select_related("novel")',
    fixed=lambda: [synopsis.novel.title for synopsis in Synopsis.objects.select_related("novel")],
)
def forward_one_to_one() -> None:
    for synopsis in Synopsis.objects.all():
        _ = synopsis.novel.title  # N+1


@shape(
    "Novel.synopsis",
    '.select_related("synopsis")',
    fixed=lambda: [
        hasattr(novel, "synopsis") for novel in Novel.objects.select_related("synopsis")
    ],
)
def hasattr_of_a_reverse_one_to_one() -> None:
    for novel in Novel.objects.all():
        hasattr(novel, "synopsis")  # N+1


@shape(
    "Sticky.content_object",
    '.prefetch_related("content_object")',
    fixed=lambda: [s.content_object for s in Sticky.objects.prefetch_related("content_object")],
)
def generic_foreign_key() -> None:
    for sticky in Sticky.objects.all():
        _ = sticky.content_object.title  # N+1


@shape(
    "Critique.novel",
    '.select_related("novel")',
    fixed=lambda: [each.novel.title for each in Critique.objects.select_related("novel")],
)
def getattr_by_name() -> None:
    for critique in Critique.objects.all():
        _ = getattr(critique, "novel").title  # noqa: B009  # N+1


@shape(
    "Novel.novelist",
    '.prefetch_related("novels__novelist")',
    fixed=lambda: [
        [novel.novelist.name for novel in genre.novels.all()]
        for genre in Genre.objects.prefetch_related("novels__novelist")
    ],
)
def key_of_prefetched_rows() -> None:
    for genre in Genre.objects.prefetch_related("novels"):
        for novel in genre.novels.all():
            _ = novel.novelist.name  # N+1


# Columns


@shape(
    "Novel.body",
    'read "body" with the rows',
    fixed=lambda: [novel.body for novel in Novel.objects.only("title", "body")],
)
def column_left_out_by_only() -> None:
    for novel in Novel.objects.only("title"):
        _ = novel.body  # N+1


@shape(
    "Novel.body",
    'read "body" with the rows',
    fixed=lambda: [novel.body for novel in Novel.objects.all()],
)
def deferred_column() -> None:
    for novel in Novel.objects.defer("body"):
        _ = novel.body  # N+1


@shape(
    "Novel.refresh_from_db()",
    "Novel.objects.filter(pk__in=…)",
    fixed=lambda: list(Novel.objects.filter(pk__in=[each.pk for each in Novel.objects.all()])),
)
def refresh_in_a_loop() -> None:
    for novel in Novel.objects.all():
        novel.refresh_from_db()  # N+1


# Relations to many


@shape(
    "Novel.critiques",
    '.prefetch_related("critiques")',
    fixed=lambda: [
        list(novel.critiques.all()) for novel in Novel.objects.prefetch_related("critiques")
    ],
)
def reverse_foreign_key() -> None:
    for novel in Novel.objects.all():
        for critique in novel.critiques.all():  # N+1
            _ = critique.text


@shape(
    "Novel.genres",
    '.prefetch_related("genres")',
    fixed=lambda: [list(novel.genres.all()) for novel in Novel.objects.prefetch_related("genres")],
)
def many_to_many() -> None:
    for novel in Novel.objects.all():
        list(novel.genres.all())  # N+1


@shape(
    "Genre.novels",
    '.prefetch_related("novels")',
    fixed=lambda: [list(genre.novels.all()) for genre in Genre.objects.prefetch_related("novels")],
)
def many_to_many_backwards() -> None:
    for genre in Genre.objects.all():
        list(genre.novels.all())  # N+1


@shape(
    "Novel.stickies",
    '.prefetch_related("stickies")',
    fixed=lambda: [list(n.stickies.all()) for n in Novel.objects.prefetch_related("stickies")],
)
def generic_relation() -> None:
    for novel in Novel.objects.all():
        list(novel.stickies.all())  # N+1


@shape(
    "Novel.critiques.filter()",
    'Prefetch("critiques", queryset=Critique.objects.filter(…), to_attr="some_critiques")',
    fixed=lambda: [
        novel.some_critiques  # type: ignore[attr-defined]
        for novel in Novel.objects.prefetch_related(
            Prefetch(
                "critiques", queryset=Critique.objects.filter(stars=1), to_attr="some_critiques"
            )
        )
    ],
)
def filter_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        list(novel.critiques.filter(stars=1))  # N+1


@shape("Novel.critiques.filter()", 'Prefetch("critiques", queryset=Critique.objects.filter(…)')
def filter_of_a_prefetched_set() -> None:
    for novel in Novel.objects.prefetch_related("critiques"):
        list(novel.critiques.filter(stars=1))  # N+1


@shape("Novel.critiques.exclude()", 'Prefetch("critiques", queryset=Critique.objects.exclude(…)')
def exclude_of_a_prefetched_set() -> None:
    for novel in Novel.objects.prefetch_related("critiques"):
        list(novel.critiques.exclude(stars=1))  # N+1


@shape(
    "Novel.critiques.order_by()",
    'Prefetch("critiques", queryset=Critique.objects.order_by(…)',
    fixed=lambda: [
        list(novel.critiques.all())
        for novel in Novel.objects.prefetch_related(
            Prefetch("critiques", queryset=Critique.objects.order_by("stars"))
        )
    ],
)
def order_of_a_prefetched_set() -> None:
    for novel in Novel.objects.prefetch_related("critiques"):
        list(novel.critiques.order_by("stars"))  # N+1


@shape("Novel.critiques.values_list()", '.prefetch_related("critiques")')
def values_of_a_prefetched_set() -> None:
    for novel in Novel.objects.prefetch_related("critiques"):
        list(novel.critiques.values_list("stars", flat=True))  # N+1


@shape(
    "Novel.critiques.first()",
    '.prefetch_related("critiques")',
    fixed=lambda: [
        next(iter(novel.critiques.all()), None)
        for novel in Novel.objects.prefetch_related("critiques")
    ],
)
def first_of_a_prefetched_set() -> None:
    for novel in Novel.objects.prefetch_related("critiques"):
        novel.critiques.first()  # N+1


@shape("Novel.critiques.last()", '.prefetch_related("critiques")')
def last_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.critiques.last()  # N+1


@shape("Novel.critiques.latest()", '.prefetch_related("critiques")')
def latest_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.critiques.latest("stars")  # N+1


@shape("Novel.critiques.get()", '.prefetch_related("critiques")')
def get_from_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.critiques.get(text="good")  # N+1


@shape("Novel.critiques", 'Prefetch("critiques"')
def slice_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        list(novel.critiques.all()[:1])  # N+1


@shape(
    "Novel.critiques.count()",
    '.annotate(critiques_count=Count("critiques", distinct=True))',
    fixed=lambda: [
        novel.critiques_count  # type: ignore[attr-defined]
        for novel in Novel.objects.annotate(critiques_count=Count("critiques", distinct=True))
    ],
)
def count_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.critiques.count()  # N+1


@shape(
    "Novel.genres.exists()",
    '.annotate(has_genres=Exists(Genre.objects.filter(novels=OuterRef("pk"))))',
    fixed=lambda: list(
        Novel.objects.annotate(has_genres=Exists(Genre.objects.filter(novels=OuterRef("pk"))))
    ),
)
def exists_in_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.genres.exists()  # N+1


@shape(
    "Novel.critiques.exists()",
    '.annotate(has_critiques=Exists(Critique.objects.filter(novel=OuterRef("pk"), …)))',
    fixed=lambda: list(
        Novel.objects.annotate(
            has_critiques=Exists(Critique.objects.filter(novel=OuterRef("pk"), stars__gt=1))
        )
    ),
)
def exists_filtered() -> None:
    for novel in Novel.objects.all():
        novel.critiques.filter(stars__gt=1).exists()  # N+1


@shape(
    "Novel.critiques.aggregate()",
    ".annotate(",
    fixed=lambda: list(Novel.objects.annotate(total=Avg("critiques__stars"))),
)
def aggregate_of_a_related_set() -> None:
    for novel in Novel.objects.all():
        novel.critiques.aggregate(Avg("stars"))  # N+1


@shape(
    "Novelist.nation",
    '.prefetch_related("novels__novelist__nation")',
)
def second_hop_of_prefetched_rows() -> None:
    for genre in Genre.objects.prefetch_related("novels__novelist"):
        for novel in genre.novels.all():
            _ = novel.novelist.nation.name  # N+1


# Querysets of their own


@shape(
    "Novel.objects.get()",
    "Novel.objects.in_bulk(ids)",
    fixed=lambda: Novel.objects.in_bulk([each.novel_id for each in Synopsis.objects.all()]),  # type: ignore[attr-defined]
)
def get_by_key() -> None:
    for synopsis in Synopsis.objects.all():
        Novel.objects.get(pk=synopsis.novel_id)  # type: ignore[attr-defined]  # N+1


@shape("Novel.objects.in_bulk()", "Novel.objects.in_bulk(ids)")
def in_bulk_one_by_one() -> None:
    for pk in [each.pk for each in Novel.objects.all()]:
        Novel.objects.in_bulk([pk])  # N+1


@shape(
    "Critique.objects.filter()",
    "Critique.objects.filter(novel_id__in=…)",
    fixed=lambda: list(Critique.objects.filter(novel_id__in=[n.pk for n in Novel.objects.all()])),
)
def filter_by_key() -> None:
    for novel in Novel.objects.all():
        list(Critique.objects.filter(novel=novel))  # N+1


@shape(
    "Critique.objects.count()",
    'Critique.objects.values("novel_id").annotate(count=Count("pk"))',
    fixed=lambda: list(Critique.objects.values("novel_id").annotate(count=Count("pk"))),
)
def count_by_key() -> None:
    for novel in Novel.objects.all():
        Critique.objects.filter(novel=novel).count()  # N+1


@shape(
    "Novel.objects.exists()",
    'set(Novel.objects.filter(title__in=…).values_list("title", flat=True))',
    fixed=lambda: set(
        Novel.objects.filter(title__in=["a", "b", "c"]).values_list("title", flat=True)
    ),
)
def exists_by_title() -> None:
    for title in ("a", "b", "c"):
        Novel.objects.filter(title=title).exists()  # N+1


@shape(
    "Novel.objects.raw()",
    "WHERE id IN (…)",
    fixed=lambda: list(
        Novel.objects.raw("SELECT * FROM testapp_novel WHERE id IN (%s, %s, %s)", [1, 2, 3])
    ),
)
def raw_query() -> None:
    for pk in (1, 2, 3):
        list(Novel.objects.raw("SELECT * FROM testapp_novel WHERE id = %s", [pk]))  # N+1


@shape("raw SQL", "WHERE id IN (…)")
def cursor_with_values() -> None:
    with connection.cursor() as cursor:
        for pk in (1, 2, 3):
            cursor.execute("SELECT title FROM testapp_novel WHERE id = %s", [pk])  # N+1


@shape("raw SQL", "WHERE novelist_id IN (…)")
def cursor_with_values_in_the_text() -> None:
    with connection.cursor() as cursor:
        for pk in (1, 2, 3):
            cursor.execute(f"SELECT title FROM testapp_novel WHERE novelist_id = {pk}")  # N+1


@shape("Novel.critiques.prefetch()", 'prefetch_related_objects(rows, "critiques")')
def prefetch_one_by_one() -> None:
    for novel in Novel.objects.all():
        prefetch_related_objects([novel], "critiques")  # N+1


@shape(
    "Genre.objects.get_or_create()",
    "Genre.objects.filter(name__in=…)",
    fixed=lambda: list(Genre.objects.filter(name__in=["genre 0", "genre 1", "genre 2"])),
)
def get_or_create_in_a_loop() -> None:
    for name in ("genre 0", "genre 1", "genre 2"):
        Genre.objects.get_or_create(name=name)  # N+1


@shape("Genre.objects.update_or_create()", "Genre.objects.bulk_create(rows, update_conflicts=True")
def update_or_create_in_a_loop() -> None:
    for name in ("genre 0", "genre 1", "genre 2"):
        Genre.objects.update_or_create(name=name)  # N+1


@shape("Novel.objects.filter()", "Novel.objects.in_bulk(ids)")
def select_for_update_in_a_loop() -> None:
    with transaction.atomic():
        for pk in [each.pk for each in Novel.objects.all()]:
            list(Novel.objects.select_for_update().filter(pk=pk))  # N+1


@shape("Critique.objects.count()", "before the loop")
def count_by_range_of_dates() -> None:
    for stars in (1, 2, 3):
        Critique.objects.filter(stars__gte=stars, stars__lt=stars + 1).count()  # N+1


@shape("Critique.objects.filter()", "before the loop")
def rows_by_range() -> None:
    for stars in (1, 2, 3):
        list(Critique.objects.filter(stars__gte=stars, stars__lt=stars + 1))  # N+1


@shape("Critique.objects.first()", "before the loop")
def newest_before() -> None:
    for stars in (1, 2, 3):
        Critique.objects.filter(stars__lte=stars).order_by("-stars").first()  # N+1


@shape("Novel.critiques.order_by()", 'Prefetch("critiques"')
def first_few_of_each() -> None:
    for novel in Novel.objects.all():
        list(novel.critiques.filter(stars__gt=novel.pk - 9).order_by("stars")[:2])  # N+1


@shape("raw SQL", "WHERE id IN (…)")
def raw_list_of_one() -> None:
    with connection.cursor() as cursor:
        for pk in (1, 2, 3):
            cursor.execute("SELECT title FROM testapp_novel WHERE id IN (%s)", [pk])  # N+1


@shape("raw SQL", "WHERE id IN (…)")
def raw_list_of_one_row_value() -> None:
    sql = "SELECT 1 FROM testapp_critique WHERE (id, stars) IN ((%s, %s))"
    with connection.cursor() as cursor:
        for pk in (1, 2, 3):
            cursor.execute(sql, [pk, 1])  # N+1


# Ways to loop


def name_of(novel: Novel) -> str:
    return str(novel.novelist.name)  # N+1


@shape("Novel.novelist", '.select_related("novelist")', line=marked(name_of))
def helper_function() -> None:
    for novel in Novel.objects.all():
        name_of(novel)


@shape("Novel.novelist", '.select_related("novelist")')
def comprehension() -> None:
    [novel.novelist.name for novel in Novel.objects.all()]  # N+1


@shape("Novel.novelist", '.select_related("novelist")')
def generator_expression() -> None:
    list(novel.novelist.name for novel in Novel.objects.all())  # noqa: C400  # N+1


def names() -> Iterator[str]:
    for novel in Novel.objects.all():
        yield novel.novelist.name  # N+1


@shape("Novel.novelist", '.select_related("novelist")', line=marked(names))
def generator() -> None:
    list(names())


@shape("Novel.novelist", '.select_related("novelist")')
def iterator() -> None:
    for novel in Novel.objects.iterator(chunk_size=2):
        _ = novel.novelist.name  # N+1


@shape("Novel.novelist", '.select_related("novelist")')
def map_with_a_lambda() -> None:
    list(map(lambda novel: novel.novelist.name, Novel.objects.all()))  # noqa: C417  # N+1


@shape("Novel.novelist", '.select_related("novelist")')
def key_of_a_sort() -> None:
    sorted(Novel.objects.all(), key=lambda novel: novel.novelist.name)  # N+1


@shape("Novel.novelist", '.select_related("novelist")')
def while_loop() -> None:
    rows = list(Novel.objects.all())
    while rows:
        _ = rows.pop().novelist.name  # N+1


@shape("Novel.novelist", '.select_related("novelist")', line=marked(Novel.__str__, "# mark: str"))
def str_of_the_model() -> None:
    for novel in Novel.objects.all():
        str(novel)


@shape("Novel.novelist", '.select_related("novelist")', line=marked(Novel, "# mark: author_name"))
def property_of_the_model() -> None:
    for novel in Novel.objects.all():
        _ = novel.author_name


def walk(branch: Branch) -> None:
    for child in branch.children.all():  # N+1
        walk(child)


@shape("Branch.children", '.prefetch_related("children__children")', line=marked(walk))
def recursion() -> None:
    walk(Branch.objects.get(parent=None))


def path_of(branch: Branch) -> list[str]:
    parent = branch.parent  # N+1
    return [*path_of(parent), branch.name] if parent else [branch.name]


@shape("Branch.parent", '.select_related("parent")', line=marked(path_of))
def recursion_upwards() -> None:
    path_of(Branch.objects.filter(name="leaf 0").order_by("pk")[0])


# Templates, serializers, admin


def template(source: str) -> Any:
    engine = Engine(loaders=[("django.template.loaders.locmem.Loader", {"list.html": source})])
    return engine.get_template("list.html")


def render(source: str, **context: object) -> None:
    template(source).render(Context(context))  # N+1


@shape("Novel.novelist", '.select_related("novelist")', template="list.html:2", line=marked(render))
def template_loop() -> None:
    render(
        "{% for novel in novels %}\n{{ novel.novelist.name }}{% endfor %}",
        novels=Novel.objects.all(),
    )


@shape(
    "Novelist.nation",
    '.select_related("novelist__nation")',
    template="list.html:3",
    line=marked(render),
)
def template_second_hop() -> None:
    render(
        "{% for novel in novels %}\n\n{{ novel.novelist.nation.name }}{% endfor %}",
        novels=Novel.objects.select_related("novelist"),
    )


@shape(
    "Novel.critiques.count()",
    '.annotate(critiques_count=Count("critiques", distinct=True))',
    template="list.html:1",
    line=marked(render),
)
def template_count() -> None:
    render(
        "{% for novel in novels %}{{ novel.critiques.count }}{% endfor %}",
        novels=Novel.objects.all(),
    )


@shape(
    "Novel.critiques",
    '.prefetch_related("critiques")',
    template="list.html:1",
    line=marked(render),
)
def template_inner_loop() -> None:
    render(
        "{% for n in novels %}{% for c in n.critiques.all %}{{ c.text }}{% endfor %}{% endfor %}",
        novels=Novel.objects.all(),
    )


@shape(
    "Novel.critiques.first()",
    '.prefetch_related("critiques")',
    template="list.html:2",
    line=marked(Novel, "# mark: first_critique"),
)
def template_method() -> None:
    render(
        "{% for novel in novels %}\n{{ novel.first_critique }}{% endfor %}",
        novels=Novel.objects.all(),
    )


class NovelistSerializer(serializers.ModelSerializer[Novelist]):
    class Meta:
        model = Novelist
        fields = ["name"]


class NovelSerializer(serializers.ModelSerializer[Novel]):
    novelist_name = serializers.CharField(source="novelist.name")

    class Meta:
        model = Novel
        fields = ["title", "novelist_name"]


class NestedSerializer(serializers.ModelSerializer[Novel]):
    novelist = NovelistSerializer()

    class Meta:
        model = Novel
        fields = ["novelist"]


class ManySerializer(serializers.ModelSerializer[Novel]):
    genres: Any = serializers.StringRelatedField(many=True)

    class Meta:
        model = Novel
        fields = ["genres"]


class MethodSerializer(serializers.ModelSerializer[Novel]):
    stars = serializers.SerializerMethodField()

    class Meta:
        model = Novel
        fields = ["stars"]

    def get_stars(self, novel: Novel) -> int:
        return novel.critiques.count()  # type: ignore[attr-defined, no-any-return]  # N+1


def serialize(serializer: Any) -> None:
    _ = serializer(Novel.objects.all(), many=True).data  # N+1


@shape(
    "Novel.novelist",
    '.select_related("novelist")',
    serializer="NovelSerializer.novelist_name",
    line=marked(serialize),
)
def serializer_field() -> None:
    serialize(NovelSerializer)


@shape(
    "Novel.novelist",
    '.select_related("novelist")',
    serializer="NestedSerializer.novelist",
    line=marked(serialize),
)
def nested_serializer() -> None:
    serialize(NestedSerializer)


@shape(
    "Novel.genres",
    '.prefetch_related("genres")',
    serializer="ManySerializer.genres",
    line=marked(serialize),
)
def serializer_of_many() -> None:
    serialize(ManySerializer)


@shape(
    "Novel.critiques.count()",
    '.annotate(critiques_count=Count("critiques", distinct=True))',
    serializer="MethodSerializer.stars",
    line=marked(MethodSerializer.get_stars),
)
def serializer_method_field() -> None:
    serialize(MethodSerializer)


class NovelAdmin:
    """As Django's admin calls what `list_display` names."""

    list_display = ("title", "nation")

    def nation(self, novel: Novel) -> str:
        return str(novel.novelist.nation.name)  # N+1


@shape("Novelist.nation", '.select_related("novelist__nation")', line=marked(NovelAdmin.nation))
def admin_list_display() -> None:
    admin = NovelAdmin()
    for novel in Novel.objects.select_related("novelist"):
        admin.nation(novel)


# Async


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def async_get() -> None:
    async for synopsis in Synopsis.objects.all():
        await Novel.objects.aget(pk=synopsis.novel_id)  # type: ignore[attr-defined]  # N+1


@shape("Novel.critiques.count()", '.annotate(critiques_count=Count("critiques", distinct=True))')
@in_async
async def async_count() -> None:
    async for novel in Novel.objects.all():
        await novel.critiques.acount()  # type: ignore[attr-defined]  # N+1


@shape("Novel.critiques", '.prefetch_related("critiques")')
@in_async
async def async_for_in_async_for() -> None:
    async for novel in Novel.objects.all():
        async for critique in novel.critiques.all():  # type: ignore[attr-defined]  # N+1
            _ = critique.text


@shape("Novel.novelist", '.select_related("novelist")', line=marked(name_of))
@in_async
async def sync_to_async_helper() -> None:
    async for novel in Novel.objects.all():
        await sync_to_async(name_of)(novel)


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def gather_of_methods() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]  # type: ignore[attr-defined]
    await asyncio.gather(*(Novel.objects.aget(pk=pk) for pk in pks))  # N+1


async def one(pk: int) -> Novel:
    return await Novel.objects.aget(pk=pk)  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)", line=marked(one))
@in_async
async def gather_of_coroutines() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]  # type: ignore[attr-defined]
    await asyncio.gather(*(one(pk) for pk in pks))


# Writes


@shape(
    "Novel.save()",
    "Novel.objects.bulk_update(rows, [fields])",
    is_write=True,
    fixed=lambda: Novel.objects.bulk_update(Novel.objects.all(), ["title"]),
)
def save_in_a_loop() -> None:
    for novel in Novel.objects.all():
        novel.title += "!"
        novel.save()  # N+1


@shape(
    "Nation.save()",
    "Nation.objects.bulk_create(rows)",
    is_write=True,
    fixed=lambda: Nation.objects.bulk_create([Nation(name=name) for name in "abc"]),
)
def save_of_new_rows() -> None:
    for name in "abc":
        Nation(name=name).save()  # N+1


@shape("Nation.objects.create()", "Nation.objects.bulk_create(rows)", is_write=True)
def create_in_a_loop() -> None:
    for name in "abc":
        Nation.objects.create(name=name)  # N+1


@shape("Novel.critiques.create()", "Critique.objects.bulk_create(rows)", is_write=True)
def create_of_related_rows() -> None:
    for novel in Novel.objects.all():
        novel.critiques.create(text="new")  # type: ignore[attr-defined]  # N+1


@shape(
    "Sticky.delete()",
    "Sticky.objects.filter(pk__in=ids).delete()",
    is_write=True,
    fixed=lambda: Sticky.objects.filter(pk__in=[s.pk for s in Sticky.objects.all()]).delete(),
)
def delete_in_a_loop() -> None:
    for sticky in Sticky.objects.all():
        sticky.delete()  # N+1


@shape("Novel.objects.update()", "Novel.objects.filter(pk__in=ids).update(…)", is_write=True)
def update_in_a_loop() -> None:
    for pk in [each.pk for each in Novel.objects.all()]:
        Novel.objects.filter(pk=pk).update(title="new")  # N+1


@shape("Novel.genres.add()", "bulk_create() of Novel.genres.through", is_write=True)
def add_in_a_loop() -> None:
    genre = Genre.objects.create(name="new")
    for novel in Novel.objects.all():
        novel.genres.add(genre)  # N+1


@shape("raw SQL", "executemany()", is_write=True)
def cursor_that_writes() -> None:
    with connection.cursor() as cursor:
        for pk in (1, 2, 3):
            cursor.execute("UPDATE testapp_novel SET title = 'x' WHERE id = %s", [pk])  # N+1


def on_save(instance: Critique, **_: object) -> None:
    _ = instance.novel.title  # N+1


@shape("Critique.novel", '.select_related("novel")', line=marked(on_save))
def signal_handler() -> None:
    post_save.connect(on_save, sender=Critique)
    try:
        for critique in Critique.objects.all():
            critique.save()
    finally:
        post_save.disconnect(on_save, sender=Critique)


__all__ = ["MARK", "SHAPES", "Shape", "marked"]
