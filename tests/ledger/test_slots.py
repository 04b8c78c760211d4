"""Slots: one account of several rows, for payments that may not wait for one another."""

import threading
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from dbpatterns.errors import UsageError
from dbpatterns.ledger.errors import (
    AccountClosed,
    AccountNotFound,
    IdempotencyConflict,
    InsufficientFunds,
)
from dbpatterns.ledger.models import MAX_AMOUNT, Account, Transfer
from dbpatterns.ledger.slots import Slots
from dbpatterns.ledger.transfers import transfer
from dbpatterns.ledger.verification import verify_ledger
from tests.ledger.support import balances, funded, in_threads, started, wait_for_blocked

pytestmark = pytest.mark.django_db


def opened(count: int = 4, *amounts: int, **options: Any) -> Slots:
    """Open slots that have these amounts."""
    slots = Slots.open("shop", currency="EUR", count=count, **options)
    (bank,) = funded(0, min_balance=None)
    for slot, amount in zip(slots.accounts, amounts, strict=False):
        transfer(bank, slot, amount)
    return slots


def key_of(slots: Slots, number: int) -> str:
    """Return a key that takes this slot."""
    keys = (f"key {each}" for each in range(10_000))
    return next(key for key in keys if slots._slot(key) == slots.accounts[number].pk)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_two_payments_to_one_account_wait_and_to_slots_do_not() -> None:
    buyer, other, shop = funded(100, 100, 0)
    with transaction.atomic():
        transfer(buyer, shop, 1)
        waiting = started(lambda: transfer(other, shop, 1))
        wait_for_blocked()  # the harm
        assert not waiting.done()
    waiting.result(timeout=30)
    slots = opened()
    with transaction.atomic():
        slots.receive(buyer, 1, idempotency_key=key_of(slots, 0))
        done = started(lambda: slots.receive(other, 1, idempotency_key=key_of(slots, 1)))
        done.result(timeout=30)
    assert slots.balance() == 2


def test_money_comes_to_some_slot_and_is_one_balance() -> None:
    slots, (buyer,) = opened(), funded(100)
    for _ in range(20):
        slots.receive(buyer, 5)
    assert slots.balance() == 100
    assert sum(balances(*slots.accounts)) == 100


def test_a_payment_out_of_a_slot_that_has_enough_is_one_transfer() -> None:
    slots, (supplier,) = opened(1, 50), funded(0)
    before = Transfer.objects.count()
    assert slots.pay(supplier, 50).amount == 50
    assert Transfer.objects.count() == before + 1
    assert balances(supplier) == [50]


def test_what_a_slot_lacks_comes_from_the_others() -> None:
    slots, (supplier,) = opened(4, 10, 20, 30), funded(0)
    key = key_of(slots, 3)
    made = slots.pay(supplier, 45, idempotency_key=key, reference="rent")
    assert (made.source_id, made.amount, made.reference) == (slots.accounts[3].pk, 45, "rent")
    assert balances(*slots.accounts, supplier) == [10, 5, 0, 0, 45]
    gathered = Transfer.objects.filter(destination=slots.accounts[3])
    assert sorted(gathered.values_list("amount", flat=True)) == [15, 30]
    again = slots.pay(supplier, 45, idempotency_key=key, reference="rent")
    assert (again.pk, again.is_replay) == (made.pk, True)
    assert balances(supplier) == [45]
    assert verify_ledger().is_sound


def test_who_waited_for_a_twin_or_for_money_gathers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots, (supplier,) = opened(2, 10, 30), funded(0)
    key = key_of(slots, 0)
    made = slots.pay(supplier, 20, idempotency_key=key)
    before = Transfer.objects.count()

    def too_little(source: int, *_: object, **__: object) -> Transfer:
        raise InsufficientFunds(account=source, available=0, amount=20)  # as it was a moment ago

    monkeypatch.setattr("dbpatterns.ledger.slots.transfer", too_little)
    again = slots.pay(supplier, 20, idempotency_key=key)
    assert (again.pk, again.is_replay, Transfer.objects.count()) == (made.pk, True, before)
    slots.pay(supplier, 15, idempotency_key=key_of(slots, 1))
    assert Transfer.objects.count() == before + 1


def test_more_than_all_slots_have_is_refused_with_what_they_have_and_nothing_moves() -> None:
    slots, (supplier,) = opened(4, 10, 20, 30), funded(0)
    with transaction.atomic():
        with pytest.raises(InsufficientFunds) as refused:
            slots.pay(supplier, 61)
        assert refused.value.facts["available"] == 60
        assert balances(*slots.accounts, supplier) == [10, 20, 30, 0, 0]  # the block is usable


def test_a_limit_is_that_of_all_slots_together() -> None:
    slots, (supplier,) = opened(3, min_balance=-100), funded(0)
    assert [each.min_balance for each in slots.accounts] == [-33, -33, -34]
    slots.pay(supplier, 100)
    with pytest.raises(InsufficientFunds):
        slots.pay(supplier, 1)
    assert slots.balance() == -100
    free = Slots.open("free", currency="EUR", min_balance=None)
    assert {each.min_balance for each in free.accounts} == {None}
    free.pay(supplier, 1_000)


def test_a_key_of_another_transfer_is_a_conflict_on_every_way() -> None:
    slots, (supplier,) = opened(2, 10, 10), funded(0)
    slots.pay(supplier, 5, idempotency_key="once")
    with pytest.raises(IdempotencyConflict):
        slots.pay(supplier, 15, idempotency_key="once")
    assert slots.balance() == 15


def test_slots_fold_into_one_account() -> None:
    slots, (till,) = opened(4, 10, 20, 30), funded(0)
    with CaptureQueriesContext(connection) as captured:
        assert slots.fold(till) == 60
    statements = [each for each in captured if "SAVEPOINT" not in each["sql"]]
    assert len(statements) <= (2 if connection.vendor == "postgresql" else 11)
    assert balances(*slots.accounts, till) == [0, 0, 0, 0, 60]
    assert slots.fold(till) == 0
    free = opened(2, 5, min_balance=None)
    assert free.fold(till) == 5  # and no money that is not there
    slots.receive(till, 5)
    with pytest.raises(AccountNotFound):
        slots.fold(999_999_999)
    assert slots.balance() == 5


def test_a_closed_slot_keeps_its_money_and_the_others_pay() -> None:
    slots, (supplier,) = opened(3, 10, 20, 30), funded(0)
    closed = slots.accounts[1]
    Account.objects.filter(pk=closed.pk).update(closed_at=timezone.now())
    slots.pay(supplier, 35, idempotency_key=key_of(slots, 0))
    with pytest.raises(AccountClosed):
        slots.pay(supplier, 1, idempotency_key=key_of(slots, 1))
    slots = Slots(Account.objects.filter(name="shop"))
    assert {slots._slot(None) for _ in range(100)} == {slots._ids[0], slots._ids[2]}
    with pytest.raises(InsufficientFunds):
        slots.pay(supplier, 25)
    assert slots.fold(supplier) == 5
    assert balances(*slots.accounts, supplier) == [0, 20, 0, 40]


def test_more_than_one_transfer_may_move_is_folded_by_several() -> None:
    slots, (till, bank) = opened(1), funded(0, 0, min_balance=None)
    for _ in range(2):
        transfer(bank, slots.accounts[0], MAX_AMOUNT)
    assert slots.fold(till) == 2 * MAX_AMOUNT
    assert Transfer.objects.filter(reference="fold").count() == 2


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_two_that_gather_within_transactions_do_not_deadlock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots, suppliers = opened(3, 1, 1, 40), funded(0, 0)
    both_were_refused = threading.Barrier(2)
    gather_and_pay = Slots._gather_and_pay

    def at_once(self: Slots, *arguments: Any) -> Any:
        both_were_refused.wait(timeout=30)
        return gather_and_pay(self, *arguments)

    monkeypatch.setattr(Slots, "_gather_and_pay", at_once)

    def pay(number: int) -> int:
        with transaction.atomic():
            return slots.pay(suppliers[number], 15, idempotency_key=key_of(slots, number)).amount

    assert in_threads(2, pay) == [15, 15]
    assert balances(*suppliers) == [15, 15]
    assert verify_ledger().is_sound


def test_what_are_no_slots_is_refused() -> None:
    with pytest.raises(UsageError, match="here is none"):
        Slots(Account.objects.none())
    euro, crown = funded(0)[0], funded(0, currency="CZK")[0]
    with pytest.raises(UsageError, match=r"not \['CZK', 'EUR'\]"):
        Slots([euro, crown])
    with pytest.raises(UsageError, match="not 0"):
        Slots.open("shop", currency="EUR", count=0)


@pytest.mark.django_db(transaction=True)
def test_payments_from_all_sides_lose_and_make_no_money() -> None:
    slots = opened(3, 50, 50, 50)
    others = funded(*[100] * 4)
    paid, received = [0] * 4, [0] * 4
    lock = threading.Lock()

    def work(number: int) -> None:
        for turn in range(12):
            try:
                if turn % 2:
                    slots.receive(others[number], 7)
                    with lock:
                        received[number] += 7
                else:
                    slots.pay(others[number], 40)
                    with lock:
                        paid[number] += 40
            except InsufficientFunds:
                continue

    assert in_threads(4, work) == [None] * 4
    ledger = 150 + sum(received) - sum(paid)
    assert slots.balance() == ledger >= 0
    assert balances(*others) == [100 - received[each] + paid[each] for each in range(4)]
    assert Account.objects.aggregate(total=Sum("balance"))["total"] == 0
    assert verify_ledger().is_sound
