"""`ShardedModel`: a model whose rows are placed by their shard key."""

from typing import Any, ClassVar, Self

from django.db import models

from dbpatterns.sharding.keys import key_of
from dbpatterns.sharding.lookups import claimed
from dbpatterns.sharding.placing import place, refuse_other_key
from dbpatterns.sharding.querysets import ShardedManager
from dbpatterns.sharding.replicas import primary_of
from dbpatterns.sharding.stale import rerouted

__all__ = ["ShardedModel"]


class ShardedModel(models.Model):
    """Rows of one group, each on its key's shard; name the key in `shard_key`.

        class Account(ShardedModel):
            shard_key = "customer"
            customer = models.ForeignKey(Customer, models.PROTECT)

    A key is an integer of 64 bits, a text or a UUID, or the foreign key of one; or the foreign key
    of a sharded model whose id carries a slot, for rows that belong to that one's.
    """

    shard_key: ClassVar[str]
    objects: ClassVar[Any] = ShardedManager()

    class Meta:
        abstract = True
        base_manager_name = "objects"  # Django inherits it, so that refreshes are routed as well

    @rerouted
    def save(self, *, using: str | None = None, **options: Any) -> None:
        """Save to the shard of its key; the statements of Django's.

        One more, which reads the key, for a row that was read without it.
        Raises: ShardKeyChanged: it was read under another key. WrongShard: `using` is not the
            key's. ShardKeyRequired: there is none. StaleShardMap: within a transaction.
            ValueTaken: by a lookup index.
        """
        refuse_other_key(self)
        alias = place(self, using)
        with claimed(
            type(self),
            [self],
            alias,
            written=options.get("update_fields"),
            are_new=bool(options.get("force_insert")),
        ):
            super().save(using=alias, **options)
        self._state.shard_key = key_of(self)  # type: ignore[attr-defined]

    def delete(self, using: str | None = None, keep_parents: bool = False) -> Any:
        """Delete from the shard of its key, with what hangs on it there."""
        refuse_other_key(self)
        return super().delete(using=place(self, using), keep_parents=keep_parents)

    @classmethod
    def from_db(cls, db: Any, field_names: Any, values: Any, **options: Any) -> Self:
        """Make an instance from a row, and remember its key; it is the shard's, not a replica's."""
        made = super().from_db(primary_of(db), field_names, values, **options)
        made._state.shard_key = key_of(made)  # type: ignore[attr-defined]
        return made
