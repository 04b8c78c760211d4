"""Locking accounts and writing what a `Sheet` holds: two statements, however many payments.

PostgreSQL locks the accounts in the order of their ids and writes transfers, entries and
balances by one statement from arrays. SQLite takes its one write lock first, so that no other
writer can come between, and writes by `executemany`.
"""

import datetime
import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from django.db import connections, transaction
from django.utils import timezone

from dbpatterns.ledger.booking import AccountState, Booking, Sheet
from dbpatterns.ledger.models import MAX_BALANCE, Transfer

__all__ = ["KeyTaken", "in_transaction", "load_accounts", "load_sheet", "write"]

STATE = (
    "SELECT id, currency, balance, pending_debits, pending_credits, version, min_balance,"
    " max_balance, closed_at IS NOT NULL FROM dbpatterns_ledger_account WHERE id "
)
TRANSFER = (
    "INSERT INTO dbpatterns_ledger_transfer (id, source_id, destination_id, amount, posted_amount,"
    " currency, status, reference, idempotency_key, reverses_id, created_at, expires_at)"
)
ENTRY = (
    "INSERT INTO dbpatterns_ledger_entry"
    " (transfer_id, account_id, account_version, amount, balance_after)"
)
POSTGRESQL = f"""
WITH asked AS MATERIALIZED (
    SELECT nextval((SELECT pg_get_serial_sequence('dbpatterns_ledger_transfer', 'id'))::regclass)
        AS id, each.*
    FROM unnest(
        %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[],
        %s::boolean[], %s::float8[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]
    ) WITH ORDINALITY AS each (
        source_id, destination_id, amount, currency, key, reference, is_pending, expires_in,
        source_version, source_balance, destination_version, destination_balance, position
    )
), made AS (
    {TRANSFER}
    SELECT id, source_id, destination_id, amount, CASE WHEN is_pending THEN 0 ELSE amount END,
        currency, CASE WHEN is_pending THEN 'pending' ELSE 'posted' END, reference, key, NULL,
        statement_timestamp(), statement_timestamp() + make_interval(secs => expires_in)
    FROM asked ORDER BY position
    ON CONFLICT DO NOTHING RETURNING id
), entries AS (
    {ENTRY}
    SELECT id, side.* FROM asked JOIN made USING (id), LATERAL (VALUES
        (source_id, source_version, -amount, source_balance),
        (destination_id, destination_version, amount, destination_balance)
    ) AS side WHERE NOT is_pending ORDER BY position
), moved AS (
    UPDATE dbpatterns_ledger_account AS account SET balance = state.balance,
        pending_debits = state.debits, pending_credits = state.credits, version = state.version
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
        AS state (id, balance, debits, credits, version)
    WHERE account.id = state.id
)
SELECT id FROM asked JOIN made USING (id) ORDER BY position
"""


class KeyTaken(Exception):
    """Another transaction used one of the keys between our look and our insert."""


def in_transaction(using: str) -> AbstractContextManager[None]:
    """Open a transaction, or take part in the one that is open; never a savepoint."""
    return transaction.atomic(using=using, savepoint=False)


def load_accounts(using: str, ids: Collection[int]) -> list[AccountState]:
    """Lock accounts until the transaction ends and return them; ids unknown are left out.

    One statement, on SQLite two; locks in the order of ids.
    """
    connection = connections[using]
    known = sorted(each for each in ids if 0 < each <= MAX_BALANCE)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            sql = STATE + "= ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE"
            cursor.execute(sql, [_literal(known)])
        else:
            # A transaction whose first statement writes waits for the lock, as BEGIN IMMEDIATE
            # does; one that reads first is refused when it comes to write.
            cursor.execute("UPDATE dbpatterns_ledger_account SET name = name WHERE id < 0")
            sql = STATE + "IN (SELECT value FROM json_each(%s)) ORDER BY id"
            cursor.execute(sql, [json.dumps(known)])
        return [AccountState(*row) for row in cursor.fetchall()]


def load_sheet(using: str, ids: Collection[int], keys: Collection[str]) -> Sheet:
    """Lock accounts, and look which keys were used before: one statement, two with keys."""
    accounts = load_accounts(using, ids)
    keyed = {}
    if keys:
        before = Transfer.objects.using(using).exclude(idempotency_key="")
        for each in before.filter(idempotency_key__in=keys).order_by():
            keyed[each.idempotency_key] = Booking(
                each.source_id,
                each.destination_id,
                each.amount,
                each.currency,
                each.idempotency_key,
                each.reference,
                each.status != Transfer.Status.POSTED or each.ended_at is not None,
                reverses=each.reverses_id,
                id=each.pk,
            )
    return Sheet(accounts, keyed)


def write(using: str, sheet: Sheet) -> None:
    """Write the sheet's bookings and the accounts they changed, and give the bookings their ids.

    One statement on PostgreSQL, four on SQLite; none for an empty sheet.
    Raises: KeyTaken: the transaction must be rolled back.
    """
    if not sheet.made:
        return
    connection = connections[using]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            _write_arrays(cursor, sheet.made, sheet.changed)
        else:
            _write_rows(cursor, connection.ops, sheet.made, sheet.changed)


def _write_arrays(
    cursor: Any, bookings: Sequence[Booking], accounts: Sequence[AccountState]
) -> None:
    waits = (each.expires_in for each in bookings)
    arrays = [
        _literal(each.source for each in bookings),
        _literal(each.destination for each in bookings),
        _literal(each.amount for each in bookings),
        [each.currency for each in bookings],
        [each.key for each in bookings],
        [each.reference for each in bookings],
        _literal(each.is_pending for each in bookings),
        _literal(None if each is None else each.total_seconds() for each in waits),
        _literal(each.source_version for each in bookings),
        _literal(each.source_balance for each in bookings),
        _literal(each.destination_version for each in bookings),
        _literal(each.destination_balance for each in bookings),
        _literal(each.id for each in accounts),
        _literal(each.balance for each in accounts),
        _literal(each.pending_debits for each in accounts),
        _literal(each.pending_credits for each in accounts),
        _literal(each.version for each in accounts),
    ]
    cursor.execute(POSTGRESQL, arrays)
    made = cursor.fetchall()
    if len(made) < len(bookings):
        raise KeyTaken
    for booking, (number,) in zip(bookings, made, strict=True):
        booking.id = number


def _literal(numbers: Iterable[float | None]) -> str:
    """Return the text of an array; psycopg, which looks for what to quote, takes longer."""
    return f"{{{','.join('NULL' if each is None else str(each) for each in numbers)}}}"


def _write_rows(
    cursor: Any, ops: Any, bookings: Sequence[Booking], accounts: Sequence[AccountState]
) -> None:
    cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'dbpatterns_ledger_transfer'")
    last = cursor.fetchone()
    moment = timezone.now()

    def stored(value: datetime.datetime | None) -> Any:
        return ops.adapt_datetimefield_value(value)

    for number, booking in enumerate(bookings, start=(last[0] if last else 0) + 1):
        booking.id = number
    cursor.executemany(
        TRANSFER + f" VALUES ({', '.join(['%s'] * 12)})",
        [
            (
                *(each.id, each.source, each.destination, each.amount),
                *((0, each.currency, "pending") if each.is_pending else ()),
                *(() if each.is_pending else (each.amount, each.currency, "posted")),
                *(each.reference, each.key, each.reverses, stored(moment)),
                stored(None if each.expires_in is None else moment + each.expires_in),
            )
            for each in bookings
        ],
    )
    write_entries(cursor, [each for each in bookings if not each.is_pending])
    write_accounts(cursor, accounts)


def write_entries(cursor: Any, bookings: Sequence[Booking]) -> None:
    """Write both entries of each booking; SQLite."""
    rows = []
    for each in bookings:
        rows += [
            (each.id, each.source, each.source_version, -each.amount, each.source_balance),
            (
                *(each.id, each.destination, each.destination_version),
                *(each.amount, each.destination_balance),
            ),
        ]
    cursor.executemany(ENTRY + " VALUES (%s, %s, %s, %s, %s)", rows)


def write_accounts(cursor: Any, accounts: Sequence[AccountState]) -> None:
    """Write the money of accounts; SQLite."""
    cursor.executemany(
        "UPDATE dbpatterns_ledger_account SET balance = %s, pending_debits = %s,"
        " pending_credits = %s, version = %s WHERE id = %s",
        [
            (each.balance, each.pending_debits, each.pending_credits, each.version, each.id)
            for each in accounts
        ],
    )
