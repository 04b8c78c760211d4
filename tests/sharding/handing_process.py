"""A process that writes keys, or gives one away: `write SEED KEY…` or `give KEY SHARD`."""

import os
import random
import sys

import django
from django.db import IntegrityError
from django.test import override_settings


def write(seed: str, *keys: str) -> None:
    """Write each key until it is there, and print what this process wrote."""
    from dbpatterns.sharding.errors import StaleShardMap
    from dbpatterns.sharding.shard_map import reload
    from tests.shop.models import Buyer

    reload("bank")  # what it knows when the first key is given away
    print("ready", flush=True)
    sys.stdin.readline()
    for key in random.Random(seed).sample(keys, len(keys)):
        while True:
            try:
                Buyer.objects.create(id=int(key))
            except StaleShardMap:
                continue
            except IntegrityError:
                break  # another was first
            print(key, flush=True)
            break


def give(key: str, shard: str) -> None:
    """Give a key to a shard, by the map as it was before the word came."""
    from dbpatterns.sharding.errors import MapChanged
    from dbpatterns.sharding.operations import assigning

    planned = assigning("bank", int(key), shard)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        planned.run()
    except MapChanged:
        print("MapChanged")
    else:
        print("won")


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    from tests.sharding.maps import with_strategy

    with override_settings(DBPATTERNS=with_strategy("directory", 0.02)):
        {"write": write, "give": give}[sys.argv[1]](*sys.argv[2:])
