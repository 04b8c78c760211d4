"""Executing standing orders: each whole or not at all, once per order and date.

What became of an order is a row that commits with its money (`StandingOrderExecution`). So a
run may be killed anywhere and started again, or run twice at once: an order with a row for the
date is done. A refusal is a row too; the order gets its next chance on the next date.
"""

import datetime
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from dbpatterns.repositories.unit_of_work import UnitOfWork
from demo.banking.models import StandingOrder, StandingOrderExecution, Transfer
from demo.banking.repositories import Shard, Shards
from demo.banking.transfers import Refusal, TransferRefused, book, lock_accounts

__all__ = ["ExecutedOrder", "count_due", "due_orders", "execute", "execute_due"]


@dataclass(frozen=True, slots=True)
class ExecutedOrder:
    """One order's outcome; `reason` is empty when it was paid."""

    order: str
    amount: int
    reason: str


def due_orders(due_on: datetime.date, *, using: str) -> list[StandingOrder]:
    """Return a shard's active orders not yet executed for the date, oldest first; one query."""
    orders = Shard(using).orders
    return orders.find_by(orders.due(due_on), order_by=["pk"])


def count_due(due_on: datetime.date) -> int:
    """Count the orders `execute_due` will look at; one query a shard."""
    return sum(shard.orders.count(shard.orders.due(due_on)) for shard in Shards())


def execute_due(due_on: datetime.date) -> Iterator[ExecutedOrder | None]:
    """Execute what is due, shard by shard; yield each outcome as soon as it is committed.

    None stands for an order that another run executed or a customer cancelled meanwhile.
    One query a shard for the ids, and `execute` for each.
    """
    for shard in Shards():
        for order_id in shard.orders.due_keys(due_on):
            yield execute(order_id, due_on, using=shard.alias)


def execute(order_id: uuid.UUID, due_on: datetime.date, *, using: str) -> ExecutedOrder | None:
    """Pay one order, or record why not; None if it was executed or cancelled meanwhile.

    One transaction of ten statements. Locks the order's row, then both accounts' by id.
    """
    shard = Shard(using)
    with UnitOfWork(using=using):
        order = shard.orders.lock(order_id)
        if order is None or shard.executions.exists(order=order, due_on=due_on):
            return None
        execution = StandingOrderExecution(order=order, due_on=due_on)
        try:
            execution.transfer = _pay(order, due_on)
            execution.status = StandingOrderExecution.Status.PAID
        except TransferRefused as refused:  # before anything was written
            execution.status = StandingOrderExecution.Status.REFUSED
            execution.reason = str(refused)
        shard.executions.save(execution)
    return ExecutedOrder(str(order.order_number or order.pk), order.amount, execution.reason)


def _pay(order: StandingOrder, due_on: datetime.date) -> Transfer:
    accounts = Shard(str(order._state.db)).accounts
    clearing = accounts.clearing(order.bank_code, order.account.currency)
    if clearing is None:
        raise TransferRefused(
            Refusal.UNKNOWN_ACCOUNT, f"There is no clearing account for bank {order.bank_code}."
        )
    payer, payee = lock_accounts(order.account, clearing)
    return book(
        payer,
        payee,
        amount=order.amount,
        kind=Transfer.Kind.STANDING_ORDER,
        idempotency_key=f"order:{order.pk}:{due_on}",
        memo=f"{order.payee_account}/{order.bank_code}",
    )
