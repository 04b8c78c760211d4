"""Statements: what is on them is what the ledger booked, and never less than there is."""

import datetime
import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction

from dbpatterns.eventstore.appending import Expected, NewEvent, append
from dbpatterns.eventstore.epochs import new_epoch
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.projections import catch_up
from dbpatterns.eventstore.rebuilding import prepare
from dbpatterns.ledger import transfers as ledger
from dbpatterns.sharding import shards
from demo.banking import projections, statements
from demo.banking.books import prove_shard
from demo.banking.events import Movement, record
from demo.banking.models import Account, Customer, StatementLine
from demo.banking.projections import Statements
from demo.banking.statements import Line
from demo.banking.transfers import transfer
from tests.demo.api_support import queries_by_database
from tests.demo.bank_support import at_once, import_sample
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

pytestmark = pytest.mark.django_db(databases="__all__")
committed = pytest.mark.django_db(databases="__all__", transaction=True)
DAY = datetime.date(2026, 12, 1)


@pytest.fixture
def pair() -> Pair:
    return Pair()


# Harm


NAIVE = """
from dbpatterns.eventstore.reading import read_all
from demo.banking.projections import lines
from demo.banking.models import StatementLine

rows = StatementLine.objects.using("shard_0")
for event in read_all(using="shard_0"):
    (line,) = lines([event], {event.stream.removeprefix("account:"): 0}, 1)
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


@committed
def test_harm_the_lines_alone_are_stale_until_somebody_feeds_them(pair: Pair) -> None:
    catch_up(Statements(), using=SHARD)
    pair.pay(10, "Lunch")
    assert [balance for *_, balance in on_statements()] == [1_000, 1_000]
    assert read(pair.one)[0].balance == 990


@pytest.mark.parametrize("shard", ["shard_0", "shard_1"])
def test_a_reader_sees_their_own_transfer_at_once(shard: str) -> None:
    pair = Pair(shard=shard)
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

    monkeypatch.setattr(projections, "catch_up", small)
    assert [line.balance for line in read(pair.one)] == [960, 970, 980, 990, 1_000]
    assert len(kept()) == 3
    assert [line.balance for line in read(pair.two)] == [1_040, 1_030, 1_020, 1_010, 1_000]
    assert len(kept()) == 6


@committed
def test_a_reader_whose_line_is_not_there_yet_feeds_it_and_the_next_one_does_not(
    pair: Pair,
) -> None:
    """State, epoch, events, UPDATE, balances, INSERT, and the streams; SQLite's BEGIN too."""
    read(pair.one)
    pair.pay(10, "a")
    for more in (8 if connections[SHARD].vendor == "sqlite" else 7, 0):
        with queries_by_database() as asked:
            assert read(pair.one)[0].memo == "a"
        assert asked == {SHARD: 4 + more}


@committed
def test_a_customer_without_money_asks_for_no_lines_a_second_time(pair: Pair) -> None:
    pair.pay(10, "a")
    assert pair.one.customer is not None
    customer = Customer.objects.using(SHARD).create(pk=99_998, name="Poor")
    poor = Account.objects.using(SHARD).create(number="poor", customer=customer)
    with queries_by_database() as asked:
        assert read(poor) == []
    assert asked == {SHARD: 4}


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
        with queries_by_database() as asked:
            seen = statement(pair.one)
        assert seen.is_whole
        assert [line.memo for line in seen.lines] == [
            str(number) for number in reversed(range(5, statements.LINES + 5))
        ]
    assert asked == {SHARD: 4}, "what was fed is asked of nothing but the lines"


@committed
def test_twenty_lines_are_shown_however_many_accounts_a_customer_has(pair: Pair) -> None:
    other = Account.objects.using(SHARD).create(number="other", customer=pair.one.customer)
    for number in range(12):
        pair.pay(1, str(number))
        transfer(pair.two, other, amount=1, idempotency_key=f"other {number}", memo="")
    assert len(read(pair.one)) == 20


@committed
@pytest.mark.parametrize("fed", [True, False])
def test_accounts_of_one_customer_are_in_the_order_of_the_booking(pair: Pair, fed: bool) -> None:
    """Also those of one batch, whose events are appended together."""
    assert pair.one.customer is not None
    other = Account.objects.using(SHARD).create(number="other", customer=pair.one.customer)
    with transaction.atomic(using=SHARD):
        moved = []
        for memo, payer, payee in (
            ("a", pair.one, pair.two),
            ("b", pair.two, other),
            ("c", pair.one, other),
        ):
            made = ledger.transfer(payer.ledger_id, payee.ledger_id, 5, using=SHARD)
            moved.append(Movement(payer, payee, 5, "transfer", memo, made.created_at))
        record(moved, using=SHARD)
    if fed:
        catch_up(Statements(), using=SHARD)
    shown = [(line.memo, line.account) for line in read(pair.one)[:4]]
    assert shown == [("c", "other"), ("c", pair.one.number), ("b", "other"), ("a", pair.one.number)]


@committed
@pytest.mark.parametrize("thrown_away", [False, True])
def test_a_movement_after_the_accounts_were_read_is_on_the_next_page_not_half_on_this(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, thrown_away: bool
) -> None:
    read(pair.one)
    last = statements.Shard("shard_0").lines.last
    between: list[Callable[[], object]] = [lambda: pair.pay(10, "a")]
    between.append(lambda: catch_up(Statements(), using=SHARD))
    if thrown_away:
        between.append(lambda: Statements.rows(SHARD).delete())

    def later(self: Any, versions: Any, limit: int) -> Any:
        while between:
            between.pop(0)()
        return last(versions, limit)

    monkeypatch.setattr(type(statements.Shard(SHARD).lines), "last", later)
    seen = statement(pair.one)
    assert (seen.accounts[0].balance, [line.balance for line in seen.lines]) == (1_000, [1_000])
    assert [line.balance for line in read(pair.one)] == [990, 1_000]


@committed
def test_a_movement_that_nobody_recorded_is_told_on_the_page(pair: Pair) -> None:
    """Whoever books past the bank: better a page that says so than one that looks right."""
    assert statement(pair.one).is_whole
    ledger.transfer(pair.one.ledger_id, pair.two.ledger_id, 10, using=SHARD)
    for balances in ([990], [985, 990], [990, 985, 990]):
        seen = statement(pair.one)
        assert not seen.is_whole
        assert [line.balance for line in seen.lines] == balances
        pair.pay(5, str(balances), back=len(balances) > 1)
        catch_up(Statements(), using=SHARD)


@committed
def test_after_a_restore_the_page_is_right_before_the_rebuild_and_after_it(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    read(pair.one)
    new_epoch(using=SHARD)
    pair.pay(10, "a")
    assert [line.balance for line in read(pair.one)] == [990, 1_000]
    assert "The statements on shard_0 are not fed: The checkpoint is of epoch" in caplog.text
    assert len(kept()) == 2
    rebuild()
    assert on_statements() == in_ledger()
    caplog.clear()
    assert [line.balance for line in read(pair.one)] == [990, 1_000]
    assert not caplog.records


@committed
def test_a_line_that_the_database_refuses_is_told_in_the_log_and_the_page_is_right(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """A line stands where the next should: the reader sees the events, and the log names why."""
    read(pair.one)
    stray = Statements.rows(SHARD).get(account=pair.one.number)
    stray.pk, stray.version, stray.balance = None, 2, 5
    stray.save(using=SHARD, force_insert=True)
    pair.pay(10, "a")
    assert [line.balance for line in read(pair.one)] == [990, 1_000]
    assert "The statements on shard_0 are not fed: " in caplog.text


@committed
def test_a_line_lost_from_among_others_is_on_the_page_all_the_same(pair: Pair) -> None:
    pair.pay(10, "a")
    before = read(pair.one)
    Statements.rows(SHARD).filter(account=pair.one.number, version=1).delete()
    assert read(pair.one) == before


# Exact, whatever happens at once


@committed
@pytest.mark.parametrize("shard", ["shard_0", "shard_1"])
def test_a_page_of_new_accounts_and_old_ones_counts_on_from_what_each_had(shard: str) -> None:
    pair = Pair(shard=shard)
    catch_up(Statements(), using=shard)
    Account.objects.using(shard).create(number="new", customer=pair.one.customer, balance=300)
    pair.pay(10, "a")
    assert catch_up(Statements(), using=shard) == 3  # in one page
    assert on_statements(shard) == in_ledger(shard)


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
