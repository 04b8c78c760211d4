"""The index advisor on a million tickets: few are open, the newest open ones are asked for.

Nobody's adviser proposes partial indexes, so the peer is the truth: the index is built for good,
and its plan and size are held against what was promised.
"""

import time
from collections.abc import Sequence
from typing import Any

from django.core.management import call_command
from django.db import connection

from benchmarks.measuring import Bar, row
from dbpatterns.indexes import Proposal, advise
from dbpatterns.indexes.verification import Verification
from dbpatterns.statements import Statement, recording_queries
from tests.testapp.models import Ticket

ROWS = 1_000_000
TENANTS = 500
OPEN = 50
"""One ticket of so many is open."""
PAGE = 10
"""What is left of the plan's cost is a page of the heap for each of them."""
DATABASE = ""


def rows() -> list[dict[str, object]]:
    """Return a row for each way to prove the index, and one of the real index."""
    global DATABASE
    version = ".".join(map(str, connection.get_database_version()))
    DATABASE = f"{connection.display_name} {version}"
    call_command("migrate", verbosity=0, run_syncdb=True)
    _fill()
    with recording_queries() as recording:
        for tenant in (3, 77, 402):
            newest = Ticket._default_manager.filter(tenant_id=tenant, closed_at=None)
            list(newest.order_by("-created_at")[:PAGE])
    ways = [Verification.COPY]
    if connection.vendor == "postgresql":
        ways.append(Verification.BUILD)
    made: list[dict[str, object]] = []
    for way in ways:
        made += _measured(recording.statements, way)
    return made


def _measured(statements: Sequence[Statement], way: Verification) -> list[dict[str, object]]:
    started = time.perf_counter()
    advice = advise(statements, app="testapp", how=way)
    seconds = time.perf_counter() - started
    (found,) = advice.proposals
    detail: dict[str, Any] = {**found.as_dict(), "left_out": advice.left_out}
    made = [
        row(
            DATABASE,
            f"advice by {way}",
            unit="s",
            figures={"ours": seconds},
            bar=Bar(2, "s"),
            judged=seconds,
            also=found.verdict.inconclusive or found.as_code(),
            detail=detail,
        )
    ]
    if found.verdict.size_bytes is not None:
        size = found.verdict.size_bytes / 1024**2
        bar = Bar(1, "MB")
        made.append(
            row(DATABASE, f"size by {way}", unit="MB", figures={"ours": size}, bar=bar, judged=size)
        )
    if found.gain is not None:
        made.append(
            row(
                DATABASE,
                f"plan cost by {way}",
                unit="times less",
                figures={"ours": found.gain},
                bar=Bar(400, "times less", at_least=True),
                judged=found.gain,
                also=f"{found.verdict.before:,.0f} to {found.verdict.after:,.1f}",
            )
        )
        made += _real(found, statements)
    return made


def _real(found: Proposal, statements: Sequence[Statement]) -> list[dict[str, object]]:
    """Build the index for good, and see whether the proof was right."""
    index = found.candidate.as_index()
    with connection.schema_editor() as editor:
        editor.add_index(Ticket, index)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE testapp_ticket")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statements[0].sql}", statements[0].params)
        cost = cursor.fetchone()[0][0]["Plan"]["Total Cost"]
        cursor.execute("SELECT pg_relation_size(%s::regclass)", [index.name])
        size = cursor.fetchone()[0] / 1024**2
    with connection.schema_editor() as editor:
        editor.remove_index(Ticket, index)
    assert found.verdict.before
    return [
        row(
            DATABASE,
            "plan cost of the real index",
            unit="times less",
            figures={"ours": found.verdict.before / cost},
            bar=Bar(400, "times less", at_least=True),
            judged=found.verdict.before / cost,
            also=f"cost {cost:,.1f}, {size:.2f} MB",
        )
    ]


def _fill() -> None:
    numbers = {
        "postgresql": f"generate_series(1, {ROWS}) n",
        "sqlite": "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c"
        f" WHERE n < {ROWS}) SELECT n FROM c)",
    }[connection.vendor]
    when = {
        "postgresql": "timestamptz '2026-01-01 00:00Z' + n * interval '7 s'",
        "sqlite": "datetime('2026-01-01', (n * 7) || ' seconds')",
    }[connection.vendor]
    text = {"postgresql": "md5(n::text)", "sqlite": "hex(n)"}[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t"
            f" WHERE n < {TENANTS}) INSERT INTO testapp_tenant (id, name) SELECT n, 'x' FROM t"
        )
        cursor.execute(
            "INSERT INTO testapp_ticket (tenant_id, title, body, status, is_open, created_at,"
            f" closed_at, priority) SELECT (n + n / {TENANTS}) % {TENANTS} + 1, {text}, {text},"
            f" 'x', n % {OPEN} = 0, {when}, CASE WHEN n % {OPEN} = 0 THEN NULL ELSE {when} END,"
            f" n % 5 FROM {numbers}"
        )
        if connection.vendor == "postgresql":
            cursor.execute("VACUUM ANALYZE testapp_ticket")
