"""The bank's page: who sees whose money, and what a transfer form does, also when sent twice."""

import re
import uuid
from datetime import date
from typing import Any

import pytest
from django.test import Client

from dbpatterns.ledger import transfers as ledger
from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.services import resolve
from dbpatterns.sharding import shards
from dbpatterns.testing.ledger import unguarded_ledger
from demo.banking import standing_orders
from demo.banking.models import Account, StandingOrder, StandingOrderExecution, Transfer
from demo.banking.statements import StatementService
from demo.banking.transfers import transfer
from demo.users.models import User
from tests.demo.api_support import PASSWORD, Bank, queries_by_database
from tests.demo.bank_support import import_sample

pytestmark = pytest.mark.django_db(databases="__all__")


def logged_in(bank: Bank, name: str) -> Client:
    client = Client()
    client.force_login(bank.users[name])
    return client


def form(**fields: Any) -> dict[str, Any]:
    return {
        "once": str(uuid.uuid4()),
        "payer": "alice-1",
        "payee": "bob-1",
        "amount": "12.50",
        "memo": "Lunch",
        **fields,
    }


def text(client: Client, url: str = "/bank/") -> str:
    return client.get(url).content.decode()


def balances(bank: Bank) -> dict[str, int]:
    return {
        account.number: account.balance
        for alias in shards()
        for account in Account.objects.using(alias).filter(customer__isnull=False)
    }


def refusal(bank: Bank, **fields: Any) -> str:
    """Send a form that is refused; return the page, having checked that no money moved."""
    before = balances(bank)
    answer = logged_in(bank, "alice").post("/bank/", form(**fields))
    assert answer.status_code == 200
    assert balances(bank) == before
    page = answer.content.decode()
    assert "Nothing was sent." in page
    return page


# Who gets in


@pytest.mark.parametrize("method", ["get", "post"])
def test_anonymous_is_sent_to_log_in(client: Client, method: str) -> None:
    answer = getattr(client, method)("/bank/")
    assert (answer.status_code, answer["Location"]) == (302, "/login/?next=/bank/")


def test_logging_in_goes_on_to_the_page_that_was_asked(client: Client, api_bank: Bank) -> None:
    answer = client.post(
        "/login/?next=/blog/", {"username": "alice", "password": PASSWORD, "next": "/blog/"}
    )
    assert answer["Location"] == "/blog/"


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "javascript:x"])
def test_logging_in_never_goes_on_to_another_site(
    client: Client, api_bank: Bank, elsewhere: str
) -> None:
    sent = {"username": "alice", "password": PASSWORD, "next": elsewhere}
    assert client.post(f"/login/?next={elsewhere}", sent)["Location"] == "/bank/"


def test_a_wrong_password_is_told_on_the_form(client: Client, api_bank: Bank) -> None:
    answer = client.post("/login/", {"username": "alice", "password": "wrong"})
    assert "Please enter a correct username" in answer.content.decode()


def test_logging_out_takes_a_post(api_bank: Bank) -> None:
    client = logged_in(api_bank, "alice")
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/")["Location"] == "/"
    assert client.get("/bank/").status_code == 302


def test_who_is_neither_customer_nor_staff_is_told_so(api_bank: Bank) -> None:
    answer = logged_in(api_bank, "nobody").get("/bank/")
    assert answer.status_code == 403
    assert "You are not a customer" in answer.content.decode()


@pytest.mark.parametrize("name", ["staff", "nobody"])
def test_only_customers_send_money(api_bank: Bank, name: str) -> None:
    before = balances(api_bank)
    assert logged_in(api_bank, name).post("/bank/", form()).status_code == 405
    assert balances(api_bank) == before


def test_a_login_of_an_unknown_customer_is_told_so(client: Client) -> None:
    client.force_login(User.objects.create_user("ghost", customer_id=4_000_000))
    assert "whom the bank does not know" in text(client)


# What a customer sees


def test_a_customer_sees_their_own_money_and_nobody_elses(api_bank: Bank) -> None:
    transfer(api_bank.bob_account, api_bank.residents[0], amount=1, idempotency_key="k")
    page = text(logged_in(api_bank, "alice"))
    assert "1,000.00\xa0CZK" in page
    assert "alice-2" in page
    assert "bob" not in page
    assert "carol" not in page
    assert f"<strong>{api_bank.home}</strong>" in page


def pay(payer: Account, payee: Account, amount: int, memo: str = "") -> Transfer:
    made, _ = transfer(payer, payee, amount=amount, idempotency_key=str(uuid.uuid4()), memo=memo)
    return made


def test_transfers_are_shown_from_the_customers_side(api_bank: Bank) -> None:
    pay(api_bank.alice_account, api_bank.bob_account, 100)
    pay(api_bank.bob_account, api_bank.alice_account, 250, "For the tickets")
    page = text(logged_in(api_bank, "alice"))
    assert "To bob-1" in page
    assert "\u22121.00\xa0CZK" in page
    assert "From bob-1" in page
    assert "+2.50\xa0CZK" in page
    assert "For the tickets" in page
    assert "Balance set by the bank" in page


def test_each_line_says_what_was_on_the_account_then(api_bank: Bank) -> None:
    """The running balance, line by line; the last is what there is."""
    pay(api_bank.alice_account, api_bank.bob_account, 1_000)
    pay(api_bank.alice_account, api_bank.alice_savings, 500)
    pay(api_bank.bob_account, api_bank.alice_account, 20)
    lines = resolve(StatementService).read(api_bank.customers["alice"].pk).lines
    assert [(line.account, line.title, line.change, line.balance) for line in lines] == [
        ("alice-1", "From bob-1", 20, 98_520),
        ("alice-2", "From alice-1", 500, 500),
        ("alice-1", "To alice-2", -500, 98_500),
        ("alice-1", "To bob-1", -1_000, 99_000),
        ("alice-1", "Balance set by the bank", 100_000, 100_000),
    ]
    assert "985.20\xa0CZK" in text(logged_in(api_bank, "alice"))


def test_what_moved_no_money_is_on_no_statement(api_bank: Bank) -> None:
    api_bank.transfers(api_bank.bob_account, api_bank.alice_account, 1)
    assert "From bob-1" not in text(logged_in(api_bank, "alice"))


def test_the_banks_own_transfers_are_named_for_what_they_are() -> None:
    import_sample(20)
    for alias in shards():
        for order in StandingOrder.objects.using(alias):
            standing_orders.execute(order.pk, date(2026, 3, 1), using=alias)
    paid = Transfer.objects.using(shards()[0]).filter(kind="standing_order")[0]
    lines = resolve(StatementService).read(paid.customer_id).lines
    titles = {each.title for each in lines if each.account == paid.payer.number}
    assert {"Opening balance", f"Standing order to {paid.memo}"} <= titles


def test_a_standing_order_shows_what_became_of_it_last(api_bank: Bank) -> None:
    executions = StandingOrderExecution.objects.using(api_bank.home)
    assert "not yet due" in text(logged_in(api_bank, "alice"))
    for day, reason in ((1, "Too poor then."), (2, "Too poor now.")):
        executions.create(
            order=api_bank.alice_order, due_on=date(2026, 3, day), status="refused", reason=reason
        )
    page = text(logged_in(api_bank, "alice"))
    assert "Too poor now." in page
    assert "Too poor then." not in page


def test_a_list_that_misses_a_movement_says_so_and_one_that_does_not_stays_silent(
    api_bank: Bank,
) -> None:
    """Whoever books past the bank changes the balances above the list, but not the list."""
    page = text(logged_in(api_bank, "alice"))
    assert "not complete" not in page
    one, other = api_bank.alice_account, api_bank.bob_account
    ledger.transfer(one.ledger_id, other.ledger_id, 1_234, using=api_bank.home)
    for name in ("alice", "bob"):
        page = text(logged_in(api_bank, name))
        assert "<strong>This list is not complete.</strong>" in page
    assert "987.66\xa0CZK" in text(logged_in(api_bank, "alice"))


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_a_customers_page_costs_five_queries_on_their_shard_and_none_elsewhere(
    api_bank: Bank,
) -> None:
    client = logged_in(api_bank, "alice")
    text(client)  # which feeds the statement
    for round_ in range(2):
        (paid,) = api_bank.transfers(api_bank.alice_account, api_bank.bob_account, 1)
        order = api_bank.order(api_bank.account("alice", f"alice-more-{round_}", 0))
        StandingOrderExecution.objects.using(api_bank.home).create(
            order=order, due_on=date(2026, 3, 1), status="paid", transfer=paid
        )
        with queries_by_database() as queries:
            text(client)
        assert queries == {"default": 2, api_bank.home: 5}


# Sending money


def test_a_transfer_moves_money_and_redirects(api_bank: Bank) -> None:
    client = logged_in(api_bank, "alice")
    answer = client.post("/bank/", form())
    assert (answer.status_code, answer["Location"]) == (302, "/bank/")
    after = balances(api_bank)
    assert (after["alice-1"], after["bob-1"]) == (98_750, 101_250)
    page = text(client)
    assert "Sent 12.50\xa0CZK to account bob-1." in page
    assert "987.50\xa0CZK" in page
    assert "Lunch" in text(logged_in(api_bank, "bob"))


def test_the_same_form_sent_twice_moves_money_once(api_bank: Bank) -> None:
    client, sent = logged_in(api_bank, "alice"), form()
    client.post("/bank/", sent)
    answer = client.post("/bank/", sent, follow=True)
    assert "The form came twice; the money moved once." in answer.content.decode()
    assert balances(api_bank)["bob-1"] == 101_250


def test_each_page_has_a_form_that_pays_anew(api_bank: Bank) -> None:
    client = logged_in(api_bank, "alice")
    for _ in range(2):
        match = re.search(r'name="once" value="([^"]+)"', text(client))
        assert match is not None
        client.post("/bank/", form(once=match[1]))
    assert balances(api_bank)["bob-1"] == 102_500


def test_a_form_that_paid_and_was_changed_gets_a_new_token(api_bank: Bank) -> None:
    client, sent = logged_in(api_bank, "alice"), form()
    client.post("/bank/", sent)
    page = client.post("/bank/", {**sent, "amount": "1"}).content.decode()
    assert "This form has paid already" in page
    match = re.search(r'name="once" value="([^"]+)"', page)
    assert match is not None
    assert match[1] != sent["once"]
    assert balances(api_bank)["bob-1"] == 101_250


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"amount": "1000.01"}, "Account alice-1 has 1000.00 CZK, not 1000.01."),
        ({"payee": "nobody-1"}, "There is no account nobody-1."),
        ({"payee": "alice-1"}, "cannot pay itself"),
        ({"payee": "carol-1"}, "live on two shards"),
        ({"amount": "1,50"}, "is no amount: write digits, like 245.20."),
        ({"amount": "-5"}, "is negative"),
        ({"amount": "0.001"}, "over-precise"),
        ({"amount": ""}, "This field is required"),
        ({"payee": "a\x00b"}, "Null characters are not allowed"),
        ({"once": "not-a-uuid"}, "Nothing was sent."),
        ({"payer": "bob-1", "payee": "alice-1"}, "Select a valid choice"),
        ({"payer": "carol-1", "payee": "alice-1"}, "Select a valid choice"),
    ],
)
def test_a_refused_transfer_says_why_and_moves_nothing(
    api_bank: Bank, fields: dict[str, str], reason: str
) -> None:
    assert reason in refusal(api_bank, **fields)


@pytest.mark.parametrize("kind", ["clearing-AB-{}", "opening-{}"])
def test_the_banks_own_accounts_take_no_transfers(api_bank: Bank, kind: str) -> None:
    assert "takes no transfers" in refusal(api_bank, payee=kind.format(api_bank.home))


def test_a_closed_account_neither_pays_nor_is_paid(api_bank: Bank) -> None:
    for account in (api_bank.alice_savings, api_bank.bob_account):
        account.status = Account.Status.CLOSED
        account.save()
    assert "Select a valid choice" in refusal(api_bank, payer="alice-2")
    assert "Account bob-1 is closed" in refusal(api_bank)


def test_a_customer_without_an_open_account_gets_no_form(api_bank: Bank) -> None:
    api_bank.carol_account.status = Account.Status.CLOSED
    api_bank.carol_account.save()
    assert "It takes an open account." in text(logged_in(api_bank, "carol"))


def test_a_form_from_another_site_is_refused(api_bank: Bank) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(api_bank.users["alice"])
    before = balances(api_bank)
    answer = client.post("/bank/", form())
    assert answer.status_code == 403
    assert "This form has gone stale" in answer.content.decode()
    assert balances(api_bank) == before


def test_the_page_is_never_kept_by_a_cache(api_bank: Bank) -> None:
    assert "no-store" in logged_in(api_bank, "alice").get("/bank/")["Cache-Control"]


# What staff see


def test_staff_see_every_shard_and_faults_in_its_books(api_bank: Bank) -> None:
    account = api_bank.bob_account.ledger_id
    with unguarded_ledger(api_bank.home):
        LedgerAccount.objects.using(api_bank.home).filter(pk=account).update(balance=1)
    page = text(logged_in(api_bank, "staff"))
    assert all(f'<th scope="row">{alias}</th>' in page for alias in shards())
    assert f"account {account}: wrong balance, 1 instead of 100000." in page
    assert f"transfer {api_bank.alice_transfer.pk} of 1.00 is not in the ledger." in page


def test_staff_find_an_account_on_any_shard(api_bank: Bank) -> None:
    page = text(logged_in(api_bank, "staff"), "/bank/?q=carol-1")
    assert "Account carol-1" in page
    assert api_bank.away in page


def test_staff_find_a_customers_accounts_by_number(api_bank: Bank) -> None:
    number = api_bank.customers["alice"].pk
    page = text(logged_in(api_bank, "staff"), f"/bank/?q={number}")
    assert "Account alice-1" in page
    assert "Account alice-2" in page
    assert "Account bob-1" not in page


@pytest.mark.parametrize("asked", ["x", "%00", "9" * 30, "²", "-1"])
def test_staff_are_told_when_nothing_is_found(api_bank: Bank, asked: str) -> None:
    answer = logged_in(api_bank, "staff").get(f"/bank/?q={asked}")
    assert answer.status_code == 200
    assert "No account and no customer" in answer.content.decode()


def test_the_staff_page_costs_the_same_however_much_there_is(api_bank: Bank) -> None:
    client = logged_in(api_bank, "staff")
    for rounds in range(2):
        api_bank.account("alice", f"alice-more-{rounds}", 0)
        with queries_by_database() as queries:
            text(client, "/bank/?q=alice-1")
        assert queries == {"default": 2, **dict.fromkeys(shards(), 22)}
