"""`manage.py rebuild_projection NAME`: make a projection's rows again, beside those in use."""

from typing import Any

from django.core.management.base import CommandParser
from django.db import DEFAULT_DB_ALIAS

from dbpatterns.commands import Exit, OperationalCommand, Progress, Report
from dbpatterns.errors import UsageError
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.projections import Projection, catch_up, find
from dbpatterns.eventstore.rebuilding import go_live, prepare, sweep, unfinished
from dbpatterns.placement import databases_of


class Command(OperationalCommand):
    """Apply all events to a new generation, put it in place of the old one, delete that."""

    help = "Make a projection's rows again, beside those in use, and put them in their place."
    common_options = ("--database", "--dry-run", "--batch-size", "--max-seconds", "--pause-ms")

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the projection's name, and the way to begin again."""
        super().add_arguments(parser)
        parser.add_argument("name", metavar="NAME", help="As in the projection's class.")
        parser.add_argument(
            "--restart",
            action="store_true",
            help="Do not go on where an earlier run was stopped: its rows are out of date.",
        )

    def operate(self, **options: Any) -> Report:
        """Go on where an earlier run ended, or begin."""
        name, batch_size = options["name"], options["batch_size"]
        projection = find(name)()
        database = _database(projection, options["database"])
        total = StoredEvent.objects.using(database).count()
        if options["dry_run"]:
            begun = unfinished(name, using=database)
            return Report({"events": total, "applied_before": begun.events if begun else 0})
        state = prepare(name, using=database, restart=options["restart"])
        before = state.events
        if state.is_live and options["verbosity"]:
            self.stderr.write(
                f"Generation {state.generation} is in use since an earlier run, which left rows to "
                "delete. To make the rows again, run it with --restart."
            )
        with self.progress(total, f"Rebuilding {name}"[:28]) as progress:
            progress.advance(before)
            applied = catch_up(
                projection,
                batch_size=batch_size,
                using=database,
                state=state,
                must_stop=lambda events: self._stops_after(progress, events),
            )
        facts: dict[str, object] = {
            "events": total,
            "applied_before": before,
            "applied": applied,
            "generation": state.generation,
        }
        if self.must_stop():
            reason = f"Stopped at {before + applied:,} of {total:,} events; run it again."
            return Report(facts, exit=Exit.STOPPED, reason=reason)
        go_live(projection, state, using=database, batch_size=batch_size)
        catch_up(
            projection,
            batch_size=batch_size,
            using=database,
            must_stop=lambda events: self.must_stop(),
        )
        deleted = 0
        while rows := sweep(name, using=database, batch_size=batch_size):
            deleted += rows
            if self.must_stop():
                reason = f"The new rows are in use; {deleted:,} old ones are deleted. Run it again."
                facts["rows_deleted"] = deleted
                return Report(facts, exit=Exit.STOPPED, reason=reason)
            self.pause()
        return Report({**facts, "rows_deleted": deleted})

    def _stops_after(self, progress: Progress, events: int) -> bool:
        progress.advance(events)
        self.pause()
        return self.must_stop()


def _database(projection: Projection, asked: str | None) -> str:
    """Return where to rebuild it: where it is asked for, the default database, or the only one."""
    known = databases_of(projection.model)
    only = known[0] if len(known) == 1 else None
    chosen = asked or (DEFAULT_DB_ALIAS if DEFAULT_DB_ALIAS in known else only)
    if chosen in known:
        return chosen
    raise UsageError(
        f"The rows of projection {projection.name!r} are in {', '.join(known) or 'no database'}, "
        "each made from the events beside it: name one by --database, and rebuild one after the "
        "other."
    )
