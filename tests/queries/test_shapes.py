"""The catalogue: every guilty shape is caught in its place with its fix, every innocent one not."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from dbpatterns.queries import Finding, NPlusOneError, guard
from tests.queries import guilty_loops, guilty_pages, guilty_relations, innocent_work
from tests.queries.guilty import SHAPES, Shape
from tests.queries.innocent import INNOCENT

__all__ = ["guilty_loops", "guilty_pages", "guilty_relations", "innocent_work"]


def find(shape: Shape, mode: str) -> Finding:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raises = mode == "raise" and not shape.is_write
        with (
            pytest.raises((NPlusOneError, ExceptionGroup)) if raises else nullcontext(),
            guard(mode, writes="warn") as report,
        ):
            shape.guilty()
    found = report.writes if shape.is_write else report.findings
    assert found, str(report)
    return found[0]


@pytest.mark.parametrize("mode", ["raise", "warn"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_guilty_shape_is_caught_in_its_place_with_its_fix(
    fleet: None, patience: None, shape: Shape, mode: str
) -> None:
    finding = find(shape, mode)
    print(finding)
    assert finding.label == shape.label
    assert (finding.filename, finding.place.line) == shape.place
    assert shape.fix in finding.fix
    assert shape.template in (finding.template, "*")
    assert finding.serializer == shape.serializer


@pytest.mark.django_db(databases=["default", "shard_0"])
@pytest.mark.parametrize("work", INNOCENT, ids=lambda work: work.__name__)
def test_an_innocent_shape_passes_in_silence(fleet: None, work: Callable[[], object]) -> None:
    with guard("raise", writes="raise") as report:
        work()
    assert list(report) == []
