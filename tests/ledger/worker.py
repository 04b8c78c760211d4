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

import django

django.setup()

from django.db import DatabaseError, connections  # noqa: E402

from dbpatterns.ledger.batches import Payment, pay_batch  # noqa: E402
from dbpatterns.ledger.errors import InsufficientFunds  # noqa: E402
from dbpatterns.ledger.hot_accounts import Batcher  # noqa: E402
from dbpatterns.ledger.models import Account  # noqa: E402
from dbpatterns.ledger.transfers import transfer  # noqa: E402

Step = Callable[[str], int]


def one(accounts: list[int], key: str) -> int:
    """Make one transfer between two random accounts."""
    source, destination = random.sample(accounts, 2)
    try:
        transfer(source, destination, random.randint(1, 30), idempotency_key=key)
    except InsufficientFunds:
        return 0
    return 1


def many(accounts: list[int], key: str) -> int:
    """Make a batch of them."""
    payments = []
    for number in range(20):
        source, destination = random.sample(accounts, 2)
        payments.append(Payment(source, destination, 1, idempotency_key=f"{key}-{number}"))
    return pay_batch(payments).made


def race(accounts: list[int], workers: int, steps: int) -> dict[str, object]:
    """Let workers take steps side by side; count transfers and errors."""
    readers = []
    for worker in range(workers):
        reader, writer = os.pipe()
        if os.fork() == 0:
            random.seed(worker)
            made, errors = 0, []
            for number in range(steps):
                try:
                    step = many if number % 10 == 9 else one
                    made += step(accounts, f"{worker}-{number}")
                except DatabaseError as error:
                    errors.append(str(error))
            os.write(writer, json.dumps([made, errors[:5]]).encode())
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    told = [json.loads(os.read(reader, 100_000)) for reader in readers]
    for _ in readers:
        os.wait()
    return {"made": sum(each[0] for each in told), "errors": [e for each in told for e in each[1]]}


def kill(
    accounts: list[int], kills: int, step: Callable[[list[int], str], int]
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
        told = race(accounts, int(numbers[0]), int(numbers[1]))
    elif scenario == "fork":
        told = fork(accounts)
    else:
        told = kill(accounts, int(numbers[0]), one if scenario == "kill-transfers" else many)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
