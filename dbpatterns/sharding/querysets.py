"""`ShardedQuerySet`: Django's queryset, which finds the shard in its own WHERE.

`QuerySet.db` is where Django asks a queryset for its database, so that is all it takes for reads,
`update()` and `delete()`. Methods that make rows find the shard in the rows; methods that take
many are split by shard, in one transaction on each that commit together.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from django.db import models, router

from dbpatterns.errors import UsageError
from dbpatterns.sharding.context import current_shard, enter
from dbpatterns.sharding.covering import refuse_uncovered
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired
from dbpatterns.sharding.keys import key_field, key_of
from dbpatterns.sharding.lookups import claimed, indexes_of, shards_by_lookup
from dbpatterns.sharding.placing import inner_queries, place, place_uncovered, refuse_other_key
from dbpatterns.sharding.plain_queries import plain_shards
from dbpatterns.sharding.replicas import for_reading
from dbpatterns.sharding.routing import refuse_foreign, shards_of
from dbpatterns.sharding.shard_map import shards
from dbpatterns.sharding.stale import rerouted
from dbpatterns.transactions.several import atomic_on

if TYPE_CHECKING:
    from dbpatterns.sharding.fanout import FanOut

__all__ = ["ShardedManager", "ShardedQuerySet"]


class ShardedQuerySet(models.QuerySet[Any]):
    """A queryset that goes to the shard its conditions name, or is refused."""

    model: type[models.Model]
    _db: str | None
    _hints: dict[str, Any]
    _prefetch_related_lookups: tuple[Any, ...]

    @property
    def db(self) -> str:
        """The shard of this query, as it stands; no query, 5 to 20 µs.

        By `using()`, the key in its conditions, the instance it hangs on, or the block it was
        made in or runs in; for a read within `replica_reads()` a replica of it.
        Raises: ShardKeyRequired, CrossShardError, UnplacedKey. UncoveredWrite: it is to write.
        """
        alias = self._db or self._named() or self._pinned()
        if self._for_write:
            refuse_uncovered(self.model._meta.label, alias)
            return alias
        return alias if self._db else for_reading(alias)

    def _named(self) -> str | None:
        """Return the shard that the conditions name."""
        plain = plain_shards(self.query)
        found = self._told() if plain is None else plain
        if found is None:
            return None
        if len(found) > 1:
            raise CrossShardError(
                self.model._meta.label,
                found,
                why=f"is about keys of {len(found)} shards ({', '.join(sorted(found))}), and one "
                "shard would answer for its own alone. Ask all by `.fanout()`, each by "
                "`.using(alias)`, or one key at a time.",
            )
        alias = next(iter(found), None) or self._hinted() or current_shard() or shards()[0]
        if plain is None:
            refuse_foreign(self.query, alias, is_pinned=False)
        return enter(self.model._meta.label, alias)

    def _told(self) -> frozenset[str] | None:
        """Return the shards that the conditions tell; a query when only a lookup index knows."""
        found = shards_of(self.query)
        if found is None and not self.query.combined_queries:
            return shards_by_lookup(self.query)
        return found

    def _pinned(self) -> str:
        """Return the shard that the code around says, for conditions that name none."""
        alias = self._hinted() or current_shard()
        label = self.model._meta.label
        if alias is None:
            raise ShardKeyRequired(
                label, key_field(self.model).attname, why="this query does not name one"
            )
        refuse_foreign(self.query, alias, is_pinned=True)
        return enter(label, alias)

    def _hinted(self) -> str | None:
        instance = self._hints.get("instance")
        if instance is not None:
            asked = router.db_for_write if self._for_write else router.db_for_read
            return asked(self.model, **self._hints)
        pinned: str | None = self._hints.get("shard")
        return pinned

    def raw(self, *args: Any, **options: Any) -> Any:
        """Run SQL of your own, which nobody can read a key from: say `using(alias)`."""
        if not (self._db or self._hints.get("shard") or current_shard()):
            raise ShardKeyRequired(
                self.model._meta.label,
                key_field(self.model).attname,
                why="SQL of your own hides it",
            )
        options.setdefault("using", self._db or self._hints.get("shard") or current_shard())
        return super().raw(*args, **options)

    def fanout(
        self,
        *,
        max_rows: int = 300_000,
        timeout: float | None = None,
        on_error: Literal["raise", "partial"] = "raise",
    ) -> "FanOut":
        """Ask all shards, or those that the conditions name; no query yet.

        Args:
            max_rows: how many rows a list may hold; `iterator()` holds none.
            timeout: seconds that each shard may take, to connect and then to answer; the
                connection of one that is late is closed.
            on_error: what shards that do not answer do: raise, or leave their rows out and stand
                in `missing_shards`.
        """
        from dbpatterns.sharding.fanout import FanOut

        if on_error not in ("raise", "partial"):
            raise UsageError(f'fanout(on_error={on_error!r}) is to be "raise" or "partial".')
        return FanOut(
            self.prefetch_related(None),
            max_rows=max_rows,
            timeout=timeout,
            is_partial=on_error == "partial",
            prefetched=self._prefetch_related_lookups,
        )

    @rerouted
    def create(self, **values: Any) -> Any:
        """Create a row on its key's shard; the statements of Django's."""
        made = self.model(**values)
        alias = place(made, self._db, near=self._hinted())
        self._for_write = True
        made.save(force_insert=True, using=alias)
        return made

    @rerouted
    def get_or_create(self, defaults: Any = None, **values: Any) -> Any:
        """As Django's, on the shard that the values name."""
        return super(ShardedQuerySet, self._at(values, defaults)).get_or_create(defaults, **values)

    @rerouted
    def update_or_create(
        self, defaults: Any = None, create_defaults: Any = None, **values: Any
    ) -> Any:
        """As Django's, on the shard that the values name."""
        here = self._at(values, create_defaults or defaults)
        return super(ShardedQuerySet, here).update_or_create(defaults, create_defaults, **values)

    @rerouted
    def bulk_create(self, objs: Iterable[Any], *args: Any, **options: Any) -> Any:
        """Create rows, each on its key's shard; Django's statements on each of them.

        All or none, in one transaction on each shard; only a server lost between two commits
        leaves a part, which is then whole on its shard.
        """
        rows = list(objs)
        conflicts = {"ignore_conflicts", "update_conflicts"} & {k for k, v in options.items() if v}
        if conflicts or args[1:]:
            self._refuse_indexed(None, "a row that is there decides what becomes of another")
        self._refuse_key(options.get("update_fields") or (args[3] if args[3:] else ()) or ())
        for alias, each in self._split(rows):
            with claimed(self.model, each, alias, are_new=True):
                super(ShardedQuerySet, self.using(alias)).bulk_create(each, *args, **options)
        for row in rows:
            row._state.shard_key = key_of(row)  # as `save` does
        return rows

    @rerouted
    def bulk_update(
        self, objs: Iterable[Any], fields: Iterable[str], *args: Any, **options: Any
    ) -> int:
        """Change rows, each on its key's shard; all or none as `bulk_create`."""
        names, rows = list(fields), list(objs)
        self._refuse_key(names)
        for row in rows:
            refuse_other_key(row)
        changed = 0
        for alias, each in self._split(rows):
            with claimed(self.model, each, alias, written=names):
                here = self.using(alias)
                here._hints = {**here._hints, "claimed": True}  # for the update that Django makes
                changed += super(ShardedQuerySet, here).bulk_update(each, names, *args, **options)
        return changed

    @rerouted
    def update(self, **values: Any) -> int:
        """Change the rows of one shard; one statement."""
        self._refuse_key(values)
        if "claimed" not in self._hints:
            self._refuse_indexed(values, "its entry is made before the row is written")
        self._for_write = True
        asking = inner_queries(values)
        here = self.using(self.annotate(**asking).db) if asking else self
        return super(ShardedQuerySet, here).update(**values)

    def delete(self) -> Any:
        """Delete the rows of one shard, and what hangs on them there."""
        return super().delete()

    def in_bulk(self, id_list: Any = None, *, field_name: str = "pk") -> dict[Any, Any]:
        """Return rows by their ids; one query on each shard that the ids name."""
        if self._db or id_list is None:
            return super().in_bulk(id_list, field_name=field_name)
        ids: dict[str | None, list[Any]] = {}
        for each in id_list:
            found = shards_of(self.filter(**{field_name: each}).query)
            only = next(iter(found)) if found is not None and len(found) == 1 else None
            ids.setdefault(only, []).append(each)
        merged: dict[Any, Any] = {}
        for alias, some in ids.items():
            here = self
            if alias is not None:
                here = self.using(for_reading(enter(self.model._meta.label, alias)))
            merged |= super(ShardedQuerySet, here).in_bulk(some, field_name=field_name)
        return merged

    def _at(self, values: Any, defaults: Any) -> "ShardedQuerySet":
        if self._db:
            return self
        named = self.filter(**values)._told()
        if named is not None and len(named) == 1:
            return self.using(enter(self.model._meta.label, next(iter(named))))
        own = {each.name for each in self.model._meta.concrete_fields} | {
            each.attname for each in self.model._meta.concrete_fields
        }
        given = {**values, **(defaults or {})}
        made = self.model(
            **{name: value for name, value in given.items() if name in own and not callable(value)}
        )
        return self.using(place(made, None, near=self._hinted(), by_lot=False))

    @property
    def fixed(self) -> frozenset[str]:
        """The field that no update may name: the shard key; for `Repository.save_many`."""
        return frozenset((key_field(self.model).name,))

    def by_shard(self, rows: Iterable[Any]) -> dict[str, list[Any]]:
        """Return rows by the shard that each is to be written to; no query.

        In the order of the shards' names: of two writers that each hold a shard's rows and wait
        for the other's, no server would see a deadlock.
        Raises: ShardKeyRequired, WrongShard, UncoveredWrite, UnplacedKey.
        """
        parts: dict[str, list[Any]] = {}
        for each in rows:
            parts.setdefault(place_uncovered(each, self._db, near=self._hinted()), []).append(each)
        for alias in parts:
            refuse_uncovered(self.model._meta.label, alias)
        return dict(sorted(parts.items()))

    def _split(self, rows: Sequence[Any]) -> Iterable[tuple[str, list[Any]]]:
        parts = self.by_shard(rows)
        with atomic_on(parts if len(parts) > 1 else ()):
            yield from parts.items()

    def _refuse_indexed(self, names: Iterable[str] | None, why: str) -> None:
        for index in indexes_of(self.model):
            if names is None or {index.field, index.column.attname} & set(names):
                raise UsageError(
                    f"{self.model._meta.label}.{index.field} has a lookup index, and {why}: read "
                    "the rows and save them."
                )

    def _refuse_key(self, names: Iterable[str]) -> None:
        field = key_field(self.model)
        if {field.name, field.attname} & set(names):
            raise UsageError(
                f"{self.model._meta.label}.{field.name} is the shard key, and a row never changes "
                "it: create a row under the new key and delete the old one."
            )


class ShardedManager(models.Manager.from_queryset(ShardedQuerySet)):  # type: ignore[misc]
    """The manager of sharded models; a queryset stays on the shard of the block it is made in."""

    def get_queryset(self) -> Any:
        """Return all rows, on the shard of the block this runs in, if any."""
        found = super().get_queryset()
        alias = current_shard()
        if alias is not None:
            found._hints = {**found._hints, "shard": alias}
        return found
