"""Transfers: the lost update first, then the cure; no deadlock, no overdraft, once per key."""

import threading

import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models import F, QuerySet
from pytest_django import DjangoAssertNumQueries

from dbpatterns.idempotency.models import IdempotencyKey
from dbpatterns.ledger.errors import InvalidAmount
from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.ledger.models import Entry as LedgerEntry
from dbpatterns.sharding import shards
from dbpatterns.testing.ledger import unguarded_ledger
from demo.banking.books import prove_books
from demo.banking.models import Account, Customer, Transfer
from demo.banking.transfers import (
    Refusal,
    TransferRefused,
    find_account,
    transfer,
)
from tests.demo.api_support import customer_number_on
from tests.demo.bank_support import DEADLINE_SECONDS, Crash, at_once, crash_at_statement

pytestmark = pytest.mark.django_db(databases="__all__")
committed = pytest.mark.django_db(databases="__all__", transaction=True)


def make_account(number: str, balance: int = 0, *, shard: int = 0, **fields: object) -> Account:
    """Make an account, and its owner of the same number; the opening account gives the balance."""
    key = customer_number_on(shards()[shard], nth=int(str(fields.pop("owner", number))))
    customer, _ = Customer.objects.get_or_create(pk=key, defaults={"name": f"Customer {number}"})
    made: Account = customer.accounts.create(number=number, balance=balance, **fields)
    return made


def balance_of(account: Account) -> int:
    return Account.objects.using(account._state.db).get(pk=account.pk).balance


def faults() -> list[str]:
    return [fault for proof in prove_books().values() for fault in proof.faults]


@committed
def test_harm_read_modify_write_loses_money() -> None:
    """What people write first: both read 100, both write their own result."""
    account = make_account("1", 100)
    alias = str(account._state.db)
    both_have_read = threading.Barrier(2)

    def withdraw(amount: int) -> None:
        mine = Account.objects.using(alias).get(pk=account.pk)
        mine_had = mine.balance
        both_have_read.wait(DEADLINE_SECONDS)
        rows = LedgerAccount.objects.using(alias).filter(pk=mine.ledger_id)
        rows.update(balance=mine_had - amount)

    with unguarded_ledger(alias):
        at_once(lambda: withdraw(30), lambda: withdraw(50))
    assert balance_of(account) in (70, 50), "80 went out, 30 or 50 is missing"
    assert [each for each in faults() if "wrong balance" in each], "and the proof finds it"
    with pytest.raises(DatabaseError, match="by transfers only"):
        LedgerAccount.objects.using(alias).filter(pk=account.ledger_id).update(balance=100)


@committed
def test_no_money_is_lost_when_many_pay_at_once() -> None:
    """The ledger oracle: every writer keeps what it committed, and the balance agrees."""
    payer, payee = make_account("1", 1_000), make_account("2")

    def pay(writer: int) -> list[int]:
        kept = []
        for number in range(8):
            amount = 10 + writer
            _, created = transfer(payer, payee, amount=amount, idempotency_key=f"{writer}/{number}")
            assert created
            kept.append(amount)
        return kept

    ledgers = at_once(*[lambda writer=writer: pay(writer) for writer in range(4)])
    moved = sum(sum(ledger) for ledger in ledgers)  # type: ignore[call-overload]
    assert (balance_of(payer), balance_of(payee)) == (1_000 - moved, moved)
    assert faults() == []


@committed
def test_an_account_is_never_overdrawn_by_payments_at_once() -> None:
    payer, payee = make_account("1", 100), make_account("2")
    results = at_once(
        *[
            lambda key=key: transfer(payer, payee, amount=60, idempotency_key=key)
            for key in ("a", "b", "c")
        ]
    )
    refused = [each for each in results if isinstance(each, TransferRefused)]
    assert [each.refusal for each in refused] == [Refusal.INSUFFICIENT_FUNDS] * 2
    assert balance_of(payer) == 40


@committed
def test_payments_in_both_directions_do_not_deadlock() -> None:
    one, two = make_account("1", 1_000), make_account("2", 1_000)

    def pay(payer: Account, payee: Account, name: str) -> None:
        for number in range(15):
            transfer(payer, payee, amount=1, idempotency_key=f"{name}{number}")

    assert at_once(lambda: pay(one, two, "a"), lambda: pay(two, one, "b")) == [None, None]
    assert (balance_of(one), balance_of(two)) == (1_000, 1_000)


def until_somebody_waits(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        for _ in range(100_000):
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone() == (1,):
                return
    pytest.fail("nobody waited for what this transaction holds")


@pytest.mark.postgresql
@committed
@pytest.mark.parametrize("payer_is_older", [True, False])
def test_accounts_are_locked_in_the_order_of_their_ids(payer_is_older: bool) -> None:
    """While the older row is held, a transfer waits for it and holds nothing itself."""
    older, newer = make_account("1", 1_000), make_account("2", 1_000)
    alias = older._state.db
    pair = (older, newer) if payer_is_older else (newer, older)
    paying = threading.Thread(
        target=lambda: (
            transfer(*pair, amount=1, idempotency_key="k"),
            connections.close_all(),
        )
    )
    with transaction.atomic(using=alias):
        rows = LedgerAccount.objects.using(alias)
        rows.select_for_update().get(pk=older.ledger_id)
        paying.start()
        until_somebody_waits(alias)
        # Would raise if the waiting transfer held it:
        rows.select_for_update(nowait=True).get(pk=newer.ledger_id)
    paying.join(DEADLINE_SECONDS)
    assert balance_of(pair[0]) == 999


@committed
def test_one_key_at_once_moves_money_once_also_from_two_accounts() -> None:
    payer, payee = make_account("1", 100), make_account("2")
    second = make_account("3", 100, owner=1)
    results = at_once(
        lambda: transfer(payer, payee, amount=10, idempotency_key="k"),
        lambda: transfer(payer, payee, amount=10, idempotency_key="k"),
        lambda: transfer(second, payee, amount=10, idempotency_key="k"),
    )
    assert balance_of(payee) == 10
    refused = [each for each in results if isinstance(each, TransferRefused)]
    assert {each.refusal for each in refused} == {Refusal.KEY_REUSED}
    assert not [each for each in results if isinstance(each, IntegrityError)]


@pytest.mark.postgresql
@committed
def test_one_key_at_once_between_other_accounts_meets_at_the_unique_index() -> None:
    """No row is locked by both, so the second learns of the first from the key alone."""
    payer, payee = make_account("1", 100), make_account("2")
    second, other = make_account("3", 100, owner=1), make_account("4")
    refused: list[object] = []
    paying = threading.Thread(
        target=lambda: refused.extend(
            at_once(lambda: transfer(second, other, amount=10, idempotency_key="k"))
        )
    )
    with transaction.atomic(using=payer._state.db):
        transfer(payer, payee, amount=10, idempotency_key="k")
        paying.start()
        until_somebody_waits(str(payer._state.db))
    paying.join(DEADLINE_SECONDS)
    assert [getattr(each, "refusal", each) for each in refused] == [Refusal.KEY_REUSED]
    assert [balance_of(each) for each in (payer, payee, second, other)] == [90, 10, 100, 0]


@committed
def test_a_transfer_takes_seven_statements_and_a_repeated_one_four(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    """BEGIN, key, money, row, events, answer, COMMIT. On SQLite the money is eight, to a file."""
    payer, payee = make_account("1", 100), make_account("2")
    alias = str(payer._state.db)
    for statements in (14 if connections[alias].vendor == "sqlite" else 7, 4):
        with django_assert_num_queries(statements, using=alias):
            transfer(payer, payee, amount=10, idempotency_key="k")


@committed
def test_a_transfer_killed_at_any_statement_is_all_there_or_not_at_all() -> None:
    """Key, answer, booking and row commit together, so there is no moment between them."""
    payer, payee = make_account("1", 100), make_account("2")
    alias = str(payer._state.db)
    crashes = 0
    for statement in range(1, 50):
        try:
            with crash_at_statement(statement):
                transfer(payer, payee, amount=10, idempotency_key="k")
            break
        except Crash:
            crashes += 1
        kept = IdempotencyKey.objects.using(alias).count()
        assert (balance_of(payer), kept, Transfer.objects.using(alias).count()) == (100, 0, 0)
    assert crashes >= 4, "each statement was cut off once"
    assert transfer(payer, payee, amount=10, idempotency_key="k")[1] is False
    assert (balance_of(payer), balance_of(payee)) == (90, 10)
    assert faults() == []


def test_an_amount_that_the_caller_did_not_check_is_refused_by_the_ledger() -> None:
    payer, payee = make_account("1", 100), make_account("2", 100)
    with pytest.raises(InvalidAmount, match="-5 is negative"):
        transfer(payer, payee, amount=-5, idempotency_key="k")
    assert (balance_of(payer), balance_of(payee)) == (100, 100)


def test_a_key_whose_answer_is_forgotten_still_moves_no_money_again() -> None:
    """The answer is kept for a day; the key is the ledger's, too, which forgets nothing."""
    payer, payee = make_account("1", 100), make_account("2")
    first, _ = transfer(payer, payee, amount=10, idempotency_key="k")
    IdempotencyKey.objects.using(payer._state.db).all().delete()
    again, is_new = transfer(payer, payee, amount=10, idempotency_key="k")
    assert (again.pk, again.created_at, is_new) == (first.pk, first.created_at, False)
    IdempotencyKey.objects.using(payer._state.db).all().delete()
    with pytest.raises(TransferRefused) as caught:
        transfer(payer, payee, amount=11, idempotency_key="k")
    assert caught.value.refusal == Refusal.KEY_REUSED
    assert balance_of(payer) == 90


def test_a_balance_is_set_by_a_booking_and_the_books_stay_right() -> None:
    account = make_account("1", 100)
    alias = account._state.db
    for balance in (250, 40, 40):
        Account.objects.using(alias).filter(number="1").update(balance=balance)
        assert balance_of(account) == balance
    assert make_account("2", 70, currency="EUR").balance == 70
    assert faults() == []


def test_an_account_that_is_closed_is_closed_in_the_ledger_and_opens_again() -> None:
    account = make_account("1", 100)
    in_ledger = LedgerAccount.objects.using(account._state.db)
    for status, is_open in (("closed", False), ("open", True)):
        account.status = status
        account.save()
        assert in_ledger.filter(pk=account.ledger_id, closed_at=None).exists() is is_open
    Account.objects.using(account._state.db).filter(status="open").update(status="closed")
    assert not in_ledger.filter(pk=account.ledger_id, closed_at=None).exists()


def test_a_repeated_key_gives_the_first_transfer_back() -> None:
    payer, payee = make_account("1", 100), make_account("2")
    first, created = transfer(payer, payee, amount=10, idempotency_key="k", memo="Rent")
    again, created_again = transfer(payer, payee, amount=10, idempotency_key="k", memo="Rent")
    assert (created, created_again) == (True, False)
    assert first == again
    assert balance_of(payer) == 90


@pytest.mark.parametrize("change", [{"amount": 11}, {"memo": "Other"}])
def test_a_key_used_for_something_else_is_refused(change: dict[str, object]) -> None:
    payer, payee = make_account("1", 100), make_account("2")
    asked: dict[str, object] = {"amount": 10, "memo": ""}
    transfer(payer, payee, idempotency_key="k", **asked)  # type: ignore[arg-type]
    with pytest.raises(TransferRefused, match="was used for another transfer") as caught:
        transfer(payer, payee, idempotency_key="k", **(asked | change))  # type: ignore[arg-type]
    assert caught.value.refusal == Refusal.KEY_REUSED


def test_two_customers_may_use_the_same_key() -> None:
    one, two = make_account("1", 100), make_account("2", 100)
    assert transfer(one, two, amount=1, idempotency_key="k")[1]
    assert transfer(two, one, amount=2, idempotency_key="k")[1]


def test_a_refused_key_may_be_tried_again() -> None:
    payer, payee = make_account("1"), make_account("2", 100)
    with pytest.raises(TransferRefused):
        transfer(payer, payee, amount=10, idempotency_key="k")
    transfer(payee, payer, amount=10, idempotency_key="k")
    assert transfer(payer, payee, amount=10, idempotency_key="k")[1]


def test_accounts_on_two_shards_are_refused_before_anything_is_written() -> None:
    payer, payee = make_account("1", 100), make_account("2", 100, shard=1)
    with pytest.raises(TransferRefused, match="live on two shards") as caught:
        transfer(payer, payee, amount=10, idempotency_key="k")
    assert caught.value.refusal == Refusal.CROSS_SHARD
    assert (balance_of(payer), balance_of(payee)) == (100, 100)


@pytest.mark.parametrize(
    ("payee", "refusal"),
    [
        ({"status": "closed"}, Refusal.CLOSED_ACCOUNT),
        ({"currency": "EUR"}, Refusal.OTHER_CURRENCY),
    ],
)
def test_what_cannot_be_booked_is_refused(payee: dict[str, str], refusal: Refusal) -> None:
    payer = make_account("1", 100)
    with pytest.raises(TransferRefused) as caught:
        transfer(payer, make_account("2", **payee), amount=10, idempotency_key="k")
    assert caught.value.refusal == refusal
    assert balance_of(payer) == 100


def test_the_bank_s_own_accounts_pay_no_transfers() -> None:
    payee = make_account("1", 100)
    opening = find_account(f"opening-{payee._state.db}")
    with pytest.raises(TransferRefused, match="belongs to no customer"):
        transfer(opening, payee, amount=10, idempotency_key="k")
    with pytest.raises(TransferRefused, match="cannot pay itself"):
        transfer(payee, payee, amount=10, idempotency_key="k")


def test_an_account_is_found_on_whatever_shard_it_is() -> None:
    make_account("1")
    there = make_account("2", shard=len(shards()) - 1)
    found = find_account("2")
    assert (found, found._state.db) == (there, shards()[-1])
    with pytest.raises(TransferRefused, match="There is no account 3"):
        find_account("3")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: LedgerAccount.objects.using(a).filter(name="1").update(balance=-1),
        lambda a: LedgerAccount.objects.using(a).filter(name="1").update(balance=101),
        lambda a: QuerySet(Account, using=a).filter(number="1").update(customer=None),
        lambda a: Account.objects.using(a).filter(number="1").update(status="frozen"),
        lambda a: Account.objects.using(a).filter(number="1").update(bank_code="YZ"),
        lambda a: Account.objects.using(a).create(number="1", kind="clearing", bank_code="AB"),
        lambda a: Account.objects.using(a).bulk_create(
            Account(number=f"c{n}", kind="clearing", bank_code="AB") for n in range(2)
        ),
        lambda a: LedgerEntry.objects.using(a).update(amount=0),
        lambda a: Transfer.objects.using(a).update(amount=0),
        lambda a: Transfer.objects.using(a).update(amount=-5),
        lambda a: Transfer.objects.using(a).update(payer=F("payee")),
        lambda a: QuerySet(Customer, using=a).bulk_create([Customer(pk=-1, name="Minus")]),
    ],
    ids=[
        "overdrawn",
        "money out of nothing",
        "nobody's account",
        "unknown status",
        "a customer's account of another bank",
        "a number twice",
        "a bank's clearing account twice",
        "an entry of nothing",
        "a transfer of nothing",
        "a negative transfer",
        "a transfer to oneself",
        "a negative customer number",
    ],
)
def test_the_database_refuses_it_whatever_the_code_does(wrong: object) -> None:
    account = make_account("1", 100)
    alias = account._state.db
    transfer(account, make_account("2"), amount=1, idempotency_key="k")
    with pytest.raises(DatabaseError), transaction.atomic(using=alias):
        wrong(alias)  # type: ignore[operator]
