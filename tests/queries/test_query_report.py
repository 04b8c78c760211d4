"""`query_report`: what it adds up, prints and refuses."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from dbpatterns.queries.monitor import Monitor
from tests.core.test_statements import counting

__all__ = ["counting"]


def run(*arguments: str) -> tuple[str, int]:
    output = StringIO()
    try:
        call_command("query_report", *arguments, stdout=output)
    except CommandError as error:
        return output.getvalue() + str(error), error.returncode
    return output.getvalue(), 0


@pytest.fixture
def log(tmp_path: Path) -> str:
    """Statements of two databases, and one line of something else."""
    path = tmp_path / "queries.log"
    entries = [
        {"sql": "SELECT a FROM t WHERE b = 1", "seconds": 0.25, "rows": 3, "database": "default"},
        {"sql": "SELECT a FROM t WHERE b = 2", "seconds": 0.05, "rows": 1, "database": "default"},
        {"sql": "SELECT c FROM u", "seconds": 0.1, "database": "other"},
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in entries) + "noise\n")
    return str(path)


def test_a_log_becomes_a_table(log: str) -> None:
    text, code = run("--from-log", log)
    head, first, second, *totals = text.splitlines()
    assert code == 0
    assert head.split() == [
        *("calls", "total", "ms", "p50", "p95", "p99", "slowest", "rows", "errors", "again"),
        "statement",
    ]
    assert first.split()[:2] == ["2", "300.0"]
    assert first.endswith("SELECT a FROM t WHERE b = %s")
    assert second.split()[6] == "-"  # nobody counted its rows
    assert [line.split()[-1] for line in totals] == ["2", "3", "1"]


def test_a_log_becomes_one_json_object(log: str) -> None:
    text, _ = run("--from-log", log, "--format", "json", "--top", "1")
    facts = json.loads(text)
    assert (facts["fingerprints"], facts["calls"], facts["skipped_lines"]) == (2, 3, 1)
    (query,) = facts["queries"]
    assert query["slowest_ms"] == 250.0
    assert query["rows"] == 4


def test_one_database_of_a_log(log: str) -> None:
    text, _ = run("--from-log", log, "--from-log", log, "--database", "default")
    assert "SELECT a" in text
    assert "SELECT c" not in text
    assert text.splitlines()[1].split()[0] == "4"


@pytest.mark.django_db
def test_the_monitors_file_names_the_call_site(tmp_path: Path) -> None:
    monitor = Monitor()
    monitor.start()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    monitor.stop()
    monitor.write(tmp_path / "log")
    text, _ = run("--from-log", str(tmp_path / "log"))
    assert f"at {__file__}:" in text


@pytest.mark.parametrize(
    "arguments", [("--top", "0", "--from-log", "x"), ("--from-log", "/nowhere/at/all")]
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[1] == 2


@pytest.mark.django_db
def test_no_source_is_wrong_usage() -> None:
    text, code = run()
    assert code == 2
    assert "pass --from-log" in text


@pytest.mark.postgresql
def test_the_servers_own_statistics(counting: Any) -> None:
    with connections[counting].cursor() as cursor:
        cursor.execute("CREATE EXTENSION pg_stat_statements")
        cursor.execute("SELECT count(*) FROM generate_series(1, 1000)")
    text, code = run("--database", counting, "--top", "100")
    assert code == 0
    assert "generate_series" in text
