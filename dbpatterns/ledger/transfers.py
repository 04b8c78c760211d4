"""Moving money: one transfer, now or pending, and its end, each once or not at all.

    transfer(alice, bob, 1_250, idempotency_key=key)

On PostgreSQL a function in the database does it in one round trip (`transfers_by_function`); on
SQLite the same rules run in Python (`transfers_here`). Inside an `atomic` block it takes part in
that transaction, and a refusal leaves the block usable.
"""

import datetime

from django.db import connections, router
from django.utils import timezone

from dbpatterns.errors import UsageError
from dbpatterns.ledger import errors
from dbpatterns.ledger.models import MAX_BALANCE, Account, Transfer
from dbpatterns.ledger.payments import Payment, checked_amount, database_of
from dbpatterns.ledger.transfers_by_function import end_by_function, make_by_function
from dbpatterns.ledger.transfers_here import end_here, make_here

__all__ = ["expire_transfers", "post_transfer", "reverse_transfer", "transfer", "void_transfer"]


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
    if connections[alias].vendor == "postgresql":
        return make_by_function(alias, payment, reverses)
    return make_here(alias, payment, reverses)


def _end(alias: str, number: int, status: str, amount: int | None) -> Transfer:
    if connections[alias].vendor == "postgresql":
        return end_by_function(alias, number, status, amount)
    return end_here(alias, number, status, amount)
