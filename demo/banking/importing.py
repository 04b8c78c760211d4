"""Writing bank data: every account onto its customer's shard, with an opening balance.

Idempotent and resumable: what is there stays as it is, each batch is one transaction, and an
account commits together with the transfer that fills it.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from django.db import transaction

from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.sharding import shard_for, shards
from demo.banking.berka import BadBankFiles, BankData, NewAccount, NewCustomer, NewOrder
from demo.banking.events import Movement, record
from demo.banking.models import Account, Customer, StandingOrder, Transfer

__all__ = ["BankImport", "clearing_number", "opening_balance"]

Row = TypeVar("Row", NewCustomer, NewAccount, NewOrder)


def opening_balance(number: str) -> int:
    """Return an account's opening balance in minor units, from its number alone.

    100.00 to 5,099.99, spread by Knuth's multiplicative hash: some accounts are too poor for
    their orders, and every import agrees which.
    """
    digits = int("".join(each for each in number if each.isdigit()) or "0")
    return 10_000 + (digits * 2_654_435_761 % 2**32) % 500_000


def clearing_number(bank_code: str, alias: str) -> str:
    """Return the number of the account that stands for another bank on a shard."""
    return f"clearing-{bank_code}-{alias}"


@dataclass(slots=True)
class BankImport:
    """One import and what it has committed so far."""

    data: BankData
    batch_size: int = 500
    advance: Callable[[int], object] = lambda rows: None
    """Called with the number of rows committed, or found in place."""
    must_stop: Callable[[], bool] = lambda: False
    """Asked before each batch."""
    customers: int = 0
    accounts: int = 0
    orders: int = 0
    already_there: int = 0
    stopped: bool = False

    def run(self) -> None:
        """Write what is missing; a transaction for each batch, of one to ten statements.

        Raises: BadBankFiles: an account of the data belongs to somebody else here already.
        IntegrityError: another import wrote the same rows at the same time; run it again.
        """
        self._refuse_other_owners()
        for alias, data in self._by_shard():
            self._write_shard(alias, data)

    def _refuse_other_owners(self) -> None:
        owners = {each.number: each.customer for each in self.data.accounts}
        problems = [
            f"account {number} belongs to customer {customer} here and to {owners[number]} in the "
            "data: import into an empty database."
            for alias in shards()
            for number, customer in Account.objects.using(alias).values_list("number", "customer")
            if owners.get(number, customer) != customer
        ]
        if problems:
            raise BadBankFiles(problems)

    def _by_shard(self) -> Iterator[tuple[str, BankData]]:
        customers: dict[str, list[NewCustomer]] = defaultdict(list)
        accounts: dict[str, list[NewAccount]] = defaultdict(list)
        orders: dict[str, list[NewOrder]] = defaultdict(list)
        for customer in self.data.customers:
            customers[shard_for(customer.number)].append(customer)
        for account in self.data.accounts:
            accounts[shard_for(account.customer)].append(account)
        for order in self.data.orders:
            orders[shard_for(order.customer)].append(order)
        for alias in shards():
            yield alias, BankData(customers[alias], accounts[alias], orders[alias])

    def _write_shard(self, alias: str, data: BankData) -> None:
        opening = _write_own_accounts(alias, data)
        known = set(Customer.objects.using(alias).values_list("pk", flat=True))
        for customers in self._batches(data.customers, known):
            _write_customers(alias, customers)
            self.customers += len(customers)
        ids = _account_ids(alias)
        for accounts in self._batches(data.accounts, ids):
            _write_accounts(alias, accounts, opening)
            self.accounts += len(accounts)
        ids = _account_ids(alias)
        there = set(StandingOrder.objects.using(alias).values_list("order_number", flat=True))
        for orders in self._batches(data.orders, there):
            _write_orders(alias, orders, ids)
            self.orders += len(orders)

    def _batches(self, rows: Sequence[Row], known: Container[object]) -> Iterator[Sequence[Row]]:
        missing = [row for row in rows if row.number not in known]
        self.already_there += len(rows) - len(missing)
        self.advance(len(rows) - len(missing))
        for start in range(0, len(missing), self.batch_size):
            self.stopped = self.stopped or self.must_stop()
            if self.stopped:
                return
            batch = missing[start : start + self.batch_size]
            yield batch
            self.advance(len(batch))


def _account_ids(alias: str) -> dict[str, UUID]:
    return dict(Account.objects.using(alias).values_list("number", "pk"))


def _write_own_accounts(alias: str, data: BankData) -> Account:
    with transaction.atomic(using=alias):
        for bank in sorted({order.bank_code for order in data.orders}):
            Account.objects.using(alias).get_or_create(
                number=clearing_number(bank, alias),
                defaults={"kind": Account.Kind.CLEARING, "bank_code": bank},
            )
        opening: Account
        opening, _ = Account.objects.using(alias).get_or_create(
            number=f"opening-{alias}", defaults={"kind": Account.Kind.OPENING}
        )
    return opening


def _write_customers(alias: str, batch: Sequence[NewCustomer]) -> None:
    Customer.objects.using(alias).bulk_create(
        Customer(id=each.number, name=each.name, birth_date=each.birth_date, district=each.district)
        for each in batch
    )


def _write_accounts(alias: str, batch: Sequence[NewAccount], opening: Account) -> None:
    accounts = [
        Account(number=each.number, customer_id=each.customer, opened_on=each.opened_on)
        for each in batch
    ]
    with transaction.atomic(using=alias):
        Account.objects.using(alias).bulk_create(accounts)
        booked = pay_batch(
            [
                Payment(
                    opening.ledger_id,
                    account.ledger_id,
                    opening_balance(account.number),
                    reference="Opening balance",
                )
                for account in accounts
            ],
            on_error="abort",
            using=alias,
        )
        made = Transfer.objects.using(alias).bulk_create(
            Transfer(
                customer_id=new.customer,
                idempotency_key=f"opening:{account.number}",
                kind=Transfer.Kind.OPENING,
                payer=opening,
                payee=account,
                amount=opening_balance(account.number),
                currency=account.currency,
                memo="Opening balance",
                booking_id=booking.transfer,
            )
            for new, account, booking in zip(batch, accounts, booked.results, strict=True)
        )
        record(map(Movement.of, made), using=alias)


def _write_orders(alias: str, batch: Sequence[NewOrder], ids: dict[str, UUID]) -> None:
    StandingOrder.objects.using(alias).bulk_create(
        StandingOrder(
            order_number=each.number,
            customer_id=each.customer,
            account_id=ids[each.account],
            bank_code=each.bank_code,
            payee_account=each.payee_account,
            amount=each.amount,
            category=each.category,
        )
        for each in batch
    )
