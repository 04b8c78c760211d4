"""Histories: at SERIALIZABLE each has an order, and a sum never tells of half a move.

`DBPATTERNS_TEST_HISTORIES=10000` makes them long.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from django.db import connection

from dbpatterns.transactions import Isolation, Retry, atomic, attempts, lock_rows
from tests.testapp.models import Purse
from tests.transactions.histories import Transaction, anomaly
from tests.transactions.support import PATIENCE_SECONDS, Threads, fetch, threads

real = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.postgresql
TRANSACTIONS = int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "60"))
"""Transactions of each of the workers; a long run has thousands."""
WORKERS, KEYS = 4, 4
PERSISTENT = Retry(attempts=1000, cap=0.05)


def made(*, read: dict[int, list[int]] | None = None, **append: int) -> Transaction:
    """Return a transaction of a history: `append` names lists `x` and `y`, which are 1 and 2."""
    appends = {{"x": 1, "y": 2}[name]: [value] for name, value in append.items()}
    return Transaction(read or {}, appends)


@pytest.mark.parametrize(
    ("found", "history", "final"),
    [
        ("", [made(x=1), made(read={1: [1]})], {1: [1]}),
        ("", [made(read={1: []}, x=1), made(read={1: [1]}, x=2)], {1: [1, 2]}),
        ("lost 1", [made(x=1)], {1: []}),
        ("nobody committed", [], {1: [1]}),
        ("became", [made(x=1), made(x=2, read={1: [2]})], {1: [1, 2]}),
        ("became", [made(x=1), made(read={1: [1, 9]})], {1: [1]}),  # of one that was undone
        ("G0: ", [made(x=1, y=1), made(x=2, y=2)], {1: [1, 2], 2: [2, 1]}),
        ("G1c: ", [made(read={1: [2]}, y=1), made(read={2: [1]}, x=2)], {1: [2], 2: [1]}),
        ("G1c: ", [made(read={2: [3]}, x=1), made(x=2, y=3)], {1: [1, 2], 2: [3]}),
        (  # who reads the second append comes after both
            "G1c: ",
            [made(x=1), made(read={2: [3]}, x=2), made(read={1: [1, 2]}, y=3)],
            {1: [1, 2], 2: [3]},
        ),
        ("G-single: ", [Transaction({}, {1: [1, 2]}), made(read={1: [1]})], {1: [1, 2]}),  # G1b
        ("G-single: ", [made(read={1: [], 2: [2]}), made(x=1, y=2)], {1: [1], 2: [2]}),
        ("G-single: ", [made(read={1: []}, x=1), made(x=2)], {1: [2, 1]}),
        ("G2-item: ", [made(read={1: []}, y=1), made(read={2: []}, x=2)], {1: [2], 2: [1]}),
    ],
)
def test_the_checker_names_what_cannot_be(
    found: str, history: list[Transaction], final: dict[int, list[int]]
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


def write(key: int, elements: list[int]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE lists SET elements = %s WHERE key = %s", [elements, key])


def final() -> dict[int, list[int]]:
    return {key: read(key) for key in range(1, KEYS + 1)}


def both_read_first(
    pool: Threads,
    isolation: Isolation,
    put: Callable[[int, list[int], int], None],
    *both: tuple[int, int],
) -> list[Transaction]:
    """Run two transactions that read a list, meet, and put their number onto a list."""
    meeting = threading.Barrier(2)

    def run(number: int) -> Transaction:
        has_met = False
        source, target = both[number]

        @atomic(isolation=isolation, retry=PERSISTENT)
        def transaction() -> Transaction:
            nonlocal has_met
            seen = read(source)
            if not has_met:
                meeting.wait(PATIENCE_SECONDS)
                has_met = True
            put(target, seen, number)
            return Transaction({source: seen}, {target: [number]})

        return transaction()

    return pool.together(lambda: run(0), lambda: run(1))


def write_skew(pool: Threads, isolation: Isolation) -> list[Transaction]:
    """Each reads the list that the other appends to."""
    return both_read_first(
        pool, isolation, lambda target, _, value: append(target, value), (1, 2), (2, 1)
    )


def lost_update(pool: Threads, isolation: Isolation) -> list[Transaction]:
    """Each appends to the list that both have read, and writes back the whole."""
    return both_read_first(
        pool, isolation, lambda target, seen, value: write(target, [*seen, value]), (1, 1), (1, 1)
    )


def read_skew(pool: Threads, isolation: Isolation) -> list[Transaction]:
    """One reads two lists, and another appends to both in between."""

    @atomic(isolation=isolation, retry=PERSISTENT)
    def append_to_both() -> Transaction:
        append(1, 1)
        append(2, 2)
        return Transaction({}, {1: [1], 2: [2]})

    between: list[Transaction] = []

    @atomic(isolation=isolation, retry=PERSISTENT)
    def look() -> Transaction:
        seen = read(1)
        if not between:
            between.append(pool.start(append_to_both).result(PATIENCE_SECONDS))
        return Transaction({1: seen, 2: read(2)}, {})

    return [look(), *between]


@real
@postgresql
@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize(
    ("provoke", "name", "seen_at"),
    [
        (read_skew, "G-single: ", [Isolation.READ_COMMITTED]),
        (lost_update, "has lost ", [Isolation.READ_COMMITTED]),
        (write_skew, "G2-item: ", [Isolation.READ_COMMITTED, Isolation.REPEATABLE_READ]),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_provoked_history_has_an_order_from_a_level_on(
    lists: None,
    isolation: Isolation,
    provoke: Callable[[Threads, Isolation], list[Transaction]],
    name: str,
    seen_at: list[Isolation],
) -> None:
    with threads() as pool:
        history = provoke(pool, isolation)
    found = anomaly(history, final())
    assert len(history) == 2
    assert name in found if isolation in seen_at else found == ""


class Undo(Exception):
    """Raised on purpose: what the transaction appended must never be seen."""


@real
@postgresql
@pytest.mark.parametrize("way", ["decorator", "attempts"])
def test_at_serializable_every_history_has_an_order(lists: None, way: str) -> None:
    def steps(chance: random.Random, first: int) -> Transaction:
        did = Transaction()
        for value in range(first, first + chance.randint(1, 4)):
            key = chance.randint(1, KEYS)
            if chance.random() < 0.5:
                append(key, value)
                did.appends.setdefault(key, []).append(value)
            elif key not in did.reads and key not in did.appends:
                did.reads[key] = read(key)
        if chance.random() < 0.1:
            raise Undo
        return did

    decorated = atomic(isolation=Isolation.SERIALIZABLE, retry=PERSISTENT)(steps)

    def in_a_loop(chance: random.Random, first: int) -> Transaction:
        for attempt in attempts(PERSISTENT, isolation=Isolation.SERIALIZABLE):
            with attempt:
                did = steps(chance, first)
        return did

    run = decorated if way == "decorator" else in_a_loop

    def work(worker: int) -> list[Transaction]:
        chance = random.Random(worker)
        done: list[Transaction] = []
        for number in range(TRANSACTIONS):
            with suppress(Undo):
                done.append(run(chance, (number * WORKERS + worker) * 4 + 1))
        return done

    with threads() as pool:
        running = [pool.start(work, worker) for worker in range(WORKERS)]
        history = [each for thread in running for each in thread.result(timeout=None)]
    assert WORKERS * TRANSACTIONS / 2 < len(history) < WORKERS * TRANSACTIONS
    assert anomaly(history, final()) == ""


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
