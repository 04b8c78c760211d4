"""What can go wrong between a query and its shard."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from django.db import IntegrityError, OperationalError

from dbpatterns.errors import DBPatternsError, UsageError

__all__ = [
    "CrossShardError",
    "MapChanged",
    "MigrationFailed",
    "PartNotEmpty",
    "ShardBusy",
    "ShardKeyChanged",
    "ShardKeyRequired",
    "ShardUnavailable",
    "StaleShardMap",
    "TooManyRows",
    "TooManyToMerge",
    "UncoveredWrite",
    "UnplacedKey",
    "ValueTaken",
    "WrongShard",
]


class ShardKeyRequired(UsageError):
    """A query or a row does not say on which shard it is."""

    def __init__(self, model: str, key: str, *, why: str) -> None:
        super().__init__(
            f"{model} is sharded by {key!r}, and {why}. Put {key} into the query, say which by "
            "`with shard(key):`, or ask all shards by `.fanout()`, one by `.using(alias)`."
        )
        self.model, self.key = model, key


class CrossShardError(UsageError):
    """A query that one shard alone would answer wrongly."""

    def __init__(self, model: str, shards: Iterable[str], *, why: str) -> None:
        self.model, self.shards = model, tuple(sorted(shards))
        super().__init__(f"This query on {model} {why}")


class WrongShard(UsageError):
    """A row was to be written to a shard that is not its key's."""

    def __init__(self, model: str, key: object, *, shard: str, home: str) -> None:
        super().__init__(
            f"{model} with key {key!r} belongs on {home!r} and was to be written to {shard!r}: "
            "leave `using` out, and the map places it."
        )
        self.model, self.key, self.shard, self.home = model, key, shard, home


class ShardKeyChanged(UsageError):
    """A row's shard key was changed, which would move it to another shard or lose it there."""

    def __init__(self, model: str, field: str, *, before: object, after: object) -> None:
        super().__init__(
            f"{model}.{field} is the shard key and was changed from {before!r} to {after!r}: a "
            "row never changes its key. Create a row under the new key, together with the rows "
            "that hang on it, and delete the old one."
        )
        self.model, self.field, self.before, self.after = model, field, before, after


class UncoveredWrite(UsageError):
    """A row was to be written to a shard within a transaction of another database alone."""

    def __init__(self, model: str, *, shard: str, open_on: Iterable[str], remedy: str) -> None:
        self.model, self.shard, self.open_on = model, shard, tuple(open_on)
        super().__init__(
            f"{model} was to be written to {shard!r} within a transaction on "
            f"{', '.join(map(repr, self.open_on))}, whose rollback would leave it there: open one "
            f"{remedy}, or write outside."
        )


class UnplacedKey(DBPatternsError, LookupError):
    """The map has no shard for a key."""

    def __init__(self, group: str, key: object, *, why: str) -> None:
        super().__init__(
            f"Group {group!r} has no shard for {key!r}: {why}. "
            f"`manage.py shard_map assign --group {group}` gives it one."
        )
        self.group, self.key = group, key


class ValueTaken(DBPatternsError, IntegrityError):
    """A value of a lookup index belongs to another row, or to one that is being written."""

    def __init__(self, model: str, field: str, value: str) -> None:
        super().__init__(
            f"{model} with {field} {value!r} is there already, or is being written, on one of the "
            "shards. Nothing was written; take another value, or try again."
        )
        self.model, self.field, self.value = model, field, value


class MapChanged(DBPatternsError):
    """Somebody else changed the map first; nothing was written."""

    def __init__(self, group: str, *, expected: int, found: int) -> None:
        super().__init__(
            f"The map of {group!r} is at epoch {found} and was {expected} when this change was "
            "planned: somebody else changed it. Nothing was written; look at it and decide anew."
        )
        self.group, self.expected, self.found = group, expected, found


class PartNotEmpty(DBPatternsError):
    """Keys were to change hands, and have rows; nothing was changed."""

    def __init__(self, group: str, part: object, *, shard: str, rows: Mapping[str, int]) -> None:
        found = ", ".join(f"{count:,} of {label}" for label, count in rows.items() if count)
        super().__init__(
            f"Shard {shard!r} has rows of {part} in group {group!r}: {found}. Only keys without "
            "rows change hands by the map alone; nothing was changed."
        )
        self.group, self.part, self.shard, self.rows = group, part, shard, dict(rows)


class StaleShardMap(DBPatternsError, OperationalError):
    """A shard refused a write to a key that is another's, or is being handed over.

    Nothing was written, and the map was read again. Call the function anew that opens the
    transaction on `shard_for(key)`: that may be another shard by now.
    """

    sqlstate: ClassVar[str] = "40001"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"A shard refused a write to {model}: this process had an old map, or the key is being "
            "handed to another shard at this moment. Nothing was written, and the map has been "
            "read again: call once more what opens the transaction, on `shard_for(key)`."
        )
        self.model = model


class ShardUnavailable(DBPatternsError, OperationalError):
    """A shard did not answer within its deadline, or refused the connection.

    `missing_shards` has all that did not, with the reason of each.
    """

    def __init__(self, shard: str, *, why: str, others: Mapping[str, str] | None = None) -> None:
        self.shard, self.why = shard, why
        self.missing_shards = {shard: why, **(others or {})}
        said = (
            f"Shard {shard!r} is not available: {why}. Start its server or mend the way to it"
            if not others
            else "Shards are not available: "
            + "; ".join(f"{alias!r}: {each}" for alias, each in self.missing_shards.items())
            + ". Start their servers or mend the way to them"
        )
        super().__init__(f"{said}, and try again.")

    @classmethod
    def of(cls, missing: Mapping[str, str]) -> "ShardUnavailable":
        """Return the error for one or several shards, with the reason of each."""
        (shard, why), *others = missing.items()
        return cls(shard, why=why, others=dict(others))


class ShardBusy(DBPatternsError):
    """Another run migrates the shard."""

    def __init__(self, shard: str) -> None:
        super().__init__(
            f"Another run migrates shard {shard!r}: let it end, and run this again if it fails."
        )
        self.shard = shard


class MigrationFailed(DBPatternsError):
    """A shard's migrations ended by an error; those before it stay applied."""

    def __init__(self, shard: str, migration: str | None, cause: Exception) -> None:
        where = f"in {migration}" if migration else "outside any migration"
        super().__init__(f"Shard {shard!r} failed {where}: {cause_of(cause)}")
        self.shard, self.migration = shard, migration


class TooManyRows(UsageError):
    """A fan-out would hold more rows in memory than it may."""

    def __init__(self, model: str, max_rows: int) -> None:
        super().__init__(
            f"A fan-out over {model} found more than {max_rows:,} rows: narrow or slice it, take "
            "them one by one with `.iterator()`, or say `fanout(max_rows=…)`."
        )
        self.model, self.max_rows = model, max_rows


class TooManyToMerge(TooManyRows):
    """A fan-out would hold more groups, or values to count once, than it may."""

    def __init__(self, model: str, max_rows: int, *, what: str) -> None:
        super().__init__(model, max_rows)
        self.what = what

    def __str__(self) -> str:
        return (
            f"A fan-out over {self.model} found more than {self.max_rows:,} {self.what}, which it "
            "has to hold to merge them: narrow the conditions, group by the shard key as well, or "
            "say `fanout(max_rows=…)`."
        )


def said_by(error: Exception) -> str:
    """Return what an error says, in one line and without a full stop."""
    return " ".join(str(error).split()).rstrip(".")


def cause_of(error: Exception) -> str:
    """Return an error in one line, with its type."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
