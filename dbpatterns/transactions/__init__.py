"""Transactions: say what you mean, retry what is safe, lock without losing.

Needs nothing in INSTALLED_APPS; `"dbpatterns"` there adds the check and `transaction_report`.
Transactions are sync, as Django's are: async code calls a sync function by `sync_to_async`.
"""

from dbpatterns.transactions.advisory import advisory_key, advisory_lock, advisory_xact_lock
from dbpatterns.transactions.atomic import Atomic, atomic, run_in_transaction
from dbpatterns.transactions.errors import (
    CommitOutcomeUnknown,
    IsolationLevelError,
    LockLost,
    LockTimeout,
    NestedTransactionError,
    RetryExhausted,
    SubtransactionOverflow,
    TransactionError,
    TransactionRequiredError,
)
from dbpatterns.transactions.guards import durable, in_transaction, transaction_required
from dbpatterns.transactions.hooks import after_commit, after_rollback
from dbpatterns.transactions.locks import lock_rows
from dbpatterns.transactions.options import Isolation
from dbpatterns.transactions.retries import Attempt, Retry, attempts
from dbpatterns.transactions.savepoints import savepoint
from dbpatterns.transactions.sqlstates import RETRYABLE

__all__ = [
    "RETRYABLE",
    "Atomic",
    "Attempt",
    "CommitOutcomeUnknown",
    "Isolation",
    "IsolationLevelError",
    "LockLost",
    "LockTimeout",
    "NestedTransactionError",
    "Retry",
    "RetryExhausted",
    "SubtransactionOverflow",
    "TransactionError",
    "TransactionRequiredError",
    "advisory_key",
    "advisory_lock",
    "advisory_xact_lock",
    "after_commit",
    "after_rollback",
    "atomic",
    "attempts",
    "durable",
    "in_transaction",
    "lock_rows",
    "run_in_transaction",
    "savepoint",
    "transaction_required",
]
