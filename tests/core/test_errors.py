"""Errors: whatever their constructors take, their facts survive the way between two processes."""

import copy
import pickle

import pytest

from dbpatterns.errors import ConfigurationError, DBPatternsError, UsageError
from dbpatterns.ledger.errors import InsufficientFunds
from dbpatterns.optimistic import StaleObjectError
from dbpatterns.transactions import CommitOutcomeUnknown, LockTimeout, RetryExhausted


@pytest.mark.parametrize(
    "error",
    [
        UsageError("change the code"),
        ConfigurationError("change the settings"),
        StaleObjectError("stale", model="m", pks=[1], expected_version=1, stored_version=None),
        LockTimeout("late", model="m", keys=[1, 2], timeout=0.5),
        RetryExhausted("again", attempts=3, sqlstates=["40001"], elapsed_seconds=0.1),
        CommitOutcomeUnknown("lost", database="default", label="pay", xid="7"),
        InsufficientFunds(account=5, available=1, amount=2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_from_another_process_as_it_was(error: DBPatternsError) -> None:
    for came in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(came) is type(error)
        assert (str(came), vars(came)) == (str(error), vars(error))
