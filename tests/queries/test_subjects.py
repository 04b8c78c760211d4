"""Corners of the diagnosis that the catalogue has no shape for."""

import operator

import pytest
from django.db import connection
from django.db.models import Count
from django.template import Context
from django.template.base import Node

from dbpatterns.queries import guard
from dbpatterns.queries.libraries import is_users, tail_of
from dbpatterns.queries.messages import format_plain, shorten
from tests.testapp.models import Critique, Genre, Novel, Novelist, Sticky


def found(function: object) -> str:
    with guard("log", writes="log") as report:
        function()  # type: ignore[operator]
    [finding] = report
    return f"{finding.label}: {finding.fix}"


def test_two_relations_to_one_model_are_told_apart(novels: list[Novel]) -> None:
    def edited() -> None:
        for novelist in Novelist.objects.all():
            list(novelist.edited.all())

    def written() -> None:
        for novelist in Novelist.objects.all():
            list(novelist.novels.all())

    assert found(edited).startswith("Novelist.edited: ")
    assert found(written).startswith("Novelist.novels: ")


def test_existence_of_generic_rows(novels: list[Novel]) -> None:
    def work() -> None:
        for novel in Novel.objects.all():
            novel.stickies.exists()

    assert found(work) == (
        "Novel.stickies.exists(): .annotate(has_stickies=Exists(Sticky.objects"
        '.filter(object_id=OuterRef("pk"))))'
    )


def test_get_or_create_of_related_rows(novels: list[Novel]) -> None:
    def work() -> None:
        for novel in Novel.objects.all():
            novel.critiques.get_or_create(text="good")  # type: ignore[attr-defined]

    assert found(work) == (
        'Novel.critiques.get_or_create(): .prefetch_related("critiques") and look in '
        "critiques.all(), then bulk_create()"
    )


def test_aggregates_by_key(novels: list[Novel]) -> None:
    def work() -> None:
        for novel in Novel.objects.all():
            Critique.objects.filter(novel=novel).aggregate(Count("pk"))

    assert found(work).endswith(
        'one Critique.objects.values("novel_id").annotate(…) before the loop'
    )


def test_get_by_a_column_that_is_no_key(novels: list[Novel]) -> None:
    def work() -> None:
        for title in ("novel 0", "novel 1"):
            Novel.objects.get(title=title)

    assert "Novel.objects.filter(title__in=…) before the loop, into a dict by title" in found(work)


def test_update_or_create_that_creates(novels: list[Novel]) -> None:
    def work() -> None:
        for name in "abc":
            Genre.objects.update_or_create(name=name)

    with guard("log", writes="log") as report:
        work()
    [write] = report.writes
    assert write.fix == "one Genre.objects.bulk_create(rows, update_conflicts=True, …)"


def test_a_slot_that_a_list_shows_counts_its_rows(novels: list[Novel]) -> None:
    rows = list(Novel.objects.all())
    with guard("log", threshold=2) as report:
        for novel in rows:
            _ = novel.novelist
    assert report.findings[0].rows == len(rows)


def test_a_manager_that_fails_is_no_reason_to_fail(
    novels: list[Novel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        for novel in Novel.objects.all():
            list(novel.critiques.all())  # type: ignore[attr-defined]

    def failing(self: object) -> None:
        raise RuntimeError

    managers = [getattr(novel, "critiques") for novel in novels]  # noqa: B009
    rows = [manager.all() for manager in managers]
    monkeypatch.setattr(type(managers[0]), "all", failing)
    assert "Prefetch(" in found(lambda: [list(each) for each in rows])
    monkeypatch.undo()
    assert "Prefetch(" not in found(work)


def test_a_node_made_by_hand_has_no_line(novels: list[Novel]) -> None:
    class Names(Node):
        def render(self, context: Context) -> str:
            return "".join(novel.novelist.name for novel in context["novels"])

    with guard("log") as report:
        Names().render_annotated(Context({"novels": Novel.objects.all()}))
    assert report.findings[0].template == ""


def test_values_are_told_without_asking_objects(novels: list[Novel]) -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError

    with guard("raise") as report:
        assert format_plain(novels[0]) == f"<Novel {novels[0].pk}>"
    assert report.queries == 0
    assert format_plain(Odd()) == "<Odd>"


def test_long_statements_and_values_are_cut(db: None) -> None:
    assert len(shorten("SELECT a FROM t WHERE " + "a = 1 AND " * 50)) == 120
    with guard("log") as report, connection.cursor() as cursor:
        for letter in "ab":
            cursor.execute("SELECT id FROM testapp_novel WHERE title = %s", [letter * 100])
    assert f"'{'a' * 38}…" in str(report.findings[0])


def test_rows_written_to_a_relation_of_generic_rows(novels: list[Novel]) -> None:
    def work() -> None:
        for novel in novels:
            novel.stickies.create(text="x")

    assert found(work) == "Novel.stickies.create(): one Sticky.objects.bulk_create(rows)"
    assert Sticky.objects.filter(text="x").count() == len(novels)


def test_code_without_a_source_has_a_line_and_no_expression(novels: list[Novel]) -> None:
    code = compile("for novel in novels.all():\n    novel.novelist", "<made up>", "exec")
    with guard("log") as report:
        exec(code, {"novels": Novel.objects})
    assert (report.findings[0].place.path, report.findings[0].place.line) == ("<made up>", 2)
    assert report.findings[0].rows_from == "<made up>:1 in <module>"


def test_frozen_modules_are_no_users(db: None) -> None:
    assert tail_of("<frozen importlib._bootstrap>")
    assert not is_users("<frozen importlib._bootstrap>")
    assert is_users(__file__)


def test_a_high_threshold_keeps_few_values(db: None) -> None:
    with guard("log", threshold=15) as report, connection.cursor() as cursor:
        for number in range(20):
            cursor.execute("SELECT id FROM testapp_novel WHERE id = %s", [number])
    assert report.findings[0].count == 20
    assert report.findings[0].params == (0, 1, 2)


def test_a_route_over_a_generic_key_is_prefetched(novels: list[Novel]) -> None:
    def work() -> None:
        for sticky in Sticky.objects.prefetch_related("content_object"):
            _ = sticky.content_object.novelist

    assert found(work) == 'Novel.novelist: .prefetch_related("content_object__novelist")'


def test_a_route_over_an_attribute_is_none(novels: list[Novel]) -> None:
    stickies = list(Sticky.objects.all())
    for sticky, novel in zip(stickies, Novel.objects.all(), strict=True):
        sticky.owner = novel  # type: ignore[attr-defined]

    def work() -> None:
        for sticky in stickies:
            _ = sticky.owner.novelist  # type: ignore[attr-defined]

    assert found(work) == 'Novel.novelist: .select_related("novelist")'


def nation_of(novel: Novel) -> str:
    return novel.novelist.nation_name


def test_a_route_over_two_functions_is_whole(novels: list[Novel]) -> None:
    def work() -> None:
        for critique in Critique.objects.select_related("novel__novelist"):
            nation_of(critique.novel)

    assert found(work) == 'Novelist.nation: .select_related("novel__novelist__nation")'


def test_a_route_of_two_relations_without_a_path_in_the_source(novels: list[Novel]) -> None:
    def work() -> None:
        for critique in Critique.objects.select_related("novel__novelist"):
            operator.attrgetter("novel.novelist.nation.name")(critique)

    assert found(work) == 'Novelist.nation: .select_related("novel__novelist__nation")'


def test_what_set_reads_is_part_of_what_it_writes(novels: list[Novel]) -> None:
    def work() -> None:
        for novel in Novel.objects.all():
            novel.genres.set([])

    with guard("log", writes="log") as report:
        work()
    assert report.findings[0].fix.startswith("one bulk_create() of Novel.genres.through, after")


def test_statements_in_bytes_and_objects_are_read(novels: list[Novel]) -> None:
    class Composed:
        def as_string(self, connection: object) -> str:
            return "SELECT 1 WHERE 1 = %s"

    scope = connection.execute_wrappers[0]
    with guard("log") as report:
        for sql in (b"SELECT 1 WHERE 1 = %s", Composed()):
            for number in range(3):
                scope(lambda *_: None, sql, (number,), False, {"connection": connection})
    assert [each.count for each in report.findings] == [6]
