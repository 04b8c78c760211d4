"""`python -m tests.ledger.worker SCENARIO NUMBERS`: processes that move money until they end.

A process of one thread, so that it may fork: it sets Django up once, and each worker is a child
with a connection of its own. What happened is one JSON object on stdout.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import django

django.setup()

from django.db import DatabaseError, connection, connections  # noqa: E402

from dbpatterns.ledger.batches import Payment, pay_batch  # noqa: E402
from dbpatterns.ledger.errors import InsufficientFunds  # noqa: E402
from dbpatterns.ledger.hot_accounts import Batcher  # noqa: E402
from dbpatterns.ledger.models import Account  # noqa: E402
from dbpatterns.ledger.transfers import (  # noqa: E402
    post_transfer,
    reverse_transfer,
    transfer,
    void_transfer,
)

Done = tuple[int, int]
"""How many transfers a step made, and how many statements that takes on PostgreSQL."""


def one(accounts: list[int], key: str) -> Done:
    """Make one transfer between two random accounts."""
    source, destination = random.sample(accounts, 2)
    try:
        transfer(source, destination, random.randint(1, 30), idempotency_key=key)
    except InsufficientFunds:
        return 0, 1
    return 1, 1


def many(accounts: list[int], key: str) -> Done:
    """Make a batch of them."""
    payments = []
    for number in range(20):
        source, destination = random.sample(accounts, 2)
        payments.append(Payment(source, destination, 1, idempotency_key=f"{key}-{number}"))
    return pay_batch(payments).made, 3


def held(accounts: list[int], key: str) -> Done:
    """Hold money for a transfer, and then post a part of it, or give it up."""
    source, destination = random.sample(accounts, 2)
    try:
        made = transfer(source, destination, random.randint(1, 30), pending=True)
    except InsufficientFunds:
        return 0, 1
    if random.random() < 0.5:
        post_transfer(made, random.randint(1, made.amount))
    else:
        void_transfer(made)
    return 1, 2


def reversed_(accounts: list[int], key: str) -> Done:
    """Make a transfer, and then move its money back if it is still there."""
    source, destination = random.sample(accounts, 2)
    try:
        made = transfer(source, destination, random.randint(1, 30))
    except InsufficientFunds:
        return 0, 1
    try:
        reverse_transfer(made)
    except InsufficientFunds:
        return 1, 2
    return 2, 3


def torn(accounts: list[int], key: str) -> Done:
    """Move money in two transactions, by way of the bank: between them it is nowhere."""
    source, destination = random.sample(accounts, 2)
    bank, amount = Account.objects.get(name="bank"), random.randint(1, 30)
    try:
        transfer(source, bank, amount)
    except InsufficientFunds:
        return 0, 2
    transfer(bank, destination, amount)
    return 2, 3


STEPS: dict[str, list[Callable[[list[int], str], Done]]] = {
    "pay": [*[one] * 9, many],
    "everything": [one, held, reversed_, many],
    "tear": [torn],
}


def race(
    accounts: list[int], steps: str, workers: int, count: int, seconds: float
) -> dict[str, object]:
    """Let workers take steps side by side, so many at least and for so long.

    Counts transfers, errors, and on PostgreSQL the statements beyond those of a first try.
    """
    readers = []
    for worker in range(workers):
        reader, writer = os.pipe()
        if os.fork() == 0:
            random.seed(worker)
            end = time.monotonic() + seconds
            made, sent, first_tries, number, errors = 0, 0, 0, 0, []

            def counted(execute: Callable[..., Any], *statement: Any) -> Any:
                nonlocal sent
                sent += 1
                return execute(*statement)

            with connection.execute_wrapper(counted):
                while number < count or time.monotonic() < end:
                    step = STEPS[steps][number % len(STEPS[steps])]
                    try:
                        done, statements = step(accounts, f"{worker}-{number}")
                    except DatabaseError as error:
                        errors.append(str(error))
                    else:
                        made += done
                        first_tries += statements
                    number += 1
            os.write(writer, json.dumps([made, sent - first_tries, errors[:5]]).encode())
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    told = [json.loads(os.read(reader, 100_000)) for reader in readers]
    for _ in readers:
        os.wait()
    return {
        "made": sum(each[0] for each in told),
        "more": sum(each[1] for each in told),
        "errors": [error for each in told for error in each[2]],
    }


def kill(
    accounts: list[int], kills: int, step: Callable[[list[int], str], Done]
) -> dict[str, object]:
    """Kill a worker at a random moment, again and again; say which keys it had begun."""
    begun = []
    for number in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            random.seed(number)
            count = 0
            while True:
                os.write(writer, b".")  # begins the next
                step(accounts, f"{number}-{count}")
                count += 1
        os.close(writer)
        count = sum(len(os.read(reader, 1)) for _ in range(random.randint(2, 12)))
        time.sleep(random.random() * 0.004)  # somewhere inside: that is what is tested
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        count += len(os.read(reader, 1_000))
        os.close(reader)
        begun += [f"{number}-{each}" for each in range(count)]
    return {"begun": begun}


def fork(accounts: list[int]) -> dict[str, object]:
    """Pay by one batcher before a fork, and in the child."""
    batcher = Batcher()
    payment = Payment(accounts[1], accounts[0], 1)
    told = {"parent": batcher.submit(payment).result(timeout=30).code}
    connections.close_all()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, batcher.submit(payment).result(timeout=30).code.encode())
        os._exit(0)
    os.wait()
    return {**told, "child": os.read(reader, 100).decode()}


def main() -> None:
    """Run a scenario on the accounts without the bank."""
    scenario, *numbers = sys.argv[1:]
    accounts = list(
        Account.objects.exclude(name="bank").order_by("pk").values_list("pk", flat=True)
    )
    connections.close_all()
    if scenario == "race":
        steps, workers, count, seconds = numbers
        told = race(accounts, steps, int(workers), int(count), float(seconds))
    elif scenario == "fork":
        told = fork(accounts)
    else:
        told = kill(accounts, int(numbers[0]), one if scenario == "kill-transfers" else many)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
