"""Proving the books: every balance, version and hold again, from the entries and transfers.

The guards of the database keep the books right; this finds what went round them: a restored
table, a superuser with triggers off, a disk. Each rule is one statement, and so sees one moment,
also while money moves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.db import connections, router

from dbpatterns.ledger import sql
from dbpatterns.ledger.models import Account, Entry, Transfer

__all__ = ["Damage", "Finding", "LedgerReport", "verify_ledger"]


class Damage(StrEnum):
    """What can be wrong."""

    WRONG_BALANCE = "wrong balance"
    """An account's balance is not the sum of its entries."""
    VERSION_GAP = "version gap"
    """An account's entries are not numbered 1 to its version."""
    WRONG_BALANCE_AFTER = "wrong balance after"
    """An entry's `balance_after` is not the sum up to it."""
    WRONG_HOLD = "wrong hold"
    """What an account holds is not what its pending transfers ask for."""
    MISSING_ENTRY = "missing entry"
    """A posted transfer has not both entries."""
    NOT_ZERO = "entries do not sum to zero"
    """A transfer makes money, or loses some."""
    WRONG_ENTRY = "wrong entry"
    """A transfer's entries are of other accounts or amounts, or of a transfer not posted."""
    WRONG_CURRENCY = "wrong currency"
    """A transfer is in another currency than one of its accounts."""
    ORPHAN = "orphan"
    """An entry's transfer or account is not there."""
    NO_GUARD = "no guard"
    """A trigger or function of the ledger is missing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what it should be and what it is."""

    damage: Damage
    subject: str
    expected: Any = None
    found: Any = None

    def __str__(self) -> str:
        told = f"{self.subject}: {self.damage}"
        if self.expected is None:
            return told
        return f"{told}, {self.found} instead of {self.expected}"


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What was looked at, and what was found."""

    accounts: int
    transfers: int
    entries: int
    findings: Sequence[Finding]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify_ledger(*, using: str | None = None, limit: int = 1_000) -> LedgerReport:
    """Compute everything anew and return each difference, up to `limit` of a kind of rule.

    Ten queries that read the whole tables; no locks, so money may move meanwhile.
    """
    alias = using or router.db_for_read(Account)
    findings = [Finding(Damage.NO_GUARD, name) for name in sql.missing(alias)]
    with connections[alias].cursor() as cursor:
        for rule, find in RULES:
            cursor.execute(f"{rule} LIMIT %s", [limit])
            for row in cursor.fetchall():
                findings += find(*row)
    return LedgerReport(
        Account.objects.using(alias).count(),
        Transfer.objects.using(alias).count(),
        Entry.objects.using(alias).count(),
        findings,
    )


ACCOUNTS = """
SELECT account.id, balance, version, coalesce(total, 0), coalesce(entries, 0), coalesce(latest, 0)
FROM dbpatterns_ledger_account AS account LEFT JOIN (
    SELECT account_id, sum(amount) AS total, count(*) AS entries, max(account_version) AS latest
    FROM dbpatterns_ledger_entry GROUP BY account_id
) AS entry ON entry.account_id = account.id
WHERE balance <> coalesce(total, 0)
    OR version <> coalesce(entries, 0) OR version <> coalesce(latest, 0)
ORDER BY account.id
"""


def _accounts(
    account: int, balance: int, version: int, total: int, entries: int, latest: int
) -> Iterator[Finding]:
    if balance != total:
        yield Finding(Damage.WRONG_BALANCE, f"account {account}", int(total), balance)
    if not version == entries == latest:
        numbers = f"{entries} entries up to {latest}"
        yield Finding(Damage.VERSION_GAP, f"account {account}", version, numbers)


RUNNING = """
SELECT id, balance_after, running FROM (
    SELECT id, balance_after,
        sum(amount) OVER (PARTITION BY account_id ORDER BY account_version) AS running
    FROM dbpatterns_ledger_entry
) AS entry WHERE balance_after <> running ORDER BY id
"""


def _running(entry: int, after: int, running: int) -> Iterator[Finding]:
    yield Finding(Damage.WRONG_BALANCE_AFTER, f"entry {entry}", int(running), after)


HOLDS = """
SELECT account.id, pending_debits, pending_credits, coalesce(debits, 0), coalesce(credits, 0)
FROM dbpatterns_ledger_account AS account LEFT JOIN (
    SELECT source_id, sum(amount) AS debits FROM dbpatterns_ledger_transfer
    WHERE status = 'pending' GROUP BY source_id
) AS leaving ON source_id = account.id LEFT JOIN (
    SELECT destination_id, sum(amount) AS credits FROM dbpatterns_ledger_transfer
    WHERE status = 'pending' GROUP BY destination_id
) AS arriving ON destination_id = account.id
WHERE pending_debits <> coalesce(debits, 0) OR pending_credits <> coalesce(credits, 0)
ORDER BY account.id
"""


def _holds(account: int, held: int, announced: int, debits: int, credits: int) -> Iterator[Finding]:
    expected, found = (int(debits), int(credits)), (held, announced)
    yield Finding(Damage.WRONG_HOLD, f"account {account}", expected, found)


TRANSFERS = """
SELECT id, posted_amount, entries, total, debited, credited FROM (
    SELECT transfer.id, posted_amount, count(entry.id) AS entries,
        coalesce(sum(entry.amount), 0) AS total,
        coalesce(sum(CASE WHEN account_id = source_id THEN -entry.amount END), 0) AS debited,
        coalesce(sum(CASE WHEN account_id = destination_id THEN entry.amount END), 0) AS credited
    FROM dbpatterns_ledger_transfer AS transfer
    LEFT JOIN dbpatterns_ledger_entry AS entry ON entry.transfer_id = transfer.id
    GROUP BY transfer.id, posted_amount
) AS transfer
WHERE total <> 0 OR debited <> posted_amount OR credited <> posted_amount
    OR entries <> CASE WHEN posted_amount = 0 THEN 0 ELSE 2 END
ORDER BY id
"""


def _transfers(
    transfer: int, posted: int, entries: int, total: int, debited: int, credited: int
) -> Iterator[Finding]:
    subject = f"transfer {transfer}"
    if total:
        yield Finding(Damage.NOT_ZERO, subject, 0, int(total))
    if posted and entries < 2:
        yield Finding(Damage.MISSING_ENTRY, subject, 2, entries)
    else:
        found = f"{debited} out and {credited} in by {entries} entries"
        yield Finding(Damage.WRONG_ENTRY, subject, posted, found)


CURRENCIES = """
SELECT transfer.id, account.id, transfer.currency, account.currency
FROM dbpatterns_ledger_transfer AS transfer
JOIN dbpatterns_ledger_account AS account ON account.id IN (source_id, destination_id)
WHERE account.currency <> transfer.currency ORDER BY transfer.id, account.id
"""


def _currencies(transfer: int, account: int, moved: str, kept: str) -> Iterator[Finding]:
    subject = f"transfer {transfer} on account {account}"
    yield Finding(Damage.WRONG_CURRENCY, subject, kept, moved)


ORPHANS = """
SELECT entry.id, entry.transfer_id, entry.account_id FROM dbpatterns_ledger_entry AS entry
LEFT JOIN dbpatterns_ledger_transfer AS transfer ON transfer.id = entry.transfer_id
LEFT JOIN dbpatterns_ledger_account AS account ON account.id = entry.account_id
WHERE transfer.id IS NULL OR account.id IS NULL ORDER BY entry.id
"""


def _orphans(entry: int, transfer: int, account: int) -> Iterator[Finding]:
    subject = f"entry {entry} of transfer {transfer} on account {account}"
    yield Finding(Damage.ORPHAN, subject)


RULES: Sequence[tuple[str, Any]] = (
    (ACCOUNTS, _accounts),
    (RUNNING, _running),
    (HOLDS, _holds),
    (TRANSFERS, _transfers),
    (CURRENCIES, _currencies),
    (ORPHANS, _orphans),
)
