"""Standing orders per second, against raw SQL and against bare commits on the same databases.

The peer does the same bookings by hand-written SQL, an order to a transaction. So does the limit,
which only inserts one row: what commits once per order cannot be faster, and what pays many by
one transaction can.
"""

import datetime
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from django.core.management import call_command
from django.db import connections, transaction

from dbpatterns.sharding import shards
from demo.banking.importing import BankImport
from demo.banking.sample import sample_bank
from demo.banking.standing_orders import execute_due

DAYS = 3
CUSTOMERS = 400


def rows() -> list[dict[str, object]]:
    """Return one row: medians of three days."""
    for alias in connections:
        call_command("migrate", database=alias, verbosity=0)
    data = sample_bank(CUSTOMERS)
    BankImport(data).run()
    orders = len(data.orders)
    start = datetime.date(2026, 1, 1)
    days = [start + datetime.timedelta(days=day) for day in range(3 * DAYS)]
    statements = _count(lambda: list(execute_due(days.pop())), shards())
    ours, peer, limit = [], [], []
    for _ in range(DAYS):  # in turns, so that a slow moment of the machine hits all three
        ours.append(_seconds(lambda: list(execute_due(days.pop()))))
        peer.append(_seconds(lambda: _raw_day(shards(), days.pop())))
        limit.append(_seconds(lambda: _bare_commits(shards(), orders)))
    connection = connections["shard_0"]
    version = ".".join(map(str, connection.get_database_version()))
    rate, raw, bare = (orders / statistics.median(each) for each in (ours, peer, limit))
    return [
        {
            "database": f"{connection.display_name} {version}",
            "shards": len(shards()),
            "orders": orders,
            "orders_per_second": round(rate),
            "raw_SQL_per_second": round(raw),
            "bare_commits_per_second": round(bare),
            "of_raw_SQL": round(rate / raw, 2),
            "of_bare_commits": round(rate / bare, 2),
            "statements_per_order": round(statements / orders, 1),
        }
    ]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _count(work: Callable[[], object], aliases: tuple[str, ...]) -> int:
    sent = 0

    def wrapper(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal sent
        sent += 1
        return execute(*arguments)

    with ExitStack() as stack:
        for alias in aliases:
            stack.enter_context(connections[alias].execute_wrapper(wrapper))
        work()
    return sent


def _bare_commits(aliases: tuple[str, ...], count: int) -> None:
    for alias in aliases:
        with connections[alias].cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS bare (id varchar(36) PRIMARY KEY)")
            for _ in range(count // len(aliases)):
                with transaction.atomic(using=alias):
                    cursor.execute("INSERT INTO bare VALUES (%s)", [str(uuid4())])


def _raw_day(aliases: tuple[str, ...], day: datetime.date) -> None:
    for alias in aliases:
        lock = " FOR NO KEY UPDATE" if connections[alias].vendor == "postgresql" else ""
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT id FROM banking_standingorder WHERE is_active ORDER BY id")
            for (order,) in cursor.fetchall():
                with transaction.atomic(using=alias):
                    _raw_order(cursor, order, day, lock)


def _raw_order(cursor: Any, order: object, day: datetime.date, lock: str) -> None:
    new_id = uuid4() if lock else uuid4().hex
    now = datetime.datetime.now(datetime.UTC)
    cursor.execute(
        "SELECT account_id, bank_code, payee_account, amount, customer_id"
        f" FROM banking_standingorder WHERE id = %s AND is_active{lock}",
        [order],
    )
    account, bank, payee, amount, customer = cursor.fetchone()
    cursor.execute(
        "SELECT 1 FROM banking_standingorderexecution WHERE order_id = %s AND due_on = %s",
        [order, day],
    )
    if cursor.fetchone():
        return
    cursor.execute(
        "SELECT id, ledger_id FROM banking_account"
        " WHERE id = %s OR (kind = 'clearing' AND bank_code = %s AND currency = 'CZK')",
        [account, bank],
    )
    ledger = {row[0]: row[1] for row in cursor.fetchall()}
    (clearing,) = (each for each in ledger if each != account)
    sides = ((ledger[account], -amount), (ledger[clearing], amount))
    cursor.execute(
        "SELECT id, balance, version FROM dbpatterns_ledger_account WHERE id IN (%s, %s)"
        f" ORDER BY id{lock}",
        [side for side, _ in sides],
    )
    before = {row[0]: row[1:] for row in cursor.fetchall()}
    execution = (
        "INSERT INTO banking_standingorderexecution"
        " (id, order_id, due_on, status, reason, transfer_id)"
        " VALUES (dbpatterns_make_id(0), %s, %s, %s, %s, %s)"
    )
    if before[ledger[account]][0] < amount:
        cursor.execute(execution, [order, day, "refused", "Too poor.", None])
        return
    cursor.execute(
        "INSERT INTO dbpatterns_ledger_transfer (source_id, destination_id, amount, posted_amount,"
        " currency, status, reference, idempotency_key, created_at)"
        " VALUES (%s, %s, %s, %s, 'CZK', 'posted', %s, %s, %s) RETURNING id",
        [sides[0][0], sides[1][0], amount, amount, f"{payee}/{bank}", f"{order}:{day}", now],
    )
    (booking,) = cursor.fetchone()
    for side, change in sides:
        balance, version = before[side]
        cursor.execute(
            "UPDATE dbpatterns_ledger_account SET balance = %s, version = %s WHERE id = %s",
            [balance + change, version + 1, side],
        )
    cursor.execute(
        "INSERT INTO dbpatterns_ledger_entry (transfer_id, account_id, account_version, amount,"
        " balance_after) VALUES (%s, %s, %s, %s, %s), (%s, %s, %s, %s, %s)",
        [
            value
            for side, change in sides
            for value in (booking, side, before[side][1] + 1, change, before[side][0] + change)
        ],
    )
    cursor.execute(
        "INSERT INTO banking_transfer (id, idempotency_key, kind, amount, currency, memo,"
        " created_at, customer_id, payee_id, payer_id, booking_id)"
        " VALUES (%s, %s, 'standing_order', %s, 'CZK', %s, %s, %s, %s, %s, %s)",
        [
            *(new_id, f"{order}:{day}", amount, f"{payee}/{bank}", now, customer, clearing),
            *(account, booking),
        ],
    )
    cursor.execute(execution, [order, day, "paid", "", new_id])
