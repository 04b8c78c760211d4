"""`manage.py import_bank DIR`: customers, accounts and standing orders from the Berka files."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dbpatterns.commands import Exit, OperationalCommand, Report
from demo.banking.berka import BadBankFiles, read_bank_files
from demo.banking.importing import BankImport


class Command(OperationalCommand):
    """Import the bank; a second import changes nothing."""

    help = "Import customers, accounts and standing orders from a folder of Berka bank files."
    common_options = ("--dry-run", "--batch-size", "--max-seconds")

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the folder."""
        super().add_arguments(parser)
        parser.add_argument("folder", metavar="DIR", type=Path, help="Where fin_*.tsv are.")

    def operate(self, *, folder: Path, dry_run: bool, batch_size: int, **_: Any) -> Report:
        """Check all files, then write; a file with a fault writes nothing."""
        if not folder.is_dir():
            raise CommandError(
                f"{folder} is not a folder: name the one with fin_client.tsv and its four sisters.",
                returncode=Exit.USAGE,
            )
        try:
            data = read_bank_files(folder)
            if dry_run:
                return Report(
                    {
                        "customers": len(data.customers),
                        "accounts": len(data.accounts),
                        "standing_orders": len(data.orders),
                        "written": "nothing (--dry-run)",
                    }
                )
            rows = len(data.customers) + len(data.accounts) + len(data.orders)
            with self.progress(rows, "Importing the bank") as progress:
                work = BankImport(data, batch_size, progress.advance, self.must_stop)
                work.run()
        except BadBankFiles as bad:
            return Report(
                {"problems": bad.problems},
                Exit.FINDINGS,
                f"Nothing was imported: mend what is listed and run it again ({bad}).",
            )
        facts = {
            "customers": work.customers,
            "accounts": work.accounts,
            "standing_orders": work.orders,
            "already_there": work.already_there,
            "skipped_disponents": data.disponents,
        }
        if work.stopped:
            return Report(facts, Exit.STOPPED, "Stopped early: run it again to go on from here.")
        return Report(facts)
