"""What the bank's tests share: a small bank, crashes, threads, and the books as plain data."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import connections, transaction

from dbpatterns.sharding import shards
from dbpatterns.testing.ledger import empty_ledger
from demo.banking.berka import BankData
from demo.banking.importing import BankImport, opening_balance
from demo.banking.models import Account, StandingOrder, StandingOrderExecution
from demo.banking.sample import sample_bank
from tests.processes import database_url, until_sessions_end

DEADLINE_SECONDS = 60
PROCESS = "process-of-the-bank"


def import_sample(customers: int = 40) -> BankData:
    """Import a made-up bank and return what was imported."""
    data = sample_bank(customers)
    BankImport(data).run()
    return data


def expected_books(data: BankData) -> dict[str, tuple[int, list[str]]]:
    """Work out by hand what a day of standing orders leaves: balance and outcomes by account."""
    books = {each.number: (opening_balance(each.number), list[str]()) for each in data.accounts}
    for order in data.orders:
        balance, outcomes = books[order.account]
        paid = balance >= order.amount
        outcomes.append("paid" if paid else "refused")
        books[order.account] = (balance - order.amount if paid else balance, outcomes)
    return books


def actual_books() -> dict[str, tuple[int, list[str]]]:
    """Read balance and outcomes by account from every shard."""
    books = {}
    for alias in shards():
        outcomes: dict[Any, list[str]] = {}
        executions = StandingOrderExecution.objects.using(alias).select_related("order")
        for each in executions.order_by("order__order_number"):
            outcomes.setdefault(each.order.account_id, []).append(each.status)
        accounts = Account.objects.using(alias).select_related("ledger")
        for account in accounts.filter(kind=Account.Kind.CUSTOMER):
            books[account.number] = (account.balance, outcomes.get(account.pk, []))
    return books


def empty_bank() -> None:
    """Delete every row of the bank and of the ledgers, whose guards refuse it on SQLite."""
    for alias in shards():
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            for table in ("standingorderexecution", "standingorder", "transfer", "account"):
                cursor.execute(f"DELETE FROM banking_{table}")
            for table in ("banking_customer", "banking_statementline"):
                cursor.execute(f"DELETE FROM {table}")
            for table in ("idempotency_key", "eventstore_event", "eventstore_projection"):
                cursor.execute(f"DELETE FROM dbpatterns_{table}")
            empty_ledger(alias)


class Crash(BaseException):
    """The process died: no `except Exception` may catch it."""


@contextmanager
def crash_at_statement(number: int) -> Iterator[None]:
    """Die instead of sending the statement with this number, counted over all databases."""
    sent = 0

    def wrapper(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == number:
            raise Crash
        return execute(*arguments)

    with ExitStack() as stack:
        for alias in connections:
            stack.enter_context(connections[alias].execute_wrapper(wrapper))
        yield


def at_once(*bodies: Callable[[], object]) -> list[object]:
    """Run the bodies in a thread each, released together; return their results in order.

    An exception of a body is its result.
    """
    barrier = threading.Barrier(len(bodies))
    results: list[object] = [None] * len(bodies)

    def run(index: int, body: Callable[[], object]) -> None:
        try:
            barrier.wait(DEADLINE_SECONDS)
            results[index] = body()
        except Exception as error:
            results[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(bodies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "a thread did not end: a deadlock?"
    return results


@contextmanager
def held_orders(alias: str) -> Iterator[None]:
    """Let no other process execute a shard's standing orders until the block ends."""
    with transaction.atomic(using=alias):  # which on SQLite holds the whole shard
        assert list(StandingOrder.objects.using(alias).select_for_update())
        yield


def until_the_processes_are_gone() -> None:
    """Wait for the sessions of processes that were killed: what they sent may still commit."""
    for alias in shards():
        until_sessions_end(PROCESS, alias)


def environment_of_a_process() -> dict[str, str]:
    """Return the environment in which a `manage.py` works on this run's test databases."""

    return {
        **os.environ,
        "PGAPPNAME": PROCESS,
        "DJANGO_SETTINGS_MODULE": "demo.settings",
        "DATABASE_URL": database_url(),
        "DBPATTERNS_SHARD_URLS": ",".join(database_url(alias) for alias in shards()),
    }
