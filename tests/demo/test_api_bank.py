"""Who may see and do what in the bank, on which shards, and how lists are paged over shards."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from rest_framework.request import Request
from rest_framework.test import APIClient, APIRequestFactory

from dbpatterns.sharding import shards
from demo.api.paging import NewestFirst
from demo.api.reach import Reach
from demo.banking.models import Account, StandingOrder, Transfer
from tests.demo.api_support import Bank, pages, queries_by_database

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.usefixtures("api_fresh_throttles"),
]

ROLES = ("anonymous", "nobody", "alice", "bob", "carol", "staff")
#                          anonymous nobody alice bob carol staff
SEES_OWN = dict(zip(ROLES, (401, 403, 200, 200, 200, 200), strict=True))
ALICES = dict(zip(ROLES, (401, 403, 200, 404, 404, 200), strict=True))
PAYS_FROM_ALICES = dict(zip(ROLES, (401, 403, 201, 422, 422, 201), strict=True))
NO_SUCH_METHOD = dict(zip(ROLES, (401, 403, 405, 405, 405, 405), strict=True))
PUBLIC = dict.fromkeys(ROLES, 200)

TRANSFER = {"payer": "alice-1", "payee": "alice-2", "amount": "1.00", "memo": "me to me"}
ORDER = {"account": "alice-1", "bank_code": "AB", "payee_account": "7-42", "amount": "9.90"}
MATRIX: list[tuple[str, str, dict[str, str] | None, dict[str, int]]] = [
    ("get", "/api/", None, PUBLIC),
    ("get", "/api/posts/", None, PUBLIC),
    ("get", "/api/authors/", None, PUBLIC),
    ("get", "/api/comments/", None, PUBLIC),
    ("get", "/api/schema/", None, PUBLIC),
    ("get", "/api/docs/", None, PUBLIC),
    ("get", "/api/accounts/", None, SEES_OWN),
    ("post", "/api/accounts/", {}, NO_SUCH_METHOD),
    ("get", "/api/accounts/alice-1/", None, ALICES),
    ("patch", "/api/accounts/alice-1/", {}, NO_SUCH_METHOD),
    ("delete", "/api/accounts/alice-1/", None, NO_SUCH_METHOD),
    ("get", "/api/transfers/", None, SEES_OWN),
    ("post", "/api/transfers/", TRANSFER, PAYS_FROM_ALICES),
    ("get", "/api/transfers/{transfer}/", None, ALICES),
    ("patch", "/api/transfers/{transfer}/", {}, NO_SUCH_METHOD),
    ("delete", "/api/transfers/{transfer}/", None, NO_SUCH_METHOD),
    ("get", "/api/standing-orders/", None, SEES_OWN),
    ("post", "/api/standing-orders/", ORDER, PAYS_FROM_ALICES),
    ("get", "/api/standing-orders/{order}/", None, ALICES),
    ("patch", "/api/standing-orders/{order}/", {"amount": "1.00"}, ALICES),
    ("put", "/api/standing-orders/{order}/", {"amount": "1.00"}, NO_SUCH_METHOD),
    ("delete", "/api/standing-orders/{order}/", None, NO_SUCH_METHOD),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("method", "path", "body", "expected"), MATRIX, ids=[f"{row[0]} {row[1]}" for row in MATRIX]
)
def test_the_authorisation_matrix(
    api_bank: Bank,
    role: str,
    method: str,
    path: str,
    body: dict[str, str] | None,
    expected: dict[str, int],
) -> None:
    url = path.format(transfer=api_bank.alice_transfer.pk, order=api_bank.alice_order.pk)
    answer = getattr(api_bank.client(role), method)(
        url, body, format="json", headers={"Idempotency-Key": "k"}
    )
    assert answer.status_code == expected[role], answer.content
    if answer.status_code >= 400:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == expected[role]
    if answer.status_code in (404, 422):
        assert b"alice-2" not in answer.content


def test_a_refusal_leaves_no_trace(api_bank: Bank) -> None:
    api_bank.client("bob").post(
        "/api/transfers/", TRANSFER, format="json", headers={"Idempotency-Key": "k"}
    )
    assert Transfer.objects.using(api_bank.home).count() == 1
    api_bank.alice_account.refresh_from_db()
    assert api_bank.alice_account.balance == 100_000


def test_a_missing_login_is_challenged(api_bank: Bank) -> None:
    assert APIClient().get("/api/accounts/").headers["WWW-Authenticate"] == "Token"


def test_a_foreign_account_and_a_missing_one_look_alike(api_bank: Bank) -> None:
    bob = api_bank.client("bob")
    foreign, missing = bob.get("/api/accounts/alice-1/"), bob.get("/api/accounts/no-such/")
    assert foreign.json() | {"instance": ""} == missing.json() | {"instance": ""}
    answers = [
        bob.post(
            "/api/transfers/",
            {**TRANSFER, "payer": payer},
            format="json",
            headers={"Idempotency-Key": "k"},
        ).json()
        for payer in ("alice-1", "nosuch1")
    ]
    assert answers[0]["detail"].replace("alice-1", "nosuch1") == answers[1]["detail"]
    assert answers[0]["type"] == answers[1]["type"] == "/problems/unknown-account"


def numbers(bank: Bank, role: str, **query: str) -> list[str]:
    answer = bank.client(role).get("/api/accounts/", query)
    assert answer.status_code == 200, answer.content
    return [account["number"] for account in answer.json()["results"]]


def test_everyone_sees_their_own_accounts_and_staff_all(api_bank: Bank) -> None:
    assert numbers(api_bank, "alice") == ["alice-1", "alice-2"]
    assert numbers(api_bank, "carol") == ["carol-1"]
    customers_accounts = numbers(api_bank, "staff", kind="customer")
    residents = [account.number for account in api_bank.residents]
    assert customers_accounts == [*residents, "alice-1", "alice-2", "bob-1", "carol-1"]
    assert len(numbers(api_bank, "staff")) == 4 + 3 * len(shards())


def test_a_customer_without_rows_sees_an_empty_list(api_bank: Bank) -> None:
    for path in ("transfers", "standing-orders"):
        answer = api_bank.client("carol").get(f"/api/{path}/")
        assert answer.json() == {"next": None, "previous": None, "results": []}


def test_an_account_shows_money_as_a_string(api_bank: Bank) -> None:
    assert api_bank.client("alice").get("/api/accounts/alice-1/").json() == {
        "number": "alice-1",
        "kind": "customer",
        "customer": api_bank.customers["alice"].pk,
        "currency": "CZK",
        "balance": "1000.00",
        "status": "open",
        "opened_on": None,
    }


def test_a_transfer_is_seen_by_both_of_its_customers(api_bank: Bank) -> None:
    sent = api_bank.transfers(api_bank.bob_account, api_bank.alice_savings, 1)[0]
    for name in ("alice", "bob"):
        shown = api_bank.client(name).get(f"/api/transfers/{sent.pk}/").json()
        assert (shown["payer"], shown["payee"], shown["amount"]) == ("bob-1", "alice-2", "1.00")


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("accounts", {"status": "closed"}, 1),
        ("accounts", {"status": "open"}, 2),
        ("accounts", {"kind": "clearing"}, 0),
        ("transfers", {"account": "bob-1"}, 1),
        ("transfers", {"account": "alice-2"}, 2),
        ("transfers", {"kind": "transfer"}, 2),
        ("transfers", {"kind": "opening"}, 0),
        ("transfers", {"created_after": "2020-01-01T00:00:00Z"}, 2),
        ("transfers", {"created_before": "2020-01-01T00:00:00Z"}, 0),
        ("standing-orders", {"is_active": "true"}, 1),
        ("standing-orders", {"is_active": "false"}, 1),
        ("standing-orders", {"account": "alice-2"}, 1),
        ("standing-orders", {"account": "bob-1"}, 0),
    ],
)
def test_lists_can_be_filtered(
    api_bank: Bank, path: str, query: dict[str, str], expected: int
) -> None:
    api_bank.account("alice", "alice-3", 0, status=Account.Status.CLOSED)
    api_bank.transfers(api_bank.bob_account, api_bank.alice_savings, 1)
    api_bank.order(api_bank.alice_savings, is_active=False)
    answer = api_bank.client("alice").get(f"/api/{path}/", query)
    assert len(answer.json()["results"]) == expected, answer.content


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("accounts", {"status": "ajar"}),
        ("accounts", {"kind": "opening\0"}),
        ("transfers", {"created_after": "0001-01-01T00:00:00+14:00"}),
        ("transfers", {"account": "\0"}),
        ("standing-orders", {"account": "x" * 201}),
    ],
)
@pytest.mark.parametrize("role", ["alice", "staff"])
def test_a_filter_that_makes_no_sense_is_named(
    api_bank: Bank, role: str, path: str, query: dict[str, str]
) -> None:
    answer = api_bank.client(role).get(f"/api/{path}/", query)
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{next(iter(query))}"]


# Standing orders


def test_a_standing_order_is_made_active(api_bank: Bank) -> None:
    answer = api_bank.client("alice").post("/api/standing-orders/", ORDER, format="json")
    made = StandingOrder.objects.using(api_bank.home).get(pk=answer.json()["id"])
    assert answer.json() == {
        "id": str(made.pk),
        "order_number": None,
        "account": "alice-1",
        "bank_code": "AB",
        "payee_account": "7-42",
        "amount": "9.90",
        "currency": "CZK",
        "category": "",
        "is_active": True,
    }
    assert (made.amount, made.customer_id) == (990, api_bank.customers["alice"].pk)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"bank_code": "ZZ"}, "#/bank_code"),
        ({"payee_account": "1; DROP"}, "#/payee_account"),
        ({"amount": "0"}, "#/amount"),
        ({"order_number": 7}, "#/order_number"),
        ({"category": "x" * 21}, "#/category"),
    ],
)
def test_a_wrong_standing_order_is_refused(
    api_bank: Bank, change: dict[str, str], pointer: str
) -> None:
    answer = api_bank.client("alice").post("/api/standing-orders/", ORDER | change, format="json")
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert StandingOrder.objects.using(api_bank.home).count() == 1


def test_no_standing_order_on_a_closed_account(api_bank: Bank) -> None:
    api_bank.account("alice", "alice-3", 0, status=Account.Status.CLOSED)
    answer = api_bank.client("alice").post(
        "/api/standing-orders/", ORDER | {"account": "alice-3"}, format="json"
    )
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/closed-account")


def test_a_standing_order_can_be_changed_and_ended(api_bank: Bank) -> None:
    url = f"/api/standing-orders/{api_bank.alice_order.pk}/"
    answer = api_bank.client("alice").patch(
        url, {"amount": "7.5", "category": "rent", "is_active": False}, format="json"
    )
    assert answer.json()["amount"] == "7.50"
    api_bank.alice_order.refresh_from_db()
    assert (api_bank.alice_order.amount, api_bank.alice_order.category) == (750, "rent")
    assert api_bank.alice_order.is_active is False


def test_only_what_was_sent_is_written(api_bank: Bank) -> None:
    order, home = api_bank.alice_order, connections[api_bank.home]

    def change_meanwhile(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        if sql.startswith("UPDATE") and "category" not in sql:
            with home.cursor() as cursor:
                cursor.execute("UPDATE banking_standingorder SET category = 'meanwhile'")
        return execute(sql, params, many, context)

    with home.execute_wrapper(change_meanwhile):
        api_bank.client("alice").patch(
            f"/api/standing-orders/{order.pk}/", {"amount": "7.50"}, format="json"
        )
    order.refresh_from_db()
    assert (order.amount, order.category) == (750, "meanwhile")


@pytest.mark.parametrize("field", ["account", "payee_account", "bank_code", "id", "nonsense"])
def test_what_cannot_be_changed_is_refused_by_name(api_bank: Bank, field: str) -> None:
    answer = api_bank.client("alice").patch(
        f"/api/standing-orders/{api_bank.alice_order.pk}/", {field: "x"}, format="json"
    )
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == f"#/{field}"


# Shards


def test_a_customer_is_served_by_their_own_shard_alone(api_bank: Bank) -> None:
    for name, alias in (("alice", api_bank.home), ("carol", api_bank.away)):
        client = api_bank.client(name)
        for path in ("accounts", "transfers", "standing-orders"):
            with queries_by_database() as counted:
                client.get(f"/api/{path}/")
            assert counted == {"default": 1, alias: 1}, path


def test_staff_ask_each_shard_once_a_page(api_bank: Bank) -> None:
    staff = api_bank.client("staff")
    api_bank.transfers(api_bank.bob_account, api_bank.alice_account, 9)
    for path in ("accounts", "transfers", "standing-orders"):
        for size in (1, 100):
            with queries_by_database() as counted:
                staff.get(f"/api/{path}/?page_size={size}")
            assert counted == {"default": 1} | dict.fromkeys(shards(), 1), path


def test_a_customer_number_of_nobody_reaches_nothing(api_bank: Bank) -> None:
    reach = Reach(10**9, shards())
    assert list(reach.accounts()) == []


def over_all_shards(bank: Bank, rows: int) -> list[str]:
    """Write transfers to one shard after the other; return their ids, oldest first."""
    made = []
    for position in range(rows):
        resident = bank.residents[position % len(bank.residents)]
        clearing = Account.objects.using(resident._state.db).get(kind=Account.Kind.CLEARING)
        made += [str(each.pk) for each in bank.transfers(resident, clearing, 1)]
    return made


def test_all_pages_hold_every_row_once_in_order(api_bank: Bank) -> None:
    made = over_all_shards(api_bank, 11)
    walk = list(pages(api_bank.client("staff"), "/api/transfers/?page_size=3"))
    assert [len(page) for page in walk] == [3, 3, 3, 3]
    listed = [row["id"] for page in walk for row in page]
    assert listed == [*reversed(made), str(api_bank.alice_transfer.pk)]


def test_a_customer_walks_the_pages_of_one_shard(api_bank: Bank) -> None:
    made = [row.pk for row in api_bank.transfers(api_bank.alice_account, api_bank.bob_account, 5)]
    walk = list(pages(api_bank.client("alice"), "/api/transfers/?page_size=2"))
    assert [len(page) for page in walk] == [2, 2, 2]
    listed = [row["id"] for page in walk for row in page]
    assert listed == [str(pk) for pk in (*reversed(made), api_bank.alice_transfer.pk)]


def test_rows_written_during_the_walk_neither_repeat_nor_hide_others(api_bank: Bank) -> None:
    made = over_all_shards(api_bank, 11)
    listed = []
    for page in pages(api_bank.client("staff"), "/api/transfers/?page_size=3"):
        listed += [row["id"] for row in page]
        over_all_shards(api_bank, 2 * len(shards()))
    assert listed == [*reversed(made), str(api_bank.alice_transfer.pk)]


def test_accounts_opened_during_the_walk_come_at_its_end(api_bank: Bank) -> None:
    before = numbers(api_bank, "staff")
    listed: list[str] = []
    for page in pages(api_bank.client("staff"), "/api/accounts/?page_size=4"):
        listed += [row["number"] for row in page]
        if len(listed) == 4:
            api_bank.account("alice", "alice-late", 0)
            api_bank.account("carol", "carol-late", 0)
    assert listed == [*before, "alice-late", "carol-late"]


def test_the_previous_links_lead_back_over_the_same_pages(api_bank: Bank) -> None:
    over_all_shards(api_bank, 10)
    staff = api_bank.client("staff")
    forth = list(pages(staff, "/api/transfers/?page_size=4"))
    url = "/api/transfers/?page_size=4"
    while following := staff.get(url).json()["next"]:
        url = following
    back = list(pages(staff, url, "previous"))
    assert [row["id"] for page in reversed(back) for row in page] == [
        row["id"] for page in forth for row in page
    ]
    assert [len(page) for page in back] == [3, 4, 4]


@pytest.mark.parametrize("path", ["accounts", "transfers", "standing-orders"])
@pytest.mark.parametrize(
    "cursor",
    ["", "x", "!!!!", "\0", "é", "AAAA", "A" * 24, f"{'A' * 23}=", "Pg==", "x" * 5_000, "PgAAAA=="],
)
def test_a_forged_cursor_is_a_404_problem(api_bank: Bank, path: str, cursor: str) -> None:
    answer = api_bank.client("alice").get(f"/api/{path}/", {"cursor": cursor})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Invalid cursor"


def test_one_queryset_is_paged_as_all_shards_are(api_bank: Bank) -> None:
    rows = Account.objects.using(api_bank.home)
    request = Request(APIRequestFactory().get("/", {"page_size": "1"}))
    pagination = NewestFirst()
    assert pagination.paginate_queryset(rows, request) == [rows.latest("pk")]
    assert pagination.get_next_link() is not None


def test_a_cursor_of_staff_shows_a_customer_nothing_more(api_bank: Bank) -> None:
    over_all_shards(api_bank, 6)
    link = api_bank.client("staff").get("/api/transfers/?page_size=2").json()["next"]
    listed = [row["id"] for page in pages(api_bank.client("alice"), link) for row in page]
    assert listed == [str(api_bank.alice_transfer.pk)]


@pytest.mark.parametrize("path", ["accounts", "transfers", "standing-orders"])
def test_many_rows_cost_as_many_queries_as_one(api_bank: Bank, path: str) -> None:
    alice = api_bank.client("alice")
    with queries_by_database() as one:
        alice.get(f"/api/{path}/")
    for position in range(12):
        account = api_bank.account("alice", f"more-{position}", 0)
        api_bank.transfers(api_bank.alice_account, account, 1)
        api_bank.order(account)
    with queries_by_database() as many:
        assert len(alice.get(f"/api/{path}/").json()["results"]) > 12
    assert many == one
