"""Generated histories: the ledger on a database answers and stands as the model in Python does.

The same class runs on PostgreSQL, where a function decides, and on SQLite, where Python does.
`DBPATTERNS_TEST_HISTORIES=10000` plays as many.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dbpatterns.ledger.batches import Payment, pay_batch
from dbpatterns.ledger.errors import TransferError
from dbpatterns.ledger.models import Account, Entry, Transfer
from dbpatterns.ledger.transfers import (
    post_transfer,
    reverse_transfer,
    transfer,
    void_transfer,
)
from dbpatterns.ledger.verification import verify_ledger
from tests.ledger.model import Model, ModelAccount

HISTORIES = int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "100"))
ACCOUNTS = [
    ModelAccount("EUR", least=None),
    ModelAccount("EUR"),
    ModelAccount("EUR"),
    ModelAccount("EUR", least=-5, most=20),
    ModelAccount("USD", least=-100),
    ModelAccount("EUR", is_closed=True),
]
UNKNOWN = len(ACCOUNTS)

sides = st.integers(0, UNKNOWN)
amounts = st.integers(-1, 12)
keys = st.sampled_from(["", "", "a", "b", "c"])
numbers = st.integers(0, 12)
payments = st.fixed_dictionaries(
    {"source": sides, "destination": sides, "amount": amounts},
    optional={
        "key": keys,
        "reference": st.sampled_from(["", "rent"]),
        "pending": st.booleans(),
    },
)


class Histories(RuleBasedStateMachine):
    """Each rule does one thing to both, and compares the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        self.model = Model([ModelAccount(**vars(each)) for each in ACCOUNTS])
        for each in self.model.accounts:
            each.entries = []
        self.accounts = [
            Account.objects.create(
                currency=each.currency,
                min_balance=each.least,
                max_balance=each.most,
                closed_at=timezone.now() if each.is_closed else None,
            ).pk
            for each in self.model.accounts
        ]
        self.transfers: list[int] = []

    def teardown(self) -> None:
        try:
            self.compare_rows()
        finally:
            transaction.set_rollback(True)
            self.block.__exit__(None, None, None)

    def account(self, number: int) -> int:
        return self.accounts[number] if number < UNKNOWN else 2**40

    def number(self, number: int) -> int:
        return self.transfers[number] if number < len(self.transfers) else 2**40

    def agree(self, expected: int | str, call: Callable[[], Transfer]) -> None:
        if isinstance(expected, int):
            self.note(expected, call().pk)
            return
        with pytest.raises(TransferError) as caught:
            call()
        assert caught.value.code == expected

    def note(self, expected: int | str, made: int | None) -> None:
        assert isinstance(expected, int), f"the model refuses with {expected}"
        assert made is not None
        if expected == len(self.transfers):
            self.transfers.append(made)
        assert self.transfers[expected] == made

    @rule(payment=payments)
    def transfer(self, payment: dict[str, Any]) -> None:
        options = {**payment}
        source, destination = options.pop("source"), options.pop("destination")
        expected = self.model.transfer(**payment)
        options["idempotency_key"] = options.pop("key", "") or None
        amount = options.pop("amount")
        self.agree(
            expected,
            lambda: transfer(self.account(source), self.account(destination), amount, **options),
        )

    @rule(number=numbers, amount=st.none() | amounts)
    def post(self, number: int, amount: int | None) -> None:
        expected = self.model.end(number, "posted", amount)
        self.agree(expected, lambda: post_transfer(self.number(number), amount))

    @rule(number=numbers)
    def void(self, number: int) -> None:
        expected = self.model.end(number, "voided")
        self.agree(expected, lambda: void_transfer(self.number(number)))

    @rule(number=numbers, key=keys)
    def reverse(self, number: int, key: str) -> None:
        expected = self.model.reverse(number, key=key)
        self.agree(expected, lambda: reverse_transfer(self.number(number), key or None))

    @rule(batch=st.lists(payments, max_size=8))
    def pay(self, batch: list[dict[str, Any]]) -> None:
        expected = [self.model.transfer(**each) for each in batch]
        result = pay_batch(
            [
                Payment(
                    self.account(each["source"]),
                    self.account(each["destination"]),
                    each["amount"],
                    idempotency_key=each.get("key") or None,
                    reference=each.get("reference", ""),
                    pending=each.get("pending", False),
                )
                for each in batch
            ]
        )
        for answer, made in zip(expected, result.results, strict=True):
            if made.is_made:
                self.note(answer, made.transfer)
            else:
                assert made.code == answer

    @invariant()
    def balances_are_the_model_s(self) -> None:
        rows = Account.objects.filter(pk__in=self.accounts).order_by("pk")
        assert list(rows.values_list("balance", "pending_debits", "pending_credits")) == [
            (each.balance, each.held, each.announced) for each in self.model.accounts
        ]

    def compare_rows(self) -> None:
        entries = Entry.objects.order_by("account", "account_version")
        assert list(entries.values_list("account", "amount")) == [
            (pk, amount)
            for pk, each in zip(self.accounts, self.model.accounts, strict=True)
            for amount in each.entries
        ]
        rows = Transfer.objects.in_bulk(self.transfers)
        assert [
            (rows[pk].status, rows[pk].posted_amount, rows[pk].amount) for pk in self.transfers
        ] == [(each.status, each.moved, each.amount) for each in self.model.transfers]
        assert verify_ledger().findings == []


@pytest.mark.django_db(transaction=True)
def test_the_database_does_what_the_model_does() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=20,
            deadline=None,
            database=None,
            print_blob=False,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
