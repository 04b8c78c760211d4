"""A bank's sum is exact at every moment, also while eight processes move its money.

`DBPATTERNS_TEST_RACE_SECONDS=30` lets them do so for as long, instead of two seconds.
"""

import os
from dataclasses import dataclass, field

import pytest
from django.db.models import Sum

from dbpatterns.ledger.models import Account
from dbpatterns.ledger.transfers import transfer
from dbpatterns.ledger.verification import verify_ledger
from dbpatterns.transactions import Isolation, atomic
from tests.ledger.support import funded, run_worker, started

pytestmark = pytest.mark.django_db(transaction=True)
SECONDS = float(os.environ.get("DBPATTERNS_TEST_RACE_SECONDS", "2"))
ACCOUNTS, EACH = 10, 200


@dataclass
class Seen:
    """What a reader saw while money moved: sums, and the states they are sums of."""

    sums: set[int] = field(default_factory=set)
    """Of the balances, in one statement."""
    held: set[tuple[int, int]] = field(default_factory=set)
    """What is held out of accounts, and what is announced into them."""
    states: set[tuple[int, ...]] = field(default_factory=set)
    """The balances, each read by a statement of its own, in one snapshot."""


def watch_race(steps: str) -> Seen:
    """Read again and again, more often than every 50 ms, until the processes have ended."""
    accounts = funded(*[EACH] * ACCOUNTS)
    ours = Account.objects.filter(pk__in=[each.pk for each in accounts])
    seen = Seen()

    @atomic(isolation=Isolation.REPEATABLE_READ, read_only=True)
    def one_by_one() -> tuple[int, ...]:
        return tuple(balance(each) for each in accounts)

    race = started(lambda: run_worker("race", steps, 8, 60, SECONDS))
    while not race.done():
        total, debits, credits = ours.aggregate(
            total=Sum("balance"), debits=Sum("pending_debits"), credits=Sum("pending_credits")
        ).values()
        seen.sums.add(total)
        seen.held.add((debits, credits))
        seen.states.add(one_by_one())
    assert race.result()["errors"] == []
    assert len(seen.states) > 2  # it did look while money moved, not only before and after
    return seen


def balance(account: Account) -> int:
    return Account.objects.values_list("balance", flat=True).get(pk=account.pk)


def test_a_transfer_in_two_transactions_is_seen_half_done() -> None:
    seen = watch_race("tear")
    assert min(seen.sums) < ACCOUNTS * EACH
    assert min(map(sum, seen.states)) < ACCOUNTS * EACH


def test_every_sum_is_exact_while_eight_processes_pay_hold_and_reverse() -> None:
    seen = watch_race("everything")
    assert seen.sums == {ACCOUNTS * EACH}
    assert {sum(each) for each in seen.states} == {ACCOUNTS * EACH}
    assert all(debits == credits for debits, credits in seen.held)
    assert len(seen.held) > 1  # some money was held when it looked
    assert verify_ledger().is_sound


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("isolation", "total"), [(Isolation.READ_COMMITTED, 250), (Isolation.REPEATABLE_READ, 200)]
)
def test_a_sum_over_two_statements_needs_one_snapshot(isolation: Isolation, total: int) -> None:
    payer, payee = funded(100, 100)
    with atomic(isolation=isolation, read_only=True):
        first = balance(payer)
        started(lambda: transfer(payer, payee, 50)).result(timeout=30)
        assert first + balance(payee) == total
