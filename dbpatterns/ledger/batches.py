"""Many payments at once, with a result for each: `pay_batch`.

    result = pay_batch([Payment(bank, each.account, each.wage, idempotency_key=each.key) ...])

Three strategies. "set" locks all accounts once, decides in Python and writes by one statement:
the default, and the fast one. "bisect" and "savepoint" also run functions of your own, each
committed or undone as a whole: "bisect" without savepoints, by running a chunk again in halves
when something in it fails; "savepoint" with one for each item, 50 to a transaction. Where your
functions make savepoints too, a transaction takes fewer items.

A batch that was killed is started again with the same keys: what was made is replayed.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from django.db import OperationalError, connections, transaction

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.ledger import errors
from dbpatterns.ledger.batch_results import BatchResult, Item, ItemResult
from dbpatterns.ledger.booking import Booking, Sheet
from dbpatterns.ledger.item_batches import bisect, with_savepoints
from dbpatterns.ledger.payments import Payment, account_id, database_of
from dbpatterns.ledger.posting import KeyTaken, in_transaction, load_sheet, write

__all__ = ["SAVEPOINTS", "BatchResult", "Item", "ItemResult", "Payment", "pay_batch"]

SAVEPOINTS = 50
"""Items of one transaction with savepoints: from 65 on, every reader of the server is slowed."""


def pay_batch(
    items: Sequence[Item],
    *,
    on_error: Literal["partial", "abort"] = "partial",
    strategy: Literal["set", "bisect", "savepoint"] = "set",
    chunk: int | None = None,
    using: str | None = None,
) -> BatchResult:
    """Make payments in the order given; a refused one does not keep the others from being made.

    "set" takes two statements for each transaction, three with keys, and no savepoint, and runs
    within your transaction too. The others need a transaction of their own.

    Args:
        on_error: "abort" makes all payments or none.
        chunk: items in one transaction. All of them if not given ("set"), or 50. Groups are never
            divided.
        using: the database; by default where the first payment's source lives.
    Raises: BatchAborted: a payment was refused, with "abort". UsageError: options that exclude
        each other, a function with "set", a group whose members are not neighbours.
        RuntimeError: Django's, "bisect" or "savepoint" inside a transaction.
    """
    alias = _check(items, on_error, strategy, chunk, using)
    started = time.monotonic()
    results: list[ItemResult] = []
    if strategy != "set":
        with transaction.atomic(using=alias, durable=True):
            pass  # Django's refusal of a transaction around ours, before anything is run
    for part in _chunks(items, chunk or (SAVEPOINTS if strategy != "set" else len(items))):
        if strategy == "set":
            results += _set(alias, part, on_error)  # type: ignore[arg-type]  # checked above
        elif strategy == "bisect":
            results += bisect(alias, part)
        else:
            results += with_savepoints(alias, part)
    made = BatchResult(results)
    if telemetry.is_heard():
        facts = {"items": len(items), "refused": made.refused, "strategy": strategy}
        seconds = time.monotonic() - started
        telemetry.emit(telemetry.Event("ledger.batch", alias, seconds, facts))
    return made


def _check(
    items: Sequence[Item], on_error: str, strategy: str, chunk: int | None, using: str | None
) -> str:
    payments = [each for each in items if isinstance(each, Payment)]
    if on_error not in ("partial", "abort") or strategy not in ("set", "bisect", "savepoint"):
        raise UsageError(f"There is no on_error={on_error!r} with strategy={strategy!r}.")
    if on_error == "abort" and (strategy != "set" or chunk is not None):
        raise UsageError('"abort" is one transaction: use strategy="set" without a chunk.')
    if chunk is not None and chunk < 1:
        raise UsageError(f"A chunk is at least one item, not {chunk}.")
    if strategy == "savepoint" and (chunk or 0) > SAVEPOINTS:
        raise UsageError(f"With savepoints a chunk is at most {SAVEPOINTS} items, not {chunk}.")
    if strategy == "set" and len(payments) < len(items):
        raise UsageError('"set" makes payments only: use "bisect" for work of your own.')
    if strategy != "set" and any(each.group is not None for each in payments):
        raise UsageError('Groups need strategy="set": write one function that makes them all.')
    runs = [group for group, _ in itertools.groupby(each.group for each in payments)]
    names = [each for each in runs if each is not None]
    if len(set(names)) < len(names):
        raise UsageError("The payments of a group are neighbours: sort them by group.")
    accounts = [side for each in payments for side in (each.source, each.destination)]
    for each in accounts:
        account_id(each)  # before the first chunk is committed
    return database_of(*accounts, using=using)


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    start = 0
    while start < len(items):
        end = min(start + size, len(items))
        while end < len(items) and _group(items[end]) is not None:
            if _group(items[end]) != _group(items[end - 1]):
                break
            end += 1
        yield items[start:end]
        start = end


def _group(item: Item) -> Any:
    return item.group if isinstance(item, Payment) else None


def _set(alias: str, payments: Sequence[Payment], on_error: str) -> list[ItemResult]:
    ids = {account_id(side) for each in payments for side in (each.source, each.destination)}
    keys = {each.idempotency_key for each in payments if each.idempotency_key}
    while True:
        is_nested = connections[alias].in_atomic_block
        try:
            with in_transaction(alias):
                sheet = load_sheet(alias, ids, keys)
                outcomes = _decide(sheet, payments)
                refused = _first_refused(outcomes) if on_error == "abort" else None
                if refused is None:
                    write(alias, sheet)
            break
        except KeyTaken:
            # The key went to a transfer between other accounts, so no lock of ours kept it back.
            if is_nested:
                raise OperationalError(
                    "An idempotency key was taken meanwhile: try again."
                ) from None
    if refused is not None:
        raise _aborted(refused, outcomes)
    return [_result(each) for each in outcomes]


def _aborted(position: int, outcomes: "Sequence[Outcome]") -> errors.BatchAborted:
    why = outcomes[position]
    assert isinstance(why, errors.TransferError)
    results = [
        ItemResult(errors.BatchAborted.code, error=why)
        if isinstance(each, tuple) and each[0].id is None  # booked now, or a repetition of such
        else _result(each)
        for each in outcomes
    ]
    error = errors.BatchAborted(position=position, result=BatchResult(results))
    error.__cause__ = why
    return error


Outcome = tuple[Booking, bool] | errors.TransferError


def _decide(sheet: Sheet, payments: Sequence[Payment]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for group, members in itertools.groupby(payments, lambda each: each.group):
        if group is None:
            outcomes += [_book(sheet, each) for each in members]
        else:
            outcomes += _decide_group(sheet, list(members))
    return outcomes


def _decide_group(sheet: Sheet, members: Sequence[Payment]) -> list[Outcome]:
    mark = sheet.mark(members)
    outcomes = [_book(sheet, each) for each in members]
    position = _first_refused(outcomes)
    if position is None:
        return outcomes
    undone = {id(each) for each in sheet.undo(mark)}
    linked = errors.LinkedRefused(group=members[0].group, position=position)
    return [
        linked if isinstance(each, tuple) and id(each[0]) in undone else each for each in outcomes
    ]


def _book(sheet: Sheet, payment: Payment) -> Outcome:
    try:
        return sheet.book(payment)
    except errors.TransferError as error:
        return error


def _first_refused(outcomes: Sequence[Outcome]) -> int | None:
    refused = (n for n, each in enumerate(outcomes) if isinstance(each, errors.TransferError))
    return next(refused, None)


def _result(outcome: Outcome) -> ItemResult:
    if isinstance(outcome, errors.TransferError):
        return ItemResult(outcome.code, error=outcome)
    booking, is_replay = outcome
    return ItemResult("replayed" if is_replay else "made", booking.id)
