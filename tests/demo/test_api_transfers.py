"""POST /api/transfers/: once per Idempotency-Key, refusals that say why, money as strings."""

import datetime
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections, transaction
from django.http import HttpResponse
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from rest_framework.throttling import SimpleRateThrottle

from dbpatterns.idempotency.models import IdempotencyKey
from dbpatterns.ledger import models as ledger
from dbpatterns.sharding import shards
from demo.banking.models import Account, Entry, StandingOrderExecution, Transfer
from demo.banking.standing_orders import execute_due
from tests.demo.api_support import PASSWORD, Bank, queries_by_database
from tests.http import Answer, post
from tests.processes import locks_waited_for, until

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.usefixtures("api_fresh_throttles"),
]

BODY = {"payer": "alice-1", "payee": "bob-1", "amount": "245.20", "memo": "lunch"}


def pay(bank: Bank, role: str = "alice", key: str | None = "key-1", **change: Any) -> HttpResponse:
    """Send BODY with some members changed."""
    headers = {} if key is None else {"Idempotency-Key": key}
    client = bank.client(role)
    return client.post("/api/transfers/", {**BODY, **change}, format="json", headers=headers)


def balances(bank: Bank) -> tuple[int, int]:
    bank.alice_account.refresh_from_db()
    bank.bob_account.refresh_from_db()
    return bank.alice_account.balance, bank.bob_account.balance


def test_a_new_transfer_moves_money_and_says_where_it_is(api_bank: Bank) -> None:
    answer = pay(api_bank)
    shown = answer.json()
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers
    assert balances(api_bank) == (100_000 - 24_520, 100_000 + 24_520)
    assert {name: shown[name] for name in BODY} == BODY
    assert (shown["kind"], shown["currency"]) == ("transfer", "CZK")
    assert answer.headers["Location"] == f"http://testserver/api/transfers/{shown['id']}/"
    assert api_bank.client("alice").get(answer.headers["Location"]).json() == shown
    booked = Entry.objects.using(api_bank.home).filter(transfer=shown["id"])
    assert sorted(booked.values_list("amount", flat=True)) == [-24_520, 24_520]


def test_the_same_key_and_body_again_returns_the_first_transfer(api_bank: Bank) -> None:
    first, second = pay(api_bank), pay(api_bank, amount="245.2")
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.content == first.content
    assert second.headers["Idempotency-Replayed"] == "true"
    assert balances(api_bank) == (75_480, 124_520)


@pytest.mark.parametrize(
    "change", [{"amount": "1"}, {"payee": "alice-2"}, {"memo": ""}, {"payer": "alice-2"}]
)
def test_the_same_key_for_another_transfer_is_refused(
    api_bank: Bank, change: dict[str, str]
) -> None:
    pay(api_bank)
    answer = pay(api_bank, **change)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/idempotency-key-reused"
    assert balances(api_bank) == (75_480, 124_520)


def test_two_customers_may_use_the_same_key(api_bank: Bank) -> None:
    assert pay(api_bank).status_code == 201
    assert pay(api_bank, "bob", payer="bob-1", payee="alice-1").status_code == 201


def test_a_key_of_staff_is_refused_for_another_payer(api_bank: Bank) -> None:
    assert pay(api_bank, "staff").status_code == 201
    again = pay(api_bank, "staff")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    elsewhere = {"payer": "carol-1", "payee": api_bank.residents[-1].number}
    for change in ({"payer": "bob-1", "payee": "alice-1"}, elsewhere, {"amount": "1"}):
        answer = pay(api_bank, "staff", **change)
        assert answer.status_code == 422
        assert answer.json()["type"] == "/problems/idempotency-key-reused"
    assert balances(api_bank) == (75_480, 124_520)
    assert pay(api_bank, "staff", key="2", **elsewhere).status_code == 201
    assert pay(api_bank, "staff", key="2").status_code == 422


def test_a_refused_key_of_staff_is_free_for_another_payer(api_bank: Bank) -> None:
    assert pay(api_bank, "staff", amount="1000.01").status_code == 422
    assert pay(api_bank, "staff", payer="bob-1", payee="alice-1").status_code == 201


def test_a_key_of_staff_that_was_forgotten_moves_nothing_again(api_bank: Bank) -> None:
    first = pay(api_bank, "staff")
    for alias in shards():
        IdempotencyKey.objects.using(alias).all().delete()
    again = pay(api_bank, "staff")
    assert (again.status_code, again.content) == (200, first.content)
    assert balances(api_bank) == (75_480, 124_520)


@pytest.mark.parametrize("key", [None, "", "a b", "x" * 101, "käse", "tab\there", "nul\0"])
def test_a_key_that_is_none_is_refused(api_bank: Bank, key: str | None) -> None:
    answer = pay(api_bank, key=key)
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/idempotency-key-missing"
    assert balances(api_bank) == (100_000, 100_000)


@pytest.mark.parametrize("key", ["x", "~" * 100, '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
def test_a_key_may_be_any_visible_ascii(api_bank: Bank, key: str) -> None:
    assert pay(api_bank, key=key).status_code == 201


# fmt: off
NO_AMOUNTS = [
    245.2, 245, -1, 0, True, None, [], {}, "", "-1", "0", "0.00", "1.001", "1e3", "NaN", "1,5",
    "\u0661", " ", "Infinity", "10000000000000.01", "9" * 39, "9" * 4301, "x" * 4301, "\0", "1\n2",
]
# fmt: on


@pytest.mark.parametrize(
    "amount",
    NO_AMOUNTS,
    ids=[f"{position}-{each!a:.12}" for position, each in enumerate(NO_AMOUNTS)],
)
def test_an_amount_that_is_none_is_refused(api_bank: Bank, amount: Any) -> None:
    answer = pay(api_bank, amount=amount)
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == ["#/amount"]
    assert len(answer.content) < 500  # it does not repeat whatever it is sent
    assert balances(api_bank) == (100_000, 100_000)


def test_a_json_number_is_told_how_to_write_it(api_bank: Bank) -> None:
    errors = pay(api_bank, amount=245.2).json()["errors"]
    assert 'as a string, like "245.20"' in errors[0]["detail"]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"amount": "1000.01"}, "insufficient-funds"),
        ({"payee": "nobodys"}, "unknown-account"),
        ({"payer": "nobodys"}, "unknown-account"),
        ({"payer": "bob-1", "payee": "alice-1"}, "unknown-account"),
        ({"payee": "alice-1"}, "same-account"),
        ({"payee": "carol-1"}, "cross-shard"),
        ({"payee": "alice-closed"}, "closed-account"),
        ({"payee": "alice-euro"}, "other-currency"),
        ({"payee": "opening-{home}"}, "not-a-customer-account"),
        ({"payee": "clearing-AB-{home}"}, "not-a-customer-account"),
        ({"payer": "clearing-AB-{home}"}, "unknown-account"),
        ({"payer": "opening-{home}"}, "unknown-account"),
    ],
)
def test_a_refusal_says_why_to_a_program(
    api_bank: Bank, change: dict[str, str], refusal: str
) -> None:
    api_bank.account("alice", "alice-closed", 0, status=Account.Status.CLOSED)
    api_bank.account("alice", "alice-euro", 0, currency="EUR")
    answer = pay(
        api_bank, **{name: value.format(home=api_bank.home) for name, value in change.items()}
    )
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, f"/problems/{refusal}")
    assert problem["title"] == refusal.replace("-", " ").capitalize()
    assert balances(api_bank) == (100_000, 100_000)


def test_a_refusal_says_why_to_a_person(api_bank: Bank) -> None:
    problem = pay(api_bank, payee="carol-1").json()
    assert "live on two shards" in problem["detail"]
    assert "no money moved" in problem["detail"]


def test_a_refused_key_may_be_tried_again(api_bank: Bank) -> None:
    assert pay(api_bank, amount="1000.01").status_code == 422
    assert pay(api_bank).status_code == 201


def test_staff_move_money_between_any_customers_accounts(api_bank: Bank) -> None:
    assert pay(api_bank, "staff", payer="bob-1", payee="alice-1").status_code == 201
    assert pay(api_bank, "staff", key="2", payee=f"clearing-AB-{api_bank.home}").status_code == 201


@pytest.mark.parametrize("role", ["alice", "staff"])
def test_nobody_pays_into_the_opening_account(api_bank: Bank, role: str) -> None:
    answer = pay(api_bank, role, payee=f"opening-{api_bank.home}")
    assert answer.json()["type"] == "/problems/not-a-customer-account"


def test_staff_take_no_money_out_of_the_banks_own_accounts(api_bank: Bank) -> None:
    answer = pay(api_bank, "staff", payer=f"clearing-AB-{api_bank.home}")
    assert answer.json()["type"] == "/problems/unknown-account"


def test_a_misspelt_member_is_refused(api_bank: Bank) -> None:
    answer = pay(api_bank, mmeo="?")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "#/mmeo"


def test_a_memo_may_be_left_out(api_bank: Bank) -> None:
    body = {name: value for name, value in BODY.items() if name != "memo"}
    answer = api_bank.client("alice").post(
        "/api/transfers/", body, format="json", headers={"Idempotency-Key": "k"}
    )
    assert answer.json()["memo"] == ""


def test_a_transfer_asks_the_payers_shard_alone(api_bank: Bank) -> None:
    """Two accounts found; five statements, and the transaction's start and end.

    On SQLite the ledger's function is eight statements to a file beside us, seven more.
    """
    client = api_bank.client("carol")
    body = {**BODY, "payer": "carol-1", "payee": api_bank.residents[-1].number}
    with queries_by_database() as counted:
        client.post("/api/transfers/", body, format="json", headers={"Idempotency-Key": "k"})
    more = 7 if connections[api_bank.away].vendor == "sqlite" else 0
    assert counted == {"default": 1, api_bank.away: 2 + 5 + more + 2}


def test_a_replay_only_reads(api_bank: Bank) -> None:
    """Two accounts found; both locked, the key found, and the transaction's start and end."""
    pay(api_bank)
    with queries_by_database() as counted:
        pay(api_bank)
    assert counted == {"default": 2, api_bank.home: 2 + 2 + 2}  # the client reads its token, too


def test_a_payee_elsewhere_costs_one_query_a_shard(api_bank: Bank) -> None:
    client = api_bank.client("alice")
    with queries_by_database() as counted:
        client.post(
            "/api/transfers/",
            {**BODY, "payee": "nobodys"},
            format="json",
            headers={"Idempotency-Key": "k"},
        )
    assert counted == {"default": 1} | dict.fromkeys(shards(), 1) | {api_bank.home: 2}


def test_a_session_needs_the_csrf_token_to_move_money(api_bank: Bank) -> None:
    client = APIClient(enforce_csrf_checks=True)
    assert client.login(username="alice", password=PASSWORD)
    refused = client.post(
        "/api/transfers/", BODY, format="json", headers={"Idempotency-Key": "key-1"}
    )
    assert (refused.status_code, refused.headers["Content-Type"]) == (
        403,
        "application/problem+json",
    )
    assert refused.json()["detail"].startswith("CSRF Failed")
    assert balances(api_bank) == (100_000, 100_000)
    token = "a" * 32
    client.cookies["csrftoken"] = token
    accepted = client.post(
        "/api/transfers/",
        BODY,
        format="json",
        headers={"Idempotency-Key": "key-1", "X-CSRFToken": token},
    )
    assert accepted.status_code == 201


def test_moving_money_has_a_tighter_rate_than_looking(
    api_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, "transfer", "1/hour")
    assert [pay(api_bank).status_code for _ in range(2)] == [201, 429]
    assert api_bank.client("alice").get("/api/transfers/").status_code == 200
    assert pay(api_bank, "bob", payer="bob-1", payee="alice-1").status_code == 201


def race(bank: Bank, bodies: list[dict[str, str]], key: str) -> list[HttpResponse]:
    """Post all bodies at the same moment, each over connections of its own."""
    barrier = threading.Barrier(len(bodies))
    clients = [bank.client("alice") for _ in bodies]

    def post(position: int) -> HttpResponse:
        try:
            barrier.wait(timeout=30)
            return clients[position].post(
                "/api/transfers/", bodies[position], format="json", headers={"Idempotency-Key": key}
            )
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(post, range(len(bodies))))


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_parallel_posts_with_one_key_move_money_once(api_bank: Bank) -> None:
    answers = race(api_bank, [BODY] * 8, "key-1")
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 7}
    assert len({answer.content for answer in answers}) == 1
    assert balances(api_bank) == (75_480, 124_520)
    assert Transfer.objects.using(api_bank.home).filter(idempotency_key="key-1").count() == 1


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_parallel_posts_with_one_key_from_two_accounts_move_money_once(api_bank: Bank) -> None:
    Account.objects.using(api_bank.home).filter(number="alice-2").update(balance=100_000)
    bodies = [BODY, {**BODY, "payer": "alice-2"}] * 3
    answers = race(api_bank, bodies, "key-1")
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 2, 422: 3}
    assert Transfer.objects.using(api_bank.home).filter(idempotency_key="key-1").count() == 1


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_parallel_posts_with_keys_of_their_own_never_overdraw(api_bank: Bank) -> None:
    barrier = threading.Barrier(6)
    clients = [api_bank.client("alice") for _ in range(6)]

    def post(position: int) -> int:
        try:
            barrier.wait(timeout=30)
            return (
                clients[position]
                .post(
                    "/api/transfers/",
                    {**BODY, "amount": "300"},
                    format="json",
                    headers={"Idempotency-Key": f"key-{position}"},
                )
                .status_code
            )
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        statuses = Counter(pool.map(post, range(6)))
    assert statuses == {201: 3, 422: 3}
    assert balances(api_bank) == (10_000, 190_000)


@pytest.mark.postgresql  # where the wait can be seen
@pytest.mark.django_db(transaction=True, databases="__all__")
def test_a_request_waits_for_the_one_that_is_running(api_bank: Bank, live_server: Any) -> None:
    token = Token.objects.create(user=api_bank.users["alice"])
    headers = {"Idempotency-Key": "key-1", "Authorization": f"Token {token.key}"}
    home = api_bank.home
    with ThreadPoolExecutor(2) as pool:

        def send() -> Future[Answer]:
            return pool.submit(post, f"{live_server.url}/api/transfers/", BODY, headers)

        with transaction.atomic(using=home):
            booked = ledger.Account.objects.using(home).select_for_update()
            assert booked.get(pk=api_bank.alice_account.ledger_id)
            first = send()  # has the key, and waits for its account
            until(lambda: locks_waited_for(home) == 1)
            second = send()
            until(lambda: locks_waited_for(home) == 2)
            assert [first.done(), second.done()] == [False, False]
        answers = [first.result(timeout=60), second.result(timeout=60)]
    assert [each.status for each in answers] == [201, 200]
    assert answers[0].content == answers[1].content
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert balances(api_bank) == (75_480, 124_520)


@pytest.mark.django_db(databases="__all__", transaction=True)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_customer_s_key_never_meets_a_standing_order_s(api_bank: Bank, is_first: bool) -> None:
    api_bank.order(api_bank.bob_account)  # in one batch with Alice's
    day = datetime.date(2026, 12, 1)
    key = f"order:{api_bank.alice_order.pk}:{day}"
    if is_first:
        assert pay(api_bank, key=key).status_code == 201
    list(execute_due(day))
    if not is_first:
        assert pay(api_bank, key=key).status_code == 201
    done = StandingOrderExecution.objects.using(api_bank.home).values_list("status", flat=True)
    assert list(done) == ["paid"] * 2
