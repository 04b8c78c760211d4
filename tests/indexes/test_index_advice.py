"""Advice on real tables: what it finds, what it proves, and whom it makes wait."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import Index, Q

from dbpatterns.errors import UsageError
from dbpatterns.indexes import Advice, Confidence, Proposal, advise, verification
from dbpatterns.indexes.verification import HELD_MS, LOCK_MS, PLAN_MS, Verification
from dbpatterns.statements import Statement, read_log, recording_queries
from tests.indexes.conftest import fill
from tests.processes import PATIENCE_SECONDS
from tests.testapp.models import Ticket

postgresql = pytest.mark.postgresql
BEST = 'models.Index(fields=["tenant", "-created_at"], condition=Q(closed_at__isnull=True), name='


def newest(tenant: int = 3) -> Any:
    return Ticket.objects.filter(tenant=tenant, closed_at=None).order_by("-created_at")[:10]


def recorded(*queries: Any) -> list[Statement]:
    with recording_queries() as recording:
        for query in queries:
            list(query.all())
    return recording.statements


def advice_on(*queries: Any, **options: Any) -> Advice:
    return advise(recorded(*queries), app="testapp", **options)


def only(advice: Advice) -> Proposal:
    (proposal,) = advice.proposals
    return proposal


def plan(query: Any) -> str:
    text: str = query.explain()
    return text


def add(*indexes: Index) -> None:
    """Make indexes in the test's transaction, where SQLite's schema editor will not go."""
    with connection.cursor() as cursor:
        for each in indexes:
            cursor.execute(str(each.create_sql(Ticket, connection.schema_editor())))


def scalar(sql: str, *params: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()[0]


def test_the_newest_open_tickets_of_a_tenant_get_a_partial_index(tickets: None) -> None:
    assert "Scan" in plan(newest()) or "SCAN" in plan(newest())  # the harm: all rows are read
    advice = advice_on(newest(3), newest(7))
    found = only(advice)
    assert found.as_code().startswith(BEST)
    assert found.confidence is Confidence.HIGH
    assert found.verdict.is_whole
    assert found.verdict.size_bytes is not None
    assert found.verdict.size_bytes < 64 * 1024
    assert found.calls == 2
    assert "%s" in found.statement
    if connection.vendor == "postgresql":
        assert found.gain is not None
        assert found.gain > 10
    else:
        assert found.verdict.plans is not None
        before, after = found.verdict.plans
        assert "USE TEMP B-TREE" in before
        assert "USE TEMP B-TREE" not in after
        assert found.gain is None


def test_the_index_keeps_what_was_promised(tickets: None) -> None:
    found = only(advice_on(newest()))
    add(found.candidate.as_index())
    assert found.candidate.name in plan(newest())
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            sql, params = newest().query.sql_with_params()
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
            cost = cursor.fetchone()[0][0]["Plan"]["Total Cost"]
        size = scalar("SELECT pg_relation_size(%s::regclass)", found.candidate.name)
        assert found.verdict.after == pytest.approx(cost, rel=0.15)
        assert found.verdict.size_bytes == pytest.approx(size, rel=0.15)
    assert advice_on(newest()).proposals == ()


def test_nothing_stays_behind(tickets: None) -> None:
    def objects() -> Any:
        if connection.vendor == "postgresql":
            return scalar("SELECT array_agg(oid ORDER BY oid) FROM pg_class")
        return scalar("SELECT group_concat(name) FROM temp.sqlite_master")

    settings = "SELECT current_setting('lock_timeout') || current_setting('search_path')"
    before = objects(), connection.vendor == "postgresql" and scalar(settings)
    for how in Verification:
        if how is not Verification.HYPOPG:
            advice_on(newest(), how=how)
    assert before == (objects(), connection.vendor == "postgresql" and scalar(settings))
    assert Ticket.objects.filter(closed_at=None).count() == 400


def test_a_table_that_is_small_is_left_alone(db: None) -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE testapp_ticket")
    advice = advice_on(newest())
    assert advice.proposals == ()
    assert advice.left_out == ("testapp_ticket: 0 rows are read as fast without an index",)


def test_an_index_that_no_plan_would_use_is_not_proposed(tickets: None) -> None:
    if connection.vendor == "postgresql":  # four fifths of the rows are not worth an index
        assert advice_on(Ticket.objects.filter(priority__lte=3)).proposals == ()
        sorted_all = Ticket.objects.select_related("tenant").order_by("title")
        assert advice_on(sorted_all).proposals == ()
    else:  # all of it in another order, and sorted all the same
        joined = Ticket.objects.select_related("tenant").filter(status="done")
        assert advice_on(joined.order_by("created_at")).proposals == ()
    assert advice_on(Ticket.objects.all()).proposals == ()


def test_an_index_no_better_than_the_key_is_not_proposed(tickets: None) -> None:
    assert advice_on(Ticket.objects.filter(pk=5, tenant=3)).proposals == ()


def test_unproved_advice_has_low_confidence(tickets: None) -> None:
    found = only(advice_on(newest(), how=Verification.NONE))
    assert (found.confidence, found.verdict.inconclusive) == (Confidence.LOW, "not verified")
    assert found.gain is None


def test_statements_of_other_databases_and_unreadable_ones_are_left_out(tickets: None) -> None:
    (mine,) = recorded(newest())
    other = Statement(mine.sql, mine.params, database="other")
    advice = advise([other, Statement("SELECT FROM (")], app="testapp")
    assert (advice.proposals, advice.statements, advice.unread) == ((), 1, 1)
    assert advise([mine], app="blog").proposals == ()
    with pytest.raises(UsageError, match="no installed app 'nothing'"):
        advise([mine], app="nothing")


def test_of_statements_that_differ_in_values_a_few_stand_for_all(tickets: None) -> None:
    statements = recorded(*(newest(1 + number % 20) for number in range(40)))
    found = only(advise(statements, app="testapp"))
    assert found.calls == 40


def test_a_template_without_values_is_planned_for_any_value(tickets: None) -> None:
    template = Statement(
        "SELECT * FROM testapp_ticket WHERE tenant_id = $1 AND closed_at IS NULL"
        " AND title <> '$1 LIMIT $2' ORDER BY created_at DESC LIMIT $2 OFFSET $3",
        calls=7,
        seconds=1.0,
    )
    found = only(advise([template], app="testapp"))
    assert found.as_code().startswith(BEST)
    assert found.verdict.inconclusive == ""
    assert found.confidence >= Confidence.MEDIUM
    assert found.calls == 7
    if connection.vendor == "postgresql":
        assert scalar("SELECT count(*) FROM pg_prepared_statements") == 0


def test_a_line_of_a_log_with_values_in_it_is_planned_as_it_is(tickets: None) -> None:
    line = Statement(
        "SELECT * FROM testapp_ticket WHERE tenant_id = 3 AND closed_at IS NULL"
        " ORDER BY created_at DESC LIMIT 10"
    )
    assert only(advise([line], app="testapp")).confidence is Confidence.HIGH


def test_what_django_says_beside_the_line_is_an_index_that_works(tickets: None) -> None:
    advice = advice_on(newest(), newest())
    text = advice.migrations()["testapp"]
    expected = {"postgresql": "AddIndexConcurrently", "sqlite": "migrations.AddIndex"}
    assert expected[connection.vendor] in text
    assert advice.count(Confidence.HIGH) == 1
    assert advice.proposals[0].as_dict()["index"] == advice.proposals[0].as_code()


def test_indexes_that_could_go_are_reported(tickets: None) -> None:
    add(
        Index(fields=["tenant"], name="one_a"),
        Index(fields=["tenant"], name="one_b"),
        Index(fields=["tenant", "priority"], name="two"),
        Index(fields=["title"], name="lonely"),
    )
    found = {each.index: each for each in advise([], app="testapp").findings}
    assert found["one_b"].kind == "duplicate"
    assert found["one_b"].confidence is Confidence.HIGH
    assert found["one_b"].reason == "one_a is the same"
    assert found["one_a"].confidence is Confidence.MEDIUM
    assert found["one_a"].reason == "two begins with the same columns"
    if connection.vendor == "postgresql":
        assert found["lonely"].kind == found["two"].kind == "unused"
        assert found["lonely"].as_dict()["confidence"] == "low"
        assert found["lonely"].size_bytes
    else:
        assert "lonely" not in found
    assert not any("pkey" in name for name in found)


@postgresql
def test_a_unique_partial_and_pattern_index_is_no_duplicate(tickets: None) -> None:
    add(
        Index(fields=["title"], name="plain_one"),
        Index(fields=["title"], name="pattern", opclasses=["text_pattern_ops"]),
        Index(fields=["title"], name="part", condition=Q(is_open=True)),
    )
    found = advise([], app="testapp").findings
    kinds = {each.kind for each in found if each.model == "testapp.Ticket"}
    assert kinds == {"unused"}


@postgresql
def test_a_table_too_large_to_copy_is_sampled_and_said_so(
    tickets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = only(advice_on(Ticket.objects.filter(title="x")))
    monkeypatch.setattr(verification, "COPY_ROWS", 5_000)
    part = only(advice_on(Ticket.objects.filter(title="x")))
    assert (whole.verdict.is_whole, part.verdict.is_whole) == (True, False)
    assert (whole.confidence, part.confidence) == (Confidence.HIGH, Confidence.MEDIUM)
    assert whole.verdict.size_bytes is not None
    assert part.verdict.size_bytes == pytest.approx(whole.verdict.size_bytes, rel=0.35)
    assert part.verdict.after is not None
    assert whole.verdict.after is not None
    assert part.verdict.after >= whole.verdict.after  # an upper bound


@postgresql
def test_a_join_is_proved_with_the_other_table_as_it_is(tickets: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_tenant SET name = 'rare' WHERE id = 7")
        cursor.execute("ANALYZE testapp_tenant")
    found = only(advice_on(Ticket.objects.filter(tenant__name="rare", title="x")))
    assert found.as_code().startswith('models.Index(fields=["title", "tenant"]')
    assert not found.verdict.is_whole  # the other table's plans may differ
    assert found.confidence is Confidence.MEDIUM


@postgresql
def test_the_proof_takes_no_lock_that_a_writer_waits_for(committed_tickets: None) -> None:
    taken: set[tuple[str, str]] = set()

    def watch(execute: Any, sql: str, *arguments: Any) -> Any:
        result = execute(sql, *arguments)
        with connection.cursor() as cursor:
            if not connection.in_atomic_block or "pg_locks" in sql:
                return result
            cursor.execute(
                "SELECT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
                " WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'public'::regnamespace"
            )
            taken.update(cursor.fetchall())
        return result

    statements = recorded(newest())
    with connection.execute_wrapper(watch):
        found = only(advise(statements, app="testapp"))
    assert found.confidence is Confidence.HIGH
    assert ("testapp_ticket", "AccessShareLock") in taken
    assert {mode for _, mode in taken} == {"AccessShareLock"}


@postgresql
def test_a_build_is_exact_and_rolled_back(committed_tickets: None) -> None:
    found = only(advice_on(newest(), how=Verification.BUILD))
    assert found.verdict.method is Verification.BUILD
    assert found.verdict.is_whole
    assert found.confidence is Confidence.HIGH
    name = found.candidate.name
    assert scalar("SELECT count(*) FROM pg_class WHERE relname = %s", name) == 0


@postgresql
def test_a_build_on_request_holds_writers_back_for_a_moment_only(
    committed_tickets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (LOCK_MS, HELD_MS, PLAN_MS) == (100, 150, 40)
    monkeypatch.setattr(verification, "LOCK_MS", 51_000)
    monkeypatch.setattr(verification, "HELD_MS", 52_000)
    monkeypatch.setattr(verification, "PLAN_MS", 53_000)
    seen: list[tuple[str, bool, str, str]] = []

    def watch(execute: Any, sql: str, *arguments: Any) -> Any:
        if sql.startswith(("CREATE", "EXPLAIN")):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT %s, EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid()"
                    " AND relation = 'testapp_ticket'::regclass AND mode = 'ShareLock'),"
                    " current_setting('lock_timeout'), current_setting('statement_timeout')",
                    [sql.split()[0]],
                )
                seen.append(cursor.fetchone())
        return execute(sql, *arguments)

    statements = recorded(newest())
    with connection.execute_wrapper(watch):
        found = only(advise(statements, app="testapp", how=Verification.BUILD))
    assert found.verdict.is_whole
    assert seen[-3:] == [
        ("EXPLAIN", False, "51s", "0"),
        ("CREATE", False, "51s", "52s"),
        ("EXPLAIN", True, "51s", "53s"),  # writers wait from the build on
    ]


@postgresql
def test_a_build_that_takes_too_long_is_given_up(
    committed_tickets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "HELD_MS", 1)
    statements = recorded(Ticket.objects.filter(title="x"))
    found = only(advise(statements, app="testapp", how=Verification.BUILD))
    assert "statement timeout" in found.verdict.inconclusive
    assert found.confidence is Confidence.LOW


@contextmanager
def held(sql: str, *more: str) -> Iterator[None]:
    """Leave a transaction of another connection open after a statement."""
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)
            ready.set()
            done.wait(PATIENCE_SECONDS)
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(PATIENCE_SECONDS)
    try:
        yield
    finally:
        done.set()
        thread.join()


@postgresql
def test_a_build_does_not_queue_for_a_lock(committed_tickets: None) -> None:
    statements = recorded(newest())
    with held(
        "UPDATE testapp_ticket SET priority = 1 WHERE id = (SELECT min(id) FROM testapp_ticket)"
    ):
        found = only(advise(statements, app="testapp", how=Verification.BUILD))
    assert "lock timeout" in found.verdict.inconclusive
    assert scalar("SELECT 1") == 1


@postgresql
def test_even_a_copy_waits_for_no_lock(committed_tickets: None) -> None:
    statements = recorded(newest())
    with held("LOCK TABLE testapp_ticket IN ROW EXCLUSIVE MODE"):
        assert only(advise(statements, app="testapp")).confidence is Confidence.HIGH


@contextmanager
def an_old_snapshot_and_hot_updates() -> Iterator[None]:
    """What a long report on one connection and an ordinary update on another leave behind."""
    ready, done = threading.Event(), threading.Event()

    def report() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM testapp_tenant")
            ready.set()
            done.wait(PATIENCE_SECONDS)
        connection.close()

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE testapp_ticket SET (fillfactor = 50)")
        cursor.execute("VACUUM FULL testapp_ticket")  # room on each page for HOT
        cursor.execute("ANALYZE testapp_ticket")
    thread = threading.Thread(target=report)
    thread.start()
    assert ready.wait(PATIENCE_SECONDS)
    try:
        Ticket.objects.filter(closed_at=None).update(priority=9)
        yield
    finally:
        done.set()
        thread.join()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE testapp_ticket RESET (fillfactor)")


@postgresql
def test_a_build_that_an_old_snapshot_hides_is_inconclusive_and_never_useless(
    committed_tickets: None,
) -> None:
    statements = recorded(newest())
    with an_old_snapshot_and_hot_updates():
        index = only(advise(statements, app="testapp", how=Verification.NONE)).candidate.as_index()
        with transaction.atomic():  # the harm: a good index, built, and not in the plan
            add(index)
            assert index.name not in plan(newest())
            assert scalar(
                "SELECT indcheckxmin FROM pg_index WHERE indexrelid = %s::regclass", index.name
            )
            transaction.set_rollback(True)
        found = only(advise(statements, app="testapp", how=Verification.BUILD))
        assert "indcheckxmin" in found.verdict.inconclusive
        assert found.confidence is Confidence.LOW
        copied = only(advise(statements, app="testapp"))  # the cure: a copy has no old versions
        assert copied.confidence is Confidence.HIGH
        assert copied.as_code() == found.as_code()


@postgresql
def test_a_large_table_is_not_built_on(tickets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "BUILD_BYTES", 1024**2)
    found = only(advice_on(newest(), how=Verification.BUILD))
    assert found.verdict.inconclusive == "testapp_ticket has more than 1 MB"


@postgresql
def test_a_database_that_takes_no_temp_table_makes_it_inconclusive(
    committed_tickets: None,
) -> None:
    statements = recorded(newest())
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        found = only(advise(statements, app="testapp", how=Verification.BUILD))
        assert "read-only transaction" in found.verdict.inconclusive
        assert scalar("SELECT 1") == 1  # the transaction goes on


@postgresql
def test_a_view_is_not_tried(tickets: None) -> None:
    statements = recorded(newest())
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE testapp_ticket RENAME TO hidden_ticket")
        cursor.execute("CREATE VIEW testapp_ticket AS SELECT * FROM hidden_ticket")
    assert advise(statements, app="testapp").left_out == (
        "testapp_ticket: a view or foreign table has no indexes here",
    )


def test_a_wrong_statement_is_inconclusive_and_leaves_the_connection_usable(
    tickets: None,
) -> None:
    wrong = [
        Statement("SELECT nowhere FROM testapp_ticket WHERE tenant_id = 3"),
        Statement("SELECT nowhere FROM testapp_ticket WHERE priority = $1"),
    ]
    for each in wrong:
        found = only(advise([each], app="testapp"))
        assert "nowhere" in found.verdict.inconclusive
        assert found.confidence is Confidence.LOW
    assert scalar("SELECT 1") == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM testapp_ticket WHERE tenant_id = 3; DELETE FROM testapp_ticket",
        "SELECT id FROM testapp_ticket WHERE tenant_id = $1; COMMIT; DELETE FROM testapp_ticket",
        "SELECT id FROM testapp_ticket WHERE title = E'\\'; DELETE FROM testapp_ticket --'",
    ],
)
def test_a_log_cannot_make_the_advisor_run_anything(
    tickets: None, tmp_path: Path, sql: str
) -> None:
    before = Ticket.objects.count()
    (tmp_path / "log").write_text(json.dumps({"sql": sql}) + "\n")
    advice = advise(read_log(tmp_path / "log").statements, app="testapp")
    assert Ticket.objects.count() == before
    assert (advice.proposals, advice.unread) == ((), 1)


def test_values_that_do_not_fit_are_inconclusive(tickets: None) -> None:
    (good,) = recorded(newest())
    for params in ((), (3, 4), ({"a": 1},)):
        found = only(advise([Statement(good.sql, params)], app="testapp"))
        assert found.verdict.inconclusive
    assert scalar("SELECT 1") == 1


@postgresql
def test_an_index_that_gains_too_little_is_not_proposed(
    tickets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(advice_on(newest())).gain
    monkeypatch.setattr("dbpatterns.indexes.advisor.WORTH", 1_000)
    assert advice_on(newest()).proposals == ()


STAND_IN = """
CREATE FUNCTION hypopg_create_index(sql text, OUT indexrelid oid, OUT indexname text)
  RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE sql;
  indexname := substring(sql FROM 'INDEX "([^"]+)"');
  indexrelid := indexname::regclass::oid;
  RETURN NEXT;
END $$;
CREATE FUNCTION hypopg_relation_size(i oid) RETURNS bigint LANGUAGE sql
  AS 'SELECT pg_relation_size(i)';
CREATE FUNCTION hypopg_reset() RETURNS void LANGUAGE sql AS '';
"""


@pytest.fixture
def hypopg(tickets: None) -> None:
    """HypoPG where the server has it, else real indexes behind its functions."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'hypopg'")
        is_there = cursor.fetchone()[0]
        cursor.execute("CREATE EXTENSION hypopg" if is_there else STAND_IN)


@postgresql
def test_hypopg_is_taken_where_it_is_installed(hypopg: None) -> None:
    found = only(advice_on(newest()))
    assert found.as_code().startswith(BEST)
    assert found.verdict.method is Verification.HYPOPG
    assert found.verdict.is_whole
    assert found.confidence is Confidence.HIGH
    assert found.verdict.size_bytes
    asked = only(advice_on(newest(), how=Verification.HYPOPG))
    assert asked.verdict == found.verdict


@postgresql
def test_hypopg_is_not_taken_where_a_view_might_read_a_partial_index(hypopg: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_tenant SET name = 'rare' WHERE id = 7")
        cursor.execute("ANALYZE testapp_tenant")
    found = only(advice_on(Ticket.objects.filter(tenant__name="rare", closed_at=None)))
    assert found.candidate.conditions
    assert found.verdict.method is Verification.COPY


@postgresql
def test_a_copy_of_two_pages_does_not_hide_an_index_from_the_planner(db: None) -> None:
    fill(5_000)
    found = only(advice_on(Ticket.objects.filter(tenant=3, closed_at=None)))
    assert found.as_code().startswith('models.Index(fields=["tenant"], condition=')
    assert found.verdict.is_used


@postgresql
def test_hypopg_that_fails_leaves_nothing_behind(hypopg: None) -> None:
    wrong = Statement("SELECT nowhere FROM testapp_ticket WHERE tenant_id = 3")
    assert "nowhere" in only(advise([wrong], app="testapp")).verdict.inconclusive
    assert only(advice_on(newest())).confidence is Confidence.HIGH


@postgresql
def test_hypopg_asked_for_and_missing_is_an_error(tickets: None) -> None:
    with pytest.raises(UsageError, match="CREATE EXTENSION hypopg"):
        advice_on(newest(), how=Verification.HYPOPG)


@postgresql
def test_a_pattern_gets_a_trigram_index(hypopg: None) -> None:
    query = Ticket.objects.filter(title__contains="c4ca42")
    missing = only(advice_on(query))
    assert "gin_trgm_ops" in missing.verdict.inconclusive
    with connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION pg_trgm")
    found = only(advice_on(query))
    assert found.as_code().startswith('GinIndex(fields=["title"], opclasses=["gin_trgm_ops"]')
    assert found.verdict.method is Verification.COPY  # HypoPG has no GIN
    assert found.confidence >= Confidence.MEDIUM
    assert found.notes == ("needs TrigramExtension() in an earlier migration",)
    add(found.candidate.as_index())
    assert found.candidate.name in plan(query)


@postgresql
@pytest.mark.django_db(databases="__all__")  # the app asks them all for their types
def test_a_pattern_whatever_the_case_needs_djangos_postgres_app(
    tickets: None, settings: Any
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION pg_trgm")
    query = Ticket.objects.filter(title__icontains="C4CA42")
    without = only(advice_on(query))
    assert without.notes[1] == 'needs "django.contrib.postgres" in INSTALLED_APPS'
    assert without.verdict.inconclusive == without.notes[1]
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.postgres"]
    found = only(advice_on(query))
    assert found.as_code().startswith('GinIndex(OpClass(Upper("title"), name="gin_trgm_ops")')
    assert found.confidence >= Confidence.MEDIUM
    add(found.candidate.as_index())
    assert found.candidate.name in plan(query)


@postgresql
@pytest.mark.parametrize(
    ("query", "code"),
    [
        (lambda: Ticket.objects.filter(title__iexact="x"), 'models.Index(Upper("title")'),
        (
            lambda: Ticket.objects.filter(title__startswith="c4ca42"),
            'models.Index(fields=["title"], opclasses=["text_pattern_ops"]',
        ),
        (
            lambda: Ticket.objects.filter(title="x").values_list("priority"),
            'models.Index(fields=["title"], include=["priority"]',
        ),
    ],
)
def test_other_lookups_get_an_index_that_works(
    tickets: None, query: Callable[[], Any], code: str
) -> None:
    found = only(advice_on(query()))
    assert found.as_code().startswith(code)
    assert found.confidence is Confidence.HIGH
    add(found.candidate.as_index())
    assert found.candidate.name in plan(query())


def run(*arguments: str) -> tuple[str, int]:
    output = StringIO()
    try:
        call_command("index_advise", *arguments, stdout=output)
    except CommandError as error:
        return output.getvalue() + str(error), error.returncode
    return output.getvalue(), 0


@pytest.fixture
def log(tickets: None, tmp_path: Path) -> str:
    """A log with the statement that has no index."""
    (statement,) = recorded(newest())
    assert statement.params is not None
    path = tmp_path / "queries.jsonl"
    line = json.dumps({"sql": statement.sql, "params": statement.params, "calls": 9})
    path.write_text(f"{line}\nnoise\n")
    return str(path)


def test_the_command_prints_proposals_and_a_migration(log: str) -> None:
    text, code = run("--from-log", log, "--app", "testapp")
    assert code == 0
    assert "testapp.Ticket  confidence high" in text
    assert BEST in text
    assert "class Migration(migrations.Migration):" in text
    assert "  for     9 calls such as SELECT" in text
    assert ("cost    " in text) == (connection.vendor == "postgresql")
    assert ("plan    " in text) == (connection.vendor == "sqlite")


def test_the_command_prints_one_json_object(log: str) -> None:
    text, code = run("--from-log", log, "--from-log", log, "--format", "json")
    facts = json.loads(text)
    assert code == 0
    assert facts["proposals"][0]["confidence"] == "high"
    assert facts["proposals"][0]["calls"] == 18
    assert (facts["statements"], facts["unread"]) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 0),
        (("--fail-on", "high"), 1),
        (("--fail-on", "low", "--verify", "none"), 1),
        (("--fail-on", "high", "--verify", "none"), 0),
        (("--app", "nothing"), 2),
        (("--database", "nowhere"), 1),
    ],
)
def test_exit_codes(log: str, arguments: Sequence[str], code: int) -> None:
    if "nowhere" in arguments:
        code = 1  # Django's parser, called from Python, raises with its own code
    assert run("--from-log", log, *arguments)[1] == code


def test_the_command_fails_on_existing_indexes_too(db: None) -> None:
    add(Index(fields=["title"], name="one"), Index(fields=["title"], name="two"))
    path_error, code = run("--app", "testapp")
    assert code == 2
    assert "pass --from-log" in path_error


def test_duplicates_are_printed_and_count(log: str) -> None:
    add(Index(fields=["title"], name="one"), Index(fields=["title"], name="two"))
    text, code = run("--from-log", log, "--verify", "none", "--fail-on", "high")
    assert "testapp.Ticket: two is duplicate, confidence high: one is the same" in text
    assert code == 1
    assert "1 findings of confidence high or more." in text


@postgresql
def test_the_command_prints_why_it_is_inconclusive(log: str) -> None:
    text, _ = run("--from-log", log, "--verify", "none")
    assert "  cost    inconclusive: not verified" in text
    with connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION pg_trgm")
    path = Path(log)
    path.write_text("SELECT id FROM testapp_ticket WHERE title LIKE '%c4ca42%'\n")
    text, _ = run("--from-log", log)
    assert "  note    needs TrigramExtension()" in text


def test_another_vendor_is_refused(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    monkeypatch.setattr(connection, "vendor", "mysql")
    with pytest.raises(UsageError, match="knows PostgreSQL and SQLite, not mysql"):
        advise([])
