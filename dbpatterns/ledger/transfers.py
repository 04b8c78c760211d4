"""Moving money: one transfer, now or pending, and its end, each once or not at all.

    transfer(alice, bob, 1_250, idempotency_key=key)

On PostgreSQL a function in the database does it in one round trip; on SQLite the same rules run in
Python (`transfers_here`). Inside an `atomic` block it takes part in that transaction,
and a refusal leaves the block usable.
"""

import datetime
import json
from typing import Any

from django.db import connections, router
from django.db.models.base import ModelState
from django.utils import timezone

from dbpatterns.errors import UsageError
from dbpatterns.ledger import errors
from dbpatterns.ledger.booking import Payment, account_id, checked_amount
from dbpatterns.ledger.models import MAX_BALANCE, Account, Transfer
from dbpatterns.ledger.transfers_here import end_here, make_here

__all__ = ["expire_transfers", "post_transfer", "reverse_transfer", "transfer", "void_transfer"]

COLUMNS = [field.attname for field in Transfer._meta.concrete_fields]


def transfer(
    source: Account | int,
    destination: Account | int,
    amount: int,
    *,
    currency: str | None = None,
    idempotency_key: str | None = None,
    pending: bool = False,
    expires_in: datetime.timedelta | None = None,
    reference: str = "",
    using: str | None = None,
) -> Transfer:
    """Move `amount` minor units, or hold them for later when `pending`.

    One round trip on PostgreSQL. Locks both accounts in the order of their ids until the
    transaction ends. A key that came before returns its transfer, with `is_replay` set, and moves
    nothing, for one query more; a refusal uses no key up.

    Args:
        currency: what both accounts must be in; the source's if not given.
        expires_in: how long a pending transfer may be posted; for ever if not given.
    Raises: TransferError, a subclass for each reason, with nothing written. UsageError: no
        account at all, or accounts of two databases.
    Source: pgledger and TigerBeetle, for the rules; PostgreSQL documentation, "Explicit Locking".
    """
    payment = Payment(
        source, destination, amount, currency, idempotency_key, reference, pending, expires_in
    )
    alias = database_of(source, destination, using=using)
    return _make(alias, payment, None)


def reverse_transfer(
    made: Transfer | int,
    idempotency_key: str | None = None,
    *,
    reference: str = "",
    using: str | None = None,
) -> Transfer:
    """Move what a posted transfer moved back, once, as a transfer of its own.

    Cost and locks as `transfer`, and a query to read the new one.
    Raises: TransferError: among others NotPosted, AlreadyReversed, and InsufficientFunds when the
        money is gone.
    """
    number, alias = _transfer_id(made), _database_of_transfer(made, using)
    # The accounts and the amount are those of the transfer, which the function reads itself.
    payment = Payment(0, 0, 0, None, idempotency_key, reference)
    return _make(alias, payment, number)


def post_transfer(
    made: Transfer | int, amount: int | None = None, *, using: str | None = None
) -> Transfer:
    """Move what a pending transfer holds, or a part of it; the rest is free again.

    One round trip on PostgreSQL; locks both accounts.
    Raises: TransferError: NotPending, PendingExpired, InvalidAmount, AccountClosed.
    """
    if amount is not None:
        checked_amount(amount)
    return _end(_database_of_transfer(made, using), _transfer_id(made), "posted", amount)


def void_transfer(made: Transfer | int, *, using: str | None = None) -> Transfer:
    """Give up a pending transfer; what it held is free again. Cost as `post_transfer`.

    Raises: TransferError: NotPending.
    """
    return _end(_database_of_transfer(made, using), _transfer_id(made), "voided", None)


def expire_transfers(*, using: str | None = None, limit: int = 1_000) -> int:
    """End pending transfers that are past their time; return how many.

    A transaction for each, oldest first, and one query to find them. Safe to run twice at once.
    """
    alias = using or router.db_for_write(Transfer)
    late = (
        Transfer.objects.using(alias)
        .filter(status=Transfer.Status.PENDING, expires_at__lte=timezone.now())
        .order_by("expires_at")
    )
    ended = 0
    for number in list(late.values_list("pk", flat=True)[:limit]):
        try:
            _end(alias, number, "expired", None)
        except errors.NotPending:
            continue  # voided, posted or expired by somebody else meanwhile
        ended += 1
    return ended


def database_of(*accounts: Account | int, using: str | None) -> str:
    """Return the database to write to: `using`, or where the accounts live.

    Ids of two databases may be the same number, so accounts of another one are refused.
    Raises: UsageError.
    """
    aliases = {
        router.db_for_write(Transfer, instance=each)
        for each in accounts
        if isinstance(each, Account)
    }
    aliases |= {using} if using else set()
    if len(aliases) > 1:
        raise UsageError(
            f"The accounts and `using` name several databases, {', '.join(sorted(aliases))}: a "
            "transfer is one transaction, so both accounts live in one."
        )
    return aliases.pop() if aliases else router.db_for_write(Transfer)


def _database_of_transfer(made: Transfer | int, using: str | None) -> str:
    if using or not isinstance(made, Transfer):
        return using or router.db_for_write(Transfer)
    return router.db_for_write(Transfer, instance=made)


def _transfer_id(made: Transfer | int) -> int:
    found = made.pk if isinstance(made, Transfer) else made
    if type(found) is not int:
        raise UsageError(f"A transfer is a saved Transfer or its id, not {made!r}.")
    if not 0 < found <= MAX_BALANCE:
        raise errors.TransferNotFound(transfer=found)
    return found


def _make(alias: str, payment: Payment, reverses: int | None) -> Transfer:
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return make_here(alias, payment, reverses)
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


def _end(alias: str, number: int, status: str, amount: int | None) -> Transfer:
    if connections[alias].vendor != "postgresql":
        return end_here(alias, number, status, amount)
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
