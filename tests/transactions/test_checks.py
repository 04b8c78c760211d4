"""The check: SQLite's transactions must take their lock at BEGIN."""

from typing import Any

import pytest
from django.core import checks as django_checks
from django.db import connections

from dbpatterns.transactions import Retry, atomic, checks

SQLITE = "django.db.backends.sqlite3"


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_DECLARED", {})


def configure(monkeypatch: pytest.MonkeyPatch, engine: str, options: dict[str, Any]) -> None:
    monkeypatch.setitem(connections.settings["default"], "ENGINE", engine)
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", options)


def found() -> list[tuple[str | None, str]]:
    return [(each.id, each.hint or "") for each in checks.check_sqlite(None)]


@pytest.mark.parametrize("mode", [{}, {"transaction_mode": "DEFERRED"}, {"transaction_mode": None}])
def test_a_deferred_sqlite_is_a_warning_and_with_retries_an_error(
    declared: None, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    configure(monkeypatch, SQLITE, mode)
    assert found() == []  # nobody has said atomic
    atomic()
    ((warning, hint),) = found()
    assert warning == "dbpatterns.W020"
    assert 'DATABASES["default"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE"' in hint
    atomic("default", retry=Retry())
    atomic()
    assert [each for each, _ in found()] == ["dbpatterns.E021"]


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        (SQLITE, {"transaction_mode": "immediate"}),
        (SQLITE, {"transaction_mode": "EXCLUSIVE"}),
        ("django.db.backends.postgresql", {}),
    ],
)
def test_others_are_right(
    declared: None, monkeypatch: pytest.MonkeyPatch, engine: str, options: dict[str, Any]
) -> None:
    configure(monkeypatch, engine, options)
    atomic(retry=Retry())
    assert found() == []


def test_a_database_without_autocommit_is_a_warning(
    declared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, SQLITE, {"transaction_mode": "IMMEDIATE"})
    monkeypatch.setitem(connections.settings["default"], "AUTOCOMMIT", False)
    atomic(retry=Retry())
    assert found() == [("dbpatterns.W021", 'Leave "AUTOCOMMIT" out of DATABASES["default"].')]


def test_a_database_that_is_not_there_is_somebody_else_s_error(declared: None) -> None:
    atomic("nowhere")
    assert found() == []


def test_the_check_is_registered() -> None:
    assert checks.check_sqlite in django_checks.registry.registry.get_checks()
