"""The fix that a message names, applied: what was one query a row is a few for all of them."""

import re
from collections.abc import Callable

import pytest
from django.apps import apps
from django.core.exceptions import FieldError
from django.db import connection, transaction
from django.db.models import Manager, Model
from django.test.utils import CaptureQueriesContext

from dbpatterns.queries import Report, guard
from tests.queries.fixes import FIXES
from tests.queries.test_shapes import SHAPES, Shape

FEW = 4
_CALL = re.compile(r'\.(select_related|prefetch_related)\("(\w+)"\)$')
"""A fix that is nothing but a call to add to the queryset of the loop's rows."""
_TABLE = re.compile(r'FROM "(\w+)"')

BY_HAND = [shape for shape in SHAPES if shape.fixed or shape.name in FIXES]
TO_THE_LETTER = [shape for shape in SHAPES if _CALL.match(shape.fix) and shape not in BY_HAND]


def report_of(work: Callable[[], object]) -> Report:
    """Run something, and undo it."""
    with transaction.atomic(), guard("log", writes="log") as report:
        work()
        transaction.set_rollback(True)
    return report


@pytest.mark.parametrize("shape", BY_HAND, ids=lambda shape: shape.name)
def test_the_fix_of_a_shape_makes_its_queries_few(fleet: None, shape: Shape) -> None:
    fixed = shape.fixed or FIXES[shape.name]
    guilty = report_of(shape.guilty).queries
    with guard("raise", writes="raise") as report:
        fixed()
    assert report.queries < guilty
    assert report.queries <= FEW


@pytest.mark.parametrize("shape", TO_THE_LETTER, ids=lambda shape: shape.name)
def test_the_call_that_a_message_names_is_all_there_is_to_do(
    fleet: None, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CaptureQueriesContext(connection) as captured:
        guilty = report_of(shape.guilty)
    [call] = {
        found.groups()
        for each in guilty.findings
        if each.label == shape.label and (found := _CALL.match(each.fix))
    }
    for manager in rows_of(captured, *call):
        plain = manager.get_queryset
        monkeypatch.setattr(
            manager, "get_queryset", lambda plain=plain: getattr(plain(), call[0])(call[1])
        )
    fixed = report_of(shape.guilty)
    assert fixed.queries < guilty.queries
    assert shape.label not in [each.label for each in fixed.findings]


def rows_of(captured: CaptureQueriesContext, method: str, path: str) -> "list[Manager[Model]]":
    """Return the managers of the first table read whose rows have that relation."""
    for table in filter(None, (_TABLE.search(each["sql"]) for each in captured)):
        models = [each for each in apps.get_models() if each._meta.db_table == table[1]]
        managers = [each._default_manager for each in models]
        try:
            list(getattr(managers[0].all(), method)(path)[:1])
        except (FieldError, AttributeError):
            continue
        return managers
    raise AssertionError(f"nothing was read that has {path}")


def test_the_fix_of_every_shape_is_tried() -> None:
    assert len(BY_HAND) + len(TO_THE_LETTER) == len(SHAPES)
    assert FIXES.keys() <= {shape.name for shape in SHAPES if not shape.fixed}
