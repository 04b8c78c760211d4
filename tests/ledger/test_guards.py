"""The database guards the ledger itself: its constraints and triggers refuse whoever writes."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from dbpatterns.ledger.models import MAX_AMOUNT, Account, Entry, Transfer
from dbpatterns.ledger.transfers import transfer
from dbpatterns.testing.ledger import unguarded_ledger
from tests.ledger.support import funded, state

pytestmark = pytest.mark.django_db
A, T, E = (f"dbpatterns_ledger_{each}" for each in ("account", "transfer", "entry"))
ENDED = "ended_at = CURRENT_TIMESTAMP, status = 'voided'"

# What a row may say.

ROWS: dict[Any, dict[str, Any]] = {
    Account: {"id": 3, "currency": "EUR"},
    Transfer: {
        "id": 1,
        "source_id": 1,
        "destination_id": 2,
        "amount": MAX_AMOUNT,
        "posted_amount": MAX_AMOUNT,
        "currency": "EUR",
        "status": "posted",
        "idempotency_key": "a",
        "reverses_id": 1,
    },
    Entry: {
        "id": 1,
        "transfer_id": 1,
        "account_id": 1,
        "account_version": 1,
        "amount": 10,
        "balance_after": 10,
    },
}


@pytest.fixture
def _accounts() -> None:
    Account.objects.bulk_create(Account(pk=pk, currency="EUR") for pk in (1, 2))


@pytest.mark.usefixtures("_accounts")
@pytest.mark.parametrize("updates", [False, True], ids=["insert", "update"])
@pytest.mark.parametrize(
    ("rule", "model", "wrong"),
    [
        ("account_counts", Account, {"pending_debits": -1}),
        ("account_counts", Account, {"pending_credits": -1}),
        ("account_counts", Account, {"version": -1}),
        ("account_min", Account, {"balance": -1}),
        ("account_min", Account, {"min_balance": 1}),
        ("account_min", Account, {"pending_debits": 1}),
        ("account_max", Account, {"max_balance": 0, "balance": 1}),
        ("account_max", Account, {"max_balance": -1}),
        ("account_max", Account, {"max_balance": 0, "pending_credits": 1}),
        ("account_currency", Account, {"currency": ""}),
        ("transfer_amount", Transfer, {"amount": -1, "posted_amount": 0, "status": "pending"}),
        ("transfer_amount", Transfer, {"amount": 0, "posted_amount": 0, "status": "pending"}),
        ("transfer_amount", Transfer, {"amount": MAX_AMOUNT + 1}),
        ("transfer_posted", Transfer, {"posted_amount": -1}),
        ("transfer_posted", Transfer, {"posted_amount": 0}),
        ("transfer_posted", Transfer, {"posted_amount": MAX_AMOUNT + 1}),
        *(
            ("transfer_posted", Transfer, {"status": status, "posted_amount": amount})
            for status in ("pending", "voided", "expired")
            for amount in (-1, 1)
        ),
        ("transfer_posted", Transfer, {"status": "unknown", "posted_amount": 0}),
        ("transfer_posted", Transfer, {"status": "unknown", "posted_amount": 10}),
        ("transfer_two", Transfer, {"destination_id": 1}),
        ("entry_amount", Entry, {"amount": 0}),
        ("entry_positive", Entry, {"account_version": 0}),
        ("entry_positive", Entry, {"account_version": -1}),
    ],
)
def test_each_rule_of_a_row_holds_also_where_no_trigger_looks(
    rule: str, model: Any, wrong: dict[str, Any], updates: bool
) -> None:
    row = ROWS[model]

    def write() -> None:
        if updates:
            model.objects.filter(pk=row["id"]).update(**wrong)
        else:
            model.objects.bulk_create([model(**{**row, **wrong})])

    with unguarded_ledger():
        if updates:
            model.objects.create(**row)
        with pytest.raises(IntegrityError, match=rf"dbpatterns_{rule}\b"), transaction.atomic():
            write()


@pytest.mark.usefixtures("_accounts")
@pytest.mark.parametrize(
    ("model", "other"),
    [
        (Transfer, {"idempotency_key": "b", "reverses_id": 2}),
        (Entry, {"account_version": 2, "transfer_id": 2}),
    ],
)
def test_a_key_a_reversal_a_number_and_a_side_are_taken_once(
    model: Any, other: dict[str, Any]
) -> None:
    row = ROWS[model]
    second = {**row, "id": 2, **other}
    with unguarded_ledger():
        model.objects.create(**row)
        for column in other:
            with pytest.raises(IntegrityError, match=r"(?i)unique"), transaction.atomic():
                model.objects.create(**{**second, column: row[column]})
        model.objects.create(**second)


# What may change.


@transaction.atomic
def execute(statement: str) -> None:
    """Run a statement and the checks that wait for the end of its transaction."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.check_constraints()


@pytest.fixture
def booked() -> Iterator[None]:
    """A transfer and a pending one, of which nothing changes."""
    payer, payee = funded(100, 0)
    transfer(payer, payee, 10)
    transfer(payer, payee, 10, pending=True)
    before = state()
    yield
    assert state() == before


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (f"UPDATE {E} SET balance_after = 1", "not update rows of dbpatterns_ledger_entry"),
        (f"DELETE FROM {E}", "not delete rows of dbpatterns_ledger_entry"),
        (
            f"DELETE FROM {T} WHERE status = 'pending'",
            "not delete rows of dbpatterns_ledger_transfer",
        ),
        (f"UPDATE {A} SET balance = balance + 1 WHERE balance = 10", "by transfers only"),
        (f"UPDATE {A} SET version = version - 1 WHERE balance = 10", "by transfers only"),
        (f"UPDATE {A} SET currency = 'USD'", "by transfers only"),
        (f"DELETE FROM {A} WHERE balance = 10", "foreign key"),
    ],
)
def test_what_is_booked_stays(change: str, words: str) -> None:
    with pytest.raises(DatabaseError, match=words):
        execute(change)


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize(
    ("status", "change"),
    [
        ("posted", ENDED),
        ("pending", "ended_at = CURRENT_TIMESTAMP"),
        ("pending", "status = 'voided'"),
        ("pending", "ended_at = CURRENT_TIMESTAMP, status = 'posted', posted_amount = 10"),
        ("pending", f"{ENDED}, id = id + 1"),
        ("pending", f"{ENDED}, source_id = destination_id + 1"),
        ("pending", f"{ENDED}, destination_id = source_id - 1"),
        ("pending", f"{ENDED}, amount = amount + 1"),
        ("pending", f"{ENDED}, currency = 'USD'"),
        ("pending", f"{ENDED}, reference = 'another'"),
        ("pending", f"{ENDED}, idempotency_key = 'another'"),
        ("pending", f"{ENDED}, reverses_id = id - 1"),
        ("pending", f"{ENDED}, created_at = '2026-01-01'"),
        ("pending", f"{ENDED}, expires_at = '2026-01-01'"),
    ],
)
def test_a_transfer_only_ends_and_once(status: str, change: str) -> None:
    with pytest.raises(DatabaseError, match="does not update rows of dbpatterns_ledger_transfer"):
        execute(f"UPDATE {T} SET {change} WHERE status = '{status}'")


@pytest.mark.postgresql
@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize(
    ("named", "status", "change"),
    [
        ("''", "pending", ENDED),
        ("id + 1", "pending", ENDED),
        ("id", "pending", "ended_at = CURRENT_TIMESTAMP"),
        ("id", "posted", ENDED),
    ],
)
def test_a_pending_transfer_ends_by_the_function_only(named: str, status: str, change: str) -> None:
    """It names the one transfer that it ends, and nothing else lets an update through."""
    one = f"amount = 10 AND status = '{status}'"
    with pytest.raises(DatabaseError, match="does not update rows of dbpatterns_ledger_transfer"):
        execute(
            f"SELECT set_config('dbpatterns_ledger.ending', ({named})::text, true)"
            f" FROM {T} WHERE {one}; UPDATE {T} SET {change} WHERE {one}"
        )


@pytest.mark.postgresql
@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize(
    ("code", "change"),
    [("DL001", f"DELETE FROM {E}"), ("DL003", f"UPDATE {A} SET currency = 'USD'")],
)
def test_a_guard_tells_its_code(code: str, change: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        execute(change)
    assert caught.value.__cause__.sqlstate == code  # type: ignore[union-attr]


@pytest.mark.parametrize("column", ["balance", "version", "pending_debits", "pending_credits"])
def test_an_account_begins_with_nothing(column: str) -> None:
    with pytest.raises(DatabaseError, match="by transfers only"), transaction.atomic():
        Account.objects.create(currency="EUR", min_balance=None, **{column: 1})


# What an entry must be.


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "amounts",
    [[(0, -10)], [(0, -10), (1, 9)], [(0, -5), (1, 5)], [(0, 10), (1, -10)], [(2, -10), (1, 10)]],
)
def test_entries_are_the_two_sides_of_their_transfer(amounts: list[tuple[int, int]]) -> None:
    accounts = funded(100, 0, 100)
    made = Transfer.objects.create(
        source=accounts[0],
        destination=accounts[1],
        amount=10,
        posted_amount=10,
        currency="EUR",
        status="posted",
    )
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        Entry.objects.bulk_create(
            Entry(
                transfer=made,
                account=accounts[side],
                account_version=9,
                amount=amount,
                balance_after=0,
            )
            for side, amount in amounts
        )
    assert caught.value.__cause__.sqlstate == "DL002"  # type: ignore[union-attr]


@pytest.mark.postgresql
@pytest.mark.parametrize("amount", [0, 1])
def test_an_entry_beside_a_damaged_one_is_refused(amount: int) -> None:
    made = transfer(*funded(100, 0), 10)
    debit, credit = made.entries.order_by("amount")
    with unguarded_ledger():
        debit.delete() if amount == 0 else Entry.objects.filter(pk=debit.pk).update(amount=-11)
        credit.delete()
    credit.pk = None
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        Entry.objects.bulk_create([credit])
    assert caught.value.__cause__.sqlstate == "DL002"  # type: ignore[union-attr]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_entries_of_a_batch_are_each_proven() -> None:
    payer, payee, third = funded(100, 0, 0)
    options = {"amount": 10, "posted_amount": 10, "currency": "EUR", "status": "posted"}
    pairs = ((payer, payee), (payer, third))
    made = [Transfer.objects.create(source=a, destination=b, **options) for a, b in pairs]
    entries = [
        Entry(transfer=each, account=side, account_version=9 + n, amount=amount, balance_after=0)
        for n, each in enumerate(made)
        for side, amount in ((each.source, -10), (each.destination, 10))
    ]
    for wrong in range(4):
        with pytest.raises(DatabaseError), transaction.atomic():
            Entry.objects.bulk_create(entries[:wrong] + entries[wrong + 1 :])
    Entry.objects.bulk_create(entries)
