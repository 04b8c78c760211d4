"""Tickets to advise on; imports are late, since pytest reads this before Django is set up."""

from __future__ import annotations

from typing import Any

import pytest

ROWS = 20_000


def fill(rows: int = ROWS) -> None:
    """Make tickets of 20 tenants; each fiftieth is open."""
    from django.db import connection

    numbers = {
        "postgresql": f"generate_series(1, {rows}) n",
        "sqlite": "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c"
        f" WHERE n < {rows}) SELECT n FROM c)",
    }[connection.vendor]
    when = {
        "postgresql": "timestamptz '2026-01-01 00:00Z' + n * interval '7 s'",
        "sqlite": "datetime('2026-01-01', (n * 7) || ' seconds')",
    }[connection.vendor]
    text = {"postgresql": "md5(n::text)", "sqlite": "'text ' || n"}[connection.vendor]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("TRUNCATE testapp_ticket")  # what other tests rolled back takes room
            cursor.execute("ALTER TABLE testapp_ticket SET (autovacuum_enabled = off)")
        for tenant in range(1, 21):
            cursor.execute("INSERT INTO testapp_tenant (id, name) VALUES (%s, 'x')", [tenant])
        cursor.execute(
            "INSERT INTO testapp_ticket (tenant_id, title, body, status, is_open, created_at,"
            f" closed_at, priority) SELECT (n + n / 20) % 20 + 1, {text}, {text}, 'done',"
            f" n % 50 = 0, {when}, CASE WHEN n % 50 = 0 THEN NULL ELSE {when} END, n % 5"
            f" FROM {numbers}"
        )
        if connection.vendor == "postgresql":
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # else no index may be made
            cursor.execute("ANALYZE testapp_ticket")
            cursor.execute("ANALYZE testapp_tenant")  # whose plans it joins


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a slow machine prove what it is to prove; tests of a limit ask for the limit itself."""
    from dbpatterns.indexes import verification

    monkeypatch.setattr(verification, "HELD_MS", 60_000)
    monkeypatch.setattr(verification, "PLAN_MS", 60_000)
    monkeypatch.setattr(verification, "COPY_SECONDS", 60)


@pytest.fixture
def tickets(db: Any) -> None:
    """Twenty thousand tickets, in the test's transaction."""
    fill()


@pytest.fixture
def committed_tickets(transactional_db: Any) -> None:
    """The same for every connection."""
    fill()
