"""`assert_scales`: what no stack shows."""

import pytest

from dbpatterns.errors import UsageError
from dbpatterns.queries import guard
from dbpatterns.testing.assertions import assert_scales
from tests.testapp.models import Critique, Genre, Nation, Novel, Novelist


def make_novels(count: int) -> None:
    for number in range(count):
        nation = Nation.objects.create(name=f"nation {number}")
        novelist = Novelist.objects.create(name=f"novelist {number}", nation=nation)
        Novel.objects.create(title=f"novel {number}", novelist=novelist)


def loop() -> None:
    for novel in Novel.objects.all():
        _ = novel.novelist.name


def test_a_loop_does_not_scale_and_the_message_says_which_statement(db: None) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_scales(loop, make_novels)
    assert str(raised.value).splitlines() == [
        "3 queries for 2 rows and 13 for 12: 10 more.",
        "  2 -> 12   SELECT … FROM testapp_novelist WHERE id = %s LIMIT 21",
    ]


def test_a_prefetch_scales(db: None) -> None:
    def prefetched() -> None:
        for novel in Novel.objects.prefetch_related("novelist", "critiques"):
            _ = novel.novelist.name

    assert_scales(prefetched, make_novels, sizes=(2, 5, 12))


def test_it_sees_a_loop_that_no_stack_shows(db: None) -> None:
    def unrolled() -> None:
        names = [novel.title for novel in Novel.objects.all()]
        exec("\n".join(f"Genre.objects.filter(name={name!r}).exists()" for name in names))

    make_novels(3)
    with guard("raise"):
        unrolled()
    with pytest.raises(AssertionError, match="more"):
        assert_scales(unrolled, make_novels)


def test_slack_lets_a_few_pass(db: None) -> None:
    def work() -> None:
        for _ in range(1 + Novel.objects.count() // 10):
            Critique.objects.count()

    assert_scales(work, make_novels, slack=1)
    with pytest.raises(AssertionError):
        assert_scales(work, make_novels, sizes=(2, 22), slack=1)


@pytest.mark.parametrize("sizes", [(2,), (), (2, 2), (5, 2), (-1, 2)])
def test_sizes_must_rise(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="are not two or more that rise"):
        assert_scales(loop, make_novels, sizes=sizes)


def test_only_the_databases_asked_for_are_looked_at(db: None) -> None:
    assert_scales(loop, make_novels, using=[])
    assert Genre.objects.count() == 0
