"""Standing orders: whole or not at all, once per order and date, killed or run twice at once."""

import datetime
import json
import signal
import subprocess
import sys
import time
from io import StringIO
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connections, transaction
from pytest_django import DjangoAssertNumQueries

from dbpatterns.sharding import shards
from dbpatterns.testing.ledger import unguarded_ledger
from demo.banking import standing_orders
from demo.banking.books import prove_books
from demo.banking.models import (
    Account,
    Entry,
    StandingOrder,
    StandingOrderExecution,
    Transfer,
)
from tests.demo.bank_support import (
    DEADLINE_SECONDS,
    Crash,
    actual_books,
    at_once,
    crash_at_statement,
    environment_of_a_process,
    expected_books,
    held_orders,
    import_sample,
    until_the_processes_are_gone,
)

DAY = datetime.date(2026, 12, 1)
NEXT_DAY = datetime.date(2026, 12, 2)
RUN = (sys.executable, "manage.py", "run_standing_orders", f"--date={DAY}")

pytestmark = pytest.mark.django_db(databases="__all__")
committed = pytest.mark.django_db(databases="__all__", transaction=True)


def run_command(*args: str) -> dict[str, object]:
    output = StringIO()
    call_command("run_standing_orders", *args, format="json", stdout=output, stderr=StringIO())
    facts: dict[str, object] = json.loads(output.getvalue())
    return facts


def faults() -> list[str]:
    return [fault for proof in prove_books().values() for fault in proof.faults]


def executions() -> int:
    return sum(StandingOrderExecution.objects.using(alias).count() for alias in shards())


def first_order(**filters: object) -> tuple[StandingOrder, str]:
    for alias in shards():
        if order := StandingOrder.objects.using(alias).filter(**filters).first():
            return order, alias
    raise AssertionError("the sample has no such order")


def test_a_day_pays_what_can_be_paid_and_lists_what_cannot() -> None:
    data = import_sample()
    facts = run_command(f"--date={DAY}")
    outcomes = [each for _, made in expected_books(data).values() for each in made]
    assert facts["paid"] == outcomes.count("paid") > 0
    assert isinstance(facts["refused"], list)
    assert len(facts["refused"]) == outcomes.count("refused") > 0
    assert all("CZK, not" in reason for reason in facts["refused"])
    assert facts["due"] == len(data.orders)
    assert facts["faults"] == []
    assert actual_books() == expected_books(data)


def test_a_second_run_for_the_date_does_nothing_and_the_next_day_runs_again() -> None:
    import_sample()
    run_command(f"--date={DAY}")
    books = actual_books()
    again = run_command(f"--date={DAY}")
    assert (again["due"], again["paid"], again["refused"]) == (0, 0, [])
    assert actual_books() == books
    assert run_command(f"--date={NEXT_DAY}")["due"] == executions() / 2


def test_a_dry_run_says_what_is_due_and_writes_nothing() -> None:
    data = import_sample()
    before = actual_books()
    assert run_command(f"--date={DAY}", "--dry-run")["due"] == len(data.orders)
    assert actual_books() == before


def test_today_is_the_date_when_none_is_given() -> None:
    import_sample(5)
    before = datetime.datetime.now(datetime.UTC).date()
    run_command()
    days = {
        each.due_on for alias in shards() for each in StandingOrderExecution.objects.using(alias)
    }
    assert days in ({before}, {datetime.datetime.now(datetime.UTC).date()})  # midnight may pass


@pytest.mark.parametrize("text", ["2026-13-01", "yesterday", "", "2026-12-1x"])
def test_a_wrong_date_is_refused_with_the_format(text: str) -> None:
    with pytest.raises(CommandError, match="write YYYY-MM-DD"):
        run_command(f"--date={text}")


def test_an_inactive_order_is_not_executed() -> None:
    import_sample()
    order, alias = first_order()
    StandingOrder.objects.using(alias).filter(pk=order.pk).update(is_active=False)
    run_command(f"--date={DAY}")
    assert not order.executions.exists()


def test_an_order_cancelled_after_it_was_listed_is_not_executed() -> None:
    import_sample()
    order, alias = first_order()
    listed = list(standing_orders.due_orders(DAY, using=alias))
    assert order in listed
    StandingOrder.objects.using(alias).filter(pk=order.pk).update(is_active=False)
    assert standing_orders.execute(order.pk, DAY, using=alias) is None
    assert executions() == 0


def test_what_another_run_executed_meanwhile_is_counted_and_not_paid_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = import_sample(10)
    ours = standing_orders.execute_batch

    def beaten(order_ids: list[UUID], due_on: datetime.date, *, using: str) -> object:
        ours(order_ids, due_on, using=using)  # the other run's
        return ours(order_ids, due_on, using=using)

    monkeypatch.setattr(standing_orders, "execute_batch", beaten)
    facts = run_command(f"--date={DAY}")
    assert (facts["executed_elsewhere"], facts["paid"]) == (len(data.orders), 0)
    assert actual_books() == expected_books(data)


def test_rows_name_themselves() -> None:
    import_sample(10)
    run_command(f"--date={DAY}")
    alias = shards()[0]
    paid = StandingOrderExecution.objects.using(alias).filter(status="paid").first()
    assert paid is not None
    assert paid.transfer is not None
    order, transfer = paid.order, paid.transfer
    account, entry = order.account, transfer.entries.using(alias).earliest("amount")
    assert str(account) == account.number
    assert str(order) == f"{order.amount} to {order.payee_account}/{order.bank_code}"
    assert str(paid) == f"{order.pk} on {DAY}: paid"
    assert str(entry) == f"-{order.amount} on {account.pk}"
    assert str(transfer) == f"{account.pk} → {transfer.payee_id}: {order.amount} CZK"
    assert str(order.customer) == order.customer.name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": Account.Status.CLOSED}, "is closed"),
        ({"currency": "EUR"}, "no clearing account for bank"),
        ({"balance": 0}, "has 0.00 CZK, not"),
    ],
)
def test_a_refusal_is_recorded_with_its_reason_and_moves_nothing(
    change: dict[str, object], reason: str
) -> None:
    import_sample()
    order, alias = first_order()
    Account.objects.using(alias).filter(pk=order.account_id).update(**change)
    transfers = Transfer.objects.using(alias).count()
    done = standing_orders.execute(order.pk, DAY, using=alias)
    assert done is not None
    assert reason in done.reason
    assert order.executions.get().reason == done.reason
    assert Transfer.objects.using(alias).count() == transfers


@committed
@pytest.mark.parametrize("orders", [1, 20])
def test_however_many_orders_take_eleven_statements(
    orders: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """BEGIN, orders, executions, banks, accounts, keys, money, rows, events, executions, COMMIT.

    On SQLite the ledger locks by one statement more, and writes its money by four, not one.
    """
    import_sample(120)
    alias = shards()[0]
    due = [each.pk for each in standing_orders.due_orders(DAY, using=alias)][:orders]
    more = 4 if connections[alias].vendor == "sqlite" else 0
    with django_assert_num_queries(11 + more, using=alias):
        done = standing_orders.execute_batch(due, DAY, using=alias)
    assert len(done) == orders
    assert any(each and not each.reason for each in done)


@committed
def test_an_order_killed_at_any_statement_leaves_no_trace_and_is_paid_by_the_next_run() -> None:
    import_sample()
    order, alias = next(
        found
        for alias in shards()
        for each in StandingOrder.objects.using(alias).select_related("account__ledger")
        if each.account.balance >= each.amount
        for found in [(each, alias)]
    )
    before = actual_books(), Entry.objects.using(alias).count()
    crashes = 0
    for statement in range(1, 50):
        try:
            with crash_at_statement(statement):
                standing_orders.execute(order.pk, DAY, using=alias)
            break
        except Crash:
            crashes += 1
        assert (actual_books(), Entry.objects.using(alias).count()) == before, statement
    assert crashes >= 8, "every statement of the booking was cut off once"
    assert order.executions.get().status == "paid"
    assert faults() == []


@committed
@pytest.mark.parametrize("kill_after", [1, 7, 23])
def test_killing_the_run_and_starting_it_again_ends_in_the_same_books(kill_after: int) -> None:
    data = import_sample(120)
    command = [*RUN, "-v0", "--batch-size=1"]
    with held_orders(shards()[-1]):
        process = subprocess.Popen(
            command, env=environment_of_a_process(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while executions() < kill_after:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
        process.kill()
        process.communicate()
    until_the_processes_are_gone()
    done = executions()
    assert kill_after <= done < len(data.orders), "killed half-way"
    assert faults() == []
    assert run_command(f"--date={DAY}")["due"] == len(data.orders) - done
    assert actual_books() == expected_books(data)
    assert faults() == []


@committed
def test_sigterm_finishes_the_batch_in_hand_and_exits_3() -> None:
    data = import_sample(120)
    with held_orders(shards()[-1]):
        process = subprocess.Popen(
            [*RUN, "--format=json", "--batch-size=1"],
            env=environment_of_a_process(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not executions():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 3, errors
    assert "run it again to go on from here" in errors
    facts = json.loads(output)
    assert facts["paid"] + len(facts["refused"]) == executions() < len(data.orders)
    run_command(f"--date={DAY}")
    assert actual_books() == expected_books(data)


@committed
def test_two_runs_at_once_execute_each_order_once() -> None:
    data = import_sample(20)
    outcomes = at_once(
        *[lambda: [each for made in standing_orders.execute_due(DAY, batch=7) for each in made]] * 3
    )
    executed = [each.order for made in outcomes for each in made if each is not None]  # type: ignore[attr-defined]
    assert sorted(executed) == sorted(str(order.number) for order in data.orders)
    assert actual_books() == expected_books(data)
    assert faults() == []


def damage(alias: str, statement: str) -> None:
    """Change the ledger as only somebody can who takes its guards off."""
    with unguarded_ledger(alias), connections[alias].cursor() as cursor:
        cursor.execute(statement)


WRONG_BALANCE = (
    "UPDATE dbpatterns_ledger_account SET balance = 99999999 WHERE id ="
    " (SELECT min(ledger_id) FROM banking_account WHERE kind = 'customer')"
)


def test_books_that_are_wrong_exit_1_and_name_the_account() -> None:
    import_sample()
    damage(shards()[0], WRONG_BALANCE)
    with pytest.raises(CommandError, match="The books are wrong: shard_0: account") as caught:
        run_command(f"--date={DAY}")
    assert caught.value.returncode == 1
    output = StringIO()
    with pytest.raises(CommandError, match=r"The books are wrong in \d places") as caught:
        call_command("verify_ledger", stdout=output)
    assert "wrong balance, " in output.getvalue()
    assert caught.value.returncode == 1


def test_the_ledger_of_every_shard_is_sound_after_a_day() -> None:
    data = import_sample()
    run_command(f"--date={DAY}")
    output = StringIO()
    call_command("verify_ledger", format="json", stdout=output)
    facts = json.loads(output.getvalue())
    paid = StandingOrderExecution.Status.PAID
    made = sum(
        StandingOrderExecution.objects.using(alias).filter(status=paid).count()
        for alias in shards()
    )
    assert facts["databases"] == list(shards())
    assert facts["findings"] == []
    assert facts["transfers"] == len(data.accounts) + made
    assert facts["entries"] == 2 * facts["transfers"]


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (
            "DELETE FROM dbpatterns_ledger_entry"
            " WHERE id = (SELECT max(id) FROM dbpatterns_ledger_entry)",
            "missing entry",
        ),
        (WRONG_BALANCE, "wrong balance, 99999999 instead of"),
        ("UPDATE banking_transfer SET amount = 1", "of 0.01 is booked as transfer"),
        ("UPDATE banking_transfer SET booking_id = NULL", "is not in the ledger"),
    ],
)
def test_the_proof_finds_each_kind_of_harm(harm: str, fault: str) -> None:
    import_sample()
    assert faults() == []
    damage(shards()[0], harm)
    assert any(fault in each for each in faults()), faults()
    assert all(each.startswith(shards()[0]) for each in faults())


@committed
def test_the_proof_holds_while_money_moves() -> None:
    """One statement per rule sees one moment, so money on its way is never missing."""
    import_sample(60)
    found: list[list[str]] = []

    def prove() -> None:
        for _ in range(15):
            found.append(faults())

    results = at_once(prove, lambda: list(standing_orders.execute_due(DAY)))
    assert not [each for each in results if isinstance(each, Exception)]
    assert found == [[]] * 15


def test_the_database_refuses_a_second_execution_of_the_day() -> None:
    import_sample()
    order, alias = first_order()
    standing_orders.execute(order.pk, DAY, using=alias)
    twin = StandingOrderExecution(order=order, due_on=DAY, status="refused", reason="Twin.")
    with pytest.raises(IntegrityError, match=r"(?i)unique"), transaction.atomic(using=alias):
        twin.save(using=alias)
