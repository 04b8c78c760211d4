"""Fences: triggers by which a shard itself refuses writes to keys that are not its own.

A process with an old map writes to the shard it knows. What a shard gave away stands in its table
`Fence`, and a trigger on each of the group's tables looks there, whoever writes. The triggers are
there only while the shard is closed to something, so one that never gave anything pays nothing.

Closing takes a lock that waits for the tables' writers: what was written before is seen, and what
comes later meets the fence. A transaction that reads an older state (REPEATABLE READ) cannot see
it; its trigger locks the group's row, which closing changes, so the server refuses it with 40001.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections, router, transaction
from django.db.models import F, Model, QuerySet

from dbpatterns.sharding import fence_sql
from dbpatterns.sharding.errors import PartNotEmpty
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.models import Fence, FencedGroup
from dbpatterns.sharding.parts import Part, keyed_models, text_of
from dbpatterns.transactions.timeouts import local_timeouts

__all__ = ["close", "closed_parts", "reopen", "restore"]

LOCK_TIMEOUT_SECONDS = 5.0
"""How long new writers may wait behind a lock that waits for old ones."""


def close(alias: str, part: Part, owner: str) -> bool:
    """Close a shard to a part, in one transaction that waits for the writers of its tables.

    Returns whether it was open to all of it before; what was closed becomes `owner`'s.
    Raises: PartNotEmpty: it has rows. OperationalError: its writers did not end in time.
    """
    models = list(keyed_models(part.group))
    with _changing(alias, part.group, models):
        found = part.counts(alias)
        if found:
            raise PartNotEmpty(part.group, part, shard=alias, rows=found)
        was_open = not _take_out(alias, part)
        _add(alias, part, owner)
        for model in models:
            fence_sql.make(connections[alias], model, part.group)
    return was_open


def reopen(alias: str, part: Part, *, owner: str | None = None) -> None:
    """Open a shard to a part, in one transaction; with its last fence the triggers go.

    With an `owner` only what that one closed, and nobody has taken over.
    """
    models = list(keyed_models(part.group))
    with _changing(alias, part.group, models):
        if owner is not None and owner != _owner_of(alias, part):
            return
        _take_out(alias, part)
        if not _fences(alias, part.group).exists():
            for model in models:
                fence_sql.drop(connections[alias], model)


def closed_parts(alias: str, group: str, kind: type[Key]) -> dict[Part, str]:
    """Return what a shard is closed to, and by which change; one query. Keys are of a type."""
    return {
        Part(
            group,
            kind(each.low),
            None if each.high is None else kind(each.high),
            each.is_range,
        ): each.owner
        for each in _fences(alias, group)
    }


def restore(using: str) -> None:
    """Make the triggers that a migration lost: a table made anew by SQLite, a new model's."""
    if not router.allow_migrate_model(using, Fence):
        return
    connection: Any = connections[using]
    if Fence._meta.db_table not in connection.introspection.table_names():
        return  # migrated backwards
    for group in Fence.objects.using(using).values_list("group", flat=True).distinct():
        for model in keyed_models(group):
            fence_sql.make(connection, model, group)


@contextmanager
def _changing(alias: str, group: str, models: list[type[Model]]) -> Iterator[None]:
    """Hold a transaction in which nobody else writes to a group's tables on a shard."""
    groups = FencedGroup.objects.using(alias)
    connection: Any = connections[alias]
    with transaction.atomic(using=alias):
        groups.get_or_create(pk=group)  # on SQLite the write that waits for other writers
        with local_timeouts(connection, lock=LOCK_TIMEOUT_SECONDS, restore=True):
            fence_sql.lock(connection, models)
        groups.filter(pk=group).update(changes=F("changes") + 1)
        yield


def _fences(alias: str, group: str) -> "QuerySet[Fence]":
    return Fence.objects.using(alias).filter(group=group)


def _owner_of(alias: str, part: Part) -> str | None:
    return closed_parts(alias, part.group, type(part.low)).get(part)


def _take_out(alias: str, part: Part) -> bool:
    """Take a part out of what is closed; tell whether any of it was."""
    is_found = False
    for closed, owner in closed_parts(alias, part.group, type(part.low)).items():
        if closed.overlaps(part):
            is_found = True
            _fences(alias, part.group).filter(low=text_of(closed.low, alias)).delete()
            for rest in closed.minus(part):
                _add(alias, rest, owner)
    return is_found


def _add(alias: str, part: Part, owner: str) -> None:
    _fences(alias, part.group).create(
        group=part.group,
        low=text_of(part.low, alias),
        high=None if part.high is None else text_of(part.high, alias),
        is_range=part.is_range,
        owner=owner,
    )
