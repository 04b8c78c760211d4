"""Migrate one shard: alone, by Django's own command, with a record in the control database.

What a shard has is told by its own `django_migrations`, in which Django writes a migration down
together with its work. The record beside the map is for people: it says what runs, what failed
and why, and is put right by the next run when a process dies between the two.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any

from django.core.management.commands import migrate as django_migrate
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import AmbiguityError, MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils.timezone import now

from dbpatterns.errors import UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import MigrationFailed, ShardBusy, cause_of
from dbpatterns.sharding.models import ShardMigration

__all__ = ["Stopped", "apply", "planned", "sole", "targets_of"]

LOCK = 4923671830615284713


class Stopped(Exception):
    """Somebody asked to stop, between two migrations."""


def apply(
    shard: str, options: dict[str, Any], *, begins: Callable[[str], object], done: list[str]
) -> None:
    """Migrate a shard as `migrate --database` does; `done` grows by each migration.

    `begins` hears the name of each migration before it runs, and may raise `Stopped`. Two writes
    to the control database for each migration.

    Raises: ShardBusy: another run is at it. MigrationFailed: with its cause.
    """
    with sole(connections[shard]):
        _put_right(shard)
        command = _Recording(shard, begins, done)
        try:
            command.handle(**{**options, "database": shard, "interactive": False, "verbosity": 1})
        except Stopped:
            raise
        except Exception as error:
            raise MigrationFailed(shard, command.failed(error), error) from error


def targets_of(app: str | None, name: str | None) -> list[tuple[str, str | None]]:
    """Return the migrations to go to, by `migrate`'s own arguments; no query.

    Raises: UsageError: there is no such app or migration.
    """
    loader = MigrationLoader(None)
    if app is None:
        return list(loader.graph.leaf_nodes())
    if app not in loader.migrated_apps:
        raise UsageError(f"There is no app {app!r} with migrations.")
    if name is None:
        return list(loader.graph.leaf_nodes(app))
    if name == "zero":
        return [(app, None)]
    try:
        return [(app, loader.get_migration_by_prefix(app, name).name)]
    except (KeyError, AmbiguityError) as error:
        raise UsageError(f"App {app!r} has no single migration {name!r}.") from error


def planned(shard: str, targets: list[tuple[str, str | None]]) -> list[str]:
    """Return the migrations that a shard would apply or take back, in order; one query."""
    plan = MigrationExecutor(connections[shard]).migration_plan(targets)
    return [str(migration) for migration, _ in plan]


@contextmanager
def sole(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Be the only run at a shard; the lock goes with the process, however that ends.

    An advisory lock of the session on PostgreSQL, which a pooler between transactions would lose;
    on SQLite a lock on an empty file beside the shard's, since one on the shard would keep the
    migrations out.

    Raises: ShardBusy, at once. UsageError: it is neither.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
            if not cursor.fetchone()[0]:
                raise ShardBusy(connection.alias)
        try:
            yield
        finally:
            with suppress(DatabaseError), connection.cursor() as cursor:  # lost with the session
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
    elif connection.vendor == "sqlite":
        beside = sqlite3.connect(
            f"{connection.settings_dict['NAME']}-migrating", timeout=0, isolation_level=None
        )
        try:
            try:
                beside.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                raise ShardBusy(connection.alias) from None
            yield
        finally:
            beside.close()
    else:
        raise UsageError(
            f"{connection.alias!r} is {connection.display_name}: shards are migrated on PostgreSQL "
            "and SQLite alone."
        )


class _Recording(django_migrate.Command):
    """Django's command for one shard, which says what it does to the control database."""

    def __init__(self, shard: str, begins: Callable[[str], object], done: list[str]) -> None:
        super().__init__(stdout=StringIO(), stderr=StringIO(), no_color=True)
        self._shard, self._begins, self._done = shard, begins, done
        self._running: ShardMigration | None = None

    def migration_progress_callback(
        self, action: str, migration: Any = None, fake: bool = False
    ) -> None:
        """Hear of the executor what begins and what is done."""
        if action in ("apply_start", "unapply_start"):
            self._begins(str(migration))
            self._running, _ = _records().update_or_create(
                shard=self._shard,
                app=migration.app_label,
                name=migration.name,
                defaults={
                    "state": ShardMigration.State.RUNNING,
                    "error": "",
                    "started_at": now(),
                    "finished_at": None,
                },
            )
        elif action in ("apply_success", "unapply_success") and self._running is not None:
            self._done.append(str(migration))
            _end(self._running, ShardMigration.State.DONE)
            if action == "unapply_success":
                self._running.delete()
            self._running = None

    def failed(self, error: Exception) -> str | None:
        """Write down and return which migration an error ended; None if none ran."""
        if self._running is None:
            return None
        _end(self._running, ShardMigration.State.FAILED, cause_of(error))
        return f"{self._running.app}.{self._running.name}"


def _put_right(shard: str) -> None:
    """Mark as done what a dead process applied and did not say; nobody else is at the shard."""
    applied = MigrationRecorder(connections[shard]).applied_migrations()
    for each in _records().filter(shard=shard).exclude(state=ShardMigration.State.DONE):
        if (each.app, each.name) in applied:
            _end(each, ShardMigration.State.DONE)


def _end(record: ShardMigration, state: "ShardMigration.State", error: str = "") -> None:
    record.state, record.error, record.finished_at = state, error, now()
    record.save(update_fields=["state", "error", "finished_at"])


def _records() -> Any:
    return ShardMigration._default_manager.using(ShardingSettings.load().control)
