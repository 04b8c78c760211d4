"""The settings that the type checker reads: the demo's, and the sub-apps it does not install."""

from demo.settings import *  # noqa: F403
from demo.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "dbpatterns.ledger"]
