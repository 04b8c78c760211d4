"""Many processes on few accounts, and processes killed in the middle: the books stay right.

`DBPATTERNS_TEST_HISTORIES=10000` kills 200 workers of each kind instead of 10, and
`DBPATTERNS_TEST_RACE_SECONDS=30` lets eight processes race for so long.
"""

import os
import threading

import pytest
from django.db import OperationalError, connection, transaction

from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.ledger.models import Account, Transfer
from dbpatterns.ledger.verification import verify_ledger
from tests.ledger.support import balances, funded, in_threads, run_worker
from tests.processes import until
from tests.testapp.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)
KILLS = max(10, int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "100")) // 50)
STEPS, SECONDS = 60, float(os.environ.get("DBPATTERNS_TEST_RACE_SECONDS", "0"))
"""Steps of each process in a race, and how long it goes on at least."""


def test_processes_killed_between_two_saves_lose_money() -> None:
    payer, payee = Wallet.objects.create(balance=100), Wallet.objects.create(balance=0)

    def move() -> None:
        payer.balance -= 10
        payer.save()
        raise SystemExit("killed")  # and the second save never comes

    with pytest.raises(SystemExit):
        move()
    assert sum(Wallet.objects.values_list("balance", flat=True)) == 90
    payee.refresh_from_db()
    assert payee.balance == 0


@pytest.mark.postgresql
def test_two_that_lock_accounts_each_in_its_own_order_are_a_deadlock_that_counts() -> None:
    payer, payee = funded(100, 100)
    deadlocks, both_have_one = server_s_deadlocks(), threading.Barrier(2)

    def move(first: Account, second: Account) -> None:
        with transaction.atomic():
            Account.objects.select_for_update().get(pk=first.pk)
            both_have_one.wait(timeout=30)
            Account.objects.select_for_update().get(pk=second.pk)

    told = in_threads(2, lambda number: move(*[(payer, payee), (payee, payer)][number]))
    assert sorted(map(type, told), key=str) == [type(None), OperationalError]
    until(lambda: server_s_deadlocks() == deadlocks + 1)


def test_eight_processes_on_ten_accounts_neither_fail_nor_lose() -> None:
    accounts = funded(*[200] * 10)
    deadlocks = server_s_deadlocks()
    told = run_worker("race", "pay", 8, STEPS, SECONDS)
    assert told["errors"] == []  # nobody tries again: a deadlock would be one of them
    if connection.vendor == "postgresql":  # and nothing below them does
        assert (told["more"], server_s_deadlocks() - deadlocks) == (0, 0)
    assert told["made"] > 100
    assert sum(balances(*accounts)) == 2_000
    assert min(balances(*accounts)) >= 0
    assert verify_ledger().findings == []
    assert Transfer.objects.count() == told["made"] + 10


def server_s_deadlocks() -> int:
    """Count those of this database, ever; of sessions that have ended."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("scenario", ["kill-transfers", "kill-batches"])
def test_killed_processes_leave_whole_transfers(scenario: str) -> None:
    accounts = funded(*[100_000] * 4)
    told = run_worker(scenario, KILLS)
    assert len(told["begun"]) > KILLS
    assert verify_ledger().findings == []
    assert sum(balances(*accounts)) == 400_000
    # Each begun request is done or not done: sent again, each is done, and once.
    done = set(Transfer.objects.values_list("idempotency_key", flat=True))
    suffixes = [""] if scenario == "kill-transfers" else [f"-{n}" for n in range(20)]
    if scenario == "kill-batches":
        for key in told["begun"]:
            assert sum(f"{key}{suffix}" in done for suffix in suffixes) in (0, len(suffixes))
    keys = [f"{key}{suffix}" for key in told["begun"] for suffix in suffixes]
    left = [key for key in keys if key not in done]
    payer, payee = funded(len(left) + 1, 0)
    results = pay_batch([Payment(payer, payee, 1, idempotency_key=key) for key in left]).results
    assert {each.code for each in results} <= {"made"}
    assert verify_ledger().findings == []


def test_threads_on_one_account_lose_nothing() -> None:
    shop, *buyers = funded(0, *[100] * 8)
    in_threads(8, lambda n: [pay(buyers[n], shop) for _ in range(10)])
    assert balances(shop) == [80]
    assert verify_ledger().is_sound


def pay(buyer: Account, shop: Account) -> None:
    with transaction.atomic():
        pay_batch([Payment(buyer, shop, 1)])
