"""Retries: a transaction that the server undid for the sake of another is run again, whole.

    for attempt in attempts(Retry(attempts=10), isolation=Isolation.SERIALIZABLE):
        with attempt:
            account = Account.objects.get(pk=pk)  # read again in each attempt
            ...

What has been committed is never run again, whatever a hook raises afterwards; nor is what was
lost in mid-commit. Sleeps are outside of the transaction; one that is open around it, on another
database or a TestCase's, stays open.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import TracebackType

from dbpatterns.errors import UsageError
from dbpatterns.transactions._compat import connection_of, is_in_transaction
from dbpatterns.transactions.blocks import block
from dbpatterns.transactions.errors import (
    CommitOutcomeUnknown,
    NestedTransactionError,
    RetryExhausted,
)
from dbpatterns.transactions.options import Isolation, Options, check_seconds
from dbpatterns.transactions.records import Record
from dbpatterns.transactions.sqlstates import HOPELESS, RETRYABLE, causes, sqlstate_of

__all__ = ["Attempt", "Retry", "attempts", "each_attempt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When to run a transaction again, and how long to wait before.

    The wait is drawn between 0 and `base` seconds, doubled with each attempt, up to `cap`: "full
    jitter", so that those who collided do not meet again.
    Raises: UsageError: a number that makes no sense, or a SQLSTATE that must not be retried.
    Source: Marc Brooker, "Exponential Backoff And Jitter".
    """

    attempts: int = 5
    """Tries in total."""
    base: float = 0.005
    cap: float = 0.25
    deadline: float | None = None
    """Seconds after the first attempt began, in which the last must begin; None for no end."""
    sqlstates: frozenset[str] = RETRYABLE
    """What is worth another attempt. `RETRYABLE | {"55P03"}` adds lock timeouts; 23505 and 23P01
    make sense at SERIALIZABLE, where a race can show as a duplicate."""
    on_retry: Callable[[BaseException, int, float], object] | None = None
    """Called with the error, the attempts made and the seconds to sleep, before the sleep. What it
    raises ends the attempts."""

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise UsageError(f"Retry(attempts={self.attempts!r}) must be a whole number.")
        if self.attempts < 1:
            raise UsageError(f"Retry(attempts={self.attempts}) must be at least 1.")
        for name in ("base", "cap", "deadline"):
            check_seconds(f"Retry: {name}", getattr(self, name))
        for state in sorted(self.sqlstates & HOPELESS.keys()):
            raise UsageError(
                f"Retry(sqlstates=…) has {state}, which another attempt cannot help: "
                f"{HOPELESS[state]}."
            )

    def delay(self, attempts: int) -> float:
        """Return how many seconds to sleep after so many attempts."""
        return random.uniform(0, min(self.cap, self.base * 2 ** min(attempts - 1, 60)))


def attempts(
    retry: Retry | None = None,
    *,
    using: str | None = None,
    isolation: Isolation | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    lock_timeout: float | None = None,
    statement_timeout: float | None = None,
    label: str = "",
    resolve_commit: bool = False,
) -> "Iterator[Attempt]":
    """Yield attempts until one commits: `for attempt in attempts(): with attempt: …`.

    The arguments are those of `atomic`. Leave the loop by its end: Python tells a block that ends
    with `return` or `break` nothing, so it could not notice a COMMIT that failed; it is logged.
    Raises: NestedTransactionError: at once, within a transaction; a part of one cannot be retried.
        RetryExhausted: from the last error.
    """
    options = Options(
        isolation=isolation,
        read_only=read_only,
        deferrable=deferrable,
        lock_timeout=lock_timeout,
        statement_timeout=statement_timeout,
        label=label,
        resolve_commit=resolve_commit,
    )
    return each_attempt(retry or Retry(), using, options)


def each_attempt(retry: Retry, using: str | None, options: Options) -> "Iterator[Attempt]":
    """Yield attempts, with options that have been checked; raises as `attempts` does."""
    connection = connection_of(using)
    if is_in_transaction(connection):
        raise NestedTransactionError(
            f"A retry of {options.label or 'a block'!r} was asked for within a transaction on "
            f"{connection.alias!r}: the server undoes whole transactions, so only the outermost "
            "block can run again. Put the retry there."
        )
    return _Loop(retry, using, replace(options, durable=True)).run()


logger = logging.getLogger("dbpatterns.transactions")

_LEFT_EARLY = (
    "The loop over the attempts of transaction %r on %r was left by `return` or `break` after an "
    "attempt that failed: nothing was written. Leave it by its end."
)


class _Loop:
    """The attempts of one transaction, and what becomes of their errors."""

    def __init__(self, retry: Retry, using: str | None, options: Options) -> None:
        self.retry = retry
        self.using = using
        self.options = options
        self.record = Record(connection_of(using).alias, options.label, attempts=0)
        self.is_over = False
        self._sleep: Callable[[], None] = lambda: None

    def run(self) -> "Iterator[Attempt]":
        while not self.is_over:
            before = self.record.attempts
            try:
                yield Attempt(self)
            except GeneratorExit:
                if self.record.attempts > before and not self.is_over:
                    self.finish()
                    logger.error(_LEFT_EARLY, self.record.label, self.record.database)
                raise
            if self.record.attempts == before:
                raise UsageError("An attempt was not used: write `with attempt:` in the loop.")
            if not self.is_over:
                self.rest()

    def rest(self) -> None:
        """Sleep before the next attempt, as `fail` has decided."""
        try:
            self._sleep()
        except BaseException:  # by `on_retry`, or a signal's
            self.finish()
            raise
        finally:
            self._sleep = lambda: None  # it holds the error, and so all that the block held

    def finish(self) -> None:
        """Have no further attempt."""
        self.is_over = True
        self.record.tell()

    def fail(self, error: BaseException) -> bool:
        """Tell whether another attempt is to follow the error.

        Raises: RetryExhausted: it would be worth one, and there is none left.
        """
        record, retry = self.record, self.retry
        sqlstate = sqlstate_of(error)
        if sqlstate is not None and record.outcome != "committed":
            record.sqlstates.append(sqlstate)
        final = CommitOutcomeUnknown | RetryExhausted
        is_final = any(isinstance(each, final) for each in causes(error))
        if record.outcome != "rolled_back" or is_final or sqlstate not in retry.sqlstates:
            self.finish()
            return False
        delay = retry.delay(record.attempts)
        is_late = retry.deadline is not None and record.elapsed_seconds + delay > retry.deadline
        if is_late or record.attempts >= retry.attempts:
            self.finish()
            raise self._exhausted(f"{retry.deadline} s" if is_late else "no more") from error
        number = record.attempts

        def sleep() -> None:
            if retry.on_retry is not None:
                retry.on_retry(error, number, delay)
            time.sleep(delay)

        self._sleep = sleep
        return True

    def _exhausted(self, allowed: str) -> RetryExhausted:
        record = self.record
        return RetryExhausted(
            f"Transaction {record.label!r} on {record.database!r} failed {record.attempts} times "
            f"in {record.elapsed_seconds:.3f} s ({', '.join(record.sqlstates)}), and {allowed} is "
            "allowed. Nothing was written. Lock the rows first, in one order, or make it shorter.",
            attempts=record.attempts,
            sqlstates=record.sqlstates,
            elapsed_seconds=record.elapsed_seconds,
        )


class Attempt:
    """One attempt: its block is a transaction; an error worth another ends it quietly.

    What stands behind the block, within the loop, runs after a quiet end too: put it in the block.
    """

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._blocks: list[AbstractContextManager[None]] = []
        self._was_used = False

    def __enter__(self) -> int:
        """Begin, and return the attempt's number, 1 for the first.

        A BEGIN that fails (SQLite's waits for its writer) counts as an attempt and is repeated.
        """
        loop, record = self._loop, self._loop.record
        if self._was_used or loop.is_over:
            raise UsageError("This attempt is over: each is used once, in its turn of the loop.")
        self._was_used = True
        while True:
            record.attempts += 1
            record.outcome, record.savepoints = "rolled_back", 0
            transaction = block(loop.using, loop.options, record)
            try:
                transaction.__enter__()
            except Exception as error:
                if not loop.fail(error):
                    raise
                loop.rest()
            else:
                self._blocks.append(transaction)
                return record.attempts

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            self._blocks.pop().__exit__(kind, error, traceback)
        except Exception as raised:  # by COMMIT, or by a hook after it
            if not self._loop.fail(raised):
                raise
            return True
        except BaseException:
            self._loop.finish()
            raise
        if isinstance(error, Exception):
            return self._loop.fail(error)
        self._loop.finish()
        return False
