"""Statements: made from events, thrown away and made again the same, whoever is killed."""

import datetime
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import override_settings

from dbpatterns.eventstore.appending import Expected, NewEvent, append
from dbpatterns.eventstore.management.commands.rebuild_projection import Command
from dbpatterns.eventstore.models import ProjectionState, StoredEvent
from dbpatterns.eventstore.projections import catch_up, prepare
from dbpatterns.ledger import transfers as ledger
from dbpatterns.ledger.models import Entry as LedgerEntry
from dbpatterns.services import resolve
from dbpatterns.sharding import shard_for, shards
from demo.banking import standing_orders, statements
from demo.banking.books import prove_books, prove_shard
from demo.banking.models import Account, Customer, StandingOrder, StatementLine
from demo.banking.projections import Statements
from demo.banking.statements import Line, StatementService
from demo.banking.transfers import transfer
from tests.demo.api_support import queries_by_database
from tests.demo.bank_support import (
    at_once,
    environment_of_a_process,
    import_sample,
    until_the_processes_are_gone,
)

pytestmark = pytest.mark.django_db(databases="__all__")
committed = pytest.mark.django_db(databases="__all__", transaction=True)
DAY = datetime.date(2026, 12, 1)
SHARD = "shard_0"
STORED = [each.name for each in StatementLine._meta.fields if each.name not in ("id", "generation")]


class Pair:
    """Two customers of the first shard, with an account each."""

    def __init__(self, balance: int = 1_000) -> None:
        numbers = (number for number in range(1, 100) if shard_for(number) == SHARD)
        self.accounts = [self._open(next(numbers), balance) for _ in range(2)]
        self.one, self.two = self.accounts

    def _open(self, number: int, balance: int) -> Account:
        customer = Customer.objects.using(SHARD).create(pk=number, name=f"Customer {number}")
        return Account.objects.using(SHARD).create(
            number=str(number), customer=customer, balance=balance
        )

    def pay(self, amount: int, key: str, *, back: bool = False) -> None:
        payer, payee = (self.two, self.one) if back else (self.one, self.two)
        transfer(payer, payee, amount=amount, idempotency_key=key, memo=key)


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair()


def read(account: Account) -> list[Line]:
    assert account.customer_id is not None
    return list(resolve(StatementService).read(account.customer_id).lines)


def kept(alias: str = SHARD) -> list[tuple[Any, ...]]:
    """Everything on the statements in use, but for the ids and the generation."""
    return list(Statements.rows(alias).order_by("account", "version").values_list(*STORED))


def in_ledger(alias: str = SHARD) -> list[tuple[str, int, int, int]]:
    """What the ledger has booked on the customers' accounts, read without any of our queries."""
    numbers = dict(
        Account.objects.using(alias).filter(kind="customer").values_list("ledger_id", "number")
    )
    entries = LedgerEntry.objects.using(alias).filter(account__in=numbers)
    return sorted(
        (numbers[each.account_id], each.account_version, each.amount, each.balance_after)
        for each in entries
    )


def on_statements(alias: str = SHARD) -> list[tuple[str, int, int, int]]:
    rows = Statements.rows(alias).values_list("account", "version", "amount", "balance")
    return sorted(rows)


def faults() -> list[str]:
    return [fault for proof in prove_books().values() for fault in proof.faults]


def rebuild(*args: str, database: str = SHARD) -> dict[str, Any]:
    output = StringIO()
    options = (*args, "--database", database, "--format", "json")
    call_command(Command(), "statements", *options, stdout=output, stderr=StringIO())
    facts: dict[str, Any] = json.loads(output.getvalue())
    return facts


def killed(code: str) -> None:
    """Run code on this run's databases in a process that kills itself."""
    setup = "import os, signal, django; django.setup()\n"
    process = subprocess.run(
        [sys.executable, "-c", setup + code],
        env=environment_of_a_process(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    until_the_processes_are_gone()


# Harm


NAIVE = """
from dbpatterns.eventstore.reading import read_all
from demo.banking.projections import lines
from demo.banking.models import StatementLine

rows = StatementLine.objects.using("shard_0")
for event in read_all(using="shard_0"):
    (line,) = lines([event], {(event.stream[8:], event.version - 1): 0}, 1)
    line.version = rows.filter(account=line.account).count() + 1
    line.save(using="shard_0")
os.kill(os.getpid(), signal.SIGKILL)
# keep(event.checkpoint), in a transaction of its own: never reached
"""


@committed
def test_harm_a_checkpoint_kept_apart_from_its_rows_doubles_a_line_when_killed_between(
    pair: Pair,
) -> None:
    for _ in range(2):
        killed(NAIVE)
    rows = StatementLine.objects.using(SHARD).filter(account=pair.one.number)
    assert list(rows.values_list("amount", flat=True)) == [1_000, 1_000]


DYING = """
from dbpatterns.eventstore.projections import catch_up
from demo.banking.projections import Statements

class Dying(Statements):
    def apply_page(self, events, **options):
        super().apply_page(events, **options)
        if any(event.data["memo"] == "last" for event in events):
            os.kill(os.getpid(), signal.SIGKILL)

catch_up(Dying(), using="shard_0", batch_size=2)
"""


@committed
def test_a_projection_killed_between_rows_and_checkpoint_doubles_no_line_and_loses_none(
    pair: Pair,
) -> None:
    for key in ("a", "b", "last", "c"):
        pair.pay(10, key)
    killed(DYING)
    before = len(kept())
    assert 0 < before < len(in_ledger())
    catch_up(Statements(), using=SHARD)
    assert on_statements() == in_ledger()


# What a reader sees


def test_a_reader_sees_their_own_transfer_at_once(pair: Pair) -> None:
    pair.pay(10, "Lunch")
    assert [(line.title, line.memo, line.change, line.balance) for line in read(pair.one)] == [
        ("To " + pair.two.number, "Lunch", -10, 990),
        ("Balance set by the bank", "", 1_000, 1_000),
    ]


@pytest.mark.postgresql
@committed
def test_a_reader_sees_their_own_transfer_though_an_older_transaction_holds_the_projection(
    pair: Pair,
) -> None:
    read(pair.one)
    has_written, may_end = threading.Event(), threading.Event()

    def stay_open() -> None:
        with transaction.atomic(using=SHARD):
            Customer.objects.using(SHARD).create(pk=99_999, name="Slow")
            has_written.set()
            assert may_end.wait(30)

    def pay_and_read() -> list[Line]:
        assert has_written.wait(30)
        try:
            pair.pay(10, "a")
            pair.pay(5, "b", back=True)
            assert catch_up(Statements(), using=SHARD) == 0, "the projection alone does not see it"
            return read(pair.one)
        finally:
            may_end.set()

    _, seen = at_once(stay_open, pay_and_read)
    assert isinstance(seen, list), seen
    assert [(line.change, line.balance) for line in seen] == [
        *((5, 995), (-10, 990), (1_000, 1_000)),
    ]
    later = read(pair.one)
    assert later == seen
    assert len(kept()) == 6


@committed
def test_a_reader_feeds_the_statements_by_one_page_and_no_more(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        pair.pay(10, str(number))

    def small(*args: Any, **options: Any) -> int:
        return catch_up(*args, batch_size=3, **options)

    monkeypatch.setattr(statements, "catch_up", small)
    assert [line.balance for line in read(pair.one)] == [960, 970, 980, 990, 1_000]
    assert len(kept()) == 3
    assert [line.balance for line in read(pair.two)] == [1_040, 1_030, 1_020, 1_010, 1_000]
    assert len(kept()) == 6


@committed
def test_what_is_on_the_statement_costs_a_reader_one_query_for_all_accounts(pair: Pair) -> None:
    assert pair.one.customer is not None
    for number in range(3):
        Account.objects.using(SHARD).create(
            number=f"more-{number}", customer=pair.one.customer, balance=100
        )
    assert len(read(pair.one)) == 4
    with queries_by_database() as asked:
        assert len(read(pair.one)) == 4
    assert asked == {SHARD: 4}, "customer, accounts, lines, orders"


@committed
def test_the_latest_lines_are_shown_the_newest_first(pair: Pair) -> None:
    for number in range(statements.LINES + 5):
        pair.pay(1, str(number), back=bool(number % 2))
    for _ in range(2):
        shown = read(pair.one)
        assert len(shown) == statements.LINES
        assert [line.memo for line in shown] == [
            str(number) for number in reversed(range(5, statements.LINES + 5))
        ]


# Exact, whatever happens at once


@committed
def test_a_statement_is_ordered_and_exact_when_many_pay_at_once(pair: Pair) -> None:
    def pay(writer: int) -> None:
        for number in range(10):
            pair.pay(10 + writer, f"{writer}/{number}", back=bool(writer % 2))

    def feed() -> None:
        for _ in range(10):
            catch_up(Statements(), using=SHARD, batch_size=3)

    done = at_once(*[lambda writer=writer: pay(writer) for writer in range(4)], feed, feed)
    assert done == [None] * 6
    catch_up(Statements(), using=SHARD)
    assert on_statements() == in_ledger()
    assert len(on_statements()) == 82
    for account in pair.accounts:
        lines = Statements.rows(SHARD).filter(account=account.number).order_by("version")
        found = list(lines.values_list("version", "position", "amount", "balance"))
        assert [version for version, *_ in found] == list(range(1, 42))
        assert found == sorted(found, key=lambda line: line[1])
        balance = 0
        for _, _, amount, after in found:
            balance += amount
            assert after == balance
    assert faults() == []


@committed
def test_an_import_and_a_day_of_orders_are_on_the_statements_of_every_shard() -> None:
    data = import_sample(60)
    call_command("run_standing_orders", f"--date={DAY}", stdout=StringIO(), stderr=StringIO())
    lines = 0
    for alias in shards():
        assert on_statements(alias) == in_ledger(alias)
        lines += len(on_statements(alias))
    assert lines > len(data.accounts)
    assert faults() == []


def test_a_repeated_transfer_is_one_line_and_a_refused_one_none(pair: Pair) -> None:
    for _ in range(2):
        pair.pay(10, "a")
    with pytest.raises(Exception, match="not 50"):
        pair.pay(5_000, "b")
    assert len(read(pair.one)) == 2


# Thrown away and made again


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
def test_a_wrong_line_is_found_by_the_proof_and_made_right() -> None:
    before = kept()
    line = Statements.rows(SHARD)[3]
    StatementLine.objects.using(SHARD).filter(pk=line.pk).update(balance=1)
    assert len(faults()) == 1
    assert f"account {line.account} has {line.amount / 100:.2f}, then 0.01" in faults()[0]
    rebuild()
    assert kept() == before
    assert faults() == []


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


KILLED_REBUILD = """
from django.core.management import call_command
from dbpatterns.eventstore.management.commands.rebuild_projection import Command
Command.pause = lambda self: os.kill(os.getpid(), signal.SIGKILL)
options = ("--database", "shard_0", "--batch-size", "4", "-v", "0")
call_command(Command(), "statements", *options)
"""


@committed
def test_a_rebuild_killed_half_way_goes_on_where_it_ended(pair: Pair) -> None:
    for number in range(5):
        pair.pay(10, str(number))
    catch_up(Statements(), using=SHARD)
    before = kept()
    killed(KILLED_REBUILD)
    assert kept() == before, "the lines in use are the old ones"
    assert rebuild("--dry-run")["applied_before"] == 4
    facts = rebuild()
    assert (facts["applied_before"], facts["applied"]) == (4, 8)
    assert kept() == before


@committed
def test_two_rebuilds_at_once_share_the_work(pair: Pair) -> None:
    for number in range(10):
        pair.pay(10, str(number))
    catch_up(Statements(), using=SHARD)
    before = kept()
    results: Any = at_once(*[lambda: rebuild("--batch-size", "3")] * 2)
    assert all(isinstance(each, dict) for each in results), results
    assert kept() == before
    generations = StatementLine.objects.using(SHARD).order_by().values_list("generation", flat=True)
    assert len(set(generations)) == 1
    assert ProjectionState.objects.using(SHARD).filter(is_live=True).count() == 1


@committed
def test_which_shard_to_rebuild_must_be_said_where_there_are_several(pair: Pair) -> None:
    with pytest.raises(CommandError, match=r"shard_0, .*name one by --database") as caught:
        call_command(Command(), "statements", stdout=StringIO(), stderr=StringIO())
    assert caught.value.returncode == 2
    from django.conf import settings

    sharding = {**settings.DBPATTERNS["SHARDING"], "SHARDS": [SHARD]}
    with override_settings(DBPATTERNS={**settings.DBPATTERNS, "SHARDING": sharding}):
        call_command(Command(), "statements", stdout=StringIO(), stderr=StringIO())
    assert on_statements() == in_ledger()


# The proof


@committed
def test_the_proof_finds_a_booking_without_an_event(pair: Pair) -> None:
    """Whoever books past the bank: the statement would lack it, and all later lines be wrong."""
    catch_up(Statements(), using=SHARD)
    ledger.transfer(pair.one.ledger_id, pair.two.ledger_id, 10, using=SHARD)
    assert prove_shard(SHARD).faults == tuple(
        f"{SHARD}: account {account.number} has nothing as line 2 of its statement, and "
        f"{change} in the ledger; the event is missing."
        for account, change in zip(
            pair.accounts, ("-0.10, then 9.90", "0.10, then 10.10"), strict=True
        )
    )


@committed
@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        ("UPDATE banking_statementline SET amount = 3 WHERE version = 2", "has 0.03, then"),
        ("UPDATE banking_statementline SET balance = 3 WHERE version = 2", "then 0.03 as line 2"),
        ("DELETE FROM banking_statementline WHERE version = 2", "has nothing as line 2"),
        ("DELETE FROM banking_statementline WHERE version = 3", "has nothing as line 3"),
        ("UPDATE banking_statementline SET version = 9 WHERE version = 3", "and nothing in the"),
        ("DELETE FROM dbpatterns_eventstore_event WHERE version = 2", "the event is missing"),
    ],
)
def test_the_proof_finds_each_kind_of_harm_to_a_statement(
    pair: Pair, harm: str, fault: str
) -> None:
    pair.pay(10, "a")
    pair.pay(20, "b")
    catch_up(Statements(), using=SHARD)
    prepare("statements", using=SHARD)
    assert faults() == []
    with connections[SHARD].cursor() as cursor:
        cursor.execute(harm)
    found = faults()
    assert any(fault in each for each in found), found


@committed
def test_a_line_that_is_not_made_yet_is_no_fault(pair: Pair) -> None:
    assert faults() == []
    catch_up(Statements(), using=SHARD)
    pair.pay(10, "a")
    assert faults() == []


def test_other_events_are_on_no_statement(pair: Pair) -> None:
    append("letters", [NewEvent("LetterSent", {})], expected_version=Expected.ANY, using=SHARD)
    catch_up(Statements(), using=SHARD)
    assert not StatementLine.objects.using(SHARD).filter(account="letters").exists()


def test_a_line_names_itself(pair: Pair) -> None:
    assert str(StatementLine(account="7", amount=-5)) == "-5 on 7"


def test_the_bank_s_own_accounts_have_no_events(pair: Pair) -> None:
    import_sample(10)
    streams = StoredEvent.objects.using(SHARD).values_list("stream", flat=True)
    own = Account.objects.using(SHARD).exclude(kind="customer")
    assert own.exists()
    assert not {f"account:{each.number}" for each in own} & set(streams)
