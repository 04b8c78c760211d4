"""Two people who pay each other, and what the tests compare: statements, the ledger, pages."""

import json
import signal
import subprocess
import sys
from io import StringIO
from typing import Any

from django.core.management import call_command

from dbpatterns.eventstore.management.commands.rebuild_projection import Command
from dbpatterns.ledger.models import Entry as LedgerEntry
from dbpatterns.services import resolve
from dbpatterns.sharding import shard_for
from demo.banking.books import prove_books
from demo.banking.models import Account, Customer, StatementLine
from demo.banking.projections import Statements
from demo.banking.statements import Line, Statement, StatementService
from demo.banking.transfers import transfer
from tests.demo.bank_support import environment_of_a_process, until_the_processes_are_gone

SHARD = "shard_0"
STORED = [each.name for each in StatementLine._meta.fields if each.name not in ("id", "generation")]


class Pair:
    """Two customers of one shard, the first if not told, with an account each."""

    def __init__(self, balance: int = 1_000, shard: str = SHARD) -> None:
        self.shard = shard
        numbers = (number for number in range(1, 100) if shard_for(number) == shard)
        self.accounts = [self._open(next(numbers), balance) for _ in range(2)]
        self.one, self.two = self.accounts

    def _open(self, number: int, balance: int) -> Account:
        customer = Customer.objects.using(self.shard).create(pk=number, name=f"Customer {number}")
        return Account.objects.using(self.shard).create(
            number=str(number), customer=customer, balance=balance
        )

    def pay(self, amount: int, key: str, *, back: bool = False) -> None:
        payer, payee = (self.two, self.one) if back else (self.one, self.two)
        transfer(payer, payee, amount=amount, idempotency_key=key, memo=key)


def statement(account: Account) -> Statement:
    assert account.customer_id is not None
    return resolve(StatementService).read(account.customer_id)


def read(account: Account) -> list[Line]:
    return list(statement(account).lines)


def kept(alias: str = SHARD) -> list[tuple[Any, ...]]:
    """Everything on the statements in use, but for the ids and the generation."""
    return list(Statements.rows(alias).order_by("account", "version").values_list(*STORED))


def in_ledger(alias: str = SHARD) -> list[tuple[str, int, int, int]]:
    """What the ledger has booked on the customers' accounts, read without any of our queries."""
    numbers = dict(
        Account.objects.using(alias).filter(kind="customer").values_list("ledger_id", "number")
    )
    entries = LedgerEntry.objects.using(alias).filter(account__in=numbers)
    return sorted(
        (numbers[each.account_id], each.account_version, each.amount, each.balance_after)
        for each in entries
    )


def on_statements(alias: str = SHARD) -> list[tuple[str, int, int, int]]:
    rows = Statements.rows(alias).values_list("account", "version", "amount", "balance")
    return sorted(rows)


def faults() -> list[str]:
    return [fault for proof in prove_books().values() for fault in proof.faults]


def rebuild(*args: str, database: str = SHARD) -> dict[str, Any]:
    output = StringIO()
    options = (*args, "--database", database, "--format", "json")
    call_command(Command(), "statements", *options, stdout=output, stderr=StringIO())
    facts: dict[str, Any] = json.loads(output.getvalue())
    return facts


def killed(code: str) -> None:
    """Run code on this run's databases in a process that kills itself."""
    setup = "import os, signal, django; django.setup()\n"
    process = subprocess.run(
        [sys.executable, "-c", setup + code],
        env=environment_of_a_process(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    until_the_processes_are_gone()
