"""The demo's settings under test: quick hashing, and databases that threads can share."""

from demo.settings import *  # noqa: F403
from demo.settings import DATA_DIR, DATABASE_ROUTERS, DATABASES, DBPATTERNS, INSTALLED_APPS

INSTALLED_APPS = [
    *INSTALLED_APPS,
    "tests.testapp",
    "tests.shop",
    "tests.plainshop",
    "tests.parcels",
]

# The demo's ledger, keys and events are on its shards; tests of these apps have them on `default`.
DATABASE_ROUTERS = ["tests.testapp.placement.AlsoOnDefault", *DATABASE_ROUTERS]

DBPATTERNS["SHARDING"]["GROUPS"]["bank"]["APPS"] += ["shop", "parcels"]

# Tests of the guard start from its defaults; those of the demo raise, see tests/demo/conftest.py.
DBPATTERNS = {key: value for key, value in DBPATTERNS.items() if key != "QUERIES"}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

for alias, database in DATABASES.items():
    database["CONN_MAX_AGE"] = 0
    if database["ENGINE"].endswith("sqlite3"):
        # A file: threads and processes share it as they would in production; memory they cannot.
        database["TEST"] = {"NAME": str(DATA_DIR / f"test_{alias}.sqlite3")}

(DATA_DIR / "static").mkdir(exist_ok=True)  # WhiteNoise warns when it is missing
