"""Money moves once or not at all, on both vendors by one contract."""

import datetime
import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from dbpatterns.errors import DBPatternsError, UsageError
from dbpatterns.ledger import errors
from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.ledger.models import MAX_AMOUNT, MAX_BALANCE, Account, Transfer
from dbpatterns.ledger.transfers import (
    expire_transfers,
    post_transfer,
    reverse_transfer,
    transfer,
    void_transfer,
)
from dbpatterns.ledger.verification import verify_ledger
from dbpatterns.testing.ledger import unguarded_ledger
from tests.ledger.support import balances, funded, in_threads, started, state, wait_for_blocked
from tests.testapp.models import Wallet

HOUR = datetime.timedelta(hours=1)


def refused(kind: type[errors.TransferError], call: Callable[[], object]) -> dict[str, Any]:
    before = state()
    with pytest.raises(kind) as caught:
        call()
    assert state() == before
    assert str(caught.value)
    return caught.value.facts


# The harm: what plain code does.


@pytest.mark.django_db(transaction=True)
def test_plain_read_change_write_loses_money() -> None:
    purse = Wallet.objects.create(balance=0)
    read = threading.Barrier(2)

    def deposit(number: int) -> None:
        mine = Wallet.objects.get(pk=purse.pk)
        read.wait(timeout=30)
        mine.balance += 10
        mine.save()

    in_threads(2, deposit)
    purse.refresh_from_db()
    assert purse.balance == 10  # of 20


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_plain_locks_in_the_order_of_the_arguments_end_in_a_deadlock() -> None:
    pair = [Wallet.objects.create(balance=100).pk for _ in range(2)]
    both = threading.Barrier(2)

    def move(number: int) -> None:
        with transaction.atomic():
            source, destination = pair if number else reversed(pair)
            Wallet.objects.select_for_update().get(pk=source)
            both.wait(timeout=30)
            Wallet.objects.select_for_update().get(pk=destination)

    outcomes = in_threads(2, move)
    assert sum("deadlock" in str(each) for each in outcomes) == 1


# The cure.


@pytest.mark.django_db
@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize(
    ("use_tz", "zone"), [(True, "UTC"), (True, "Asia/Tokyo"), (False, "America/New_York")]
)
def test_what_is_returned_is_what_is_stored_in_every_column(
    pending: bool, use_tz: bool, zone: str, settings: Any
) -> None:
    settings.TIME_ZONE, settings.USE_TZ = zone, use_tz
    payer, payee = funded(100, 0)
    until = datetime.timedelta(hours=1) if pending else None
    made = transfer(
        *(payer, payee, 30),
        idempotency_key="may",
        pending=pending,
        expires_in=until,
        reference="rent",
    )
    stored = Transfer.objects.get(pk=made.pk)
    for each in Transfer._meta.concrete_fields:
        assert getattr(made, each.attname) == getattr(stored, each.attname)
    assert made.created_at.tzinfo == stored.created_at.tzinfo
    assert (made._state.db, made._state.adding) == ("default", False)
    assert made.source == payer
    assert not made.get_deferred_fields()


@pytest.mark.django_db
def test_a_transfer_moves_money_and_leaves_an_entry_on_each_side() -> None:
    payer, payee = funded(100, 0)
    made = transfer(payer, payee, 30, reference="rent")
    assert balances(payer, payee) == [70, 30]
    assert (made.status, made.amount, made.posted_amount, made.currency, made.reference) == (
        *("posted", 30, 30, "EUR"),
        "rent",
    )
    assert not made.is_replay
    assert abs(timezone.now() - made.created_at) < datetime.timedelta(minutes=1)
    assert list(
        made.entries.values_list("account", "account_version", "amount", "balance_after")
    ) == [
        (payer.pk, 2, -30, 70),
        (payee.pk, 1, 30, 30),
    ]
    assert made == Transfer.objects.get(pk=made.pk)
    assert str(made) == f"{payer.pk} → {payee.pk}: 30 EUR"
    assert [str(each) for each in made.entries.all()] == [
        f"-30 on {payer.pk}",
        f"+30 on {payee.pk}",
    ]


@pytest.mark.django_db
def test_accounts_may_be_given_by_their_ids() -> None:
    payer, payee = funded(100, 0)
    transfer(payer.pk, payee.pk, 30)
    assert balances(payer, payee) == [70, 30]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_transfer_is_one_round_trip() -> None:
    payer, payee = funded(100, 0)
    pending = transfer(payer, payee, 5, pending=True)
    calls: dict[Callable[[], Transfer], int] = {
        lambda: transfer(payer, payee, 30, idempotency_key="k", reference="r"): 1,
        lambda: transfer(payer, payee, 30, idempotency_key="k", reference="r"): 2,
        lambda: post_transfer(pending): 1,
        lambda: reverse_transfer(pending): 2,
    }
    for call, expected in calls.items():
        with CaptureQueriesContext(connection) as queries:
            call()
        assert len(queries) == expected


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_the_server_keeps_the_plan_where_the_connection_prepares_statements() -> None:
    payer, payee = funded(100, 0)
    with preparing():
        for number in range(3):
            transfer(payer, payee, 1, idempotency_key=f"k{number}", reference="r")
        pending = transfer(payer, payee, 5, pending=True, expires_in=HOUR)
        reverse_transfer(post_transfer(pending, 4))
        assert transfer(payer, payee, 1, idempotency_key="k0", reference="r").is_replay
        assert pay_batch([Payment(payer, payee, 1, idempotency_key=f"b{n}") for n in (1, 2)]).made
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s",
                ["%ledger_move%"],
            )
            assert cursor.fetchone()[0] > 0
    assert balances(payer, payee) == [95, 5]
    assert verify_ledger().is_sound


@contextmanager
def preparing() -> Iterator[None]:
    """Open the connection with Django's and the driver's options for prepared statements."""
    options = connection.settings_dict["OPTIONS"]
    before = dict(options)
    options.update(server_side_binding=True, prepare_threshold=1)
    connection.close()
    try:
        yield
    finally:
        options.clear()
        options.update(before)
        connection.close()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("amount", "fault"),
    [
        (-1, "negative"),
        (0, "zero"),
        (1.5, "over-precise"),
        (Decimal("sNaN"), "no integer"),
        (float("inf"), "no integer"),
        (Decimal("0.01"), "over-precise"),
        (Decimal(3), "no integer"),
        (float("nan"), "no integer"),
        (Decimal("NaN"), "no integer"),
        (Decimal("1e999999"), "no integer"),
        (True, "no integer"),
        ("5", "no integer"),
        (None, "no integer"),
        (MAX_AMOUNT + 1, "too large"),
        (2**70, "too large"),
    ],
)
def test_an_amount_is_a_whole_number_in_range(amount: Any, fault: str) -> None:
    payer, payee = funded(100, 0)
    facts = refused(errors.InvalidAmount, lambda: transfer(payer, payee, amount))
    assert (facts["fault"], facts["limit"]) == (fault, MAX_AMOUNT)
    pending = transfer(payer, payee, 5, pending=True)
    if amount is not None:
        refused(errors.InvalidAmount, lambda: post_transfer(pending, amount))


@pytest.mark.django_db
def test_an_account_does_not_pay_itself() -> None:
    (payer,) = funded(100)
    assert refused(errors.SameAccount, lambda: transfer(payer, payer.pk, 1)) == {
        "account": payer.pk
    }


@pytest.mark.django_db
@pytest.mark.parametrize("unknown", [10**9, 0, -5, 2**63, -(2**80)])
def test_unknown_accounts_are_named(unknown: int) -> None:
    (payer,) = funded(100)
    assert refused(errors.AccountNotFound, lambda: transfer(payer, unknown, 1)) == {
        "account": unknown
    }
    assert refused(errors.AccountNotFound, lambda: transfer(unknown, payer, 1)) == {
        "account": unknown
    }


@pytest.mark.django_db
def test_a_closed_account_neither_pays_nor_is_paid() -> None:
    payer, payee = funded(100, 10)
    payee.closed_at = timezone.now()
    payee.save()
    for pair in ((payer, payee), (payee, payer)):
        facts = refused(errors.AccountClosed, lambda pair=pair: transfer(*pair, 1))
        assert facts == {"account": payee.pk}


@pytest.mark.django_db
def test_currencies_do_not_mix() -> None:
    (euro,), (dollar,) = funded(100), funded(100, currency="USD")
    facts = refused(errors.CurrencyMismatch, lambda: transfer(euro, dollar, 1))
    assert facts == {"account": dollar.pk, "currency": "USD", "wanted": "EUR"}
    facts = refused(errors.CurrencyMismatch, lambda: transfer(euro, dollar, 1, currency="USD"))
    assert facts == {"account": euro.pk, "currency": "EUR", "wanted": "USD"}


@pytest.mark.django_db
def test_nobody_pays_what_is_not_there() -> None:
    payer, payee = funded(100, 0)
    transfer(payer, payee, 60, pending=True)
    facts = refused(errors.InsufficientFunds, lambda: transfer(payer, payee, 41))
    assert facts == {"account": payer.pk, "available": 40, "amount": 41}
    transfer(payer, payee, 40)
    assert Account.objects.get(pk=payer.pk).available == 0


@pytest.mark.django_db
def test_a_minimum_may_be_below_zero_or_missing() -> None:
    payer, payee = funded(0, 0, min_balance=-10)
    transfer(payer, payee, 10)
    refused(errors.InsufficientFunds, lambda: transfer(payer, payee, 1))
    payer.min_balance = None
    payer.save()
    transfer(payer, payee, 1_000)
    assert payer.available is None


@pytest.mark.django_db
def test_a_maximum_counts_what_is_announced() -> None:
    payer, payee = funded(100, 0, max_balance=100)
    transfer(payer, payee, 60, pending=True)
    transfer(payer, payee, 30)
    payee.max_balance = 95
    payee.save()
    facts = refused(errors.LimitExceeded, lambda: transfer(payer, payee, 6))
    assert facts == {"account": payee.pk, "room": 5, "amount": 6}


@pytest.mark.django_db
def test_a_balance_without_limits_ends_where_the_column_does() -> None:
    payer, payee = funded(0, 0, min_balance=None)
    with unguarded_ledger():
        Account.objects.filter(pk=payee.pk).update(balance=MAX_BALANCE - 5)
        Account.objects.filter(pk=payer.pk).update(balance=5 - MAX_BALANCE)
    (other,) = funded(0, min_balance=None)
    facts = refused(errors.LimitExceeded, lambda: transfer(other, payee, 6))
    assert facts["room"] == 5
    facts = refused(errors.InsufficientFunds, lambda: transfer(payer, other, 6))
    assert facts["available"] == 5


# Keys.


@pytest.mark.django_db
def test_a_key_that_came_before_returns_its_transfer_and_moves_nothing() -> None:
    payer, payee = funded(100, 0)
    first = transfer(payer, payee, 60, idempotency_key="k", reference="r")
    again = transfer(payer, payee, 60, idempotency_key="k", reference="r", currency="EUR")
    assert (again.pk, again.is_replay, first.is_replay) == (first.pk, True, False)
    assert balances(payer, payee) == [40, 60]  # also a second 60 would not be there


@pytest.mark.django_db
@pytest.mark.parametrize(
    "other",
    [
        {"amount": 5},
        {"reference": "x"},
        {"currency": "USD"},
        {"pending": True},
        {"destination": "third"},
    ],
)
def test_a_key_of_another_transfer_is_a_conflict(other: dict[str, Any]) -> None:
    payer, payee, third = funded(100, 0, 0)
    made = transfer(payer, payee, 6, idempotency_key="k")
    amount, to = other.pop("amount", 6), third if other.pop("destination", 0) else payee
    facts = refused(
        errors.IdempotencyConflict,
        lambda: transfer(payer, to, amount, idempotency_key="k", **other),
    )
    assert facts == {"key": "k", "transfer": made.pk}


@pytest.mark.django_db
def test_a_refusal_uses_no_key_up() -> None:
    payer, payee = funded(5, 0)
    refused(errors.InsufficientFunds, lambda: transfer(payer, payee, 6, idempotency_key="k"))
    transfer(payer, payee, 5, idempotency_key="k")
    assert balances(payer, payee) == [0, 5]


@pytest.mark.django_db(transaction=True)
def test_twenty_threads_with_one_key_move_money_once() -> None:
    payer, payee = funded(1_000, 0)
    made = in_threads(20, lambda number: transfer(payer, payee, 10, idempotency_key="k"))
    assert len({each.pk for each in made}) == 1
    assert sum(not each.is_replay for each in made) == 1
    assert balances(payer, payee) == [990, 10]
    assert verify_ledger().is_sound


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("commits", [True, False])
def test_a_key_taken_by_others_meanwhile_is_waited_for(commits: bool) -> None:
    first, second, third, fourth = funded(50, 0, 50, 0)
    with transaction.atomic():
        mine = transfer(first, second, 10, idempotency_key="k")
        other = started(lambda: transfer(third, fourth, 10, idempotency_key="k"))
        wait_for_blocked()
        transaction.set_rollback(not commits)
    if commits:
        error = other.exception(timeout=30)
        assert isinstance(error, errors.IdempotencyConflict)
        assert error.transfer == mine.pk
    else:
        assert other.result(timeout=30).is_replay is False
    assert balances(third, fourth) == ([50, 0] if commits else [40, 10])


# Locks.


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_accounts_are_locked_in_the_order_of_their_ids(is_reversed: bool) -> None:
    low, high = sorted(funded(50, 50), key=lambda each: each.pk)
    pair = (high, low) if is_reversed else (low, high)
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=low.pk)
        other = started(lambda: transfer(*pair, 10))
        wait_for_blocked()
        Account.objects.select_for_update(nowait=True).get(pk=high.pk)  # not locked by the other
    assert other.result(timeout=30).pk


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_pending_transfer_ends_under_locks_in_the_same_order(is_reversed: bool) -> None:
    low, high = sorted(funded(50, 50), key=lambda each: each.pk)
    pending = transfer(*((high, low) if is_reversed else (low, high)), 10, pending=True)
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=low.pk)
        other = started(lambda: post_transfer(pending))
        wait_for_blocked()
        Account.objects.select_for_update(nowait=True).get(pk=high.pk)
        void_transfer(pending)
    assert isinstance(other.exception(timeout=30), errors.NotPending)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_what_was_paid_while_a_transfer_waited_is_seen() -> None:
    payer, payee = funded(100, 0)
    with transaction.atomic():
        transfer(payer, payee, 80)
        other = started(lambda: transfer(payer, payee, 80))
        wait_for_blocked()
    error = other.exception(timeout=30)
    assert isinstance(error, errors.InsufficientFunds)
    assert error.available == 20


@pytest.mark.django_db(transaction=True)
def test_a_refusal_leaves_the_caller_s_transaction_usable() -> None:
    payer, payee = funded(5, 0)
    with transaction.atomic():
        with pytest.raises(errors.InsufficientFunds):
            transfer(payer, payee, 6)
        with pytest.raises(errors.NotPending):
            void_transfer(transfer(payer, payee, 1))
        with pytest.raises(errors.TransferNotFound):
            reverse_transfer(10**9)
        transfer(payer, payee, 4)
    assert balances(payer, payee) == [0, 5]


@pytest.mark.django_db(transaction=True)
def test_a_transfer_falls_with_the_caller_s_transaction() -> None:
    payer, payee = funded(5, 0)
    before = state()
    with transaction.atomic():
        transfer(payer, payee, 5)
        transaction.set_rollback(True)
    assert state() == before


# Pending.


@pytest.mark.django_db
def test_a_pending_transfer_holds_and_moves_nothing_until_posted() -> None:
    payer, payee = funded(100, 0)
    pending = transfer(payer, payee, 60, pending=True, expires_in=HOUR)
    assert (pending.status, pending.posted_amount, pending.ended_at) == ("pending", 0, None)
    assert pending.expires_at is not None
    assert pending.expires_at - pending.created_at == HOUR
    assert balances(payer, payee) == [100, 0]
    posted = post_transfer(pending, 50)
    assert (posted.pk, posted.status, posted.posted_amount, posted.amount) == (
        *(pending.pk, "posted", 50),
        60,
    )
    assert posted.ended_at is not None
    assert balances(payer, payee) == [50, 50]
    transfer(payer, payee, 50)  # the ten that were not posted are free


@pytest.mark.django_db
def test_voiding_sets_free() -> None:
    payer, payee = funded(100, 0)
    pending = transfer(payer, payee, 60, pending=True)
    assert void_transfer(pending.pk).status == "voided"
    transfer(payer, payee, 100)


@pytest.mark.django_db
@pytest.mark.parametrize("end", [post_transfer, void_transfer])
def test_a_transfer_ends_once(end: Callable[[Any], Transfer]) -> None:
    payer, payee = funded(100, 0)
    pending = transfer(payer, payee, 60, pending=True)
    ended = end(pending)
    for again in (post_transfer, void_transfer):
        facts = refused(errors.NotPending, lambda again=again: again(pending))
        assert facts == {"transfer": pending.pk, "status": ended.status}


@pytest.mark.django_db
def test_no_more_than_was_held_is_posted() -> None:
    payer, payee = funded(100, 0)
    pending = transfer(payer, payee, 60, pending=True)
    facts = refused(errors.InvalidAmount, lambda: post_transfer(pending, 61))
    assert facts == {"amount": 61, "fault": "too large", "limit": 60}


@pytest.mark.django_db
def test_to_a_closed_account_a_pending_transfer_is_voided_only() -> None:
    payer, payee = funded(100, 0)
    pending = (
        [transfer(payer, payee, 10, pending=True), transfer(payee, payer, 1, pending=True)]
        if (transfer(payer, payee, 1))
        else []
    )
    payee.refresh_from_db()
    payee.closed_at = timezone.now()
    payee.save()
    for each in pending:
        facts = refused(errors.AccountClosed, lambda each=each: post_transfer(each))
        assert facts == {"account": payee.pk}
        void_transfer(each)


@pytest.mark.django_db
@pytest.mark.parametrize("call", [post_transfer, void_transfer, reverse_transfer])
@pytest.mark.parametrize("unknown", [10**9, 0, -1, 2**80])
def test_unknown_transfers_are_named(call: Callable[[int], Transfer], unknown: int) -> None:
    assert refused(errors.TransferNotFound, lambda: call(unknown)) == {"transfer": unknown}


@pytest.mark.django_db
def test_a_late_transfer_is_not_posted_and_is_ended_by_the_clean_up() -> None:
    payer, payee = funded(100, 0)
    late = [
        transfer(payer, payee, 10, pending=True, expires_in=datetime.timedelta(microseconds=1))
        for _ in range(2)
    ]
    lasting = [
        transfer(payer, payee, 10, pending=True, expires_in=HOUR),
        transfer(payer, payee, 10, pending=True),
    ]
    facts = refused(errors.PendingExpired, lambda: post_transfer(late[0]))
    assert facts == {"transfer": late[0].pk, "expires_at": late[0].expires_at}
    assert expire_transfers(limit=1) == 1
    assert expire_transfers() == 1
    assert expire_transfers() == 0
    assert [Transfer.objects.get(pk=each.pk).status for each in (*late, *lasting)] == [
        *("expired", "expired", "pending", "pending")
    ]
    assert verify_ledger().is_sound
    assert void_transfer(lasting[0]).status == "voided"


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_the_clean_up_passes_by_what_ended_meanwhile() -> None:
    payer, payee = funded(100, 0)
    moment = datetime.timedelta(microseconds=1)
    late = transfer(payer, payee, 10, pending=True, expires_in=moment)
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=payer.pk)
        other = started(expire_transfers)
        wait_for_blocked()
        void_transfer(late)
    assert other.result(timeout=30) == 0


# Reversal.


@pytest.mark.django_db
def test_a_reversal_moves_back_what_was_posted_once() -> None:
    payer, payee = funded(100, 0)
    made = post_transfer(transfer(payer, payee, 60, pending=True), 50)
    back = reverse_transfer(made, "k", reference="sorry")
    assert (back.source_id, back.destination_id, back.amount, back.reverses_id) == (
        *(payee.pk, payer.pk, 50),
        made.pk,
    )
    assert balances(payer, payee) == [100, 0]
    again = reverse_transfer(made, "k", reference="sorry")
    assert (again.pk, again.is_replay) == (back.pk, True)
    facts = refused(errors.AlreadyReversed, lambda: reverse_transfer(made))
    assert facts == {"transfer": made.pk, "reversal": back.pk}
    refused(errors.IdempotencyConflict, lambda: reverse_transfer(back, "k"))
    reverse_transfer(back)
    assert balances(payer, payee) == [50, 50]


@pytest.mark.django_db
def test_a_reversal_is_not_a_transfer_of_the_same_amount() -> None:
    payer, payee = funded(100, 100)
    plain = transfer(payer, payee, 5, idempotency_key="k")
    opposite = transfer(payee, payer, 5)
    facts = refused(errors.IdempotencyConflict, lambda: reverse_transfer(opposite, "k"))
    assert facts == {"key": "k", "transfer": plain.pk}


@pytest.mark.django_db
def test_only_what_was_posted_is_reversed() -> None:
    payer, payee = funded(100, 0)
    pending = transfer(payer, payee, 60, pending=True)
    facts = refused(errors.NotPosted, lambda: reverse_transfer(pending))
    assert facts == {"transfer": pending.pk, "status": "pending"}


@pytest.mark.django_db
def test_money_that_is_gone_does_not_come_back() -> None:
    payer, payee, third = funded(100, 0, 0)
    made = transfer(payer, payee, 60)
    transfer(payee, third, 60)
    refused(errors.InsufficientFunds, lambda: reverse_transfer(made))


@pytest.mark.django_db(transaction=True)
def test_twenty_threads_reverse_once() -> None:
    payer, payee = funded(100, 100)
    made = transfer(payer, payee, 10)
    outcomes = in_threads(20, lambda number: reverse_transfer(made))
    assert sum(isinstance(each, Transfer) for each in outcomes) == 1
    assert sum(isinstance(each, errors.AlreadyReversed) for each in outcomes) == 19
    assert balances(payer, payee) == [100, 100]


@pytest.mark.django_db
def test_saving_an_account_read_earlier_does_not_put_its_balance_back() -> None:
    payer, payee = funded(100, 0)
    stale = Account.objects.get(pk=payer.pk)
    transfer(payer, payee, 60)
    stale.name = "mine"
    stale.save()
    payer.refresh_from_db()
    assert (payer.balance, payer.name, str(payer)) == (40, "mine", "mine")
    stale.save(update_fields=["name"])
    with pytest.raises(UsageError, match="Only transfers change balance, version"):
        stale.save(update_fields=["balance", "version", "name"])


# Wrong code.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: transfer(a, b, 1, idempotency_key=""), "1 to 200"),
        (lambda a, b: transfer(a, b, 1, idempotency_key="x" * 201), "1 to 200"),
        (lambda a, b: transfer(a, b, 1, idempotency_key=5), "1 to 200"),
        (lambda a, b: transfer(a, b, 1, reference="x" * 201), "at most 200"),
        (lambda a, b: transfer(a, b, 1, reference=None), "at most 200"),
        (lambda a, b: transfer(a, b, 1, reference="\0"), "no NUL"),
        (lambda a, b: transfer(a, b, 1, expires_in=HOUR), "pending"),
        (lambda a, b: transfer(a, b, 1, pending=True, expires_in=-HOUR), "above zero"),
        (lambda a, b: transfer(a, "5", 1), "its id"),
        (lambda a, b: transfer(a, True, 1), "its id"),
        (lambda a, b: transfer(a, Account(currency="EUR"), 1), "saved Account"),
        (lambda a, b: post_transfer("5"), "saved Transfer"),
        (lambda a, b: reverse_transfer(Transfer()), "saved Transfer"),
        (lambda a, b: transfer(a, b, 1, using="shard_0"), "default, shard_0"),
    ],
    ids=map(str, itertools.count()),
)
def test_wrong_calls_are_usage_errors(call: Callable[[Any, Any], object], words: str) -> None:
    pair = funded(10, 0)
    with pytest.raises(UsageError, match=words):
        call(*pair)


def test_errors_tell_their_facts_and_survive_another_process() -> None:
    error = errors.InsufficientFunds(account=5, available=1, amount=2)
    assert isinstance(error, DBPatternsError)
    assert (error.account, error.available, error.amount) == (5, 1, 2)
    assert str(error) == "Account 5 has 1 available, not 2."
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.facts, str(copy)) == (type(error), error.facts, str(error))
    with pytest.raises(AttributeError, match="InsufficientFunds has no fact 'room'"):
        _ = error.room


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"currency": ""}, "A currency is"),
        ({"currency": 978}, "A currency is"),
        ({"pending": 1}, "True or False"),
        ({"pending": True, "expires_in": datetime.timedelta(days=36_526)}, "100 years"),
    ],
)
def test_what_no_database_would_say_the_same_of_is_refused(
    options: dict[str, Any], reason: str
) -> None:
    payer, payee = funded(10, 0)
    with pytest.raises(UsageError, match=reason):
        transfer(payer, payee, 1, **options)


@pytest.mark.django_db
def test_a_wrong_argument_leaves_the_transaction_usable() -> None:
    payer, payee = funded(10, 0)
    nobody: Any = None
    with transaction.atomic():
        with pytest.raises(UsageError):
            transfer(nobody, payee, 1)
        transfer(payer, payee, 1)
    assert balances(payer, payee) == [9, 1]
