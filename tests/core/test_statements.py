"""Statements: fingerprints without values, logs of four kinds, recordings, the server's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.utils import DatabaseError
from hypothesis import given
from hypothesis import strategies as st

from dbpatterns.errors import UsageError
from dbpatterns.statements import (
    SCANNED,
    Statement,
    fingerprint,
    read_log,
    read_server,
    recording_queries,
)
from tests.servers import PostgresCluster

SECRET = "zebra7"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ('SELECT "a"."id" FROM "a" LIMIT 21', 'SELECT "a"."id" FROM "a" LIMIT %s'),
        ("SELECT 1  FROM t\n WHERE a = 'it''s'", "SELECT %s FROM t WHERE a = %s"),
        ("WHERE a IN (%s, %s,%s)", "WHERE a IN (%s)"),
        ("WHERE a IN (1, 2)", "WHERE a IN (%s)"),
        ("INSERT INTO t (a, b) VALUES (%s, 3), (%s, 4)", "INSERT INTO t (a, b) VALUES (%s)"),
        ("INSERT INTO t VALUES (1, NOW()), (2, NOW())", "INSERT INTO t VALUES (%s, NOW())"),
        ("SELECT (a), (a)", "SELECT (a), (a)"),
        ('SAVEPOINT "s140_x1"', "SAVEPOINT"),
        ("RELEASE SAVEPOINT s1", "RELEASE SAVEPOINT"),
        ("SELECT a1, t2.c3, x[1], $4, :name, y::text", "SELECT a1, t2.c3, x[%s], %s, %s, y::text"),
        ("SELECT a %% 5, -2.5e-3, 0x1F", "SELECT a % %s, %s, %s"),
        ("SELECT %(name)s /* trace='00-ab' */ -- by me", "SELECT %s"),
        ('SELECT "na me" ;', 'SELECT "na me"'),
    ],
)
def test_a_fingerprint_has_no_values(sql: str, expected: str) -> None:
    assert fingerprint(sql) == expected


@pytest.mark.parametrize(
    "literal",
    [
        f"'{SECRET}'",
        f"'it''s {SECRET}'",
        f"E'\\'{SECRET}'",
        f"e'{SECRET}\\\\'",
        f"$${SECRET}$$",
        f"$tag$ $$ {SECRET} $tag$",
        f"U&'{SECRET}'",
        f"/* {SECRET} */ 1",
        f"1 -- {SECRET}",
    ],
)
def test_no_literal_survives(literal: str) -> None:
    assert SECRET not in fingerprint(f"SELECT a, {literal}")
    assert SECRET not in fingerprint(f"SELECT a FROM t WHERE b={literal}\n AND c = 1")


@given(st.text(alphabet="'\\$ax \"-/*%s", max_size=12), st.text(alphabet="b'", max_size=3))
def test_no_quoted_text_survives_whatever_is_around_it(inside: str, before: str) -> None:
    quoted = "'" + f"{inside}{SECRET}".replace("'", "''") + "'"
    head = "SELECT 'b" + before.replace("'", "''") + "', "
    assert SECRET not in fingerprint(head + quoted)
    assert SECRET not in fingerprint(head + quoted[:-1])  # a log may cut it off


def test_only_the_beginning_of_a_long_statement_is_scanned() -> None:
    many = ", ".join(["(%s, %s)"] * SCANNED)
    assert fingerprint(f"INSERT INTO t VALUES {many}").startswith("INSERT INTO t VALUES (%s)")
    cut = fingerprint("SELECT a, '" + SECRET * SCANNED)
    assert cut == "SELECT a, %s …"
    assert len(fingerprint("SELECT " + "a, " * SCANNED)) < SCANNED + 10


def test_statements_that_differ_in_values_share_a_fingerprint() -> None:
    assert fingerprint("SELECT a FROM t WHERE b = 7") == fingerprint(
        "SELECT a FROM t WHERE b = 'x'"
    )
    assert fingerprint("SELECT a FROM t WHERE b = 7") != fingerprint("SELECT a FROM t WHERE c = 7")


def test_a_log_has_lines_of_many_kinds(tmp_path: Path) -> None:
    log = tmp_path / "queries.log"
    log.write_text(
        "\n".join(
            [
                "SELECT 1;",
                json.dumps({"sql": "SELECT 2", "calls": 3, "seconds": 0.5, "rows": 6, "site": "a"}),
                json.dumps({"sql": "SELECT %s", "params": [2], "database": "other"}),
                "(0.250) SELECT 3; args=(1, 'x'); alias=default",
                "2026-01-01 [7] LOG:  duration: 12.5 ms  statement: SELECT 4",
                json.dumps({"message": "duration: 2 ms  execute a: SELECT $1"}),
                "",
                json.dumps({"message": "checkpoint complete"}),
                json.dumps([]),
                "{broken",
                json.dumps({"sql": 5}),
                "Traceback (most recent call last):",
            ]
        )
    )
    read = read_log(log)
    assert read.skipped == 5
    assert [(each.sql, each.calls, each.seconds, each.database) for each in read.statements] == [
        ("SELECT 1", 1, 0.0, ""),
        ("SELECT 2", 3, 0.5, ""),
        ("SELECT %s", 1, 0.0, "other"),
        ("SELECT 3", 1, 0.25, "default"),
        ("SELECT 4", 1, 0.0125, ""),
        ("SELECT $1", 1, 0.002, ""),
    ]
    assert read.statements[1].rows == 6
    assert read.statements[1].facts == {"site": "a"}
    assert read.statements[2].params == (2,)
    assert read.statements[0].params is None


def test_a_log_without_statements_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("GET /\nGET /\n")
    with pytest.raises(UsageError, match=r"access\.log has no statement in 2 lines"):
        read_log(log)
    with pytest.raises(UsageError, match=r"missing\.log cannot be read: No such file"):
        read_log(tmp_path / "missing.log")


@pytest.mark.django_db(databases=["default", "shard_0"])
def test_a_recording_has_statements_with_values_rows_and_database() -> None:
    before = list(connection.execute_wrappers)
    with recording_queries(limit=6) as recording:
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s", [7])
            cursor.execute("SELECT 8")
            with pytest.raises(DatabaseError, match="nowhere"), transaction.atomic():
                cursor.execute("SELECT * FROM nowhere")
        with connections["shard_0"].cursor() as cursor:
            cursor.executemany("UPDATE django_migrations SET app = %s", [["a"], ["b"]])
            cursor.execute("SELECT 10")
    found = [each for each in recording.statements if "SAVEPOINT" not in each.sql]
    assert [(each.sql, each.params, each.database) for each in found] == [
        ("SELECT %s", (7,), "default"),
        ("SELECT 8", None, "default"),
        ("UPDATE django_migrations SET app = %s", None, "shard_0"),
    ]
    assert recording.dropped == 1
    assert recording.statements[0].rows == (1 if connection.vendor == "postgresql" else None)
    assert recording.statements[0].seconds > 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert len(recording.statements) == 6
    assert connection.execute_wrappers == before


@pytest.mark.django_db
def test_a_database_without_statistics_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="pass --from-log, or on PostgreSQL load"):
        read_server("default")


@pytest.mark.postgresql
@pytest.mark.django_db
def test_an_extension_that_is_not_preloaded_is_as_good_as_none() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION pg_stat_statements")
    with pytest.raises(UsageError, match="shared_preload_libraries"):
        read_server("default")


@pytest.fixture
def counting(django_db_blocker: Any) -> Iterator[str]:
    """A server that counts its statements, as the alias `counting`."""
    with PostgresCluster("counting", shared_preload_libraries="pg_stat_statements") as cluster:
        settings = {**connections["default"].settings_dict, "HOST": "127.0.0.1"}
        settings |= {"PORT": str(cluster.port), "NAME": "postgres", "USER": "postgres"}
        connections.databases["counting"] = settings
        try:
            with django_db_blocker.unblock():
                yield "counting"
        finally:
            connections["counting"].close()
            del connections["counting"]
            del connections.databases["counting"]


@pytest.mark.postgresql
def test_the_server_says_what_took_longest(counting: str) -> None:
    with connections[counting].cursor() as cursor:
        cursor.execute('CREATE SCHEMA "Odd one"')
        cursor.execute('CREATE EXTENSION pg_stat_statements SCHEMA "Odd one"')
        for number in range(3):
            cursor.execute(f"SELECT count(*) FROM generate_series(1, {1000 + number})")
    found = read_server(counting)
    (series,) = [each for each in found if "generate_series" in each.sql]
    assert series == Statement(
        "SELECT count(*) FROM generate_series($1, $2)",
        None,
        3,
        series.seconds,
        3,
        counting,
        series.facts,
    )
    assert 0 < series.facts["slowest"] <= series.seconds
    (longest,) = read_server(counting, limit=1)
    assert longest.seconds >= max(each.seconds for each in found)  # reading them took time, too
