"""`manage.py purge_idempotency_keys`: forget the keys that have expired."""

from typing import Any

from django.utils import timezone

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.idempotency.keys import purge
from dbpatterns.idempotency.models import IdempotencyKey
from dbpatterns.placement import databases_of


class Command(OperationalCommand):
    """Delete expired keys in batches, in one database or in all that hold keys."""

    help = "Delete the idempotency keys that have expired."
    common_options = ("--database", "--dry-run", "--batch-size", "--max-seconds", "--pause-ms")

    def operate(self, **options: Any) -> Report:
        """Delete batch by batch, database by database, until nothing is left or it must stop."""
        aliases = [options["database"]] if options["database"] else databases_of(IdempotencyKey)
        expired = sum(_expired(alias) for alias in aliases)
        if options["dry_run"]:
            return Report({"expired": expired, "deleted": 0})
        deleted = 0
        with self.progress(expired, "Expired keys") as progress:
            for alias in aliases:
                while batch := purge(using=alias, batch_size=options["batch_size"]):
                    deleted += batch
                    progress.advance(batch)
                    if self.must_stop() and deleted < expired:
                        reason = f"Stopped after {deleted:,} of {expired:,} keys; run it again."
                        facts = {"expired": expired, "deleted": deleted}
                        return Report(facts, exit=Exit.STOPPED, reason=reason)
                    self.pause()
        return Report({"expired": expired, "deleted": deleted})


def _expired(alias: str) -> int:
    return IdempotencyKey.objects.using(alias).filter(expires_at__lte=timezone.now()).count()
