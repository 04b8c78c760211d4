"""A result for each payment, whatever becomes of its neighbours; and no savepoints."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.ledger import errors
from dbpatterns.ledger.batches import SAVEPOINTS, Item, ItemResult, Payment, pay_batch
from dbpatterns.ledger.models import Transfer
from dbpatterns.ledger.transfers import transfer
from dbpatterns.ledger.verification import verify_ledger
from tests.ledger.support import balances, funded, started, wait_for_blocked
from tests.testapp.models import Wallet

STRATEGIES = ("set", "bisect", "savepoint")


def codes(results: Any) -> list[str]:
    return [each.code for each in results]


@pytest.mark.django_db(transaction=True)
def test_plain_code_in_one_transaction_loses_all_payments_for_one() -> None:
    purses = [Wallet.objects.create(balance=10) for _ in range(3)]

    def pay_all() -> None:
        with transaction.atomic():
            for each, amount in zip(purses, (5, 50, 5), strict=True):
                if each.balance < amount:
                    raise ValueError("insufficient funds")
                each.balance -= amount
                each.save()

    with pytest.raises(ValueError, match="insufficient"):
        pay_all()
    assert list(Wallet.objects.values_list("balance", flat=True)) == [10, 10, 10]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_payment_has_its_own_result(strategy: Any) -> None:
    payer, payee, poor = funded(100, 0, 0)
    result = pay_batch(
        [
            Payment(payer, payee, 60, idempotency_key="a", reference="r"),
            Payment(payer, payee, 60),
            Payment(payee, poor, 50),  # from what the first brought
            Payment(payer, payee, 60, idempotency_key="a", reference="r"),
            Payment(payer, payee, 61, idempotency_key="a"),
            Payment(payer, payer, 1),
            Payment(payer, 10**9, 1),
            Payment(payer, payee, 0),
            Payment(payer, payee, 5, pending=True),
        ],
        strategy=strategy,
    )
    assert codes(result.results) == [
        "made",
        "insufficient-funds",
        "made",
        "replayed",
        "idempotency-conflict",
        "same-account",
        "account-not-found",
        "invalid-amount",
        "made",
    ]
    assert result.results[0].transfer == result.results[3].transfer
    assert (result.made, result.refused) == (4, 5)
    assert result.results[1].error.available == 40  # type: ignore[union-attr]
    assert [each.transfer is None for each in result.results] == [
        not each.is_made for each in result.results
    ]
    first = Transfer.objects.get(pk=result.results[0].transfer)
    assert (first.reference, first.idempotency_key, first.posted_amount) == ("r", "a", 60)
    assert balances(payer, payee, poor) == [40, 10, 50]
    assert verify_ledger().is_sound


@pytest.mark.django_db(transaction=True)
def test_a_batch_is_a_handful_of_statements_and_no_savepoint() -> None:
    payer, *others = funded(10_000, *[0] * 9)
    items = [Payment(payer, others[n % 9], 1, idempotency_key=f"k{n}") for n in range(300)]
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        assert pay_batch(items).made == 300
    sent = [each["sql"] for each in queries.captured_queries]
    assert not any("SAVEPOINT" in each for each in sent)
    assert len(sent) == (3 if connection.vendor == "postgresql" else 7)


@pytest.mark.django_db(transaction=True)
def test_a_group_is_made_together_or_not_at_all() -> None:
    payer, payee = funded(100, 0)
    result = pay_batch(
        [
            Payment(payer, payee, 10, group="a", idempotency_key="k"),
            Payment(payer, payee, 10, group="a"),
            Payment(payer, payee, 10, group="b", idempotency_key="l"),
            Payment(payer, payee, 1_000, group="b"),
            Payment(payer, payee, 1_001, group="b"),
            Payment(payer, payee, 10, idempotency_key="l"),
            Payment(payer, 10**9, 10, group="c"),
        ]
    )
    assert codes(result.results) == [
        *("made", "made"),
        *("linked-refused", "insufficient-funds", "insufficient-funds"),
        *("made", "account-not-found"),
    ]
    linked = result.results[2].error
    assert isinstance(linked, errors.LinkedRefused)
    assert linked.facts == {"group": "b", "position": 1}
    assert balances(payer, payee) == [70, 30]


@pytest.mark.django_db(transaction=True)
def test_a_group_that_falls_tells_the_truth_of_what_was_made_before() -> None:
    payer, payee = funded(100, 0)
    before = transfer(payer, payee, 10, idempotency_key="before")
    made = pay_batch(
        [
            Payment(payer, payee, 20, idempotency_key="same batch"),
            Payment(payer, payee, 10, group="a", idempotency_key="before"),
            Payment(payer, payee, 20, group="a", idempotency_key="same batch"),
            Payment(payer, payee, 1, group="a", idempotency_key="new"),
            Payment(payer, payee, 1, group="a", idempotency_key="new"),
            Payment(payer, payee, 1_000, group="a"),
        ]
    ).results
    assert [each.code for each in made] == [
        *("made", "replayed", "replayed", "linked-refused", "linked-refused"),
        "insufficient-funds",
    ]
    assert [each.transfer for each in made[1:3]] == [before.pk, made[0].transfer]
    assert balances(payer, payee) == [70, 30]


@pytest.mark.django_db(transaction=True)
def test_a_key_of_another_payment_of_the_batch_is_told_as_that() -> None:
    payer, payee = funded(100, 0)
    payments = [Payment(payer, payee, amount, idempotency_key="k") for amount in (1, 2)]
    error = pay_batch(payments).results[1].error
    assert isinstance(error, errors.IdempotencyConflict)
    assert str(error) == "Key 'k' is that of another payment of this batch: send a new key."
    assert error.facts["transfer"] is None


@pytest.mark.django_db(transaction=True)
def test_a_chunk_does_not_divide_a_group() -> None:
    payer, payee = funded(100, 0)
    groups = [None, "a", "a", "a", "b", "b", None]
    items = [Payment(payer, payee, 1, group=group) for group in groups]
    with CaptureQueriesContext(connection) as queries:
        assert pay_batch(items, chunk=2).made == 7
    begins = [each for each in queries.captured_queries if each["sql"].startswith("BEGIN")]
    assert len(begins) == 3  # None a a a · b b · None


@pytest.mark.django_db(transaction=True)
def test_all_or_nothing_is_nothing_when_one_is_refused() -> None:
    payer, payee = funded(100, 0)
    kept = transfer(payer, payee, 1, idempotency_key="k")
    items = [
        Payment(payer, payee, 1, idempotency_key="k"),
        Payment(payer, payee, 10),
        Payment(payer, payee, 1_000),
    ]
    with pytest.raises(errors.BatchAborted) as caught:
        pay_batch(items, on_error="abort")
    assert caught.value.position == 2
    assert codes(caught.value.result.results) == [
        *("replayed", "batch-aborted", "insufficient-funds")
    ]
    assert isinstance(caught.value.__cause__, errors.InsufficientFunds)
    assert balances(payer, payee) == [99, 1]
    assert caught.value.result.results[0].transfer == kept.pk
    assert pay_batch(items[:2], on_error="abort").made == 2


@pytest.mark.django_db(transaction=True)
def test_a_batch_takes_part_in_the_caller_s_transaction() -> None:
    payer, payee = funded(100, 0)
    with transaction.atomic():
        assert pay_batch([Payment(payer, payee, 10), Payment(payer, payee, 1_000)]).made == 1
        with pytest.raises(errors.BatchAborted):
            pay_batch([Payment(payer, payee, 1_000)], on_error="abort")
        assert balances(payer, payee) == [90, 10]
        transaction.set_rollback(True)
    assert balances(payer, payee) == [100, 0]


@pytest.mark.django_db
def test_an_empty_batch_is_no_work() -> None:
    assert pay_batch([]).results == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", ["bisect", "savepoint"])
def test_work_of_one_s_own_is_committed_or_undone_as_a_whole(strategy: Any) -> None:
    payer, payee = funded(100, 0)

    def work(number: int) -> Callable[[], int]:
        def run() -> int:
            Wallet.objects.create(balance=number)
            transfer(payer, payee, 1)
            if number % 10 == 3:
                raise LookupError(number)
            return number

        return run

    items: list[Item] = [work(number) for number in range(20)]
    result = pay_batch([*items, Payment(payer, payee, 1)], strategy=strategy)
    assert [n for n, each in enumerate(result.results) if not each.is_made] == [3, 13]
    assert codes(result.results)[3] == "failed"
    assert isinstance(result.results[3].error, LookupError)
    assert [each.value for each in result.results][4:6] == [4, 5]
    assert list(Wallet.objects.order_by("pk").values_list("balance", flat=True)) == [
        n for n in range(20) if n % 10 != 3
    ]
    assert balances(payee) == [19]
    assert verify_ledger().is_sound


@contextmanager
def counted_subtransactions() -> Iterator[list[int]]:
    """Note how many the server counts in this connection's transaction, after each statement."""
    counts: list[int] = []
    watcher = connection.copy()  # a session of its own, which sees while the transaction runs

    def count(execute: Callable[..., Any], *arguments: Any) -> Any:
        result = execute(*arguments)
        with watcher.cursor() as cursor:
            cursor.execute(SUBTRANSACTIONS, [pid])
            counts.append(cursor.fetchone()[0])
        return result

    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pid = cursor.fetchone()[0]
        with connection.execute_wrapper(count):
            yield counts
    finally:
        watcher.close()


SUBTRANSACTIONS = """
SELECT CASE WHEN subxact_overflowed THEN 1000 ELSE subxact_count END
FROM pg_stat_get_backend_idset() AS id, pg_stat_get_backend_subxact(id)
WHERE pg_stat_get_backend_pid(id) = %s
"""


def needs_the_count() -> None:
    if connection.get_database_version() < (16,):
        pytest.skip("PostgreSQL tells how many subtransactions a session has from 16 on.")


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_savepoint_for_each_payment_in_one_transaction_is_more_than_the_server_keeps() -> None:
    needs_the_count()
    payer, payee = funded(1_000, 0)
    with counted_subtransactions() as counts, transaction.atomic():
        for _ in range(70):
            with transaction.atomic():
                transfer(payer, payee, 1)
    assert max(counts) == 1_000


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("strategy", "most"), [("set", 0), ("bisect", 0), ("savepoint", SAVEPOINTS)]
)
def test_no_transaction_has_more_subtransactions_than_the_server_keeps(
    strategy: Any, most: int
) -> None:
    needs_the_count()
    payer, payee = funded(1_000, 0)
    with counted_subtransactions() as counts:
        assert pay_batch([Payment(payer, payee, 1)] * 130, strategy=strategy).made == 130
    assert max(counts) == most
    assert balances(payee) == [130]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", ["bisect", "savepoint"])
@pytest.mark.parametrize("own", [1, 7])
def test_savepoints_of_one_s_own_work_count_too(strategy: Any, own: int) -> None:
    needs_the_count()
    payer, payee = funded(1_000, 0)

    def work() -> None:
        for _ in range(own):
            with transaction.atomic():
                transfer(payer, payee, 1)

    with counted_subtransactions() as counts:
        assert pay_batch([work] * 70, strategy=strategy, chunk=50).made == 70
    each = own + (strategy == "savepoint")
    assert max(counts) == min(64 // each, 50) * each
    assert balances(payee) == [70 * own]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_transaction_has_more_than_sixty_four_savepoints(strategy: Any) -> None:
    payer, payee = funded(1_000, 0)
    with CaptureQueriesContext(connection) as queries:
        pay_batch([Payment(payer, payee, 1) for _ in range(130)], strategy=strategy)
    most = count = 0
    for each in queries.captured_queries:
        if each["sql"].startswith("BEGIN"):
            count = 0
        count += each["sql"].startswith("SAVEPOINT")
        most = max(most, count)
    assert most == (SAVEPOINTS if strategy == "savepoint" else 0)
    assert SAVEPOINTS < 64
    assert balances(payee) == [130]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", ["bisect", "savepoint"])
def test_trouble_of_the_server_ends_the_batch(strategy: Any) -> None:
    asked = []

    def fail() -> None:
        asked.append(1)
        raise OperationalError("the server is gone")

    with pytest.raises(OperationalError, match="gone"):
        pay_batch([fail, fail], strategy=strategy)
    assert len(asked) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", ["bisect", "savepoint"])
def test_other_strategies_need_a_transaction_of_their_own(strategy: Any) -> None:
    payer, payee = funded(100, 0)
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        pay_batch([Payment(payer, payee, 1)], strategy=strategy)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_key_taken_meanwhile_is_looked_up_again() -> None:
    first, second, third, fourth = funded(50, 0, 50, 0)
    items = [Payment(third, fourth, 5), Payment(third, fourth, 10, idempotency_key="k")]
    with transaction.atomic():
        transfer(first, second, 10, idempotency_key="k")
        other = started(lambda: pay_batch(items))
        wait_for_blocked()
    assert codes(other.result(timeout=30).results) == ["made", "idempotency-conflict"]
    assert balances(third, fourth) == [45, 5]
    assert verify_ledger().is_sound


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_key_taken_meanwhile_ends_the_caller_s_transaction() -> None:
    first, second, third, fourth = funded(50, 0, 50, 0)

    def pay() -> None:
        with transaction.atomic():
            pay_batch([Payment(third, fourth, 10, idempotency_key="k")])

    with transaction.atomic():
        transfer(first, second, 10, idempotency_key="k")
        other = started(pay)
        wait_for_blocked()
    assert isinstance(other.exception(timeout=30), OperationalError)
    assert balances(third, fourth) == [50, 0]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_batch_locks_accounts_in_the_order_of_their_ids() -> None:
    from dbpatterns.ledger.models import Account

    low, high = sorted(funded(50, 50), key=lambda each: each.pk)
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=low.pk)
        other = started(lambda: pay_batch([Payment(high, low, 10)]))
        wait_for_blocked()
        Account.objects.select_for_update(nowait=True).get(pk=high.pk)
    assert other.result(timeout=30).made == 1


@pytest.mark.django_db(transaction=True)
def test_a_batch_started_again_replays_what_was_made() -> None:
    payer, payee = funded(100, 0)
    items = [Payment(payer, payee, 10, idempotency_key=f"k{n}") for n in range(5)]
    pay_batch(items[:3])
    assert codes(pay_batch(items).results) == [*["replayed"] * 3, *["made"] * 2]
    assert balances(payee) == [50]


@pytest.mark.django_db(transaction=True)
def test_telemetry_tells_of_a_batch() -> None:
    payer, payee = funded(5, 0)
    heard: list[telemetry.Event] = []
    with telemetry.listening(heard.append):
        pay_batch([Payment(payer, payee, 5), Payment(payer, payee, 5)])
    (event,) = [each for each in heard if each.name == "ledger.batch"]
    assert event.database == "default"
    assert event.facts == {"items": 2, "refused": 1, "strategy": "set"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_error": "stop"}, "no on_error='stop'"),
        ({"strategy": "fast"}, "strategy='fast'"),
        ({"on_error": "abort", "strategy": "bisect"}, "one transaction"),
        ({"on_error": "abort", "chunk": 5}, "one transaction"),
        ({"chunk": 0}, "at least one"),
        ({"strategy": "savepoint", "chunk": 51}, "at most 50"),
        ({"items": [lambda: None]}, "payments only"),
        ({"items": [Payment(1, 2, 3, group=1)], "strategy": "bisect"}, "Groups need"),
        ({"items": [Payment(1, 2, 3, group=group) for group in (1, 2, 1)]}, "neighbours"),
    ],
    ids=map(str, itertools.count()),
)
def test_options_that_exclude_each_other_are_refused(options: Any, words: str) -> None:
    options = {"items": [Payment(1, 2, 3)], **options}
    with pytest.raises(UsageError, match=words):
        pay_batch(options.pop("items"), **options)


def test_a_result_is_a_value() -> None:
    assert ItemResult("made", 5, value=1) == ItemResult("made", 5, value=2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", ["bisect", "savepoint"])
def test_a_hook_that_raises_after_the_commit_moves_nothing_twice(
    strategy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    payer, payee = funded(100, 0)

    def hook() -> None:
        raise OperationalError("the mail server is away")

    def item() -> int:
        transaction.on_commit(hook)
        return transfer(payer, payee, 10).pk

    one = Payment(payer, payee, 1)
    result = pay_batch([one, item, one], strategy=strategy)
    assert codes(result.results) == ["made"] * 3
    assert balances(payer, payee) == [88, 12]
    assert "the mail server is away" in caplog.text


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("strategy", ["bisect", "savepoint"])
@pytest.mark.parametrize("fault", ["an error", "a mark", "SQL"])
def test_an_item_that_undoes_its_transaction_unnoticed_has_failed(
    strategy: Any, fault: str
) -> None:
    payer, payee = funded(100, 0)
    there = Wallet.objects.create(balance=5)

    def item() -> None:
        transfer(payer, payee, 10)
        if fault == "an error":
            with suppress(IntegrityError):
                Wallet(pk=there.pk, balance=5).save(force_insert=True)
        elif fault == "a mark" or connection.vendor == "sqlite":
            transaction.set_rollback(True)
        else:
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")

    one = Payment(payer, payee, 1)
    result = pay_batch([one, item, one], strategy=strategy)
    assert codes(result.results) == ["made", "failed", "made"]
    assert balances(payer, payee) == [98, 2]


@pytest.mark.django_db(transaction=True)
def test_a_repetition_of_what_was_aborted_is_aborted_too() -> None:
    payer, payee = funded(10, 0)
    keyed = Payment(payer, payee, 1, idempotency_key="k")
    with pytest.raises(errors.BatchAborted) as caught:
        pay_batch([keyed, keyed, Payment(payer, payee, 100)], on_error="abort")
    aborted = errors.BatchAborted.code
    assert codes(caught.value.result.results) == [aborted, aborted, "insufficient-funds"]


@pytest.mark.django_db(transaction=True)
def test_a_wrong_account_is_refused_before_the_first_chunk() -> None:
    payer, payee = funded(10, 0)
    wrong: Any = "x"
    with pytest.raises(UsageError):
        pay_batch([Payment(payer, payee, 1), Payment(wrong, payee, 1)], chunk=1)
    assert balances(payer, payee) == [10, 0]
