"""Accounts with money, threads with connections of their own, and waiting for a lock."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from django.db import connections

from dbpatterns.ledger.models import Account, Entry, Transfer
from dbpatterns.ledger.transfers import transfer
from tests.processes import database_url, locks_waited_for, until, until_sessions_end

__all__ = ["balances", "funded", "in_threads", "run_worker", "started", "state", "wait_for_blocked"]


def funded(*amounts: int, currency: str = "EUR", **options: Any) -> list[Account]:
    """Open accounts that have these amounts, paid by a bank without limits."""
    bank = Account.objects.create(currency=currency, min_balance=None, name="bank")
    made = [Account.objects.create(currency=currency, **options) for _ in amounts]
    for account, amount in zip(made, amounts, strict=True):
        if amount:
            transfer(bank, account, amount)
        account.refresh_from_db()
    return made


def balances(*accounts: Account) -> list[int]:
    """Read what the accounts have now."""
    rows = Account.objects.in_bulk([each.pk for each in accounts])
    return [rows[each.pk].balance for each in accounts]


def state() -> list[Any]:
    """Read every row of the ledger."""
    models: tuple[Any, ...] = (Account, Transfer, Entry)
    return [list(model.objects.order_by("pk").values_list()) for model in models]


def started(call: Callable[[], Any]) -> "Future[Any]":
    """Run a call in a thread of its own, and close its connections at the end."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            connections.close_all()

    threading.Thread(target=run, daemon=True).start()
    return future


def in_threads(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Run a call in many threads at the same moment; what each returned or raised."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait(timeout=30)
        return call(number)

    futures = [started(lambda number=number: run(number)) for number in range(count)]
    return [each.exception(timeout=60) or each.result() for each in futures]


def wait_for_blocked() -> None:
    """Wait until a session of this PostgreSQL server waits for a lock."""
    until(locks_waited_for)


def run_worker(*arguments: object) -> dict[str, Any]:
    """Run a scenario of `tests.ledger.worker` on the tests' database.

    The server may learn later that a client was killed, and commit until then what was sent: so
    this waits for the end of their sessions too.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.ledger.worker", *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DATABASE_URL": database_url(), "PGAPPNAME": "ledger-worker"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    until_sessions_end("ledger-worker")
    told: dict[str, Any] = json.loads(done.stdout)
    return told
