"""One account that everybody pays: many callers, one commit.

    batcher = Batcher()                       # one in a process, for each database
    batcher.transfer(buyer, shop, 1_250)      # in any thread; returns when it is committed

A row that one transfer at a time may change takes as many transfers in a second as the server
makes commits. While one commit is under way the callers that come meanwhile queue up, and the
next commit serves all of them: `pay_batch` decides for each, and each gets its own answer.
"""

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connections

from dbpatterns.errors import UsageError
from dbpatterns.ledger.batches import ItemResult, Payment, pay_batch
from dbpatterns.ledger.errors import BatcherStopped
from dbpatterns.ledger.models import Account, Transfer
from dbpatterns.ledger.payments import account_id, database_of

__all__ = ["Batcher"]

_Call = tuple[Payment, "Future[ItemResult]"]


class Batcher:
    """A queue of payments and the thread that commits them; made once, used by every thread.

    The thread starts with the first payment, and anew in a forked process. It has a connection of
    its own, so a caller must not hold a transaction that it would wait for. What waits when the
    process ends is committed, unless it ends without Python's `atexit`, as the processes of
    `multiprocessing` do before 3.14: `close()` the batcher there.
    """

    def __init__(self, *, using: str = DEFAULT_DB_ALIAS, max_items: int = 500) -> None:
        """Take payments for one database, up to `max_items` in one commit."""
        if max_items < 1:
            raise UsageError(f"A batch is at least one payment, not {max_items}.")
        self.using = using
        self.max_items = max_items
        self._begin()
        _batchers.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._closed = False

    def submit(self, payment: Payment) -> "Future[ItemResult]":
        """Queue a payment and return at once; the future's result says what became of it.

        A refusal is a result too. The future's exception is what kept a whole batch from being
        committed, the database's error or BatcherStopped; after a lost connection a commit may
        have happened, so give the payment a key and submit it again.

        Raises: UsageError: this thread is inside a transaction. BatcherStopped: it is closed.
        """
        if connections[self.using].in_atomic_block:
            raise UsageError(
                "The batcher commits in a connection of its own, and would wait for what this "
                "transaction locks: call it outside `atomic`, or use transfer()."
            )
        database_of(payment.source, payment.destination, using=self.using)
        account_id(payment.source), account_id(payment.destination)
        if payment.group is not None:
            raise UsageError("A group is for pay_batch: the batcher takes single payments.")
        future: Future[ItemResult] = Future()
        future.set_running_or_notify_cancel()  # it may be committed any moment: no cancelling
        with self._lock:
            if self._closed:
                raise BatcherStopped(reason="it was closed")
            if self._worker is None:
                worker = threading.Thread(target=self._work, name="ledger-batcher", daemon=True)
                worker.start()
                self._worker = worker  # only one that runs
                atexit.register(self.close)
            self._waiting.put((payment, future))
        return future

    def transfer(
        self, source: Account | int, destination: Account | int, amount: int, **options: Any
    ) -> Transfer:
        """Do as `transfers.transfer`, in a commit that others share; waits for it.

        One query more, in this thread, to read the transfer.
        Raises: as `submit`; UsageError: in a callback of a future, which would wait for itself.
        """
        if threading.current_thread() is self._worker:
            raise UsageError(
                "A future's callback runs in the batcher's own thread, which would wait for itself:"
                " submit() there, or call transfer() of the ledger."
            )
        result = self.submit(Payment(source, destination, amount, **options)).result()
        if result.error:
            raise result.error
        made = Transfer.objects.using(self.using).get(pk=result.transfer or 0)
        made.is_replay = result.code == "replayed"
        return made

    def close(self) -> None:
        """Take no more payments, commit those that wait, and end the thread."""
        with self._lock:
            self._closed = True
            worker = self._worker
            self._waiting.put(None)
        if worker is not None:
            worker.join()
        atexit.unregister(self.close)

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        taken: list[_Call] = []
        try:
            while (first := self._waiting.get()) is not None:
                taken = [first]
                is_last = self._take_more(taken)
                self._commit(taken)
                taken = []
                if is_last:
                    break
        except BaseException as error:  # the thread dies: nobody may go on waiting for it
            self._give_up(taken, error)
            raise
        finally:
            connections[self.using].close()

    def _give_up(self, taken: Sequence[_Call], error: BaseException) -> None:
        for _, future in taken:
            if not future.done():
                future.set_exception(error)
        with self._lock:  # what is queued after this finds no worker, and starts one
            self._worker = None
            while True:
                try:
                    call = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if call is not None:
                    stopped = BatcherStopped(reason=f"its worker died of {error!r}")
                    stopped.__cause__ = error
                    call[1].set_exception(stopped)

    def _take_more(self, taken: list[_Call]) -> bool:
        while len(taken) < self.max_items:
            try:
                call = self._waiting.get_nowait()
            except queue.Empty:
                return False
            if call is None:
                return True
            taken.append(call)
        return False

    def _commit(self, taken: Sequence[_Call]) -> None:
        try:
            results = pay_batch([payment for payment, _ in taken], using=self.using).results
        except Exception as error:
            connections[self.using].close_if_unusable_or_obsolete()
            is_servers = isinstance(error, OperationalError | InterfaceError)
            if len(taken) > 1 and not is_servers:  # one of them is to blame, and not the others
                for call in taken:
                    self._commit([call])
                return
            for _, future in taken:
                future.set_exception(error)
            return
        with ExitStack() as answers:  # every one is given, whatever a callback raises
            for (_, future), result in zip(reversed(taken), reversed(results), strict=True):
                answers.callback(future.set_result, result)


_batchers: "weakref.WeakSet[Batcher]" = weakref.WeakSet()


def _begin_in_child() -> None:
    """Leave the queue and the thread to the parent, whose they are."""
    for each in _batchers:
        each._begin()


getattr(os, "register_at_fork", lambda **_: None)(after_in_child=_begin_in_child)  # not on Windows
