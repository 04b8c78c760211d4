"""Random histories: at SERIALIZABLE each has an order, and a sum never tells of half a move."""

import os
import random
from collections.abc import Iterator

import pytest
from django.db import connection

from dbpatterns.transactions import Isolation, Retry, atomic, attempts, lock_rows
from tests.testapp.models import Purse
from tests.transactions.histories import Transaction, anomaly
from tests.transactions.stepping import Stepped
from tests.transactions.support import fetch, threads

real = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.postgresql
TRANSACTIONS = int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "60"))
"""Transactions of each of the workers; a long run has thousands."""
WORKERS, KEYS = 4, 4
PERSISTENT = Retry(attempts=1000, cap=0.05)


@pytest.mark.parametrize(
    ("history", "final", "found"),
    [
        ([Transaction(appends={1: [1]}), Transaction(reads={1: [1]})], {1: [1]}, ""),
        ([Transaction(appends={1: [1]})], {1: []}, "lost 1"),
        ([], {1: [1]}, "nobody committed"),
        (
            [Transaction(appends={1: [1]}), Transaction(appends={1: [2]}, reads={1: [2]})],
            {1: [1, 2]},
            "became",
        ),
        (  # write skew: each read what the other was about to write
            [
                Transaction(reads={1: []}, appends={2: [1]}),
                Transaction(reads={2: []}, appends={1: [2]}),
            ],
            {1: [2], 2: [1]},
            "cycle",
        ),
        (  # each has read what the other wrote
            [
                Transaction(reads={1: [2]}, appends={2: [1]}),
                Transaction(reads={2: [1]}, appends={1: [2]}),
            ],
            {1: [2], 2: [1]},
            "cycle",
        ),
        (  # read skew
            [
                Transaction(reads={1: [], 2: [2]}),
                Transaction(appends={1: [1], 2: [2]}),
            ],
            {1: [1], 2: [2]},
            "cycle",
        ),
    ],
)
def test_the_checker_finds_what_cannot_be(
    history: list[Transaction], final: dict[int, list[int]], found: str
) -> None:
    result = anomaly(history, final)
    assert found in result
    assert bool(result) == bool(found)


@pytest.fixture
def lists() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE lists (key int PRIMARY KEY, elements int[] NOT NULL)")
        cursor.execute("INSERT INTO lists SELECT k, '{}' FROM generate_series(1, %s) k", [KEYS])
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE lists")


def read(key: int) -> list[int]:
    return list(fetch("SELECT elements FROM lists WHERE key = %s", key))


def append(key: int, value: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE lists SET elements = elements || %s WHERE key = %s", [value, key])


@real
@postgresql
def test_a_history_with_write_skew_is_found_out(lists: None) -> None:
    with threads() as pool:
        one, two = (Stepped(pool, Isolation.REPEATABLE_READ) for _ in range(2))
        for each in (one, two):
            assert each.do("SELECT elements FROM lists") == [[]] * KEYS
        one.do("UPDATE lists SET elements = elements || 1 WHERE key = 1")
        two.do("UPDATE lists SET elements = elements || 2 WHERE key = 2")
        assert [one.commit(), two.commit()] == ["", ""]
    history = [
        Transaction(reads={2: []}, appends={1: [1]}),
        Transaction(reads={1: []}, appends={2: [2]}),
    ]
    assert "cycle" in anomaly(history, {key: read(key) for key in range(1, KEYS + 1)})  # the harm


@real
@postgresql
def test_at_serializable_every_history_has_an_order(lists: None) -> None:
    def work(worker: int) -> list[Transaction]:
        chance = random.Random(worker)
        done: list[Transaction] = []
        for number in range(TRANSACTIONS):
            for attempt in attempts(PERSISTENT, isolation=Isolation.SERIALIZABLE):
                with attempt:
                    made = Transaction()
                    for step in range(chance.randint(1, 4)):
                        key = chance.randint(1, KEYS)
                        if chance.random() < 0.5:
                            value = (number * WORKERS + worker) * 4 + step + 1
                            append(key, value)
                            made.appends.setdefault(key, []).append(value)
                        elif key not in made.reads and key not in made.appends:
                            made.reads[key] = read(key)
            done.append(made)
        return done

    with threads() as pool:
        running = [pool.start(work, worker) for worker in range(WORKERS)]
        history = [each for thread in running for each in thread.result(timeout=None)]
    assert len(history) == WORKERS * TRANSACTIONS
    assert anomaly(history, {key: read(key) for key in range(1, KEYS + 1)}) == ""


@real
@postgresql
def test_a_sum_under_repeatable_read_is_exact_while_money_moves() -> None:
    purses = Purse.objects.bulk_create([Purse(balance=100) for _ in range(6)])
    moves = max(30, TRANSACTIONS // 2)

    def move(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(moves):
            with atomic():
                source, destination = lock_rows(*chance.sample(purses, 2))
                amount = chance.randint(0, source.balance)
                source.balance -= amount
                destination.balance += amount
                source.save(update_fields=["balance"])
                destination.save(update_fields=["balance"])

    @atomic(isolation=Isolation.REPEATABLE_READ, read_only=True)
    def total() -> int:
        return sum(Purse.objects.get(pk=each.pk).balance for each in purses)

    with threads() as pool:
        movers = [pool.start(move, seed) for seed in range(3)]
        totals = {total()}
        while not all(each.done() for each in movers):
            totals.add(total())
        for each in movers:
            each.result()
    assert totals == {600}
    assert total() == 600
