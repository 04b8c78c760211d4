"""Writes by an old map: the shard refuses them, the map is read again, and they are repeated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from django.db import DatabaseError
from django.db.models import Model, QuerySet

from dbpatterns.sharding.errors import StaleShardMap
from dbpatterns.sharding.keys import group_of
from dbpatterns.sharding.shard_map import reload, shards
from dbpatterns.transactions import in_transaction

__all__ = ["FENCE", "is_refusal", "rerouted"]

FENCE = "dbpatterns_sharding_fence"
"""A fence's trigger; the constraint that its refusal names, or the beginning of its text."""

F = TypeVar("F", bound=Callable[..., Any])


def rerouted(method: F) -> F:
    """Repeat a write once on the shard that the newer map says.

    Within a transaction, which the refusal has ended, the caller has to repeat that; so where
    the database was named by `using`.
    Raises: StaleShardMap.
    """

    @wraps(method)
    def write(self: Any, *args: Any, **options: Any) -> Any:
        model: Any = self.model if isinstance(self, QuerySet) else type(self)
        with _told(model):
            try:
                return method(self, *args, **options)
            except DatabaseError as error:
                if not is_refusal(error):
                    raise
                reload(group_of(model))
                is_named = getattr(self, "_db", None) or options.get("using")
                if is_named or any(map(in_transaction, shards())):
                    raise
            return method(self, *args, **options)

    return write  # type: ignore[return-value]


def is_refusal(error: DatabaseError) -> bool:
    """Tell whether a shard refused a write because the key is not its own."""
    diagnosis = getattr(error.__cause__, "diag", None)
    told = getattr(diagnosis, "constraint_name", None) or str(error)
    return isinstance(error, StaleShardMap) or FENCE in told


@contextmanager
def _told(model: type[Model]) -> Iterator[None]:
    try:
        yield
    except StaleShardMap:
        raise  # of a write within this one
    except DatabaseError as error:
        if not is_refusal(error):
            raise
        raise StaleShardMap(model._meta.label) from error
