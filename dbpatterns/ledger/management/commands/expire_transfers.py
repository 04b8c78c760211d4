"""`manage.py expire_transfers`: set free what pending transfers past their time hold."""

from typing import Any

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.ledger.models import Account
from dbpatterns.ledger.transfers import expire_transfers
from dbpatterns.placement import databases_of


class Command(OperationalCommand):
    """End pending transfers that are past their time; for cron."""

    help = "End pending transfers that are past their time, and set free what they hold."
    common_options = ("--database", "--batch-size", "--max-seconds", "--pause-ms")

    def operate(self, **options: Any) -> Report:
        """Expire batch by batch until there is nothing left."""
        expired = 0
        for alias in [options["database"]] if options["database"] else databases_of(Account):
            while ended := expire_transfers(using=alias, limit=options["batch_size"]):
                expired += ended
                if self.must_stop():
                    reason = "Stopped; the same command goes on where this one ended."
                    return Report({"expired": expired}, Exit.STOPPED, reason)
                self.pause()
        return Report({"expired": expired})
