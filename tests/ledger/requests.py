"""Requests to pay: what a key asks for, ways to serve it, and whether books and answers agree.

`python -m tests.ledger.requests WAY FOLDER ACCOUNTS…` is a nursery: for each name on stdin it
forks a worker, which is the session of that name at the server, and prints its number. A worker
serves one request after another until it is killed, and writes what it begins and what it is told
to a file of its name: what was written stays when a process is killed.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import django

    django.setup()

from django.db import transaction

from dbpatterns.idempotency.keys import run_once
from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.ledger.models import Account, Transfer
from dbpatterns.ledger.transfers import transfer
from dbpatterns.ledger.verification import verify_ledger

__all__ = ["WAYS", "Witness", "findings", "payments"]

Tell = Callable[[Any], object]
Accounts = Sequence[int]
TOO_MUCH = 10**15


def payments(key: str, accounts: Accounts) -> list[Payment]:
    """Return what a key asks for: always the same, and the key is its reference.

    Every second request is one payment of or to the first account. The others are a batch that
    goes round the rest, to the last account, with one payment that will be refused.
    """
    chance = random.Random(key)
    first, *rest = accounts
    if int(key.rpartition("-")[2]) % 2:
        asked = [*pairwise(rest), *pairwise(reversed(rest))]
        batch = [Payment(*each, chance.randint(1, 30), reference=key) for each in asked]
        return [*batch[:2], Payment(rest[0], rest[1], TOO_MUCH, reference=key), *batch[2:]]
    pair = [first, chance.choice(rest[:-1])]
    return [Payment(*chance.sample(pair, 2), chance.randint(1, 30), reference=key)]


def pay(key: str, accounts: Accounts, **options: Any) -> list[list[Any]]:
    """Do what a key asks for, and answer with the code and the number of each payment."""
    asked = payments(key, accounts)
    if len(asked) == 1:
        made = transfer(asked[0].source, asked[0].destination, asked[0].amount, reference=key)
        return [["made", made.pk]]
    return [[each.code, each.transfer] for each in pay_batch(asked, **options).results]


def guarded(key: str, accounts: Accounts, tell: Tell) -> None:
    """Our way: key, payments and answer commit together, and then the answer is told."""
    tell(run_once("client", key, key, lambda: pay(key, accounts)).value)


def keyless(key: str, accounts: Accounts, tell: Tell) -> None:
    """One transaction, and nothing that knows the request again."""
    with transaction.atomic():
        answer = pay(key, accounts)
    tell(answer)


def claimed_first(key: str, accounts: Accounts, tell: Tell) -> None:
    """The key is claimed in a transaction of its own, before the work."""
    claim = run_once("client", key, key, lambda: "claimed")
    tell("was done before" if claim.is_replay else pay(key, accounts))


def told_early(key: str, accounts: Accounts, tell: Tell) -> None:
    """The answer is told when it is known, which is before the COMMIT."""

    def work() -> list[list[Any]]:
        answer = pay(key, accounts)
        tell(answer)
        return answer

    run_once("client", key, key, work)


def one_by_one(key: str, accounts: Accounts, tell: Tell) -> None:
    """Each payment of a batch is committed alone."""
    tell(pay(key, accounts, chunk=1))


WAYS: Mapping[str, Callable[[str, Accounts, Tell], None]] = {
    each.__name__: each for each in (guarded, keyless, claimed_first, told_early, one_by_one)
}


@dataclass
class Witness:
    """What the workers wrote down: which keys were begun, and what was told."""

    begun: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Witness":
        """Read the files of all workers. A worker that failed is an AssertionError."""
        made = cls()
        for path in sorted(folder.iterdir()):
            for line in path.read_text().splitlines():
                event, key, value = json.loads(line)
                assert event != "failed", value
                if event == "begun":
                    made.begun.append(key)
                else:
                    made.told[key] = value
        return made


def findings(way: str, accounts: Accounts, funds: int, seen: Witness) -> list[str]:
    """Say what is wrong: first as the books are, then after every request was sent once more.

    Args:
        funds: what each account had before the first request.
    """
    found = []
    before = _booked()
    for key in seen.begun:
        asked = [each for each in payments(key, accounts) if each.amount != TOO_MUCH]
        there = before.get(key, [])
        if there and len(there) != len(asked):
            found.append(f"{key}: half, {len(there)} of {len(asked)} payments")
        if key in seen.told and not there:
            found.append(f"{key}: told {seen.told[key]}, and nothing is there")
        elif key in seen.told and _numbers(seen.told[key]) != there:
            found.append(f"{key}: told {seen.told[key]}, and {there} are there")
    answers: dict[str, Any] = {}
    for key in seen.begun:
        WAYS[way](key, accounts, partial(answers.__setitem__, key))
    after = _booked()
    balances = dict.fromkeys(accounts, funds)
    for key in seen.begun:
        asked = [each for each in payments(key, accounts) if each.amount != TOO_MUCH]
        there = after.get(key, [])
        if len(there) != len(asked):
            found.append(f"{key}: {len(there)} instead of {len(asked)} payments")
        if key in seen.told and json.dumps(answers[key]) != json.dumps(seen.told[key]):
            found.append(f"{key}: told {seen.told[key]}, then {answers[key]}")
        for each in asked:
            balances[each.source] -= each.amount
            balances[each.destination] += each.amount
    rows = dict(Account.objects.filter(pk__in=accounts).values_list("pk", "balance"))
    found += [
        f"account {each}: {rows[each]} instead of {balances[each]}"
        for each in accounts
        if rows[each] != balances[each]
    ]
    return found + [str(each) for each in verify_ledger().findings]


def _booked() -> dict[str, list[int]]:
    booked: dict[str, list[int]] = {}
    for key, number in Transfer.objects.order_by("pk").values_list("reference", "pk"):
        booked.setdefault(key, []).append(number)
    return booked


def _numbers(answer: list[list[Any]]) -> list[int]:
    return sorted(number for code, number in answer if code == "made")


def serve(way: str, folder: Path, name: str, accounts: Accounts) -> None:
    """Serve requests until killed, or until whoever forked us has ended."""
    nursery = os.getppid()
    log = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(event: str, key: str, value: Any = None) -> None:
        os.write(log, f"{json.dumps([event, key, value])}\n".encode())

    for number in count():
        key = f"{name}-{number}"
        if os.getppid() != nursery:
            return
        write("begun", key)
        try:
            WAYS[way](key, accounts, partial(write, "told", key))
        except Exception as error:
            write("failed", key, repr(error))
            return


def main() -> None:
    """Fork a worker for each name."""
    way, folder, *accounts = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            os.environ["PGAPPNAME"] = line.strip()
            serve(way, Path(folder), line.strip(), [int(each) for each in accounts])
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
