"""Books that were kept before the ledger: moved into it, and written down again on the way back."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from dbpatterns.ledger.verification import verify_ledger
from demo.banking.books import prove_shard
from demo.banking.models import Account, Transfer
from demo.banking.transfers import transfer

SHARD = "shard_0"

pytestmark = [
    pytest.mark.django_db(databases="__all__", transaction=True),
    pytest.mark.filterwarnings("ignore:Overriding setting"),
]


def old_rows() -> Callable[[str], Any]:
    """Return what gives a model's rows as the first migration has them."""
    loader = MigrationExecutor(connections[SHARD]).loader
    apps = loader.project_state([("banking", "0001_initial")]).apps
    return lambda model: apps.get_model("banking", model).objects.using(SHARD)


def test_books_move_into_the_ledger_and_back() -> None:
    old = old_rows()
    call_command("migrate", "banking", "0001", database=SHARD, verbosity=0)
    try:
        customer = old("Customer").create(id=1, name="One")
        opening = old("Account").create(number="opening", kind="opening", balance=-500)
        rich, poor = (
            old("Account").create(number=number, customer=customer, balance=balance, status=status)
            for number, balance, status in (("rich", 480, "open"), ("poor", 20, "closed"))
        )
        for kind, payer, payee, amount in (
            ("opening", opening, rich, 500),
            ("transfer", rich, poor, 20),
        ):
            made = old("Transfer").create(
                **{"customer": customer, "idempotency_key": kind, "kind": kind, "payer": payer},
                **{"payee": payee, "amount": amount, "currency": "CZK", "memo": "then"},
            )
            for account, change in ((payer, -amount), (payee, amount)):
                old("Entry").create(transfer=made, account=account, amount=change)
    finally:
        call_command("migrate", "banking", database=SHARD, verbosity=0)
    now = Account.objects.using(SHARD)
    assert {each.number: each.balance for each in now} == {"opening": -500, "rich": 480, "poor": 20}
    assert verify_ledger(using=SHARD).is_sound
    assert prove_shard(SHARD).faults == ()
    (made,) = Transfer.objects.using(SHARD).filter(kind="transfer")
    assert sorted(made.entries.values_list("amount", "balance_after")) == [(-20, 480), (20, 20)]
    assert now.get(number="poor").ledger.closed_at is not None
    now.filter(number="poor").update(status="open")
    again, is_new = transfer(
        now.get(number="rich"), now.get(number="poor"), amount=20, idempotency_key="transfer",
        memo="then",
    )  # fmt: skip
    assert (again.pk, is_new) == (made.pk, False)
    call_command("migrate", "banking", "0001", database=SHARD, verbosity=0)
    try:
        assert dict(old("Account").values_list("number", "balance")) == {
            **{"opening": -500, "rich": 480, "poor": 20}
        }
        assert sorted(old("Entry").values_list("amount", flat=True)) == [-500, -20, 20, 500]
        for model in ("Entry", "Transfer", "Account", "Customer"):
            old(model).all().delete()
    finally:
        call_command("migrate", "banking", database=SHARD, verbosity=0)
