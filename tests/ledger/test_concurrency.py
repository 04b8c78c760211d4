"""Many processes on few accounts, and processes killed in the middle: the books stay right.

`DBPATTERNS_TEST_HISTORIES=10000` kills 200 workers of each kind instead of 10.
"""

import os

import pytest
from django.db import transaction

from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.ledger.models import Account, Transfer
from dbpatterns.ledger.verification import verify_ledger
from tests.ledger.support import balances, funded, in_threads, run_worker
from tests.testapp.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)
KILLS = max(10, int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "100")) // 50)


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


def test_eight_processes_on_ten_accounts_neither_fail_nor_lose() -> None:
    accounts = funded(*[200] * 10)
    told = run_worker("race", 8, 60)
    assert told["errors"] == []  # nobody tries again: a deadlock would be one of them
    assert told["made"] > 100
    assert sum(balances(*accounts)) == 2_000
    assert min(balances(*accounts)) >= 0
    assert verify_ledger().findings == []
    assert Transfer.objects.count() == told["made"] + 10


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
