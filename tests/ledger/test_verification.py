"""Every kind of damage is found, and nothing is found in sound books."""

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from dbpatterns.commands import Exit
from dbpatterns.ledger import sql
from dbpatterns.ledger.models import Account
from dbpatterns.ledger.transfers import post_transfer, transfer
from dbpatterns.ledger.verification import Damage, verify_ledger
from dbpatterns.testing.ledger import unguarded_ledger
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
}


def books() -> None:
    payer, payee = funded(100, 20)
    transfer(payer, payee, 30)
    post_transfer(transfer(payer, payee, 10, pending=True), 5)
    transfer(payer, payee, 10, pending=True)


def damage(statement: str) -> None:
    with unguarded_ledger(), connection.cursor() as cursor:
        cursor.execute(statement)


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
