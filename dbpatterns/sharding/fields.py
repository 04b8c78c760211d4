"""Primary keys that carry the slot of their row's shard key.

    class Order(ShardedModel):
        shard_key = "customer"
        id = ShardedIdField()
        customer = models.ForeignKey(Customer, models.PROTECT)

A new row gets its id by its INSERT, in `save`, `create` and `bulk_create`; one that has an id
keeps it, if that carries the row's slot. A row that is its own key, `shard_key = "id"`, gets a
slot by lot.
"""

import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import models

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding._compat import ReturnedByInsert
from dbpatterns.sharding.hashing import SLOTS, slot_of
from dbpatterns.sharding.id_clock import MakeId, make_id
from dbpatterns.sharding.ids import make_uuid, slot_of_id, slot_of_uuid
from dbpatterns.sharding.keys import end_field, group_of, key_field
from dbpatterns.sharding.shard_map import shard_map

__all__ = ["CarriesSlot", "ShardedIdField", "ShardedUUIDField", "home_by_lot", "slot_of_row"]

if TYPE_CHECKING:
    _Field = models.Field[Any, Any]
    _Integer = models.BigIntegerField[int, int]
    _UUID = models.UUIDField[UUID, UUID]
else:  # Django's own take no parameters
    _Field = object
    _Integer = models.BigIntegerField
    _UUID = models.UUIDField


def slot_of_row(instance: models.Model) -> int:
    """Return the slot of an instance's shard key, 0 to 16,383; no query.

    A key that is the id of a sharded row, and carries its slot, says it itself.

    Raises: UsageError: the key has no value. ConfigurationError: the model names no key.
    """
    model = type(instance)
    if getattr(model, "shard_key", None) is None:
        raise ConfigurationError(
            f"{model._meta.label} names no shard key, whose slot its ids are to carry: derive it"
            ' from ShardedModel and add `shard_key = "…"`, the name of one of its fields. In a'
            " migration, whose models know of none, give the id: `make_uuid(slot_of(key))` or"
            " `make_id(slot_of(key))`."
        )
    field: Any = key_field(model)
    value = getattr(instance, field.attname)
    if value is None and hasattr(instance._state, "slot"):
        return int(instance._state.slot)
    if value is None or hasattr(value, "resolve_expression"):
        raise UsageError(
            f"{model._meta.label}.{field.attname} is {value!r}: a row's id carries the slot of its"
            f" shard key, so give it a value before you save the row."
        )
    target = end_field(field)
    if isinstance(target, CarriesSlot):
        return target.checked_slot(value)
    return slot_of(field.get_prep_value(value))


def home_by_lot(instance: models.Model, using: str | None) -> str | None:
    """Return the shard of a new row that is its own key and has none yet: of a slot by lot.

    The row keeps the slot, for its id. With `using` it is one of that shard's. None for other
    rows, and where no slot is on one shard alone. No query.
    """
    model = type(instance)
    field: Any = key_field(model)
    if not isinstance(field, CarriesSlot) or getattr(instance, field.attname) is not None:
        return None
    group_map, state = shard_map(group_of(model)), instance._state
    if hasattr(state, "slot"):
        return _only(group_map.holders(state.slot))
    start, step = random.randrange(SLOTS), random.randrange(1, SLOTS, 2)
    for number in range(SLOTS):  # meets each slot once, as an odd step does
        slot = (start + number * step) % SLOTS
        home = _only(group_map.holders(slot))
        if home is not None and using in (None, home):
            state.slot = slot  # type: ignore[attr-defined]
            return home
    return None


def _only(shards: frozenset[str]) -> str | None:
    return next(iter(shards)) if len(shards) == 1 else None


class CarriesSlot(ReturnedByInsert, _Field):
    """What both fields do: make a value for a new row, and refuse one of another slot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["primary_key"] = True
        kwargs.setdefault("editable", False)
        kwargs.setdefault("blank", True)  # it is, until the row is saved
        super().__init__(*args, **kwargs)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Return the instance's id; for a new row without one, what makes it."""
        value = super().pre_save(model_instance, add)
        if not add or hasattr(value, "resolve_expression"):
            return value
        if value is not None and getattr(type(model_instance), "shard_key", None) is None:
            return value  # a migration's model, which knows of no key
        slot = slot_of_row(model_instance)
        if value is None:
            return self.make_value(slot)
        carried = self.checked_slot(value)
        if carried != slot:
            raise UsageError(
                f"{type(model_instance)._meta.label} was to be added with the id {value}, which"
                f" carries slot {carried}, and its shard key's is {slot}: by that id it would be"
                " looked for on another shard. Leave the id out, and the row gets one."
            )
        return value

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        """Refuse what carries no slot: a row would not be found by it."""
        if not hasattr(value, "as_sql"):
            self.checked_slot(value)
        return super().get_db_prep_save(value, connection)

    def checked_slot(self, value: Any) -> int:
        """Return the slot in a value.

        Raises: UsageError: it carries none.
        """
        slot = None if value is None else self.slot_of_value(value)
        if slot is None:
            raise UsageError(
                f"{self.model._meta.label}.{self.attname} was to be {value!r}, which carries no"
                " slot, so nobody would find the row by it. Leave it out, and the row gets an id;"
                " in a fixture keep the one it had (dump without --natural-primary)."
            )
        return slot

    def make_value(self, slot: int) -> Any:
        """Return what a new row is inserted with."""
        raise NotImplementedError

    def slot_of_value(self, value: Any) -> int | None:
        """Return the slot in a value of the field; None if no row can have it. No query."""
        try:
            return self.read_slot(self.get_prep_value(value))
        except UsageError:
            return None

    def read_slot(self, value: Any) -> int:
        """Return the slot in a value.

        Raises: UsageError: it carries none.
        """
        raise NotImplementedError


class ShardedIdField(CarriesSlot, _Integer):
    """A 64-bit primary key that carries a slot, made by the database in the INSERT.

    For groups whose strategy is `hash`: there a slot is on one shard, whose clock gives each tick
    once. No round trip of its own.
    """

    description = "Big integer with a slot"

    def make_value(self, slot: int) -> MakeId:
        """Return the call of the database's function."""
        return make_id(slot)

    def read_slot(self, value: Any) -> int:
        """Return the slot in an id."""
        return slot_of_id(value)


class ShardedUUIDField(CarriesSlot, _UUID):
    """A version 7 UUID as primary key that carries a slot, made in Python; for any strategy."""

    description = "UUID with a slot"

    def make_value(self, slot: int) -> UUID:
        """Make one."""
        return make_uuid(slot)

    def read_slot(self, value: Any) -> int:
        """Return the slot in a UUID."""
        return slot_of_uuid(value)
