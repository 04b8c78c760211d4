"""`manage.py run_standing_orders [--date D]`: pay what is due, feed statements, prove the books."""

import datetime
from argparse import ArgumentTypeError
from collections import Counter
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from dbpatterns.commands import Exit, OperationalCommand, Report
from demo.banking.books import prove_books
from demo.banking.money import format_amount
from demo.banking.projections import feed
from demo.banking.repositories import Shards
from demo.banking.standing_orders import count_due, execute_due


class Command(OperationalCommand):
    """Execute what is due once per order and date; killed half-way, a second run goes on."""

    help = "Execute the active standing orders for a date, list the refused ones, prove the books."
    common_options = ("--dry-run", "--batch-size", "--max-seconds")

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the date."""
        super().add_arguments(parser)
        parser.add_argument(
            "--date",
            type=_date,
            default=None,
            metavar="YYYY-MM-DD",
            help="The due date; today if not given.",
        )

    def operate(
        self, *, date: datetime.date | None, dry_run: bool, batch_size: int, **_: Any
    ) -> Report:
        """Pay or refuse batch by batch, a transaction each; exit 1 only if the books are wrong.

        The statements are fed then, page by page.
        """
        due_on = date or timezone.localdate()
        total = count_due(due_on)
        if dry_run:
            return Report({"date": due_on, "due": total, "written": "nothing (--dry-run)"})
        outcomes: Counter[str] = Counter()
        paid, refused = 0, []
        with self.progress(total, "Executing standing orders") as progress:
            for batch in execute_due(due_on, batch=batch_size):
                progress.advance(len(batch))
                for done in batch:
                    if done is None:
                        outcomes["elsewhere"] += 1
                    elif done.reason:
                        refused.append(f"order {done.order}: {done.reason}")
                    else:
                        outcomes["paid"] += 1
                        paid += done.amount
                if self.must_stop():
                    break
        for shard in Shards():  # else the first readers would wait for the day's lines
            feed(shard.alias, must_stop=lambda _: self.must_stop())
        stopped = outcomes.total() + len(refused) < total and self.must_stop()
        proofs = prove_books()
        faults = [fault for proof in proofs.values() for fault in proof.faults]
        facts = {
            "date": due_on,
            "due": total,
            "paid": outcomes["paid"],
            "paid_amount": format_amount(paid),
            "refused": refused,
            "executed_elsewhere": outcomes["elsewhere"],
            "entries_proven": sum(proof.entries for proof in proofs.values()),
            "balances_proven": sum(proof.accounts for proof in proofs.values()),
            "faults": faults,
        }
        if faults:
            return Report(facts, Exit.FINDINGS, f"The books are wrong: {faults[0]}")
        if stopped:
            return Report(facts, Exit.STOPPED, "Stopped early: run it again to go on from here.")
        return Report(facts)


def _date(text: str) -> datetime.date:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no date: write YYYY-MM-DD") from error
