"""Entries of lookup indexes, made before the row and settled after its commit.

A writer holds the value's lock on its shard, enters the value as pending, writes the row, and
settles the entry when it has committed. Where it dies between, or rolls back, the entry stays
pending, which says: look at the shard. Who wants the value does so, and so does the sweeper.
"""

# Note [Pending entries]
# The lock is an advisory one of the shard's transaction, on SQLite the file's write lock; it goes
# with the commit, with a rollback to the savepoint, and with the session of a process that died.
# So who has the lock and finds no row knows that none is to come, however slow its writer was. It
# takes the entry, or ends it, by its token: each writer brings a new one, so that what an earlier
# one has still to do to the entry meets nothing.
# Nobody waits for a value: locks of two shards waited for crosswise are a deadlock that no server
# sees. A writer that lets a value go does wait, for who is looking at it just now.

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from django.db import OperationalError, connections, transaction
from django.db.models import Model, QuerySet
from django.utils import timezone

from dbpatterns.errors import UsageError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.errors import ValueTaken
from dbpatterns.sharding.keys import key_field, key_of
from dbpatterns.sharding.lookups import LookupIndex, indexes_of, shards_of_entry
from dbpatterns.sharding.models import LookupEntry
from dbpatterns.sharding.strategies import encode
from dbpatterns.transactions import (
    Isolation,
    LockTimeout,
    advisory_xact_lock,
    atomic,
    in_transaction,
)

_FILE_SECONDS = 0.1
"""How long a look waits for a SQLite file; its writers are short."""

__all__ = ["enter", "entries", "holding", "release", "resolve"]


def entries(index: LookupIndex) -> "QuerySet[LookupEntry]":
    """Return the entries of an index, in the control database."""
    control = ShardingSettings.load().control
    return LookupEntry._default_manager.using(control).filter(index=index.label)


@contextmanager
def holding(
    indexes: Sequence[LookupIndex], rows: Sequence[Model], alias: str, *, are_new: bool
) -> Iterator[None]:
    """Enter the values of rows that are written in the block, and settle them after the commit.

    One transaction on the shard, a savepoint within another.
    """
    with transaction.atomic(using=alias):
        changes = [_compared(index, rows, alias, are_new) for index in indexes]
        for change in changes:
            change.begin()
        yield
        for change in changes:
            change.finish()


def release(instance: Model, alias: str) -> None:
    """Let the values go of a row that is about to be deleted, in a transaction of its shard."""
    for index in indexes_of(type(instance)):
        had = _values(index, [instance.pk], alias).values()
        change = _Change(index, alias, {}, [each for each in had if each is not None])
        change.begin()
        change.finish()


def resolve(index: LookupIndex, entry: LookupEntry) -> bool | None:
    """Settle or delete a pending entry, by what its shard has; tell whether it was settled.

    Two statements on the shard, one on the control database. None, and nothing is done, when its
    writer is still at it, or another has it by now.
    """
    mine = entries(index).filter(pk=entry.pk, token=entry.token)
    with ExitStack() as stack:
        try:
            found = _look(index, entry, stack)
        except _Busy:
            return None
        if found is None:
            return False if mine.delete()[0] else None
        return True if mine.update(is_settled=True, shard=found[0], key=found[1]) else None


def enter(index: LookupIndex, pks: Sequence[Any], alias: str) -> list[str]:
    """Enter rows of a shard that have no entry; return values that another row has, or will.

    For rows that are older than their index, or were loaded past it. One transaction.
    """
    twice = []
    with transaction.atomic(using=alias):
        rows = index.model._base_manager.using(alias).filter(pk__in=pks).select_for_update()
        given = {index.text_of(getattr(row, index.column.attname)): row for row in rows}
        values = [value for value in given if value is not None]
        there = dict(entries(index).filter(value__in=values).values_list("value", "key"))
        for value in values:
            if value in there and there[value] == _encoded(given[value]):
                continue
            change = _Change(index, alias, {value: given[value]}, [])
            try:
                change.begin()
            except ValueTaken:
                twice.append(value)
            else:
                change.finish()
    return twice


class _Busy(Exception):
    """A value's lock is not to be had, so its row may be on its way."""


@dataclass
class _Change:
    """What a write changes in one index: rows by the values they get, and values they leave."""

    index: LookupIndex
    alias: str
    gets: dict[str, Model]
    leaves: list[str]
    token: UUID = field(default_factory=uuid4)
    leaving: UUID = field(default_factory=uuid4)
    keyless: tuple[str, ...] = ()
    """The values of rows that get their key by their INSERT."""

    def begin(self) -> None:
        """Enter the values that rows get, and mark those that they leave."""
        if not (self.gets or self.leaves):
            return
        control = ShardingSettings.load().control
        if in_transaction(control):
            raise UsageError(
                f"{self.index.model._meta.label}.{self.index.field} has a lookup index, and a "
                f"transaction is open on {control!r}, which could undo its entry alone: write the "
                "row outside of it."
            )
        self.keyless = tuple(value for value, row in self.gets.items() if not _encoded(row))
        for value in sorted(self.leaves):
            _lock(self.index, value, self.alias, wait=True)
        for value in sorted(self.gets):
            if not _lock(self.index, value, self.alias, wait=False):
                raise _taken(self.index, value)
        _reserve(self)
        if self.leaves:
            leaving = entries(self.index).filter(value__in=self.leaves)
            leaving.update(token=self.leaving, is_settled=False, changed_at=timezone.now())

    def finish(self) -> None:
        """Have entries settled, and those of values left deleted, once the shard has committed."""
        if self.gets:
            keys = {value: _encoded(row) for value, row in self.gets.items()}
            transaction.on_commit(partial(self._settle, keys), using=self.alias, robust=True)
        if self.leaves:
            left = entries(self.index).filter(token=self.leaving)
            transaction.on_commit(left.delete, using=self.alias, robust=True)

    def _settle(self, keys: Mapping[str, str]) -> None:
        mine = entries(self.index).filter(token=self.token)
        for value in self.keyless:
            mine.filter(value=value).update(key=keys[value])
        mine.update(is_settled=True)


def _compared(index: LookupIndex, rows: Sequence[Model], alias: str, are_new: bool) -> _Change:
    """Compare rows with what the shard has, and lock that; one query, none for new rows."""
    attname = index.column.attname
    rows = [each for each in rows if attname in each.__dict__]
    there = [] if are_new else [each.pk for each in rows if each.pk is not None]
    had = _values(index, there, alias) if there else {}
    change = _Change(index, alias, {}, [])
    for row in rows:
        value, before = index.text_of(row.__dict__[attname]), had.get(row.pk)
        if value == before:
            continue
        if value is not None:
            if value in change.gets:
                raise _taken(index, value)
            change.gets[value] = row
        if before is not None:
            change.leaves.append(before)
    return change


def _values(index: LookupIndex, pks: Sequence[Any], alias: str) -> dict[Any, str | None]:
    rows = index.model._base_manager.using(alias).filter(pk__in=pks).select_for_update()
    return {pk: index.text_of(value) for pk, value in rows.values_list("pk", index.field)}


def _reserve(change: _Change) -> None:
    """Enter values; two statements where all are free.

    Raises: ValueTaken.
    """
    index, missing = change.index, set(change.gets)
    while missing:
        entries(index).bulk_create(
            (
                LookupEntry(
                    index=index.label,
                    value=value,
                    key=_encoded(change.gets[value]),
                    shard=change.alias,
                    token=change.token,
                )
                for value in sorted(missing)
            ),
            ignore_conflicts=True,
        )
        for entry in entries(index).filter(value__in=missing):
            if entry.token == change.token or _take_over(change, entry):
                missing.discard(entry.value)


def _take_over(change: _Change, entry: LookupEntry) -> bool:
    """Take an entry whose writer ended without its row; False when it has changed meanwhile.

    Raises: ValueTaken: the row is there, or on its way.
    """
    index = change.index
    with ExitStack() as stack:
        try:
            if entry.is_settled or _look(index, entry, stack, own=change.alias) is not None:
                raise _taken(index, entry.value)
        except _Busy:
            raise _taken(index, entry.value) from None
        same = entries(index).filter(pk=entry.pk, token=entry.token, is_settled=False)
        taken = same.update(
            token=change.token,
            key=_encoded(change.gets[entry.value]),
            shard=change.alias,
            changed_at=timezone.now(),
        )
    return bool(taken)


def _look(
    index: LookupIndex, entry: LookupEntry, stack: ExitStack, *, own: str | None = None
) -> tuple[str, str] | None:
    """Return the shard and key of an entry's row; None when there is none and none will come.

    That stays so until the stack ends. `own` is the shard whose lock the caller has.
    Raises: _Busy.
    """
    found = None
    for alias in sorted(shards_of_entry(index.model, entry.key, entry.shard) | {entry.shard}):
        if alias != own:
            if in_transaction(alias):  # which would show its own rows, and may yet be undone
                raise _Busy
            stack.enter_context(_alone(index, entry.value, alias))
        name = key_field(index.model).attname
        rows = index.model._base_manager.using(alias).filter(**{index.field: entry.value})
        for key in rows.values_list(name, flat=True):
            found = (alias, _encode(index.model, key))
    return found


@contextmanager
def _alone(index: LookupIndex, value: str, alias: str) -> Iterator[None]:
    """Hold a value's lock on another shard for a block, whose queries come after it.

    Raises: _Busy: somebody has it; on SQLite, somebody writes the file.
    """
    is_file = connections[alias].vendor == "sqlite"
    with ExitStack() as stack:
        try:
            if is_file:
                stack.enter_context(atomic(using=alias, lock_timeout=_FILE_SECONDS))
            else:  # a snapshot of before the lock would not have the row
                stack.enter_context(atomic(using=alias, isolation=Isolation.READ_COMMITTED))
            is_held = _lock(index, value, alias, wait=False)
        except OperationalError as error:
            if is_file:
                raise _Busy from error
            raise
        if not is_held:
            raise _Busy
        yield


def _lock(index: LookupIndex, value: str, alias: str, *, wait: bool) -> bool:
    """Take a value's lock for the shard's transaction; tell whether it was to be had."""
    connection = connections[alias]
    if connection.vendor == "sqlite":
        table = connection.ops.quote_name(index.model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table} WHERE 0")  # a write, which is the file's lock
        return True
    try:
        advisory_xact_lock("dbpatterns lookup", index.label, value, wait=wait, using=alias)
    except LockTimeout:
        return False
    return True


def _encoded(row: Model) -> str:
    return _encode(type(row), key_of(row))


def _encode(model: type[Model], key: Any) -> str:
    return "" if key is None else encode(key_field(model).get_prep_value(key))


def _taken(index: LookupIndex, value: str) -> ValueTaken:
    return ValueTaken(index.model._meta.label, index.field, value)
