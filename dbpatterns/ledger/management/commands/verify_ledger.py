"""`manage.py verify_ledger`: compute every balance anew and compare."""

from typing import Any

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.ledger.models import Account
from dbpatterns.ledger.verification import verify_ledger
from dbpatterns.placement import databases_of


class Command(OperationalCommand):
    """Prove the books of one database, or of all that hold a ledger; exit 1 on a finding."""

    help = "Compute every balance of the ledger anew, and report each difference."
    common_options = ("--database",)

    def operate(self, **options: Any) -> Report:
        """Verify, database by database."""
        aliases = [options["database"]] if options["database"] else databases_of(Account)
        facts: dict[str, Any] = {"databases": aliases, "accounts": 0, "transfers": 0, "entries": 0}
        found: list[str] = []
        for alias in aliases:
            report = verify_ledger(using=alias)
            facts["accounts"] += report.accounts
            facts["transfers"] += report.transfers
            facts["entries"] += report.entries
            found += [f"{alias}: {each}" for each in report.findings]
        facts["findings"] = found
        if found:
            return Report(facts, Exit.FINDINGS, f"The books are wrong in {len(found)} places.")
        return Report(facts)
