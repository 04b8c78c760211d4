"""Statements: what is one, what is the same, and what is progress."""

import pytest

from dbpatterns.queries.fingerprints import (
    differ,
    is_progress,
    read_statement,
    varying_columns,
)


@pytest.mark.parametrize(
    ("sql", "is_write"),
    [
        ("SELECT 1", False),
        ("  (SELECT 1) UNION (SELECT 2)", False),
        ("/* who */ SELECT 1 -- why", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a", False),
        ("WITH a AS (DELETE FROM t RETURNING id) SELECT * FROM a", True),
        ("VALUES (1)", False),
        ("INSERT INTO t VALUES (1)", True),
        ("update t SET a = 1", True),
        ("DELETE FROM t", True),
        ("REPLACE INTO t VALUES (1)", True),
        ("MERGE INTO t USING u ON 1=1", True),
    ],
)
def test_queries_and_writes_are_told_apart(sql: str, is_write: bool) -> None:
    statement = read_statement(sql, True)
    assert statement is not None
    assert statement.is_write is is_write


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "SAVEPOINT s1",
        "RELEASE SAVEPOINT s1",
        "ROLLBACK TO SAVEPOINT s1",
        "COMMIT",
        "EXPLAIN SELECT 1",
        "SET search_path TO a",
        "CREATE TABLE t (a int)",
        "PRAGMA foreign_keys",
        "LISTEN a",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_lock(1, 2)",
        "SELECT set_config('a', 'b', true)",
        "",
    ],
)
def test_other_statements_are_skipped(sql: str) -> None:
    assert read_statement(sql, False) is None


@pytest.mark.parametrize(
    ("sql", "template", "literals"),
    [
        ("SELECT a FROM t1 WHERE a = 12", "SELECT a FROM t1 WHERE a = %s", ("12",)),
        ("SELECT '--' /* who */ WHERE a = 1", "SELECT %s  WHERE a = %s", ("--", "1")),
        ("SELECT 'it''s', 1.5", "SELECT %s, %s", ("it''s", "1.5")),
        ("SELECT 1 LIMIT 10 OFFSET 20", "SELECT %s LIMIT 10 OFFSET 20", ("1",)),
        ('SELECT "c 1" FROM `t 2`', 'SELECT "c 1" FROM `t 2`', ()),
    ],
)
def test_values_in_the_text_are_taken_out_of_it(
    sql: str, template: str, literals: tuple[str, ...]
) -> None:
    statement = read_statement(sql, False)
    assert statement is not None
    assert (statement.template, statement.literals) == (template, literals)
    assert read_statement(sql, True) is not None
    assert len(read_statement(sql, True).literals) == 0  # type: ignore[union-attr]


A_PAGE = "SELECT id FROM t WHERE id > %s ORDER BY id LIMIT 10"


@pytest.mark.parametrize(
    ("sql", "before", "now"),
    [
        ("SELECT 1 FROM t LIMIT %s OFFSET %s", [9, 0], [9, 9]),
        (A_PAGE, [1], [9]),
        ('SELECT id FROM t WHERE ("a", "id") > (%s, %s) ORDER BY a, id LIMIT 5', [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE (a < %s OR (a = %s AND id > %s)) ORDER BY a, id LIMIT 5",
         [1, 1, 2], [3, 3, 4]),
        ("SELECT a, id FROM t WHERE id < %s ORDER BY 2 DESC LIMIT 5", [9], [4]),
        ("SELECT id FROM t WHERE id BETWEEN %s AND %s", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE id >= %s AND id < %s", [1, 2], [2, 3]),
        ("SELECT a FROM t WHERE ship_ptr_id >= %s AND ship_ptr_id < %s", [1, 2], [2, 3]),
        ("SELECT id FROM t WHERE id > %(a)s LIMIT 5", {"a": 1}, {"a": 2}),
        ("SELECT id FROM t WHERE id IN (%s, %s)", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE (id = %s OR id = %s)", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE ((a = %s AND b = %s) OR (a = %s AND b = %s))",
         [1, 2, 3, 4], [5, 6, 7, 8]),
        ("SELECT id FROM t WHERE (a, b) IN ((%s, %s), (%s, %s))", [1, 2, 3, 4], [5, 6, 7, 8]),
        ("SELECT id FROM t WHERE id = ANY(%s)", [[1, 2]], [[3, 4]]),
        ("INSERT INTO t (a) VALUES (%s), (%s)", [1, 2], [3, 4]),
        ("INSERT INTO t (a) SELECT * FROM UNNEST(%s)", [[1]], [[2]]),
        ("DELETE FROM t WHERE id IN (%s, %s)", [1, 2], [3, 4]),
    ],
)  # fmt: skip
def test_the_next_page_or_batch_is_progress(sql: str, before: object, now: object) -> None:
    statement = read_statement(sql, True)
    assert statement is not None
    assert is_progress(statement, before, now)


@pytest.mark.parametrize(
    ("sql", "before", "now"),
    [
        ("SELECT id FROM t WHERE id = %s", [1], [2]),
        ("SELECT id FROM t WHERE id IN (%s)", [1], [2]),
        ("SELECT id FROM t WHERE (a, b) IN ((%s, %s))", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE id = ANY(%s)", [[1]], [[2]]),
        ("SELECT id FROM t WHERE a = %s AND id IN (%s, %s)", [1, 1, 2], [2, 3, 4]),
        ("SELECT id FROM t WHERE a = %s AND id > %s ORDER BY id LIMIT 5", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE a = %s ORDER BY a LIMIT 5", [1], [2]),
        ("SELECT id, a FROM t WHERE id > %s ORDER BY 2 LIMIT 5", [1], [2]),
        ("SELECT id FROM t WHERE id > %s ORDER BY 7 LIMIT 5", [1], [2]),
        ("SELECT id FROM t WHERE a = %s AND b > %s LIMIT 5", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE day <= %s ORDER BY day DESC LIMIT 1", [1], [2]),
        ("SELECT id FROM t WHERE day BETWEEN %s AND %s", [1, 2], [3, 4]),
        ("SELECT COUNT(*) FROM t WHERE id BETWEEN %s AND %s", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE id > %s", [1], [2]),
        ("SELECT id FROM t WHERE a = %s LIMIT %s OFFSET %s", [1, 5, 5], [2, 5, 5]),
        ("SELECT id FROM t WHERE f(%s) AND g(%s)", [1, 2], [3, 4]),
        ("SELECT id FROM t WHERE f(%(a)s)", {"a": 1}, {"a": 2}),
        ("INSERT INTO t (a) VALUES (%s)", [1], [2]),
        ("UPDATE t SET a = %s WHERE id = %s", [1, 2], [3, 4]),
        ("SELECT '%s)' FROM t WHERE id = %s)", [1], [2]),
        ("SELECT id FROM t WHERE id = %s", [1, 2], [3, 4]),
    ],
)
def test_the_next_row_is_no_progress(sql: str, before: object, now: object) -> None:
    statement = read_statement(sql, True)
    assert statement is not None
    assert not is_progress(statement, before, now)


@pytest.mark.parametrize(
    ("sql", "before", "now", "columns"),
    [
        ('SELECT 1 FROM "t" WHERE "t"."writer_id" = %s AND a = %s', [1, 2], [3, 2], {"writer_id"}),
        ("SELECT 1 FROM t WHERE a = %s AND b = %s", [1, 2], [3, 4], {"a", "b"}),
        ('SELECT 1 FROM t WHERE ("t"."a", "t"."b") = (%s, %s)', [1, 2], [3, 4], {"a", "b"}),
        ("SELECT 1 FROM t WHERE UPPER(a::text) = UPPER(%s)", ["a"], ["b"], {"a"}),
        ("SELECT 1 FROM t WHERE f(%s)", [1], [2], {""}),
        ("SELECT 1 FROM t WHERE a = %s", [1], [1], set()),
        ("SELECT 1 FROM t WHERE a = %s", [1, 2], [3, 4], set()),
    ],
)
def test_the_columns_that_vary(sql: str, before: object, now: object, columns: set[str]) -> None:
    assert varying_columns(sql, before, now) == columns


def test_a_list_of_a_thousand_is_read_in_a_moment() -> None:
    """Once for each template: no time that grows with the square of its length."""
    sql = f"SELECT 1 FROM t WHERE id IN ({', '.join(['%s'] * 20_000)})"
    statement = read_statement(sql, True)
    assert statement is not None
    assert is_progress(statement, list(range(20_000)), list(range(1, 20_001)))


def test_values_that_cannot_be_compared_differ() -> None:
    class Odd:
        def __ne__(self, other: object) -> bool:
            raise ValueError

    assert differ(Odd(), Odd())
    assert not differ(1, 1)
