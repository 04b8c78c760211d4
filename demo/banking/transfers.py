"""Moving money: one local transaction, both accounts locked, two entries that sum to zero."""

from collections.abc import Sequence
from enum import StrEnum

from django.db import IntegrityError

from dbpatterns.repositories.unit_of_work import UnitOfWork
from demo.banking.models import Account, Transfer
from demo.banking.money import format_amount
from demo.banking.repositories import Shard, Shards

__all__ = ["Refusal", "TransferRefused", "book", "find_account", "lock_accounts", "transfer"]


class Refusal(StrEnum):
    """Why money did not move; the API's problem types end in these."""

    UNKNOWN_ACCOUNT = "unknown-account"
    SAME_ACCOUNT = "same-account"
    CLOSED_ACCOUNT = "closed-account"
    OTHER_CURRENCY = "other-currency"
    INSUFFICIENT_FUNDS = "insufficient-funds"
    CROSS_SHARD = "cross-shard"
    KEY_REUSED = "idempotency-key-reused"
    NOT_A_CUSTOMER_ACCOUNT = "not-a-customer-account"


class TransferRefused(Exception):
    """No money moved; `refusal` says why to a program and the message to a person."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


def find_account(number: str) -> Account:
    """Return the account with this number, its shard in `_state.db`.

    One indexed query per shard until found: the number does not tell its customer.
    Raises: TransferRefused: UNKNOWN_ACCOUNT.
    """
    for shard in Shards():
        if account := shard.accounts.find_one_by(number=number):
            return account
    raise TransferRefused(Refusal.UNKNOWN_ACCOUNT, f"There is no account {number}.")


def transfer(
    payer: Account, payee: Account, *, amount: int, idempotency_key: str, memo: str = ""
) -> tuple[Transfer, bool]:
    """Move `amount` minor units once per key; return the transfer and whether it is new.

    The key is the payer's customer's. A refusal leaves no trace, so its key may be tried again.
    Cost: one transaction of seven statements, four if the key came before; locks both account
    rows, in the order of their ids.
    Raises: TransferRefused.
    """
    if payer.customer_id is None:
        raise TransferRefused(
            Refusal.NOT_A_CUSTOMER_ACCOUNT, f"Account {payer.number} belongs to no customer."
        )
    if payer._state.db != payee._state.db:
        raise TransferRefused(
            Refusal.CROSS_SHARD,
            f"Accounts {payer.number} and {payee.number} live on two shards, and no transaction "
            "spans them yet: no money moved.",
        )
    if payer.pk == payee.pk:
        raise TransferRefused(
            Refusal.SAME_ACCOUNT, f"Account {payer.number} cannot pay itself: name two accounts."
        )
    shard = _shard_of(payer)
    try:
        with UnitOfWork(using=shard.alias):
            locked_payer, locked_payee = lock_accounts(payer, payee)
            existing = shard.transfers.keyed(payer.customer_id, idempotency_key)
            if existing is None:
                return book(
                    locked_payer,
                    locked_payee,
                    amount=amount,
                    kind=Transfer.Kind.TRANSFER,
                    idempotency_key=idempotency_key,
                    memo=memo,
                ), True
    except IntegrityError:
        # The customer used the key at the same moment from another account: theirs came first.
        existing = shard.transfers.keyed(payer.customer_id, idempotency_key)
        if existing is None:
            raise
    asked = (payer.pk, payee.pk, amount, memo)
    if (existing.payer_id, existing.payee_id, existing.amount, existing.memo) != asked:
        raise TransferRefused(
            Refusal.KEY_REUSED,
            f"Idempotency key {idempotency_key!r} was used for another transfer: send a new key.",
        )
    return existing, False


def lock_accounts(*accounts: Account) -> Sequence[Account]:
    """Read the accounts again, locked until the transaction ends; same order as given.

    One query. Locks in the order of ids, so that two transfers never wait for each other.
    """
    by_id = _shard_of(accounts[0]).accounts.lock(accounts)
    return [by_id[account.pk] for account in accounts]


def book(
    payer: Account,
    payee: Account,
    *,
    amount: int,
    kind: Transfer.Kind,
    idempotency_key: str,
    memo: str = "",
) -> Transfer:
    """Write one transfer between two locked accounts; call it inside their transaction.

    Three statements: both balances, the transfer, its two entries.
    Raises: TransferRefused: an account is closed, of another currency, or too poor.
    """
    for account in (payer, payee):
        if account.status != Account.Status.OPEN:
            raise TransferRefused(
                Refusal.CLOSED_ACCOUNT, f"Account {account.number} is closed: no bookings."
            )
    if payer.currency != payee.currency:
        raise TransferRefused(
            Refusal.OTHER_CURRENCY,
            f"Account {payer.number} is in {payer.currency}, {payee.number} in {payee.currency}.",
        )
    if payer.kind == Account.Kind.CUSTOMER and payer.balance < amount:
        raise TransferRefused(
            Refusal.INSUFFICIENT_FUNDS,
            f"Account {payer.number} has {format_amount(payer.balance)} {payer.currency}, "
            f"not {format_amount(amount)}.",
        )
    shard, owner = _shard_of(payer), payer.customer_id or payee.customer_id
    assert owner is not None, "a booking between two of the bank's own accounts"
    changes = {payer: -amount, payee: amount}
    shard.accounts.add_to_balances(changes)
    booked = shard.transfers.save(
        Transfer(
            customer_id=owner,
            idempotency_key=idempotency_key,
            kind=kind,
            payer=payer,
            payee=payee,
            amount=amount,
            currency=payer.currency,
            memo=memo,
        )
    )
    shard.entries.write(booked, changes)
    return booked


def _shard_of(account: Account) -> Shard:
    return Shard(str(account._state.db))
