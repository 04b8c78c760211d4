"""Blocks: one entry of `atomic`, which begins a transaction or joins the one that runs.

Django's own `atomic` does the work. Around it come what must be set before BEGIN, what is set
right after it, and what must be known at the end.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.transactions._compat import (
    connection_of,
    has_testcase,
    is_aborted,
    is_in_transaction,
)
from dbpatterns.transactions.errors import NestedTransactionError
from dbpatterns.transactions.hooks import Committed, committed_flag
from dbpatterns.transactions.isolation import (
    prepare_driver,
    read_only_block,
    refuse_unsupported,
    set_transaction,
)
from dbpatterns.transactions.options import Options
from dbpatterns.transactions.outcomes import Pledge, settle
from dbpatterns.transactions.records import Record
from dbpatterns.transactions.running import (
    Running,
    default_isolation,
    require_compatible,
    running_on,
)
from dbpatterns.transactions.timeouts import local_timeouts, set_busy_timeout

__all__ = ["block"]


@contextmanager
def block(using: str | None, options: Options, record: Record | None = None) -> Iterator[None]:
    """Run a block as a transaction, or as a savepoint of the running one.

    Args:
        record: where a loop of attempts gathers what it will tell; without one, the block tells.
    Raises: what `atomic` says.
    """
    connection = connection_of(using)
    refuse_unsupported(connection, options)
    if is_in_transaction(connection):
        with _joined(connection, options):
            yield
    elif record is not None:
        with _begun(connection, options, record):
            yield
    else:
        record = Record(connection.alias, options.label)
        try:
            with _begun(connection, options, record):
                yield
        finally:
            record.tell()


@contextmanager
def _joined(connection: BaseDatabaseWrapper, options: Options) -> Iterator[None]:
    if options.durable:
        raise NestedTransactionError(
            f"A durable block was entered within a transaction on {connection.alias!r}: its work "
            "would not be committed at its end. Call it outside of any transaction."
        )
    require_compatible(connection, options)
    running = running_on(connection)
    becomes_read_only = options.read_only and not (running and running.read_only)
    savepoint = options.savepoint or becomes_read_only  # which ends with its savepoint
    if savepoint and running:
        running.make_savepoint()
    with (
        transaction.atomic(using=connection.alias, savepoint=savepoint),
        _set_within(connection, options, read_only=becomes_read_only, restore=True),
    ):
        yield


@contextmanager
def _begun(connection: BaseDatabaseWrapper, options: Options, record: Record) -> Iterator[None]:
    is_test = has_testcase(connection)  # whose transaction this becomes a savepoint of
    running = Running(
        connection,
        isolation=options.isolation or default_isolation(connection),
        read_only=options.read_only,
        deferrable=options.deferrable,
        label=options.label,
    )
    undo = [] if is_test else _set_before(connection, options)

    def finish() -> None:
        running.end()
        while undo:
            undo.pop()()

    pledge: Pledge | None = None  # until COMMIT is next: what is lost before is undone for sure
    committed = Committed()
    read_only = options.read_only and (is_test or connection.vendor == "sqlite")
    try:
        with transaction.atomic(using=connection.alias, durable=options.durable):
            running.begin()
            committed = committed_flag(connection.alias)
            if not is_test:
                transaction.on_commit(finish, using=connection.alias)  # before any other hook
                set_transaction(connection, options)
            with _set_within(connection, options, read_only=read_only, restore=is_test):
                yield
            record.savepoints = running.savepoints
            running.warn_of(record.savepoints)
            if not connection.needs_rollback:
                if is_aborted(connection):
                    raise transaction.TransactionManagementError(_ABORTED.format(options.label))
                may_ask = options.resolve_commit and not is_test
                pledge = Pledge.take(connection, committed, may_ask=may_ask)
        if pledge:
            record.outcome = "committed"
    except BaseException as error:
        if pledge is None:
            record.savepoints = running.savepoints
            raise
        if committed.is_true:
            record.outcome = "committed"
            raise
        if is_test:  # no COMMIT was sent
            pledge.hooks.clear()
            raise
        settle(connection, pledge, record, error)
    finally:
        finish()


_ABORTED = (
    "An error within the transaction {!r} was caught, and PostgreSQL has undone all of it: nothing "
    "was written. Let the error out, or put a savepoint() around what may fail."
)


def _set_before(connection: BaseDatabaseWrapper, options: Options) -> list[Callable[[], None]]:
    undo = []
    if restore := prepare_driver(connection, options):
        undo.append(restore)
    if options.lock_timeout is not None and connection.vendor == "sqlite":
        undo.append(set_busy_timeout(connection, options.lock_timeout))
    return undo


def _set_within(
    connection: BaseDatabaseWrapper, options: Options, *, read_only: bool, restore: bool
) -> AbstractContextManager[object]:
    if not read_only and options.lock_timeout is None and options.statement_timeout is None:
        return nullcontext()  # the usual case, kept cheap
    stack = ExitStack()
    stack.enter_context(
        local_timeouts(
            connection,
            lock=options.lock_timeout,
            statement=options.statement_timeout,
            restore=restore,
        )
    )
    if read_only:
        stack.enter_context(read_only_block(connection))
    return stack
