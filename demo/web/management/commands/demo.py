"""`manage.py demo`: make the databases, load data, run the bank's day, say what happened."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.db import connections
from django.utils import timezone

from dbpatterns.commands import Exit, OperationalCommand, Report
from demo.banking.berka import BadBankFiles
from demo.banking.importing import BankImport
from demo.banking.sample import sample_bank
from demo.blog.models import Post
from demo.blog.sample import load_sample_blog
from demo.web.log_ins import make_log_ins

WXR = Path("wordpress", "themeunittestdata.wordpress.xml")
BERKA = Path("berka")
BLOG = ("authors", "categories", "tags", "posts", "comments", "skipped", "problems")
BANK = ("customers", "accounts", "standing_orders", "already_there")
ORDERS = ("due", "paid", "refused", "entries_proven", "balances_proven", "faults")
STOPPED = "Stopped early: run it again to go on from here."
PASSWORD = "shards-and-ledgers"  # of log-ins that exist in DEBUG only


class Command(OperationalCommand):
    """The demo's scenario; run again it goes on with what is there."""

    help = "Migrate every database, load data, run the standing orders and prove the books."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the folder of real data and the date."""
        super().add_arguments(parser)
        parser.add_argument(
            "--data",
            type=Path,
            metavar="DIR",
            help=f"Load {WXR} and {BERKA} from this folder instead of made-up data.",
        )
        parser.add_argument("--date", metavar="YYYY-MM-DD", help="The bank's day; today if unset.")

    def operate(self, *, data: Path | None, date: str | None, verbosity: int, **_: Any) -> Report:
        """Run the steps in order; the first that fails ends the scenario with its own message."""
        self._verbosity, self._facts = verbosity, dict[str, object]()
        if data is not None and not data.is_dir():
            raise CommandError(f"There is no folder {data}: name one.", returncode=Exit.USAGE)
        with self._step("databases"):
            for alias in connections:
                call_command("migrate", database=alias, verbosity=0)
            self._facts["databases"] = f"{', '.join(connections)} migrated"
        if data is None:
            self._load_sample()
        else:
            self._call("blog", "import_wxr", str(data / WXR), told=BLOG)
            self._call("bank", "import_bank", str(data / BERKA), told=BANK)
        day = date or timezone.localdate().isoformat()
        self._call("standing_orders", "run_standing_orders", f"--date={day}", told=ORDERS)
        if settings.DEBUG:
            self._facts |= make_log_ins(PASSWORD)
        return Report(self._facts)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        if self.must_stop():
            raise CommandError(STOPPED, returncode=Exit.STOPPED)
        started = time.monotonic()
        yield
        self._facts[name] = f"{self._facts[name]} ({time.monotonic() - started:.1f} s)"

    def _call(self, step: str, command: str, *args: str, told: Sequence[str]) -> None:
        output = StringIO()
        with self._step(step):
            try:
                call_command(
                    command,
                    *args,
                    format="json",
                    stdout=output,
                    stderr=self.stderr,
                    verbosity=self._verbosity,
                )
            except CommandError:
                self.tell(json.loads(output.getvalue() or "{}"))  # the findings it ended for
                raise
            facts: dict[str, object] = json.loads(output.getvalue())
            self._facts[step] = ", ".join(
                f"{_count(facts[name]):,} {name.replace('_', ' ')}" for name in told
            )

    def _load_sample(self) -> None:
        with self._step("blog"):
            load_sample_blog()
            self._facts["blog"] = f"{Post.objects.count():,} posts, made up"
        bank = sample_bank()
        rows = len(bank.customers) + len(bank.accounts) + len(bank.orders)
        with self._step("bank"), self.progress(rows, "Making up a bank") as progress:
            work = BankImport(bank, advance=progress.advance, must_stop=self.must_stop)
            try:
                work.run()
            except BadBankFiles as bad:
                raise CommandError(f"{bad}.", returncode=Exit.FINDINGS) from bad
            if work.stopped:
                raise CommandError(STOPPED, returncode=Exit.STOPPED)
            self._facts["bank"] = (
                f"{len(bank.customers):,} customers, {len(bank.accounts):,} accounts, "
                f"{len(bank.orders):,} standing orders, made up"
            )


def _count(value: object) -> int:
    match value:
        case dict():
            return sum(value.values())
        case list():
            return len(value)
    assert isinstance(value, int), value
    return value
