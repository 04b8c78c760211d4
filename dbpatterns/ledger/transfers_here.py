"""One transfer where the database has no functions: SQLite.

The rules are `booking`'s, in this process and under the database's one write lock, which nobody
waits for in vain: it is taken before anything is read.
"""

from dataclasses import replace

from django.db import connections
from django.utils import timezone

from dbpatterns.ledger import errors
from dbpatterns.ledger.booking import Booking, move
from dbpatterns.ledger.models import Transfer
from dbpatterns.ledger.payments import Payment, account_id, checked_amount
from dbpatterns.ledger.posting import (
    in_transaction,
    load_accounts,
    load_sheet,
    write,
    write_accounts,
    write_entries,
)

__all__ = ["end_here", "make_here"]


def make_here(alias: str, payment: Payment, reverses: int | None) -> Transfer:
    """Make a transfer, of now or pending, or one that reverses another."""
    refused: errors.TransferError | None = None
    for side in (payment.source, payment.destination):
        account_id(side)  # a wrong argument does not break the transaction either
    with in_transaction(alias):
        try:
            booking, is_replay = _book_here(alias, payment, reverses)
        except errors.TransferError as error:  # raised after the block, which it must not break
            refused = error
    if refused:
        raise refused
    made = Transfer.objects.using(alias).get(pk=booking.id or 0)
    made.is_replay = is_replay
    return made


def _book_here(alias: str, payment: Payment, reverses: int | None) -> tuple[Booking, bool]:
    reversals: dict[int, int] = {}
    if reverses is not None:
        load_accounts(alias, [])  # the write lock: what is read from here on stays so
        payment = _reversal(alias, payment, reverses)
        before = Transfer.objects.using(alias).filter(reverses=reverses).first()
        if before is not None:
            reversals[reverses] = before.pk
    keys = [payment.idempotency_key] if payment.idempotency_key else []
    sheet = load_sheet(alias, [account_id(payment.source), account_id(payment.destination)], keys)
    sheet.reversals = reversals
    booked = sheet.book(payment, reverses=reverses)
    write(alias, sheet)
    return booked


def _reversal(alias: str, payment: Payment, reverses: int) -> Payment:
    made = Transfer.objects.using(alias).filter(pk=reverses).first()
    if made is None:
        raise errors.TransferNotFound(transfer=reverses)
    if made.status != Transfer.Status.POSTED:
        raise errors.NotPosted(transfer=reverses, status=made.status)
    return replace(
        payment,
        source=made.destination_id,
        destination=made.source_id,
        amount=made.posted_amount,
        currency=made.currency,
    )


def end_here(alias: str, number: int, status: str, amount: int | None) -> Transfer:
    """Post a pending transfer, or a part of it, or end it as voided or expired."""
    refused: errors.TransferError | None = None
    with in_transaction(alias):
        load_accounts(alias, [])
        made = Transfer.objects.using(alias).filter(pk=number).first()
        try:
            _write_end(alias, number, made, status, amount)
        except errors.TransferError as error:
            refused = error
    if refused:
        raise refused
    return Transfer.objects.using(alias).get(pk=number)


def _write_end(
    alias: str, number: int, made: Transfer | None, status: str, amount: int | None
) -> None:
    if made is None:
        raise errors.TransferNotFound(transfer=number)
    by_id = {each.id: each for each in load_accounts(alias, [made.source_id, made.destination_id])}
    source, destination = by_id[made.source_id], by_id[made.destination_id]
    moment = timezone.now()
    if made.status != Transfer.Status.PENDING:
        raise errors.NotPending(transfer=number, status=made.status)
    posted = 0
    if status == Transfer.Status.POSTED:
        if made.expires_at and made.expires_at <= moment:
            raise errors.PendingExpired(transfer=number, expires_at=made.expires_at)
        posted = checked_amount(made.amount if amount is None else amount, made.amount)
        for each in (source, destination):
            if each.is_closed:
                raise errors.AccountClosed(account=each.id)
    source.pending_debits -= made.amount
    destination.pending_credits -= made.amount
    with connections[alias].cursor() as cursor:
        if posted:
            booking = Booking(source.id, destination.id, posted, made.currency, "", "", False)
            booking.id = number
            move(booking, source, destination, posted)
            write_entries(cursor, [booking])
        write_accounts(cursor, [source, destination])
    Transfer.objects.using(alias).filter(pk=number).update(
        status=status, posted_amount=posted, ended_at=moment
    )
