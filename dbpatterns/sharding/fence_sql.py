"""The statements of the fences: names and one group are put in, quoted; nothing of a user's."""

from typing import Any
from uuid import UUID

from django.db.backends.utils import truncate_name
from django.db.models import Model

from dbpatterns.sharding.keys import key_field, kind_of
from dbpatterns.sharding.models import Fence, FencedGroup
from dbpatterns.sharding.stale import FENCE

__all__ = ["drop", "lock", "make"]

_POSTGRESQL = """
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM 1 FROM {groups} WHERE name = {group} FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the fence of % was made after this transaction began', {group}
                USING ERRCODE = '40001', CONSTRAINT = '{name}';
        END IF;
    END IF;
    IF EXISTS (SELECT 1 FROM {fences} WHERE "group" = {group} AND (
        high IS NULL AND NOT is_range AND low = NEW.{column}::text
        OR is_range AND NEW.{column} {collate} >= low::{type}
            AND (high IS NULL OR NEW.{column} {collate} < high::{type})
    )) THEN
        RAISE EXCEPTION 'this shard is closed to % of group %', NEW.{column}, {group}
            USING ERRCODE = '40001', CONSTRAINT = '{name}';
    END IF;
    RETURN NEW;
END $body$;
CREATE OR REPLACE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION {function}()
"""

_SQLITE = """
CREATE TRIGGER IF NOT EXISTS {trigger} BEFORE {event} ON {table}
WHEN EXISTS (SELECT 1 FROM {fences} WHERE "group" = {group} AND (
    high IS NULL AND NOT is_range AND low = CAST(NEW.{column} AS TEXT)
    OR is_range AND NEW.{column} >= CAST(low AS {type})
        AND (high IS NULL OR NEW.{column} < CAST(high AS {type}))
))
BEGIN
    SELECT RAISE(ABORT, '{name}: this shard is closed to the key');
END
"""
_EVENTS = ("INSERT", "UPDATE")


def lock(connection: Any, models: list[type[Model]]) -> None:
    """Wait for the tables' writers and keep new ones out until the commit; readers go on.

    On SQLite the transaction's first write has done that.
    """
    if connection.vendor == "postgresql" and models:
        tables = ", ".join(connection.ops.quote_name(each._meta.db_table) for each in models)
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")


def make(connection: Any, model: type[Model], group: str) -> None:
    """Make the triggers of a table, where they are not there."""
    quote = connection.ops.quote_name
    field = key_field(model)
    names = {
        "name": FENCE,
        "function": quote(_function(model)),
        "table": quote(model._meta.db_table),
        "column": quote(field.column),
        "fences": quote(Fence._meta.db_table),
        "groups": quote(FencedGroup._meta.db_table),
        "group": connection.SchemaEditorClass(connection).quote_value(group),
    }
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            kind = {int: "bigint", str: "text", UUID: "uuid"}[kind_of(field)]
            collate = 'COLLATE "C"' if kind == "text" else ""
            cursor.execute(_POSTGRESQL.format(type=kind, collate=collate, **names))
        else:
            kind = "INTEGER" if kind_of(field) is int else "TEXT"
            for event in _EVENTS:
                trigger = quote(_trigger(model, event))
                cursor.execute(_SQLITE.format(type=kind, trigger=trigger, event=event, **names))


def drop(connection: Any, model: type[Model]) -> None:
    """Take the triggers of a table away."""
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            table = quote(model._meta.db_table)
            cursor.execute(f"DROP TRIGGER IF EXISTS {FENCE} ON {table}")
            cursor.execute(f"DROP FUNCTION IF EXISTS {quote(_function(model))}()")
        else:
            for event in _EVENTS:
                cursor.execute(f"DROP TRIGGER IF EXISTS {quote(_trigger(model, event))}")


def _function(model: type[Model]) -> str:
    return truncate_name(f"{FENCE}_{model._meta.db_table}", 63)  # of PostgreSQL alone


def _trigger(model: type[Model], event: str) -> str:
    return f"{FENCE}_{event.lower()}_{model._meta.db_table}"
