"""Projections: each event has its effect once, whatever is killed; rebuilt beside those in use."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin import site
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from dbpatterns import telemetry
from dbpatterns.commands import Exit
from dbpatterns.errors import UsageError
from dbpatterns.eventstore import projections, rebuilding
from dbpatterns.eventstore.appending import Expected, NewEvent, append
from dbpatterns.eventstore.epochs import new_epoch
from dbpatterns.eventstore.errors import EpochChanged, InvalidState
from dbpatterns.eventstore.management.commands import rebuild_projection
from dbpatterns.eventstore.management.commands.rebuild_projection import Command
from dbpatterns.eventstore.models import ProjectionState, StoredEvent, StreamSnapshot
from dbpatterns.eventstore.projections import Projection, catch_up, registered
from dbpatterns.eventstore.rebuilding import prepare
from dbpatterns.eventstore.snapshots import replay, save_snapshot
from tests.processes import in_threads, locks_waited_for, start_process, until
from tests.testapp.models import Balance, Effect
from tests.testapp.projections import Balances


class Broken(Exception):
    pass


def pay(account: str, *amounts: int) -> None:
    events = [NewEvent("Paid", {"amount": amount}) for amount in amounts]
    append(account, events, expected_version=Expected.ANY)


def balances() -> dict[str, tuple[int, int]]:
    return {row.account: (row.amount, row.events) for row in Balances.rows()}


@pytest.mark.django_db(transaction=True)
def test_a_checkpoint_kept_apart_from_the_rows_counts_an_event_twice() -> None:
    pay("a", 5)
    checkpoint = None
    for _ in range(2):  # the first run dies between the two
        for event in projections.read_all(after=checkpoint):
            Balances().apply(event, generation=1, using="default")
        # checkpoint = event.checkpoint
    assert Balance.objects.get().amount == 10


@pytest.mark.django_db(transaction=True)
def test_events_become_rows_once_and_the_next_run_goes_on() -> None:
    pay("a", 5, 6)
    assert catch_up(Balances()) == 2
    assert catch_up(Balances()) == 0
    pay("b", 1)
    assert catch_up(Balances()) == 1
    assert balances() == {"a": (11, 2), "b": (1, 1)}


@pytest.mark.django_db(transaction=True)
def test_two_at_once_share_the_work() -> None:
    for number in range(30):
        pay(f"a{number % 3}", 1)
    applied = in_threads([lambda: catch_up(Balances(), batch_size=4)] * 3)
    assert sum(applied) == 30
    assert balances() == {f"a{number}": (10, 10) for number in range(3)}


@pytest.mark.django_db(transaction=True)
def test_an_event_that_cannot_be_applied_undoes_its_page_and_is_met_again() -> None:
    class Picky(Balances):
        name = "picky"
        fails = True

        def apply(self, event: Any, *, generation: int, using: str) -> None:
            super().apply(event, generation=generation, using=using)
            if self.fails and event.data["amount"] == 3:
                raise Broken

    try:
        for amount in (1, 2, 3, 4):
            pay("a", amount)
        with pytest.raises(Broken):
            catch_up(Picky(), batch_size=2)
        assert {row.account: row.amount for row in Picky.rows()} == {"a": 3}
        Picky.fails = False
        assert catch_up(Picky()) == 2
        assert {row.account: row.amount for row in Picky.rows()} == {"a": 10}
    finally:
        del projections._registered["picky"]


KILLED = """
import os, signal
from dbpatterns.eventstore import projections
from tests.testapp.projections import Balances

class Dying(Balances):
    applied = 0
    def apply(self, event, **options):
        super().apply(event, **options)
        Dying.applied += 1
        if Dying.applied == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("at", [1, 2, 3, 7, 10])
def test_a_kill_between_two_events_costs_none_and_doubles_none(at: int) -> None:
    for amount in range(10):
        pay("a", amount)
    process = start_process(KILLED.format(at=at) + "projections.catch_up(Dying(), batch_size=3)\n")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = ProjectionState.objects.get().events
    assert done == (at - 1) // 3 * 3
    assert sum(row.events for row in Balance.objects.all()) == done
    catch_up(Balances())
    assert balances() == {"a": (45, 10)}


@pytest.mark.django_db(transaction=True)
def test_a_page_costs_four_statements_and_what_it_writes() -> None:
    class Idle(Balances):
        def apply(self, event: Any, *, generation: int, using: str) -> None:
            pass

    pay("a", 1)
    catch_up(Idle())  # makes the state and the epoch
    pay("a", 1, 2)
    with CaptureQueriesContext(connection) as queries:
        catch_up(Idle())
    sent = [each["sql"].split()[0] for each in queries.captured_queries]
    read = ["SELECT", "SELECT", "SELECT"]
    assert sent == [*read, "BEGIN", "UPDATE", "COMMIT", *read]


def rebuild(*args: str, stderr: StringIO | None = None) -> dict[str, Any]:
    output, stderr = StringIO(), stderr or StringIO()
    call_command(Command(), "balances", *args, "--format", "json", stdout=output, stderr=stderr)
    facts: dict[str, Any] = json.loads(output.getvalue())
    return facts


@pytest.fixture
def ten(transactional_db: None) -> None:
    for amount in range(10):
        pay("a", amount)
    catch_up(Balances())


def test_rebuilding_makes_right_what_a_bug_had_written(ten: None) -> None:
    Balance.objects.update(amount=999)
    assert rebuild() == {
        "events": 10,
        "applied_before": 0,
        "applied": 10,
        "generation": 2,
        "rows_deleted": 1,
    }
    assert balances() == {"a": (45, 10)}
    assert list(Balance.objects.values_list("generation", flat=True)) == [2]
    assert [str(each) for each in ProjectionState.objects.all()] == ["balances 2"]
    assert rebuild()["generation"] == 3


def test_readers_see_the_old_rows_until_the_new_ones_are_all_there(
    ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(Command, "pause", lambda self: seen.append(balances()))
    rebuild("--batch-size", "3")
    assert seen == [{"a": (45, 10)}] * len(seen)
    assert len(seen) >= 4


def test_what_is_appended_meanwhile_reaches_both_generations(
    ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended: list[int] = []

    def pause(self: Command) -> None:
        if len(appended) < 3:
            appended.append(1)
            pay("b", 1)
            catch_up(Balances())

    monkeypatch.setattr(Command, "pause", pause)
    rebuild("--batch-size", "3")
    assert balances() == {"a": (45, 10), "b": (3, 3)}


def test_a_runner_of_the_old_generation_goes_over_to_the_new_one(
    ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pay("a", 1)
    pay("a", 2)

    def swap(events: int) -> bool:
        rebuild()
        return False

    assert catch_up(Balances(), batch_size=1, must_stop=swap) == 1
    assert balances() == {"a": (48, 12)}


def test_a_page_read_before_the_swap_is_not_applied_after_it(
    ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt = prepare("balances", using="default")
    catch_up(Balances(), state=rebuilt)
    pay("a", 1)
    read_all = projections.read_all

    def read_then_swap(**options: Any) -> Any:
        events = read_all(**options)
        rebuilding.go_live(Balances(), rebuilt, using="default")
        return events

    monkeypatch.setattr(projections, "read_all", read_then_swap)
    assert catch_up(Balances()) == 1
    assert balances() == {"a": (46, 11)}
    assert Balance.objects.get(generation=1).events == 10


def test_a_dry_run_says_how_much_and_writes_nothing(ten: None) -> None:
    assert rebuild("--dry-run") == {"events": 10, "applied_before": 0}
    assert ProjectionState.objects.count() == 1


def test_a_rebuild_stopped_early_goes_on_where_it_ended(
    ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Command, "must_stop", lambda self: True)
    with pytest.raises(CommandError, match="Stopped at 4 of 10 events") as caught:
        rebuild("--batch-size", "4")
    assert caught.value.returncode == Exit.STOPPED
    assert balances() == {"a": (45, 10)}
    monkeypatch.undo()
    assert rebuild("--dry-run") == {"events": 10, "applied_before": 4}
    facts = rebuild()
    assert (facts["applied_before"], facts["applied"]) == (4, 6)
    assert balances() == {"a": (45, 10)}


def test_a_rebuild_killed_goes_on_where_it_ended(ten: None) -> None:
    process = start_process(
        "import os, signal\n"
        "from django.core.management import call_command\n"
        "from dbpatterns.eventstore.management.commands.rebuild_projection import Command\n"
        "Command.pause = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        "call_command(Command(), 'balances', '--batch-size', '3', '-v', '0')\n"
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert balances() == {"a": (45, 10)}
    facts = rebuild()
    assert (facts["applied_before"], facts["applied"]) == (3, 7)
    assert balances() == {"a": (45, 10)}


def test_a_rebuild_may_begin_again(ten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Command, "must_stop", lambda self: True)
    with pytest.raises(CommandError):
        rebuild("--batch-size", "4")
    monkeypatch.undo()
    Balance.objects.update(amount=999)
    facts = rebuild("--restart")
    assert (facts["generation"], facts["applied_before"], facts["applied"]) == (3, 0, 10)
    assert facts["rows_deleted"] == 2
    assert balances() == {"a": (45, 10)}
    assert [str(each) for each in ProjectionState.objects.all()] == ["balances 3"]
    assert rebuild("--restart")["generation"] == 4


@pytest.mark.django_db(transaction=True)
def test_those_who_begin_a_rebuild_at_once_share_it() -> None:
    begun = in_threads([lambda: prepare("balances", using="default")] * 4)
    assert {(each.pk, each.generation) for each in begun} == {(begun[0].pk, 2)}


def test_a_rebuild_that_another_has_overtaken_does_not_put_old_rows_in_its_place(ten: None) -> None:
    slow = prepare("balances", using="default")
    rebuild("--restart")
    rebuilding.go_live(Balances(), slow, using="default")
    assert [str(each) for each in ProjectionState.objects.filter(is_live=True)] == ["balances 3"]
    assert balances() == {"a": (45, 10)}


def test_a_rebuild_whose_generation_another_has_thrown_away_ends_with_what_there_is(
    ten: None,
) -> None:
    slow = prepare("balances", using="default")
    assert catch_up(Balances(), state=slow, batch_size=3, must_stop=lambda _: True) == 3
    rebuild("--restart")
    assert catch_up(Balances(), state=slow) == 0
    rebuilding.go_live(Balances(), slow, using="default")
    assert [str(each) for each in ProjectionState.objects.all()] == ["balances 3"]
    assert set(Balance.objects.values_list("generation", flat=True)) == {3}


def test_readers_are_not_taken_back_when_the_old_rows_were_fed_further(ten: None) -> None:
    rebuilt = prepare("balances", using="default")
    catch_up(Balances(), state=rebuilt)
    for amount in (1, 2, 3):
        pay("a", amount)
    assert catch_up(Balances()) == 3
    seen = balances()
    rebuilding.go_live(Balances(), rebuilt, using="default", batch_size=1)
    assert balances() == seen == {"a": (51, 13)}
    assert catch_up(Balances()) == 0


def test_what_is_appended_at_the_swap_is_applied_too(
    ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_live_then_pay(*args: Any, **options: Any) -> None:
        rebuilding.go_live(*args, **options)
        pay("a", 1)

    monkeypatch.setattr(rebuild_projection, "go_live", go_live_then_pay)
    rebuild()
    assert balances() == {"a": (46, 11)}


@pytest.mark.django_db(transaction=True)
def test_a_dry_run_of_what_was_never_fed_writes_nothing() -> None:
    pay("a", 1)
    assert rebuild("--dry-run") == {"events": 1, "applied_before": 0}
    assert not ProjectionState.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_readers_are_not_taken_back_to_rows_that_were_made_before_the_first_event() -> None:
    rebuilt = prepare("balances", using="default")
    assert catch_up(Balances(), state=rebuilt) == 0
    pay("a", 5)
    catch_up(Balances())
    rebuilding.go_live(Balances(), rebuilt, using="default")
    assert balances() == {"a": (5, 1)}


class Held(Balances):
    """Writes a page, and does not commit it before it may."""

    def __init__(self) -> None:
        self.has_written, self.may_commit = threading.Event(), threading.Event()

    def apply_page(self, events: Any, *, generation: int, using: str) -> None:
        super().apply_page(events, generation=generation, using=using)
        self.has_written.set()
        assert self.may_commit.wait(timeout=30)


@contextmanager
def holding(state: ProjectionState | None, count: int) -> Iterator[Held]:
    """Have a page of a generation written elsewhere, and committed once the block's lock waits."""
    held = Held()
    page: dict[str, Any] = {"state": state, "batch_size": count, "must_stop": lambda _: True}
    with ThreadPoolExecutor(1) as pool:
        try:
            done = pool.submit(in_threads, [lambda: catch_up(held, **page)])
            assert held.has_written.wait(timeout=30)
            yield held
        finally:
            held.may_commit.set()
        assert done.result(timeout=30) == [count]


def while_it_waits(held: Held, what: Callable[[], Any]) -> None:
    """Run something that waits for the page; let that be committed then."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(in_threads, [what])
        until(lambda: done.done() or locks_waited_for())
        assert not done.done()
        held.may_commit.set()
        (result,) = done.result(timeout=30)
    assert not isinstance(result, Exception), result


@pytest.mark.postgresql
def test_the_swap_waits_for_the_page_that_the_old_rows_are_fed(ten: None) -> None:
    rebuilt = prepare("balances", using="default")
    catch_up(Balances(), state=rebuilt)
    pay("a", 1, 2)
    with holding(None, count=2) as held:
        while_it_waits(held, lambda: rebuilding.go_live(Balances(), rebuilt, using="default"))
    assert balances() == {"a": (48, 12)}
    assert Balance.objects.get(generation=2).events == 12


@pytest.mark.postgresql
def test_of_two_generations_that_go_live_at_once_the_later_one_is_live(ten: None) -> None:
    earlier = prepare("balances", using="default")
    later = prepare("balances", using="default", restart=True)
    assert (earlier.generation, later.generation) == (2, 3)
    for each in (earlier, later):
        catch_up(Balances(), state=each)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            rebuilding.go_live(Balances(), earlier, using="default")
            go = [lambda: rebuilding.go_live(Balances(), later, using="default")]
            done = pool.submit(in_threads, go)
            until(lambda: done.done() or locks_waited_for())
        assert done.result(timeout=30) == [None]
    live = ProjectionState.objects.filter(is_live=True)
    assert [str(each) for each in live] == ["balances 3"]


@pytest.mark.postgresql
def test_what_a_rebuild_that_was_overtaken_is_writing_is_swept_too(ten: None) -> None:
    slow = prepare("balances", using="default")
    with holding(slow, count=3) as held:
        while_it_waits(held, lambda: rebuild("--restart"))
    assert set(Balance.objects.values_list("generation", flat=True)) == {3}
    assert [str(each) for each in ProjectionState.objects.all()] == ["balances 3"]
    assert catch_up(Balances(), state=slow) == 0


@pytest.mark.parametrize("begun", [0, 4])
def test_a_rebuild_begun_before_a_restore_is_not_gone_on_with(ten: None, begun: int) -> None:
    state = prepare("balances", using="default")
    if begun:
        catch_up(Balances(), state=state, batch_size=begun, must_stop=lambda _: True)
    new_epoch()
    with pytest.raises(EpochChanged, match="rebuild the projection"):
        catch_up(Balances())
    facts = rebuild()
    assert (facts["generation"], facts["applied"]) == (3 if begun else 2, 10)
    assert balances() == {"a": (45, 10)}
    assert set(Balance.objects.values_list("generation", flat=True)) == {facts["generation"]}


def test_deleting_the_old_rows_stops_when_it_must_and_goes_on_later(
    ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for account in "bcde":
        pay(account, 1)
    catch_up(Balances())
    left = Balance.objects.filter(generation=1).count

    monkeypatch.setattr(Command, "must_stop", lambda self: left() < 5)
    with pytest.raises(CommandError, match="2 old ones are deleted") as caught:
        rebuild("--batch-size", "2")
    assert caught.value.returncode == Exit.STOPPED
    assert left() == 3
    monkeypatch.undo()
    assert rebuild("--dry-run") == {"events": 14, "applied_before": 14}
    told = StringIO()
    assert rebuild(stderr=told) == {
        "events": 14,
        "applied_before": 14,
        "applied": 0,
        "generation": 2,
        "rows_deleted": 3,
    }
    assert "run it with --restart" in told.getvalue()
    assert balances() == {"a": (45, 10), **dict.fromkeys("bcde", (1, 1))}
    assert rebuild()["generation"] == 3


def test_a_name_that_nobody_has_is_told_before_anything_is_counted(ten: None) -> None:
    for options in ([], ["--dry-run"]):
        with pytest.raises(CommandError, match=r"no projection 'letters'. Known: .*balances"):
            call_command(Command(), "letters", *options, stdout=StringIO(), stderr=StringIO())


def test_going_live_twice_is_going_live_once(ten: None) -> None:
    rebuilt = prepare("balances", using="default")
    catch_up(Balances(), state=rebuilt)
    for _ in range(2):
        rebuilding.go_live(Balances(), rebuilt, using="default")
        assert balances() == {"a": (45, 10)}


@pytest.mark.django_db(transaction=True)
def test_a_page_may_be_applied_at_once() -> None:
    class AtOnce(Balances):
        def apply_page(self, events: Any, *, generation: int, using: str) -> None:
            amount = sum(event.data["amount"] for event in events)
            values = {"account": "all", "amount": amount, "events": len(events)}
            Balance.objects.using(using).create(generation=generation, **values)

    pay("a", 1, 2, 3)
    assert catch_up(AtOnce()) == 3
    assert balances() == {"all": (6, 3)}


@pytest.mark.django_db(transaction=True)
def test_a_page_is_told_to_telemetry() -> None:
    heard: list[telemetry.Event] = []
    pay("a", 1, 2, 3)
    with telemetry.listening(heard.append):
        catch_up(Balances(), batch_size=2)
    assert [(each.name, each.database, dict(each.facts)) for each in heard] == [
        ("eventstore.projected", "default", {"projection": "balances", "events": 2}),
        ("eventstore.projected", "default", {"projection": "balances", "events": 1}),
    ]
    assert all(each.seconds > 0 for each in heard)


@pytest.mark.django_db
def test_a_name_that_nobody_has_is_refused_with_those_known() -> None:
    with pytest.raises(UsageError, match=r"no projection 'balance'. Known: balances"):
        prepare("balance", using="default")


def test_two_projections_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="would share a checkpoint"):
        type("Other", (Projection,), {"name": "balances", "model": Balance})
    assert registered()["balances"] is Balances


def test_a_projection_must_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotImplementedError):
        Projection().apply(None, generation=1, using="default")  # type: ignore[arg-type]


@pytest.fixture
def _without_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Balances, "model", Effect)


@pytest.mark.django_db(databases="__all__")  # Django 6.1 asks SQLite about JSON
@pytest.mark.usefixtures("_without_generation")
def test_a_model_without_generations_is_an_error_of_the_checks() -> None:
    found = [each for each in checks.run_checks() if each.id == "dbpatterns_eventstore.E002"]
    assert [each.msg for each in found] == [
        "Effect, which projection 'balances' writes, is no ProjectedModel: it could not be "
        "rebuilt beside the rows in use."
    ]
    assert found[0].hint


@pytest.mark.django_db
def test_the_admin_shows_and_changes_nothing(admin_user: Any, admin_client: Any) -> None:
    pay("a", 1)
    for model in (StoredEvent, ProjectionState):
        request = RequestFactory().get("/")
        request.user = admin_user
        admin = site.get_model_admin(model)
        assert not admin.has_add_permission(request)
        assert not admin.has_change_permission(request)
        assert not admin.has_delete_permission(request)
        url = f"/admin/dbpatterns_eventstore/{model._meta.model_name}/"
        assert admin_client.get(url).status_code == 200


# Snapshots


def add(state: dict[str, Any], event: Any) -> dict[str, Any]:
    return {"balance": state["balance"] + event.data["amount"]}


ZERO = {"balance": 0}


@pytest.mark.django_db
def test_a_stream_adds_up_to_a_state_and_a_version() -> None:
    assert replay("a", add, initial=ZERO) == (ZERO, 0)
    pay("a", 5, 6)
    assert replay("a", add, initial=ZERO) == ({"balance": 11}, 2)


@pytest.mark.django_db
def test_a_snapshot_is_begun_from_and_only_what_came_later_is_read() -> None:
    pay("a", 5, 6)
    assert replay("a", add, initial=ZERO, kind="v1") == ({"balance": 11}, 2)
    save_snapshot("a", "v1", 2, {"balance": 1_000})
    pay("a", 1)
    assert replay("a", add, initial=ZERO, kind="v1") == ({"balance": 1_001}, 3)
    assert replay("a", add, initial=ZERO, kind="v2") == ({"balance": 12}, 3)
    assert replay("a", add, initial=ZERO) == ({"balance": 12}, 3)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"x": float("nan")}, "not JSON compliant"),
        ({"x": [float("inf")]}, "not JSON compliant"),
        ({"x": {1: "one"}}, "the key 1 is not text"),
        ({"x": "\0"}, "a NUL"),
        ({"x": "\ud800"}, "surrogates"),
        ({"x": object()}, "not JSON serializable"),
    ],
    ids=["nan", "infinity", "key", "nul", "surrogate", "object"],
)
def test_a_state_that_would_not_come_back_is_refused(state: dict[str, Any], reason: str) -> None:
    with CaptureQueriesContext(connection) as queries, pytest.raises(InvalidState) as caught:
        save_snapshot("a", "v1", 1, state)
    assert reason in str(caught.value)
    assert (caught.value.stream, caught.value.kind) == ("a", "v1")
    assert len(queries) == 0


@pytest.mark.django_db
def test_a_later_snapshot_is_never_replaced_by_an_earlier_one() -> None:
    for version in (3, 5, 4):
        save_snapshot("a", "v1", version, {"balance": version})
    assert replay("a", add, initial=ZERO, kind="v1") == ({"balance": 5}, 5)
    assert str(StreamSnapshot.objects.get()) == "a v1 5"
