"""Proving the books: every balance, version and hold again, from the entries and transfers.

The guards of the database keep the books right; this finds what went round them: a restored
table, a superuser with triggers off, a disk. Each rule is one statement, and so sees one moment,
also while money moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connections, router

from dbpatterns.ledger import sql
from dbpatterns.ledger.findings import Damage, Finding
from dbpatterns.ledger.models import Account, Entry, Transfer
from dbpatterns.ledger.rules import RULES

__all__ = ["Damage", "Finding", "LedgerReport", "verify_ledger"]


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

    Sixteen queries that read the whole tables; no locks, so money may move meanwhile.
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
