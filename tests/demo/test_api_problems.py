"""Whatever goes wrong, the answer is one RFC 9457 document and never a stack trace."""

import json
import socket
from typing import Any

import pytest
from django.db import DataError, InterfaceError, OperationalError, connections
from django.http import HttpResponse
from pytest_django import Settings
from rest_framework.test import APIClient
from rest_framework.throttling import SimpleRateThrottle

from demo.api.parsers import MAX_BODY_BYTES
from tests.demo.api_support import PASSWORD, Bank

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.usefixtures("api_fresh_throttles"),
]

MEMBERS = {"type", "title", "status", "detail", "instance"}
JSON = "application/json"


def problem(answer: HttpResponse, status: int) -> dict[str, Any]:
    """Return the problem, proven to be one."""
    assert answer.status_code == status, answer.content
    assert answer.headers["Content-Type"] == "application/problem+json"
    members: dict[str, Any] = answer.json()
    assert members.keys() - {"errors"} == MEMBERS
    assert ("errors" in members) == (members["type"] == "/problems/invalid-values")
    assert members["status"] == status
    assert b"Traceback" not in answer.content
    return members


def post(bank: Bank, body: bytes | str, content_type: str = JSON, **headers: str) -> HttpResponse:
    """Send a raw body to /api/transfers/ as Alice."""
    return bank.client("alice").generic(
        "POST", "/api/transfers/", body, content_type, headers={"Idempotency-Key": "k", **headers}
    )


@pytest.mark.parametrize(
    "path",
    [
        "nothing/",
        "posts",
        "posts/a/b/",
        "posts/%00/",
        "posts/%ff/",
        "posts/%ED%A0%80/",
        "posts/%0A",
        "comments/99999999999999999999/",
        "comments/x/",
        "authors/%00/",
        "accounts/%00/",
        "transfers/1/",
        "transfers/------------------------------------/",
        "standing-orders/%F0%9F%92%A9/",
        "%0a%0d",
    ],
)
@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "options"])
def test_an_unknown_address_is_a_404_for_every_method(path: str, method: str) -> None:
    assert problem(getattr(APIClient(), method)(f"/api/{path}"), 404)["title"] == "Not Found"


def test_the_instance_is_the_escaped_path_without_the_query() -> None:
    answer = APIClient().get("/api/posts/ž ß/?secret=1")
    assert problem(answer, 404)["instance"] == "/api/posts/%C5%BE%20%C3%9F/"


def test_a_missing_row_is_a_404() -> None:
    problem(APIClient().get("/api/posts/no-such/"), 404)
    problem(APIClient().get("/api/comments/999999999999999999/"), 404)


def test_a_method_that_is_not_there_is_a_405_with_the_ones_that_are() -> None:
    answer = APIClient().delete("/api/posts/")
    problem(answer, 405)
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_an_answer_nobody_accepts_is_a_406() -> None:
    problem(APIClient().get("/api/posts/", headers={"Accept": "image/png"}), 406)


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", "", "nonsense"])
def test_a_body_of_another_type_is_a_415(api_bank: Bank, content_type: str) -> None:
    problem(post(api_bank, "{}", content_type), 415)


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "\0",
        b"\xff\xfe",
        b'{"memo": "\xed\xa0\x80"}',
        '{"amount": NaN}',
        '{"amount": -Infinity}',
        '{"amount": ' + "9" * 5_000 + "}",
        "[" * 30_000,
        '{"a":' * 10_000,
    ],
)
def test_a_body_that_is_no_json_is_a_400(api_bank: Bank, body: bytes | str) -> None:
    assert problem(post(api_bank, body), 400)["title"] == "Bad Request"


@pytest.mark.parametrize("body", ["", "[]", "null", '"x"', "1", "[" * 900 + "]" * 900])
def test_a_body_that_is_no_object_is_a_400(api_bank: Bank, body: str) -> None:
    assert problem(post(api_bank, body), 400)["errors"]


@pytest.mark.parametrize("field", ["payer", "payee", "amount", "memo"])
@pytest.mark.parametrize(
    "value",
    ["\0", "\ud800", 10**400, 1e308, [], {}, None, True, "x" * 200, ["\ud800"], "\x1b[2J"],
    ids=ascii,
)
def test_a_value_of_any_kind_in_any_field_never_fails(
    api_bank: Bank, field: str, value: Any
) -> None:
    body = {"payer": "alice-1", "payee": "alice-2", "amount": "1", "memo": "", field: value}
    answer = post(api_bank, json.dumps(body))
    assert answer.status_code in (201, 400, 422), answer.content
    if answer.status_code != 201:
        problem(answer, answer.status_code)


@pytest.mark.parametrize("member", ["\ud800", "\0", "a/b~c", ""])
def test_an_unknown_member_is_pointed_at(api_bank: Bank, member: str) -> None:
    errors = problem(post(api_bank, json.dumps({member: 1})), 400)["errors"]
    assert errors[0]["pointer"] == "#/" + member.replace("~", "~0").replace("/", "~1")


def test_every_wrong_value_is_pointed_at(api_bank: Bank) -> None:
    members = problem(post(api_bank, '{"payer": "", "amount": 1}'), 400)
    assert [error["pointer"] for error in members["errors"]] == ["#/payer", "#/payee", "#/amount"]
    assert members["detail"] == "3 of the values sent cannot be used; see errors."


def test_a_body_that_is_too_long_is_a_413(api_bank: Bank) -> None:
    spaces = " " * (MAX_BODY_BYTES - 2)
    assert problem(post(api_bank, "{}" + spaces), 400)["errors"]
    problem(post(api_bank, "{} " + spaces), 413)


@pytest.mark.parametrize("charset", ["zlib", "rot13", "idna", "utf-16", "nonsense", "base64"])
def test_the_character_set_of_a_body_never_fails(api_bank: Bank, charset: str) -> None:
    problem(post(api_bank, "{}", f"{JSON}; charset={charset}"), 400)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (
            "multipart/form-data; boundary=x; charset=zlib",
            '--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--x--',
        ),
        ("multipart/form-data", "x"),
        ("application/x-www-form-urlencoded; charset=zlib", "a=%ff"),
        ("application/x-www-form-urlencoded", "a&" * 1_500),
    ],
    ids=["multipart-charset", "multipart-boundary", "form-charset", "form-fields"],
)
def test_a_form_is_not_read_even_for_a_csrf_token(
    api_bank: Bank, content_type: str, body: str
) -> None:
    client = APIClient(enforce_csrf_checks=True)
    assert client.login(username="alice", password=PASSWORD)
    client.cookies["csrftoken"] = "a" * 32
    problem(client.generic("POST", "/api/transfers/", body, content_type), 415)


@pytest.mark.parametrize("query", ["%00", "%ff", "%ED%A0%80", "9" * 5_000, "a&" * 1_500, "=&=;"])
@pytest.mark.parametrize("path", ["posts", "comments", "authors", "accounts", "standing-orders"])
def test_a_query_of_any_kind_never_fails(api_bank: Bank, path: str, query: str) -> None:
    for name in ("cursor", "page_size", "search", "post", "account", "is_active", "format"):
        answer = api_bank.client("staff").get(f"/api/{path}/?{name}={query}")
        assert answer.status_code in (200, 400, 404), answer.content
        if answer.status_code != 200:
            problem(answer, answer.status_code)


@pytest.mark.parametrize("header", ["Token", "Token a b", "Token \xff", "Token a", "Token a\0b"])
def test_a_wrong_token_is_challenged(header: str) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=header)
    answer = client.get("/api/accounts/")
    assert answer.status_code in ((400, 401) if "\0" in header else (401,))
    problem(answer, answer.status_code)


def test_too_many_requests_are_a_429_with_the_time_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, "anon", "2/hour")
    answers = [APIClient().get("/api/posts/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    problem(answers[2], 429)
    assert 3_500 < int(answers[2].headers["Retry-After"]) <= 3_600


def test_the_schema_refuses_in_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, "anon", "0/hour")
    problem(APIClient().get("/api/schema/"), 429)
    problem(APIClient().get("/api/docs/"), 429)


def fail_with(alias: str, error: Exception) -> Any:
    def fail(*args: Any) -> None:
        raise error

    return connections[alias].execute_wrapper(fail)


@pytest.mark.parametrize(
    "error", [OperationalError("database is locked"), InterfaceError("connection already closed")]
)
def test_a_database_that_does_not_answer_is_a_503(api_bank: Bank, error: Exception) -> None:
    client = api_bank.client("alice")
    with fail_with(api_bank.home, error):
        answer = client.get("/api/accounts/")
    assert problem(answer, 503)["type"] == "/problems/database-unavailable"
    assert answer.headers["Retry-After"] == "1"
    assert str(error).encode() not in answer.content


def test_a_redis_that_does_not_answer_is_a_503(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        location = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    redis = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": location}
    settings.CACHES = {"default": redis}
    answer = APIClient().get("/api/posts/")
    assert problem(answer, 503)["type"] == "/problems/database-unavailable"


def test_a_value_the_database_cannot_hold_is_a_400(api_bank: Bank) -> None:
    client = api_bank.client("alice")
    with fail_with(api_bank.home, DataError("integer out of range")):
        problem(client.get("/api/accounts/"), 400)


@pytest.mark.parametrize("debug", [True, False])
def test_an_unexpected_error_is_a_500_that_tells_the_log_and_not_the_client(
    api_bank: Bank, debug: bool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DEBUG = debug
    client = api_bank.client("alice")
    client.raise_request_exception = False
    with fail_with(api_bank.home, RuntimeError("the secret reason")):
        answer = client.get("/api/accounts/")
    assert "secret" not in json.dumps(problem(answer, 500))
    (record,) = [record for record in caplog.records if record.name == "demo.api"]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the secret reason"


def test_an_unexpected_error_reaches_djangos_signal(api_bank: Bank) -> None:
    with (
        fail_with(api_bank.home, RuntimeError("reported")),
        pytest.raises(RuntimeError, match="reported"),  # the test client listens to the signal
    ):
        api_bank.client("alice").get("/api/accounts/")


# Tokens


def test_a_password_is_exchanged_for_a_token_that_works(api_bank: Bank) -> None:
    client = APIClient()
    body = {"username": "alice", "password": PASSWORD}
    answer = client.post("/api/token/", body, format="json")
    assert answer.status_code == 200
    client.credentials(HTTP_AUTHORIZATION=f"Token {answer.json()['token']}")
    assert client.get("/api/accounts/").status_code == 200
    assert client.post("/api/token/", body, format="json").json() == answer.json()


@pytest.mark.parametrize(
    "body",
    [
        {"username": "alice", "password": "wrong"},
        {"username": "no one", "password": PASSWORD},
        {"username": "alice\0", "password": PASSWORD},
        {"username": "alice", "password": "\0"},
        {"username": "alice"},
        {"username": "alice", "password": PASSWORD, "pin": "1"},
        {},
    ],
)
def test_wrong_credentials_are_a_400(api_bank: Bank, body: dict[str, str]) -> None:
    problem(APIClient().post("/api/token/", body, format="json"), 400)


def test_guessing_passwords_is_slowed_down(api_bank: Bank) -> None:
    body = {"username": "alice", "password": "guess"}
    answers = [APIClient().post("/api/token/", body, format="json") for _ in range(11)]
    assert [answer.status_code for answer in answers] == [400] * 10 + [429]
    assert int(answers[10].headers["Retry-After"]) > 0
