"""A plan made while the tables were small must not read all of a table once it has grown."""

from collections.abc import Callable

import pytest
from django.db import connection

from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.ledger.models import Account
from dbpatterns.ledger.transfers import post_transfer, transfer

pytestmark = [pytest.mark.django_db, pytest.mark.postgresql]
Pay = Callable[[Account, Account], object]
ROWS = 60
WAYS: dict[str, tuple[str, Pay]] = {
    "move": ("account", lambda one, other: transfer(one, other, 1)),
    "end": ("transfer", lambda one, other: post_transfer(transfer(one, other, 1, pending=True))),
    "balance": ("transfer", lambda one, other: pay_batch([Payment(one, other, 1)])),
}
"""By function of the ledger, a table that it reads and what calls it first."""


def rows_read_through(table: str) -> int:
    """Count the rows of a table that this session met on its ways through all of it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = %s",
            [f"dbpatterns_ledger_{table}"],
        )
        return int(cursor.fetchone()[0])


def read_since_empty(table: str, pay: Pay) -> int:
    """Pay in a session that began with an empty ledger; return what it reads through once grown."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE dbpatterns_ledger_account CASCADE")  # rows of tests before, too
        cursor.execute("ANALYZE dbpatterns_ledger_account, dbpatterns_ledger_transfer")
        cursor.execute("DISCARD PLANS")
    one, other = (Account.objects.create(currency="EUR", min_balance=None) for _ in range(2))
    for _ in range(ROWS):  # PostgreSQL keeps the plans after a few
        pay(one, other)
    Account.objects.bulk_create(Account(currency="EUR") for _ in range(ROWS))
    before = rows_read_through(table)
    for _ in range(ROWS):
        pay(one, other)
    return rows_read_through(table) - before


@pytest.mark.parametrize("name", WAYS)
def test_without_its_setting_a_function_reads_all_there_is_each_time(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER FUNCTION dbpatterns_ledger_{name} RESET ALL")
    assert read_since_empty(*WAYS[name]) >= ROWS * ROWS


@pytest.mark.parametrize("name", WAYS)
def test_a_session_from_before_the_ledger_grew_reads_single_rows(name: str) -> None:
    assert read_since_empty(*WAYS[name]) == 0
