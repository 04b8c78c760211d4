"""A project of its own on few apps, so that a test's process starts soon; FLEET names databases."""

import json
import os
from typing import Any

DATABASES: dict[str, dict[str, Any]] = json.loads(os.environ["FLEET"])
SHARDS = [alias for alias in DATABASES if alias != "default"]
INSTALLED_APPS = ["dbpatterns.sharding", "tests.fleet.apps.FleetConfig"]
DATABASE_ROUTERS = ["dbpatterns.sharding.ShardRouter"]
DBPATTERNS = {"SHARDING": {"SHARDS": SHARDS, "GROUPS": {"fleet": {"APPS": ["fleet"]}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "of the tests"
USE_TZ = True
