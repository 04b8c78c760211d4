"""A project with three shards of its own, whose schema a test changes by processes."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
from django.db import connections

from tests.processes import ROOT, until

__all__ = ["SHARDS", "Fleet"]

SHARDS = ("north", "east", "south")
CLUSTERS = {"default": "default", "north": "shard_0", "east": "shard_1", "south": "shard_0"}


class Fleet:
    """Its databases, empty or copied: files, or on the suite's clusters; `close` drops them."""

    def __init__(self, folder: Path, template: "Fleet | None" = None) -> None:
        self.is_postgresql = connections["default"].vendor == "postgresql"
        self.databases: dict[str, dict[str, Any]] = {}
        self.environment: dict[str, str] = {}
        for alias, cluster in CLUSTERS.items():
            if self.is_postgresql:
                name = f"fleet_{alias}" if template else f"fleet_template_{alias}"
                _on_cluster(cluster, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                source = template.databases[alias]["NAME"] if template else "template1"
                _on_cluster(cluster, f"CREATE DATABASE {name} TEMPLATE {source}")
                server = connections[cluster].settings_dict
                self.databases[alias] = {
                    **{key: server[key] for key in ("ENGINE", "HOST", "PORT", "USER")},
                    "NAME": name,
                }
            else:
                self.databases[alias] = {
                    "ENGINE": "django.db.backends.sqlite3",
                    "NAME": str(folder / f"{alias}.sqlite3"),
                    "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
                }
                if template:
                    shutil.copy(template.databases[alias]["NAME"], folder)

    def close(self) -> None:
        """Drop the databases."""
        if self.is_postgresql:
            for alias, cluster in CLUSTERS.items():
                name = self.databases[alias]["NAME"]
                _on_cluster(cluster, f"DROP DATABASE {name} WITH (FORCE)")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `django-admin` with these arguments."""
        return subprocess.Popen(
            [sys.executable, "-m", "django", *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": ROOT,
                "DJANGO_SETTINGS_MODULE": "tests.fleet.settings",
                "FLEET": json.dumps(self.databases),
                **self.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, exits: int = 0) -> tuple[str, str]:
        """Run `django-admin` to its end; return what it printed."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == exits, (process.returncode, out, err)
        return out, err

    def migrate(self, *arguments: str, exits: int = 0) -> dict[str, Any]:
        """Run `migrate --shards all --format json`; return what it says of each shard."""
        run = ("migrate", "--shards", "all", "--format", "json", "-v", "0", *arguments)
        out, _ = self.run(*run, exits=exits)
        shards: dict[str, Any] = json.loads(out)["shards"]
        return shards

    def connect(self, alias: str) -> Any:
        """Return a connection of the driver, which commits each statement."""
        if self.is_postgresql:
            database = self.databases[alias]
            return psycopg.connect(
                host=database["HOST"],
                port=database["PORT"],
                user=database["USER"],
                dbname=database["NAME"],
                autocommit=True,
            )
        return sqlite3.connect(self.databases[alias]["NAME"], isolation_level=None, timeout=20)

    def rows(self, alias: str, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        connection = self.connect(alias)
        try:
            return [tuple(row) for row in connection.execute(query).fetchall()]
        finally:
            connection.close()

    def do(self, alias: str, statement: str) -> None:
        """Run a statement."""
        connection = self.connect(alias)
        connection.execute(statement)
        connection.close()

    def applied(self, alias: str) -> list[str]:
        """Return what the shard itself says was applied of the app."""
        query = "SELECT name FROM django_migrations WHERE app = 'fleet' ORDER BY name"
        return [name for (name,) in self.rows(alias, query)]

    def recorded(self) -> dict[tuple[str, str], str]:
        """Return the state of each migration of each shard that the control database has."""
        query = (
            "SELECT shard, name, state FROM dbpatterns_sharding_shardmigration WHERE app = 'fleet'"
        )
        return {(shard, name): state for shard, name, state in self.rows("default", query)}

    def held(self, alias: str) -> Any:
        """Return a connection that holds the shard's table, so that changes of it wait."""
        connection = self.connect(alias)
        connection.execute("BEGIN" if self.is_postgresql else "BEGIN IMMEDIATE")
        if self.is_postgresql:
            connection.execute("LOCK TABLE fleet_van")
        return connection

    def until_recorded(self, shard: str, name: str, state: str) -> None:
        """Wait until the control database says so."""
        until(lambda: self.recorded().get((shard, name)) == state)


def _on_cluster(alias: str, statement: str) -> None:
    server = connections[alias].settings_dict
    address = {"host": server["HOST"], "port": server["PORT"], "user": server["USER"]}
    with psycopg.connect(**address, dbname="postgres", autocommit=True) as connection:
        connection.execute(statement)
