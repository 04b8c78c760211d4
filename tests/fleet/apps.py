"""The app of the fleet, which fails after the migrations where a test wants it to."""

import os
from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

__all__ = ["FleetConfig"]


class FleetConfig(AppConfig):
    """Its migrations, and what is done after them."""

    name = "tests.fleet"

    def ready(self) -> None:
        """Fail after a database's migrations, if FLEET_FAILS says when."""
        post_migrate.connect(_fail, sender=self)


def _fail(interactive: bool, **_: Any) -> None:
    fails = os.environ.get("FLEET_FAILS")
    if fails == "after" or (fails == "if it may ask" and interactive):
        raise LookupError(fails)
