"""The tests' group under another strategy, with maps that are read and grow old at once."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import cast

from django.conf import settings
from django.db import connections
from django.test import override_settings

from tests.processes import database_url

__all__ = ["key_on", "shard_environment", "strategy"]


@contextmanager
def strategy(name: str, max_age: float = 0.02) -> Iterator[None]:
    """Place the group's rows by another strategy; the first map is made anew."""
    from dbpatterns.sharding import fence_sql, shards
    from dbpatterns.sharding.map_store import make_first_maps
    from dbpatterns.sharding.models import Fence, ShardGroup
    from dbpatterns.sharding.parts import keyed_models
    from dbpatterns.sharding.shard_map import forget, pinned

    with override_settings(DBPATTERNS=with_strategy(name, max_age)), pinned({}):
        ShardGroup.objects.all().delete()
        make_first_maps("default")
        forget()
        try:
            yield
        finally:
            forget()
            for alias in shards():
                Fence.objects.using(alias).delete()
                for model in keyed_models("bank"):
                    fence_sql.drop(connections[alias], model)
    ShardGroup.objects.all().delete()
    make_first_maps("default")
    forget()


def with_strategy(name: str, max_age: float) -> dict[str, object]:
    """Return the settings with another strategy for the group."""
    changed = copy.deepcopy(settings.DBPATTERNS)
    changed["SHARDING"]["GROUPS"]["bank"]["STRATEGY"] = name
    changed["SHARDING"]["MAP_MAX_AGE_SECONDS"] = max_age
    return changed


def key_on(alias: str, start: int = 1) -> int:
    """Return an integer that the map places on a shard."""
    from dbpatterns.testing.sharding import keys_on

    return cast(int, next(keys_on(alias, group="bank", among=count(start))))


def shard_environment() -> dict[str, str]:
    """Return what a process needs to work on the test's databases."""
    from dbpatterns.sharding import shards

    return {
        **os.environ,
        "DATABASE_URL": database_url(),
        "DBPATTERNS_SHARD_URLS": ",".join(database_url(alias) for alias in shards()),
    }
