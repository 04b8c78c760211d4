"""The OpenAPI document: valid, complete, and what the API really does."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from django.core.management import call_command
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings
from rest_framework.authtoken.models import Token
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from demo.blog.models import Author, Comment, Post
from demo.wsgi import application
from tests.demo.api_support import PASSWORD, Bank

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """The document as `manage.py spectacular` writes it."""
    file = tmp_path / "schema.yml"
    call_command("spectacular", validate=True, fail_on_warn=True, file=str(file))
    written: dict[str, Any] = yaml.safe_load(file.read_text())
    return written


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_schema_is_valid_and_lists_every_operation(document: dict[str, Any]) -> None:
    assert sorted(operations(document)) == [
        "GET /api/accounts/",
        "GET /api/accounts/{number}/",
        "GET /api/authors/",
        "GET /api/authors/{login}/",
        "GET /api/comments/",
        "GET /api/comments/{id}/",
        "GET /api/posts/",
        "GET /api/posts/search/",
        "GET /api/posts/{slug}/",
        "GET /api/standing-orders/",
        "GET /api/standing-orders/{id}/",
        "GET /api/transfers/",
        "GET /api/transfers/{id}/",
        "PATCH /api/standing-orders/{id}/",
        "POST /api/standing-orders/",
        "POST /api/token/",
        "POST /api/transfers/",
    ]


def test_every_error_is_declared_as_a_problem(document: dict[str, Any]) -> None:
    for response in document["components"]["responses"].values():
        assert list(response["content"]) == ["application/problem+json"]
    for name, operation in operations(document).items():
        errors = {status for status in operation["responses"] if status >= "400"}
        assert {"400", "429", "503"} <= errors, name
        assert all("$ref" in operation["responses"][status] for status in errors), name


def test_transfers_declare_the_idempotency_key_and_both_outcomes(document: dict[str, Any]) -> None:
    post = operations(document)["POST /api/transfers/"]
    (key,) = [each for each in post["parameters"] if each["in"] == "header"]
    assert (key["name"], key["required"]) == ("Idempotency-Key", True)
    assert {"200", "201", "422"} <= post["responses"].keys()
    assert "Location" in post["responses"]["201"]["headers"]
    assert "Idempotency-Replayed" in post["responses"]["200"]["headers"]


def test_the_bank_needs_a_login_and_the_blog_does_not(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        needs_login = {} not in operation.get("security", [{}])
        bank = any(word in name for word in ("accounts", "transfers", "standing-orders"))
        assert needs_login == bank, name
        assert ("403" in operation["responses"]) == bank, name
        assert ("401" in operation["responses"]) == ("token" not in name), name  # a wrong token


def test_money_is_a_string(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["Account"]["properties"]["balance"]["type"] == "string"
    for name in ("NewTransferRequest", "Transfer", "StandingOrder"):
        assert schemas[name]["properties"]["amount"]["type"] == "string"


def exercise(
    operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, values: dict[str, str]
) -> bool:
    """Send generated requests, every second one with values that name something real.

    Tells whether any succeeded.
    """
    succeeded = False

    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: schemathesis.Case, with_values: bool) -> None:
        nonlocal succeeded
        for place in (case.path_parameters, case.body) if with_values else ():
            if isinstance(place, dict):
                place.update({name: values[name] for name in place.keys() & values})
        headers = {"Authorization": values["authorization"]}
        answer = case.call_and_validate(headers=headers, checks=CHECKS)
        succeeded = succeeded or answer.status_code < 300

    send()
    return succeeded


@pytest.fixture
def values(api_bank: Bank, settings: Settings) -> dict[str, str]:
    """Alice's login and what is hers, by the names of members and parameters."""
    settings.ALLOWED_HOSTS = ["localhost"]
    author = Author.objects.create(login="ann", name="Ann")
    post = Post.objects.create(
        slug="hello", author=author, status="published", published_at=timezone.now()
    )
    comment = Comment.objects.create(
        post=post, body="Yes", is_approved=True, created_at=timezone.now()
    )
    return {
        "authorization": f"Token {Token.objects.create(user=api_bank.users['alice']).key}",
        "number": "alice-1",
        "account": "alice-1",
        "payer": "alice-1",
        "payee": "alice-2",
        "bank_code": "AB",
        "amount": "0.01",
        "username": "alice",
        "password": PASSWORD,
        "slug": "hello",
        "login": "ann",
        "comments": str(comment.pk),
        "transfers": str(api_bank.alice_transfer.pk),
        "standing-orders": str(api_bank.alice_order.pk),
    }


@pytest.mark.usefixtures("api_no_throttles")
@pytest.mark.django_db(transaction=True, databases="__all__")
def test_the_api_does_what_its_schema_says(values: dict[str, str]) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/schema/?format=json", application)
    positive, negative = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    for result in schema.get_all_operations():
        operation = result.ok()
        resource = operation.path.split("/")[2]
        real = values | {"id": values.get(resource, "")}
        assert exercise(operation, positive, real), f"no {operation.label} succeeded"
        if len(operation.query) or len(operation.body):  # a path has no wrong values, only 404s
            exercise(operation, negative, real)
