"""Statements thrown away and made again: the same, whoever is killed and whoever pays meanwhile."""

import datetime
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client, override_settings

from dbpatterns.eventstore.management.commands.rebuild_projection import Command
from dbpatterns.eventstore.models import ProjectionState
from dbpatterns.eventstore.projections import catch_up
from dbpatterns.ledger import transfers as ledger
from dbpatterns.sharding import shards
from demo.banking import standing_orders
from demo.banking.models import Account, Customer, StandingOrder, StatementLine
from demo.banking.projections import Statements
from demo.banking.statements import Line
from demo.banking.transfers import transfer
from demo.users.models import User
from tests.demo.bank_support import (
    at_once,
    environment_of_a_process,
    import_sample,
    until_the_processes_are_gone,
)
from tests.demo.statement_support import (
    SHARD,
    Pair,
    faults,
    in_ledger,
    kept,
    killed,
    on_statements,
    read,
    rebuild,
    statement,
)
from tests.processes import ROOT, until

committed = pytest.mark.django_db(databases="__all__", transaction=True)
DAY = datetime.date(2026, 12, 1)
MANAGE = [sys.executable, f"{ROOT}/manage.py"]
QUIET: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def pair(transactional_db: None) -> Pair:
    return Pair()


def throw_away(alias: str = SHARD) -> None:
    """Empty the table as an operator would, past the projection."""
    is_postgresql = connections[alias].vendor == "postgresql"
    with connections[alias].cursor() as cursor:
        cursor.execute(f"{'TRUNCATE' if is_postgresql else 'DELETE FROM'} banking_statementline")


def events_of_rebuilds() -> int:
    """How many events the generations that nobody reads yet have come to."""
    begun = ProjectionState.objects.using(SHARD).filter(is_live=False)
    return sum(begun.values_list("events", flat=True))


def only_one_generation() -> bool:
    generations = StatementLine.objects.using(SHARD).order_by().values_list("generation", flat=True)
    states = ProjectionState.objects.using(SHARD).values_list("generation", "is_live")
    return list(states) == [(number, True) for number in set(generations)]


def page_of(customer: int) -> str:
    """A customer's page, but for the tokens of its forms."""
    user, _ = User.objects.get_or_create(username=f"u{customer}", customer_id=customer)
    client = Client()
    client.force_login(user)
    page = client.get("/bank/").content.decode()
    return re.sub(r'name="(csrfmiddlewaretoken|once)" value="[^"]*"', "", page)


@pytest.fixture
def day(transactional_db: None) -> None:
    """Statements of a day, with some lines of each kind, on every shard."""
    import_sample(40)
    for alias in shards():
        for order in StandingOrder.objects.using(alias)[:10]:
            standing_orders.execute(order.pk, DAY, using=alias)
        account = Account.objects.using(alias).filter(kind="customer").order_by("number")[:2]
        Account.objects.using(alias).filter(pk=account[0].pk).update(balance=700)
        transfer(account[0], account[1], amount=3, idempotency_key="k", memo="Ünïcode 😀")
        catch_up(Statements(), using=alias)


@committed
@pytest.mark.usefixtures("day")
def test_statements_thrown_away_are_made_again_the_same_on_every_shard() -> None:
    for alias in shards():
        before = kept(alias)
        assert len(before) > 5
        StatementLine.objects.using(alias).all().delete()
        assert rebuild(database=alias)["applied"] == len(before)
        assert kept(alias) == before
    assert faults() == []


@committed
@pytest.mark.usefixtures("day")
def test_a_page_is_byte_for_byte_the_same_while_they_are_thrown_away_and_after_the_rebuild() -> (
    None
):
    customers = {alias: Customer.objects.using(alias).order_by("pk")[:6] for alias in shards()}
    numbers = [each.pk for found in customers.values() for each in found]
    before = {number: page_of(number) for number in numbers}
    assert sum(page.count("Standing order to") for page in before.values()) > 3
    for alias in shards():
        throw_away(alias)
    assert {number: page_of(number) for number in numbers} == before
    for alias in shards():
        rebuild(database=alias)
    assert {number: page_of(number) for number in numbers} == before


@committed
@pytest.mark.usefixtures("day")
def test_a_wrong_line_is_found_by_the_proof_and_made_right() -> None:
    before = kept()
    line = Statements.rows(SHARD)[3]
    StatementLine.objects.using(SHARD).filter(pk=line.pk).update(balance=1)
    assert len(faults()) == 1
    assert f"account {line.account} has {line.amount / 100:.2f}, then 0.01" in faults()[0]
    rebuild()
    assert kept() == before
    assert faults() == []


@committed
def test_a_rebuild_counts_on_from_its_own_lines_and_not_from_the_wrong_ones(pair: Pair) -> None:
    """Page by page, while the lines in use are wrong: none of theirs is carried over."""
    pair.pay(10, "a")
    pair.pay(20, "b")
    read(pair.one)
    before = kept()
    Statements.rows(SHARD).update(balance=1)
    rebuild("--batch-size", "1")
    assert kept() == before
    assert on_statements() == in_ledger()


def half_way(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Have something done once, when a rebuild has applied its first page."""
    done: list[object] = []

    def pause(self: Command) -> None:
        if not done:
            done.append(None)
            done.append(what())

    monkeypatch.setattr(Command, "pause", pause)


@committed
def test_a_transfer_during_a_rebuild_is_not_lost_and_old_lines_are_read_until_the_end(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        pair.pay(10, str(number))
    read(pair.one)
    seen: list[list[Line]] = []

    def pay() -> None:
        pair.pay(7, "meanwhile")
        seen.append(read(pair.one))

    half_way(monkeypatch, pay)
    rebuild("--batch-size", "3")
    assert [line.memo for line in seen[0]] == ["meanwhile", "4", "3", "2", "1", "0", ""]
    assert read(pair.one) == seen[0]
    assert on_statements() == in_ledger()


@committed
@pytest.mark.parametrize("is_missing", [False, True])
def test_while_statements_are_made_again_a_page_says_only_that_a_movement_is_missing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, is_missing: bool
) -> None:
    pair.pay(10, "a")
    if is_missing:  # booked past the bank
        ledger.transfer(pair.one.ledger_id, pair.two.ledger_id, 10, using=SHARD)
    told = []

    def look() -> None:
        assert pair.one.customer_id is not None
        told.append("This list is not complete." in page_of(pair.one.customer_id))

    throw_away()
    look()
    half_way(monkeypatch, look)
    rebuild("--batch-size", "1")
    look()
    assert told == [is_missing] * 3


@committed
def test_transfers_at_once_with_rebuilds_are_all_on_the_statements(pair: Pair) -> None:
    def pay() -> None:
        for number in range(20):
            pair.pay(1, str(number))
            assert read(pair.one)[0].memo == str(number)

    def rebuild_thrice() -> None:
        for _ in range(3):
            rebuild("--batch-size", "4")

    assert at_once(pay, rebuild_thrice) == [None, None]
    catch_up(Statements(), using=SHARD)
    assert on_statements() == in_ledger()
    assert faults() == []


KILLED = """
import sys
from django.core.management import call_command
from dbpatterns.eventstore.management.commands import rebuild_projection
from demo.banking.projections import Statements

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

apply_page = Statements.apply_page

pages = []

def apply_and_die(self, events, **options):
    apply_page(self, events, **options)
    pages.append(events)
    if len(pages) == 2:
        die()

%s
options = ("--database", "shard_0", "--batch-size", "4", "-v", "0")
call_command(rebuild_projection.Command(), "statements", *options)
"""


@committed
@pytest.mark.parametrize(
    ("moment", "applied_before"),
    [
        ("rebuild_projection.Command.pause = die", 4),
        ("Statements.apply_page = apply_and_die", 4),
        ("rebuild_projection.go_live = die", 12),
        ("rebuild_projection.sweep = die", 12),
    ],
    ids=["between pages", "rows written, page not committed", "before it is live", "not swept"],
)
def test_a_rebuild_killed_goes_on_where_it_ended(
    pair: Pair, moment: str, applied_before: int
) -> None:
    for number in range(5):
        pair.pay(10, str(number))
    catch_up(Statements(), using=SHARD)
    before = kept()
    killed(KILLED % moment)
    assert kept() == before
    assert rebuild("--dry-run")["applied_before"] == applied_before
    facts = rebuild()
    assert (facts["applied_before"], facts["applied"]) == (applied_before, 12 - applied_before)
    assert kept() == before
    assert only_one_generation()


@committed
def test_statements_thrown_away_and_a_rebuild_killed_again_and_again_while_people_pay(
    pair: Pair,
) -> None:
    """Nothing is missing and nothing doubled, nor on any page that was read meanwhile."""
    catch_up(Statements(), using=SHARD)
    done = threading.Event()

    def pay(payer: Account, back: bool) -> int:
        paid = 0
        while not done.is_set() or paid < 20:
            key = f"{back}/{paid}"
            pair.pay(1, key, back=back)
            seen = statement(payer)
            assert seen.is_whole
            own = [line for line in seen.lines if line.change < 0]
            assert own[0].memo == key, "one's own transfer is there"
            balance = seen.accounts[0].balance
            for line in seen.lines:
                assert line.balance == balance
                balance -= line.change
            paid += 1
        return paid

    def rebuild_and_kill() -> int:
        command = [*MANAGE, "rebuild_projection", "statements", "--database", SHARD]
        command += ["--batch-size", "3", "--pause-ms", "1"]
        kills = 0
        try:
            throw_away()
            for _ in range(20):  # on a fast machine some are done before they are seen
                if kills == 3:
                    break
                begun = events_of_rebuilds()
                process = subprocess.Popen(command, env=environment_of_a_process(), **QUIET)
                try:
                    until(lambda: events_of_rebuilds() > begun or process.poll() is not None)  # noqa: B023
                finally:
                    process.kill()
                was_killed = process.wait() == -signal.SIGKILL
                until_the_processes_are_gone()
                kills += was_killed and events_of_rebuilds() > 0
        finally:
            done.set()
        return kills

    paid_by_one, paid_by_two, kills = at_once(
        lambda: pay(pair.one, False), lambda: pay(pair.two, True), rebuild_and_kill
    )
    assert isinstance(paid_by_one, int), paid_by_one
    assert isinstance(paid_by_two, int), paid_by_two
    assert kills, "one at least was killed while it rebuilt"
    rebuild()
    assert on_statements() == in_ledger()
    assert len(on_statements()) == 2 + 2 * (paid_by_one + paid_by_two)
    assert only_one_generation()
    assert faults() == []


@committed
def test_statements_thrown_away_are_told_by_the_proof_and_read_from_the_events(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.pay(10, "a")
    before = read(pair.one)
    throw_away()
    assert read(pair.one) == before
    assert not caplog.records, "nothing is to be fed"
    pair.pay(5, "b")
    assert read(pair.one)[1:] == before
    assert read(pair.one)[0].balance == 985
    assert "Line 2 of the statement of account" in caplog.text
    assert "rebuild_projection statements --database shard_0" in caplog.text
    assert any("has nothing as line 1 of its statement" in each for each in faults())
    rebuild()
    caplog.clear()
    assert read(pair.one)[1:] == before
    assert not caplog.records
    assert faults() == []


@committed
def test_two_rebuilds_at_once_share_the_work(pair: Pair) -> None:
    for number in range(10):
        pair.pay(10, str(number))
    catch_up(Statements(), using=SHARD)
    before = kept()
    results: Any = at_once(*[lambda: rebuild("--batch-size", "3")] * 2)
    assert all(isinstance(each, dict) for each in results), results
    assert kept() == before
    assert only_one_generation()


@committed
def test_which_shard_to_rebuild_must_be_said_where_there_are_several(pair: Pair) -> None:
    with pytest.raises(CommandError, match=r"shard_0, .*name one by --database") as caught:
        call_command(Command(), "statements", stdout=StringIO(), stderr=StringIO())
    assert caught.value.returncode == 2
    sharding = {**settings.DBPATTERNS["SHARDING"], "SHARDS": [SHARD]}
    with override_settings(DBPATTERNS={**settings.DBPATTERNS, "SHARDING": sharding}):
        call_command(Command(), "statements", stdout=StringIO(), stderr=StringIO())
    assert on_statements() == in_ledger()
