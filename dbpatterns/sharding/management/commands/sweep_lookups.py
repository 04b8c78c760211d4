"""`manage.py sweep_lookups`: settle or delete the entries of lookup indexes that were left."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.core.management.base import CommandParser
from django.utils import timezone

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.sharding.lookups import LookupIndex, indexes_of
from dbpatterns.sharding.reservations import enter, entries, resolve
from dbpatterns.sharding.shard_map import shards


class Command(OperationalCommand):
    """Look at the shard for each pending entry, under the lock that its writer would have."""

    help = "Settle or delete the entries of lookup indexes whose writers did not."
    common_options = ("--dry-run", "--batch-size", "--max-seconds", "--pause-ms")

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the age, and `--enter`."""
        super().add_arguments(parser)
        parser.add_argument(
            "--older-than-seconds",
            type=int,
            default=60,
            help="Leave younger ones to their writers.",
        )
        parser.add_argument(
            "--enter", action="store_true", help="First enter the rows that have no entry."
        )

    def operate(self, **options: Any) -> Report:
        """Enter rows if asked to, then take the pending entries one by one, the oldest first."""
        twice: list[str] = []
        if options["enter"] and not options["dry_run"]:
            for index in _indexes():
                for alias in shards():
                    twice += self._enter(index, alias, options["batch_size"])
                    if self.must_stop():
                        return Report(
                            {"on_two_shards": twice},
                            exit=Exit.STOPPED,
                            reason="Stopped while rows were entered; run it again.",
                        )
        until = timezone.now() - timedelta(seconds=options["older_than_seconds"])
        pending = [
            (index, entry)
            for index in _indexes()
            for entry in entries(index).filter(is_settled=False, changed_at__lte=until)
        ]
        facts: dict[str, Any] = {"pending": len(pending), "settled": 0, "freed": 0, "in_use": 0}
        if options["enter"]:
            facts["on_two_shards"] = twice
        if options["dry_run"]:
            return Report(facts)
        names = {True: "settled", False: "freed", None: "in_use"}
        with self.progress(len(pending), "Pending entries") as progress:
            for done, (index, entry) in enumerate(pending):
                if self.must_stop():
                    reason = f"Stopped after {done:,} of {len(pending):,} entries; run it again."
                    return Report(facts, exit=Exit.STOPPED, reason=reason)
                facts[names[resolve(index, entry)]] += 1
                progress.advance()
                self.pause()
        if twice:
            reason = f"{len(twice):,} values are on two shards: change one row of each."
            return Report(facts, exit=Exit.FINDINGS, reason=reason)
        return Report(facts)

    def _enter(self, index: LookupIndex, alias: str, size: int) -> list[str]:
        rows = index.model._base_manager.using(alias).order_by("pk").values_list("pk", flat=True)
        twice: list[str] = []
        some = list(rows[:size])
        while some and not self.must_stop():
            twice += [f"{index.label} {value}" for value in enter(index, some, alias)]
            some = list(rows.filter(pk__gt=some[-1])[:size])
            self.pause()
        return twice


def _indexes() -> Iterator[LookupIndex]:
    for model in apps.get_models():
        yield from (each for each in indexes_of(model) if each.model is model)
