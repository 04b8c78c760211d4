"""The rules of sound books: a statement that finds the rows that break one, and how to tell it."""

from collections.abc import Iterator, Sequence
from typing import Any

from dbpatterns.ledger.findings import Damage, Finding

__all__ = ["RULES"]

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


HOMELESS = """
SELECT transfer.id, source_id, destination_id FROM dbpatterns_ledger_transfer AS transfer
LEFT JOIN dbpatterns_ledger_account AS source ON source.id = source_id
LEFT JOIN dbpatterns_ledger_account AS destination ON destination.id = destination_id
WHERE source.id IS NULL OR destination.id IS NULL ORDER BY transfer.id
"""


def _homeless(transfer: int, source: int, destination: int) -> Iterator[Finding]:
    yield Finding(Damage.ORPHAN, f"transfer {transfer} from account {source} to {destination}")


LIMITS = """
SELECT id, balance, pending_debits, pending_credits, min_balance, max_balance
FROM dbpatterns_ledger_account
WHERE CAST(balance AS numeric) - pending_debits < min_balance
    OR CAST(balance AS numeric) + pending_credits > max_balance
ORDER BY id
"""


def _limits(
    account: int, balance: int, held: int, announced: int, least: int | None, most: int | None
) -> Iterator[Finding]:
    limits = f"{'any' if least is None else least} to {'any' if most is None else most}"
    found = f"{balance}, of which {held} are held, and {announced} announced"
    yield Finding(Damage.BEYOND_LIMITS, f"account {account}", limits, found)


REVERSALS = """
SELECT made.id, before.id, before.status, before.posted_amount, made.amount
FROM dbpatterns_ledger_transfer AS made
LEFT JOIN dbpatterns_ledger_transfer AS before ON before.id = made.reverses_id
WHERE made.reverses_id IS NOT NULL AND (
    before.id IS NULL OR before.status <> 'posted' OR made.amount <> before.posted_amount
    OR made.source_id <> before.destination_id OR made.destination_id <> before.source_id
) ORDER BY made.id
"""


def _reversals(
    transfer: int, reversed_: int | None, status: str | None, moved: int | None, back: int
) -> Iterator[Finding]:
    if reversed_ is None:
        yield Finding(Damage.ORPHAN, f"transfer {transfer}, which reverses one")
    else:
        subject = f"transfer {transfer}, which reverses {status} transfer {reversed_}"
        yield Finding(Damage.WRONG_REVERSAL, subject, moved, back)


KEYS = """
SELECT idempotency_key, count(*), min(id), max(id) FROM dbpatterns_ledger_transfer
WHERE idempotency_key <> '' GROUP BY idempotency_key HAVING count(*) > 1 ORDER BY min(id)
"""


def _keys(key: str, transfers: int, first: int, last: int) -> Iterator[Finding]:
    yield Finding(Damage.DOUBLE, f"key {key!r}, of transfers {first} to {last}", 1, transfers)


REVERSED = """
SELECT reverses_id, count(*), min(id), max(id) FROM dbpatterns_ledger_transfer
WHERE reverses_id IS NOT NULL GROUP BY reverses_id HAVING count(*) > 1 ORDER BY reverses_id
"""


def _reversed(transfer: int, reversals: int, first: int, last: int) -> Iterator[Finding]:
    subject = f"reversal of transfer {transfer}, by {first} to {last}"
    yield Finding(Damage.DOUBLE, subject, 1, reversals)


RULES: Sequence[tuple[str, Any]] = (
    (ACCOUNTS, _accounts),
    (RUNNING, _running),
    (HOLDS, _holds),
    (TRANSFERS, _transfers),
    (CURRENCIES, _currencies),
    (ORPHANS, _orphans),
    (HOMELESS, _homeless),
    (LIMITS, _limits),
    (REVERSALS, _reversals),
    (KEYS, _keys),
    (REVERSED, _reversed),
)
