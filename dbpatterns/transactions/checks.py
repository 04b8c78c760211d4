"""System checks: SQLite's transactions must lock at BEGIN, and all must be ours to commit."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections

__all__ = ["begins_with_lock", "check_sqlite", "declare"]

_DECLARED: dict[str, bool] = {}
"""Aliases that an `atomic` of ours was made for, and whether one has a retry."""


def declare(using: str | None, *, is_retried: bool) -> None:
    """Note that transactions are made on a database, so that the check looks at it."""
    alias = using or DEFAULT_DB_ALIAS
    _DECLARED[alias] = _DECLARED.get(alias, False) or is_retried


def begins_with_lock(alias: str) -> bool:
    """Tell whether SQLite's transactions on a database begin with their write lock; no query."""
    mode = str(connections.settings[alias]["OPTIONS"].get("transaction_mode", ""))
    return mode.upper() in ("IMMEDIATE", "EXCLUSIVE")


def check_sqlite(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report SQLite databases whose transactions cannot wait (W020), or retry in vain (E021).

    Of any vendor, those with AUTOCOMMIT off, where `atomic` commits nothing (W021). Touches no
    database; looks at those that an imported `atomic` of ours names.
    """
    return list(_messages())


def _messages() -> Iterator[checks.CheckMessage]:
    for alias, is_retried in sorted(_DECLARED.items()):
        settings = connections.settings.get(alias, {})
        if not settings.get("AUTOCOMMIT", True):
            yield checks.Warning(
                f"AUTOCOMMIT is off for {alias!r}: whoever calls commit() ends its transactions, "
                "so an atomic() is a savepoint, and a retry is refused.",
                hint=f'Leave "AUTOCOMMIT" out of DATABASES["{alias}"].',
                obj=alias,
                id="dbpatterns.W021",
            )
        if not settings.get("ENGINE", "").endswith("sqlite3") or begins_with_lock(alias):
            continue
        hint = f'Set DATABASES["{alias}"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".'
        what = f"Transactions on {alias!r} begin without SQLite's write lock, so one that reads "
        what += 'and then writes fails at once with "database is locked" when another has written.'
        if is_retried:
            yield checks.Error(
                f"{what} An atomic(retry=…) would run it again, and meet the same.",
                hint=hint,
                obj=alias,
                id="dbpatterns.E021",
            )
        else:
            yield checks.Warning(what, hint=hint, obj=alias, id="dbpatterns.W020")
