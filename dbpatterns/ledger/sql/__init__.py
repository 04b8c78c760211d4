"""The triggers and functions of the ledger, one file per version and vendor.

A later version is a new file and a migration of one line, `operations = [sql.install(2)]`; taking
that migration back puts the version before in place, and taking back the first drops everything.

On SQLite Django changes a column by making the table anew. That loses its triggers, and fails for
the entries while a trigger of the transfers reads them: a migration that alters one of these
tables begins with `run` of version 0 and ends with `install` of the current one.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from django.db import connections, migrations

__all__ = ["CURRENT", "install", "missing", "run", "statements"]

CURRENT = 1
"""The version the package's code speaks to."""

_HERE = Path(__file__).parent
_MADE = re.compile(r"^CREATE (?:OR REPLACE )?(FUNCTION|TRIGGER) (\w+)", re.MULTILINE)


def install(version: int) -> migrations.RunPython:
    """Return the operation that installs a version, and whose reverse installs the one before."""
    return migrations.RunPython(
        partial(_migrate, version), partial(_migrate, version - 1), elidable=False
    )


def missing(using: str) -> list[str]:
    """Return the triggers and functions that a database with the ledger's tables lacks.

    A trigger that is disabled, or fires on a replica only, is lacking too. Two queries; nothing is
    missing where the tables are not, or on another vendor.
    """
    connection = connections[using]
    if not _is_served(connection.vendor):
        return []
    asked = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " WHERE pg_table_is_visible(tgrelid) AND relname LIKE 'dbpatterns_ledger_%'"
        " AND NOT tgisinternal AND tgenabled IN ('O', 'A')"
        " UNION SELECT proname FROM pg_proc WHERE proname LIKE 'dbpatterns_ledger_%'"
        " AND pg_function_is_visible(oid)",
    }[connection.vendor]
    with connection.cursor() as cursor:
        if "dbpatterns_ledger_entry" not in connection.introspection.table_names(cursor):
            return []
        cursor.execute(asked)
        there = {row[0] for row in cursor.fetchall()}
    made = [name for _, name in _MADE.findall(_read(connection.vendor, CURRENT))]
    return [name for name in made if name not in there]


def run(connection: Any, version: int) -> None:
    """Bring a database to a version of the triggers and functions; 0 for none."""
    if _is_served(connection.vendor):
        with connection.cursor() as cursor:
            for statement in statements(_read(connection.vendor, version)):
                cursor.execute(statement)


def statements(text: str) -> Iterator[str]:
    """Yield the statements of a file; a blank line stands between any two."""
    statement = ""
    for part in text.split("\n\n"):
        statement += part + "\n\n"
        if statement.count("$$") % 2 == 0:  # else the blank line stands inside a function
            yield statement
            statement = ""


def _migrate(version: int, apps: Any, schema_editor: Any) -> None:
    run(schema_editor.connection, version)


def _is_served(vendor: str) -> bool:
    return vendor in ("postgresql", "sqlite")


def _read(vendor: str, version: int) -> str:
    return (_HERE / f"{vendor}_{version}.sql").read_text(encoding="utf-8")
