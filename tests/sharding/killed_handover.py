"""A process that hands a key over and is killed: `STEP KEY SHARD`."""

import os
import signal
import sys
from typing import Any

import django
from django.test import override_settings


def main(step: str, key: str, shard: str) -> None:
    """Kill this process after a step of the hand-over."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    from dbpatterns.sharding import operations
    from tests.sharding.maps import with_strategy

    left = {"first closed": 1, "both closed": 2, "map changed": 3, "waited": 4}[step]

    def counted(function: Any) -> Any:
        def run(*args: Any) -> Any:
            nonlocal left
            result = function(*args)
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run

    operations.close = counted(operations.close)
    operations.change = counted(operations.change)
    operations.time.sleep = counted(operations.time.sleep)  # type: ignore[attr-defined]
    with override_settings(DBPATTERNS=with_strategy("directory", 0.01)):
        operations.assign("bank", int(key), shard)


if __name__ == "__main__":
    main(*sys.argv[1:])
