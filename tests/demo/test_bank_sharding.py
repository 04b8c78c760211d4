"""The bank's rows in ordinary Django code: each finds its customer's shard by itself."""

import datetime

import pytest
from django.db import DatabaseError

from dbpatterns.ledger.errors import InsufficientFunds
from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.sharding import shard_for, shards
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired, WrongShard
from demo.banking.books import prove_books
from demo.banking.importing import BankImport
from demo.banking.models import (
    Account,
    Customer,
    Entry,
    StandingOrder,
    StandingOrderExecution,
    Transfer,
)
from demo.banking.sample import sample_bank
from demo.banking.standing_orders import execute_due
from demo.banking.transfers import transfer
from tests.demo.api_support import Bank, customer_number_on, queries_by_database

pytestmark = pytest.mark.django_db(databases="__all__")
DAY = datetime.date(2026, 11, 26)


def people() -> list[Customer]:
    """A customer on each shard."""
    return [Customer.objects.create(pk=customer_number_on(alias), name=alias) for alias in shards()]


def test_a_customer_and_what_is_theirs_are_written_and_read_on_one_shard() -> None:
    for alias, customer in zip(shards(), people(), strict=True):
        one, two = (
            customer.accounts.create(number=f"{name} {alias}", balance=500) for name in ("a", "b")
        )
        order = customer.standing_orders.create(
            account=one, bank_code="YZ", payee_account="1", amount=10
        )
        made, _ = transfer(one, two, amount=100, idempotency_key="k")
        assert {each._state.db for each in (customer, one, two, order, made)} == {alias}
        with queries_by_database() as counted:
            assert set(Account.objects.filter(customer=customer)) == {one, two}
            assert Account.objects.get(customer_id=customer.pk, number=one.number).balance == 400
            assert list(Transfer.objects.filter(payer__customer=customer)) == [made]
            assert list(Customer.objects.filter(pk=customer.pk)) == [customer]
            assert sum(customer.entries.values_list("amount", flat=True)) == 1_000
        assert set(counted) == {alias}


def test_a_row_s_id_leads_to_its_shard() -> None:
    BankImport(sample_bank(30)).run()
    done = [each for batch in execute_due(DAY) for each in batch]
    assert done
    found = 0
    for model in (Transfer, StandingOrder, StandingOrderExecution):
        for alias in shards():
            for row in model.objects.using(alias):
                with queries_by_database() as counted:
                    assert model.objects.get(pk=row.pk) == row
                assert counted == {alias: 1}
                found += 1
    assert found > 100


def test_executions_and_entries_are_found_by_what_they_belong_to() -> None:
    BankImport(sample_bank(12)).run()
    list(execute_due(DAY))
    for alias in shards():
        for order in StandingOrder.objects.using(alias):
            with queries_by_database() as counted:
                assert StandingOrderExecution.objects.get(order=order).due_on == DAY
                assert order.executions.count() == 1
            assert counted == {alias: 2}
        for made in Transfer.objects.using(alias):
            with queries_by_database() as counted:
                assert Entry.objects.filter(transfer=made).count() == 2
            assert counted == {alias: 1}


def test_what_names_no_customer_is_refused_and_so_are_two_shards() -> None:
    one, *_, other = people()
    with pytest.raises(ShardKeyRequired, match=r"banking\.Account is sharded by 'customer_id'"):
        Account.objects.filter(number="1").first()
    with pytest.raises(CrossShardError, match="is about keys of 2 shards"):
        Account.objects.filter(customer__in=[one, other]).first()


def test_a_row_goes_to_no_shard_but_its_customer_s() -> None:
    """The harm: a plain model is written where the code says, and nobody looks for it there."""
    lost = customer_number_on(shards()[0])
    with pytest.raises(WrongShard, match=f"with key {lost} belongs on 'shard_0'"):
        Customer.objects.using(shards()[-1]).create(pk=lost, name="Lost")
    with pytest.raises(WrongShard):
        Account.objects.using(shards()[-1]).create(number="1", customer_id=lost, balance=100)
    for alias in shards():
        assert not LedgerAccount.objects.using(alias).exists()


def test_accounts_of_several_shards_are_opened_in_one_call_beside_their_ledgers() -> None:
    customers = people()
    Account.objects.bulk_create(Account(number=each.name, customer=each) for each in customers)
    for alias, customer in zip(shards(), customers, strict=True):
        opened = customer.accounts.select_related("ledger").get()
        assert (opened._state.db, opened.ledger._state.db, opened.number) == (alias,) * 3


def test_accounts_of_several_shards_are_opened_all_or_none() -> None:
    customers = people()
    customers[-1].accounts.create(number="taken")
    before = [LedgerAccount.objects.using(alias).count() for alias in shards()]
    with pytest.raises(DatabaseError):
        Account.objects.bulk_create(Account(number="taken", customer=each) for each in customers)
    assert [LedgerAccount.objects.using(alias).count() for alias in shards()] == before
    assert not customers[0].accounts.exists()


def test_an_account_whose_money_cannot_be_booked_is_not_opened() -> None:
    customer = people()[-1]
    with pytest.raises(InsufficientFunds):
        Account.objects.create(number="1", customer=customer, balance=-1)
    assert not customer.accounts.exists()
    assert not LedgerAccount.objects.using(shards()[-1]).filter(name="1").exists()


def test_one_customer_s_accounts_are_changed_without_saying_where() -> None:
    customer = people()[-1]
    account = Account.objects.create(number="1", customer=customer, balance=100)
    changed = Account.objects.filter(customer=customer).update(status="closed")
    assert changed == 1
    account.refresh_from_db()
    assert (account.status, account.ledger.closed_at is None) == ("closed", False)
    assert not [fault for proof in prove_books().values() for fault in proof.faults]
    assert shard_for(customer.pk) == account._state.db


@pytest.mark.usefixtures("api_no_throttles")
def test_staff_ask_one_shard_for_what_an_id_names(api_bank: Bank) -> None:
    staff, clearing = api_bank.client("staff"), f"clearing-AB-{api_bank.away}"
    here = Account.objects.using(api_bank.away).get(number=clearing)
    made = api_bank.transfers(api_bank.carol_account, here, 1)[0]
    order = api_bank.order(api_bank.carol_account)
    addresses = {f"/api/transfers/{made.pk}/": 200, f"/api/standing-orders/{order.pk}/": 200}
    addresses[f"/api/transfers/{order.pk}/"] = 404  # an id of that slot, and no transfer's
    for address, status in addresses.items():
        with queries_by_database() as counted:
            assert staff.get(address).status_code == status
        assert counted == {"default": 1, api_bank.away: 1}, address


@pytest.mark.usefixtures("api_no_throttles")
def test_the_payer_s_shard_is_asked_for_the_payee_first(api_bank: Bank) -> None:
    with queries_by_database() as counted:
        answer = api_bank.client("carol").post(
            "/api/transfers/",
            {"payer": "carol-1", "payee": f"resident-{api_bank.away}", "amount": "1.00"},
            format="json",
            headers={"Idempotency-Key": "k"},
        )
    assert answer.status_code == 201, answer.content
    assert set(counted) == {"default", api_bank.away}
