"""One transfer where the database has functions: PostgreSQL, in one round trip."""

import datetime
import json
from typing import Any

from django.db import connections
from django.db.models.base import ModelState
from django.utils import timezone

from dbpatterns.ledger import errors
from dbpatterns.ledger.models import MAX_BALANCE, Transfer
from dbpatterns.ledger.payments import Payment, account_id, checked_amount

__all__ = ["end_by_function", "make_by_function"]

COLUMNS = [field.attname for field in Transfer._meta.concrete_fields]


def make_by_function(alias: str, payment: Payment, reverses: int | None) -> Transfer:
    """Make a transfer, of now or pending, or one that reverses another; one round trip."""
    connection = connections[alias]
    source, destination = account_id(payment.source), account_id(payment.destination)
    if reverses is None:
        checked_amount(payment.amount)
        if source == destination:
            raise errors.SameAccount(account=source)
        for each in (source, destination):
            if not 0 < each <= MAX_BALANCE:
                raise errors.AccountNotFound(account=each)
    values: list[Any] = [source, destination, payment.amount]
    named = ""
    for name, value in (
        ("p_currency", payment.currency),
        ("p_key", payment.idempotency_key),
        ("p_pending", payment.pending or None),
        ("p_expires_in", payment.expires_in),
        ("p_reference", payment.reference or None),
        ("p_reverses", reverses),
    ):
        if value is not None:
            named += f", {name} => %s"
            values.append(value)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM dbpatterns_ledger_move(%s, %s, %s{named})", values)
        code, facts, is_replay, number, currency, made_at, made_until = cursor.fetchone()
    if code:
        raise errors.refusal(code, json.loads(facts))
    if is_replay or reverses is not None:
        made = Transfer.objects.using(alias).get(pk=number)
        made.is_replay = is_replay
        return made
    status, posted = ("pending", 0) if payment.pending else ("posted", payment.amount)
    return _as_read(
        connection,
        id=number,
        source_id=source,
        destination_id=destination,
        amount=payment.amount,
        posted_amount=posted,
        currency=currency,
        status=status,
        reference=payment.reference,
        idempotency_key=payment.idempotency_key or "",
        reverses_id=None,
        created_at=_moment(connection, made_at),
        expires_at=None if made_until is None else _moment(connection, made_until),
        ended_at=None,
    )


def end_by_function(alias: str, number: int, status: str, amount: int | None) -> Transfer:
    """Post a pending transfer, or a part of it, or end it as voided or expired; one round trip."""
    columns = ", ".join(f"(made).{name}" for name in COLUMNS)
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f"SELECT refusal, facts, {columns} FROM dbpatterns_ledger_end(%s, %s, %s)",
            [number, status, amount],
        )
        code, facts, *row = cursor.fetchone()
    made = Transfer.from_db(alias, COLUMNS, row)
    if not code:
        return made
    told = json.loads(facts)
    if code == errors.PendingExpired.code:
        told["expires_at"] = made.expires_at
    raise errors.refusal(code, told)


def _as_read(connection: Any, **row: Any) -> Transfer:
    """Return what `Transfer.from_db` would, in a quarter of its time and without signals."""
    made = Transfer.__new__(Transfer)
    made._state = ModelState()
    made._state.db, made._state.adding = connection.alias, False
    made.__dict__.update(row)
    return made


def _moment(connection: Any, seconds: float) -> datetime.datetime:
    """Return a moment as Django reads it from this database."""
    if connection.timezone is None:  # without USE_TZ
        aware = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        return timezone.make_naive(aware, timezone.get_default_timezone())
    return datetime.datetime.fromtimestamp(seconds, connection.timezone)
