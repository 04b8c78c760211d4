"""Errors: their facts survive the way from one process to another."""

import copy
import pickle
import uuid

import pytest

from dbpatterns.eventstore.errors import (
    EpochChanged,
    EventConflict,
    EventStoreError,
    InvalidEvents,
    InvalidState,
    UnknownEventVersion,
    WrongExpectedVersion,
)

ERRORS = [
    WrongExpectedVersion(stream="s", expected_version=3, actual_version=4),
    InvalidEvents("too many", stream="s", actual=5, limit=4),
    InvalidState("no JSON", stream="s", kind="k"),
    EventConflict(stream="s", event_ids=[uuid.UUID(int=1)], events=2),
    EpochChanged("begin again"),
    UnknownEventVersion(type="T", version=2, newest=1),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_from_another_process_as_it_was(error: EventStoreError) -> None:
    for came in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(came) is type(error)
        assert (str(came), vars(came)) == (str(error), vars(error))


def test_each_error_is_among_them() -> None:
    assert {type(each) for each in ERRORS} == set(EventStoreError.__subclasses__())
