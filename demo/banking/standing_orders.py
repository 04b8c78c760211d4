"""Executing standing orders: each whole or not at all, once per order and date.

Many at a time: one transaction locks a batch of orders and has the ledger pay them all. What
became of an order is a row that commits with its money (`StandingOrderExecution`). So a run may
be killed anywhere and started again, or run twice at once: an order with a row for the date is
done. A refusal is a row too; the order gets its next chance on the next date.
"""

import datetime
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dbpatterns.ledger.batches import ItemResult, Payment, pay_batch
from dbpatterns.ledger.errors import TransferError
from dbpatterns.repositories.unit_of_work import UnitOfWork
from demo.banking.events import Movement, record
from demo.banking.models import Account, StandingOrder, StandingOrderExecution, Transfer
from demo.banking.repositories import Shard, Shards
from demo.banking.transfers import refused

__all__ = ["BATCH", "ExecutedOrder", "count_due", "due_orders", "execute"]
__all__ += ["execute_batch", "execute_due"]

BATCH = 100
"""Orders of one transaction: their accounts are locked while it lasts."""


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


def execute_due(
    due_on: datetime.date, *, batch: int = BATCH
) -> Iterator[Sequence[ExecutedOrder | None]]:
    """Execute what is due, shard by shard; yield the outcomes of each batch once committed.

    None stands for an order that another run executed or a customer cancelled meanwhile.
    One query a shard for the ids, and `execute_batch` for each batch.
    """
    for shard in Shards():
        due = shard.orders.due_keys(due_on)
        for start in range(0, len(due), batch):
            yield execute_batch(due[start : start + batch], due_on, using=shard.alias)


def execute(order_id: uuid.UUID, due_on: datetime.date, *, using: str) -> ExecutedOrder | None:
    """Execute one order, as `execute_batch` does."""
    (done,) = execute_batch([order_id], due_on, using=using)
    return done


def execute_batch(
    order_ids: Sequence[uuid.UUID], due_on: datetime.date, *, using: str
) -> list[ExecutedOrder | None]:
    """Pay orders of one shard, or record why not; None for one executed or cancelled meanwhile.

    One transaction, eleven statements on PostgreSQL for however many orders. Locks the orders in
    the order of their ids, then all accounts in that of the ledger's.
    """
    shard = Shard(using)
    with UnitOfWork(using=using):
        locked = shard.orders.lock(order_ids)
        # A statement of its own: it sees what another run committed while we waited.
        done = shard.executions.of(locked, due_on)
        orders = [each for each in locked if each.pk not in done]
        banks = shard.accounts.clearings()
        payees = {each.pk: banks.get((each.bank_code, each.account.currency)) for each in orders}
        paid = _pay(shard, [each for each in orders if payees[each.pk]], payees, due_on)
        executed = [_execution(each, due_on, payees[each.pk], paid) for each in orders]
        shard.executions.write(executed)
    told = {
        each.pk: ExecutedOrder(str(each.order_number or each.pk), each.amount, made.reason)
        for each, made in zip(orders, executed, strict=True)
    }
    return [told.get(each) for each in order_ids]


Paid = dict[uuid.UUID, Transfer | TransferError]


def _pay(
    shard: Shard,
    orders: Sequence[StandingOrder],
    payees: dict[uuid.UUID, Account | None],
    due_on: datetime.date,
) -> Paid:
    """Have the ledger book the orders; return each one's transfer, saved, or its refusal."""
    payments = [
        Payment(
            order.account.ledger_id,
            payee.ledger_id,
            order.amount,
            currency=order.account.currency,
            idempotency_key=_key(order, due_on),
            reference=_memo(order),
        )
        for order in orders
        if (payee := payees[order.pk]) is not None
    ]
    made: Paid = {}
    for order, result in zip(orders, pay_batch(payments, using=shard.alias).results, strict=True):
        made[order.pk] = _transfer(order, payees[order.pk], result, due_on)
    paid = [each for each in made.values() if isinstance(each, Transfer)]
    shard.transfers.write(paid)
    record(map(Movement.of, paid), using=shard.alias)
    return made


def _transfer(
    order: StandingOrder, payee: Account | None, result: ItemResult, due_on: datetime.date
) -> Transfer | TransferError:
    if result.error is not None:
        assert isinstance(result.error, TransferError)
        return result.error
    return Transfer(
        customer_id=order.customer_id,
        idempotency_key=_key(order, due_on),
        kind=Transfer.Kind.STANDING_ORDER,
        payer=order.account,
        payee=payee,
        amount=order.amount,
        currency=order.account.currency,
        memo=_memo(order),
        booking_id=result.transfer,
    )


def _execution(
    order: StandingOrder, due_on: datetime.date, payee: Account | None, paid: Paid
) -> StandingOrderExecution:
    execution = StandingOrderExecution(order=order, due_on=due_on)
    outcome = paid.get(order.pk)
    if isinstance(outcome, Transfer):
        execution.transfer, execution.status = outcome, execution.Status.PAID
        return execution
    execution.status = execution.Status.REFUSED
    if outcome is None or payee is None:
        execution.reason = f"There is no clearing account for bank {order.bank_code}."
    else:
        execution.reason = str(refused(outcome, order.account, payee))
    return execution


def _key(order: StandingOrder, due_on: datetime.date) -> str:
    return f"order:{order.pk}:{due_on}"


def _memo(order: StandingOrder) -> str:
    return f"{order.payee_account}/{order.bank_code}"
