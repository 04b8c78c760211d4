"""Every kind of damage is found, and nothing is found in sound books."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from dbpatterns.commands import Exit
from dbpatterns.ledger import sql
from dbpatterns.ledger.models import Account, Transfer
from dbpatterns.ledger.transfers import post_transfer, transfer
from dbpatterns.ledger.verification import Damage, verify_ledger
from dbpatterns.testing.ledger import empty_ledger, unguarded_ledger
from tests.ledger.support import funded, started

pytestmark = pytest.mark.django_db(transaction=True)
A, T, E = (f"dbpatterns_ledger_{each}" for each in ("account", "transfer", "entry"))
FIRST = f"(SELECT min(id) FROM {E} WHERE account_id = (SELECT max(id) - 1 FROM {A}))"
LAST = f"(SELECT max(id) FROM {A})"

DAMAGE = {
    "balance": (f"UPDATE {A} SET balance = balance + 1 WHERE id = {LAST}", {Damage.WRONG_BALANCE}),
    "version": (f"UPDATE {A} SET version = version + 1 WHERE id = {LAST}", {Damage.VERSION_GAP}),
    "balance after": (
        f"UPDATE {E} SET balance_after = 5 WHERE id = {FIRST}",
        {Damage.WRONG_BALANCE_AFTER},
    ),
    "renumbered entry": (
        f"UPDATE {E} SET account_version = 100 WHERE id = (SELECT max(id) FROM {E})",
        {Damage.VERSION_GAP},
    ),
    "hold": (f"UPDATE {A} SET pending_debits = 0", {Damage.WRONG_HOLD}),
    "announcement": (f"UPDATE {A} SET pending_credits = 0", {Damage.WRONG_HOLD}),
    "missing entry": (
        f"DELETE FROM {E} WHERE id = (SELECT max(id) FROM {E})",
        {Damage.MISSING_ENTRY, Damage.NOT_ZERO, Damage.WRONG_BALANCE, Damage.VERSION_GAP},
    ),
    "both entries missing": (
        f"DELETE FROM {E} WHERE transfer_id = (SELECT max(transfer_id) FROM {E})",
        {Damage.MISSING_ENTRY, Damage.WRONG_BALANCE, Damage.VERSION_GAP},
    ),
    "money from nothing": (
        f"UPDATE {E} SET amount = amount + 1 WHERE id = (SELECT max(id) FROM {E})",
        {
            *(Damage.NOT_ZERO, Damage.WRONG_ENTRY, Damage.WRONG_BALANCE),
            Damage.WRONG_BALANCE_AFTER,
        },
    ),
    "transfer's amount": (
        f"UPDATE {T} SET posted_amount = 1, amount = 1 WHERE id = (SELECT min(id) FROM {T})",
        {Damage.WRONG_ENTRY},
    ),
    "transfer un-posted": (
        f"UPDATE {T} SET posted_amount = 0, status = 'voided' WHERE id = (SELECT min(id) FROM {T})",
        {Damage.WRONG_ENTRY},
    ),
    "currency": (f"UPDATE {A} SET currency = 'USD' WHERE id = {LAST}", {Damage.WRONG_CURRENCY}),
    "orphan": (
        f"UPDATE {E} SET transfer_id = 1000000 WHERE transfer_id = (SELECT min(id) FROM {T})",
        {Damage.ORPHAN, Damage.MISSING_ENTRY},
    ),
    "reversal of another amount": (
        f"UPDATE {T} SET reverses_id = (SELECT min(id) FROM {T}) WHERE amount = 30",
        {Damage.WRONG_REVERSAL},
    ),
    "reversal of what is pending": (
        f"UPDATE {T} SET reverses_id = (SELECT max(id) FROM {T}) WHERE amount = 30",
        {Damage.WRONG_REVERSAL},
    ),
}
MIN, MAX, KEY, ONCE = (
    f"dbpatterns_{each}"
    for each in ("account_min", "account_max", "transfer_key", "transfer_reversed_once")
)
UNCONSTRAINED = {
    "below its least": (
        MIN,
        f"UPDATE {A} SET min_balance = 57 WHERE id = {LAST}",
        {
            "account {payee}: beyond limits, 55, of which 0 are held, and 10 announced instead of"
            " 57 to any"
        },
    ),
    "less than is held": (
        MIN,
        f"UPDATE {A} SET min_balance = 60 WHERE id = {LAST} - 1",
        {
            "account {payer}: beyond limits, 65, of which 10 are held, and 0 announced instead of"
            " 60 to any"
        },
    ),
    "more than is announced": (
        MAX,
        f"UPDATE {A} SET max_balance = 64 WHERE id = {LAST}",
        {
            "account {payee}: beyond limits, 55, of which 0 are held, and 10 announced instead of"
            " 0 to 64"
        },
    ),
    "two of one key": (
        KEY,
        f"UPDATE {T} SET idempotency_key = 'k' WHERE amount IN (20, 30)",
        {"key 'k', of transfers {second} to {third}: double, 2 instead of 1"},
    ),
    "reversed twice": (
        ONCE,
        f"UPDATE {T} SET reverses_id = (SELECT min(id) FROM {T}) WHERE amount IN (20, 30)",
        {
            "reversal of transfer {first}, by {second} to {third}: double, 2 instead of 1",
            "transfer {second}, which reverses posted transfer {first}: wrong reversal,"
            " 20 instead of 100",
            "transfer {third}, which reverses posted transfer {first}: wrong reversal,"
            " 30 instead of 100",
        },
    ),
}


def books() -> None:
    payer, payee = funded(100, 20)
    transfer(payer, payee, 30)
    post_transfer(transfer(payer, payee, 10, pending=True), 5)
    transfer(payer, payee, 10, pending=True)


def damage(statement: str) -> None:
    with unguarded_ledger(), connection.cursor() as cursor:
        cursor.execute(statement)


@contextmanager
def without_constraint(name: str) -> Iterator[None]:
    model: Any = Account if "account" in name else Transfer
    (constraint,) = (each for each in model._meta.constraints if each.name == name)
    if connection.vendor == "sqlite" and model is Account:  # would make the table anew
        with switched(
            "PRAGMA ignore_check_constraints = ON", "PRAGMA ignore_check_constraints = OFF"
        ):
            yield
        return
    with connection.schema_editor() as editor:
        editor.remove_constraint(model, constraint)
    try:
        yield
    finally:
        empty_ledger()
        with connection.schema_editor() as editor:
            editor.add_constraint(model, constraint)


@contextmanager
def switched(off: str, on: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(off)
        try:
            yield
        finally:
            cursor.execute(on)


def verify(**options: Any) -> tuple[int, dict[str, Any]]:
    out = io.StringIO()
    try:
        call_command("verify_ledger", format="json", stdout=out, **options)
    except CommandError as error:
        return error.returncode, json.loads(out.getvalue())
    return 0, json.loads(out.getvalue())


def test_sound_books_have_no_findings() -> None:
    books()
    report = verify_ledger()
    assert (report.is_sound, report.accounts, report.transfers, report.entries) == (True, 3, 5, 8)
    assert verify() == (
        0,
        {"databases": ["default"], "accounts": 3, "transfers": 5, "entries": 8, "findings": []},
    )


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found(kind: str) -> None:
    statement, expected = DAMAGE[kind]
    books()
    damage(statement)
    report = verify_ledger()
    assert {each.damage for each in report.findings} == expected
    assert not report.is_sound
    code, facts = verify(database="default")
    assert code == Exit.FINDINGS
    assert facts["findings"] == [f"default: {each}" for each in report.findings]
    assert len(verify_ledger(limit=1).findings) <= len(report.findings)


@pytest.mark.parametrize("kind", UNCONSTRAINED)
def test_damage_that_a_constraint_keeps_out_is_found(kind: str) -> None:
    constraint, statement, expected = UNCONSTRAINED[kind]
    books()
    payer, payee = Account.objects.order_by("pk").values_list("pk", flat=True)[1:]
    first, second, third = Transfer.objects.order_by("pk").values_list("pk", flat=True)[:3]
    with without_constraint(constraint):
        damage(statement)
        names = {"payer": payer, "payee": payee, "first": first, "second": second, "third": third}
        found = {str(each) for each in verify_ledger().findings}
    assert found == {each.format(**names) for each in expected}


def test_rows_whose_account_or_transfer_is_gone_are_found() -> None:
    books()
    first = Transfer.objects.earliest("pk")
    without_foreign_keys = {
        "postgresql": ("SET session_replication_role = replica", "RESET session_replication_role"),
        "sqlite": ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"),
    }[connection.vendor]
    with unguarded_ledger(), switched(*without_foreign_keys):
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {T} SET source_id = 1000000 WHERE status = 'pending'")
            cursor.execute(f"UPDATE {T} SET reverses_id = 1000000 WHERE id = %s", [first.pk])
        orphans = {str(each) for each in verify_ledger().findings if each.damage == Damage.ORPHAN}
        pending = Transfer.objects.latest("pk")
        payee = pending.destination_id
        assert orphans == {
            f"transfer {pending.pk} from account 1000000 to {payee}: orphan",
            f"transfer {first.pk}, which reverses one: orphan",
        }
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {T} SET source_id = destination_id - 1 WHERE status = 'pending'"
            )
            cursor.execute(f"UPDATE {T} SET reverses_id = NULL")
    assert verify_ledger().is_sound


def test_a_disabled_trigger_is_a_missing_guard() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite cannot disable a trigger")
    name = "dbpatterns_ledger_entries_balance"
    with connection.cursor() as cursor:
        for state in ("DISABLE", "ENABLE REPLICA"):
            cursor.execute(f"ALTER TABLE {E} {state} TRIGGER {name}")
            try:
                assert [str(each) for each in verify_ledger().findings] == [f"{name}: no guard"]
            finally:
                cursor.execute(f"ALTER TABLE {E} ENABLE TRIGGER {name}")
        cursor.execute(f"ALTER TABLE {E} ENABLE ALWAYS TRIGGER {name}")
        try:
            assert verify_ledger().is_sound
        finally:
            cursor.execute(f"ALTER TABLE {E} ENABLE TRIGGER {name}")


def test_a_finding_says_where_and_what() -> None:
    books()
    damage(f"UPDATE {A} SET balance = balance + 1 WHERE id = {LAST}")
    (finding,) = verify_ledger().findings
    account = Account.objects.latest("pk")
    assert str(finding) == f"account {account.pk}: wrong balance, 56 instead of 55"


def test_missing_guards_are_found() -> None:
    sql.run(connection, 0)
    try:
        found = verify_ledger().findings
        assert {str(each) for each in found} == {
            f"{each}: no guard" for each in sql.missing("default")
        }
        assert len(found) >= 6
    finally:
        sql.run(connection, sql.CURRENT)
    assert verify_ledger().is_sound


def test_money_may_move_meanwhile() -> None:
    payer, payee = funded(100_000, 0)
    stop = False

    def move() -> int:
        count = 0
        while not stop:
            transfer(payer, payee, 1)
            count += 1
        return count

    mover = started(move)
    reports = [verify_ledger() for _ in range(20)]
    stop = True
    assert mover.result(timeout=30) > 0
    assert all(each.is_sound for each in reports)


def test_text_names_each_finding() -> None:
    books()
    damage(f"UPDATE {A} SET balance = balance + 1 WHERE id = {LAST}")
    out = io.StringIO()
    with pytest.raises(CommandError, match="wrong in 1 places"):
        call_command("verify_ledger", stdout=out)
    assert "wrong balance, 56 instead of 55" in out.getvalue()


def test_the_clean_up_ends_what_is_late_batch_by_batch() -> None:
    import datetime

    payer, payee = funded(100, 0)
    moment = datetime.timedelta(microseconds=1)
    for _ in range(3):
        transfer(payer, payee, 10, pending=True, expires_in=moment)
    out = io.StringIO()
    call_command("expire_transfers", batch_size=2, format="json", stdout=out)
    assert json.loads(out.getvalue()) == {"expired": 3}
    assert verify_ledger().is_sound
    transfer(payer, payee, 100)


def test_the_clean_up_stops_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    from dbpatterns.commands import OperationalCommand

    payer, payee = funded(100, 0)
    for _ in range(3):
        transfer(payer, payee, 10, pending=True, expires_in=datetime.timedelta(microseconds=1))
    monkeypatch.setattr(OperationalCommand, "must_stop", lambda self: True)
    with pytest.raises(CommandError) as caught:
        call_command("expire_transfers", batch_size=2, database="default", stdout=io.StringIO())
    assert caught.value.returncode == Exit.STOPPED
    with transaction.atomic():
        assert verify_ledger().is_sound
