"""Execute wrappers: one notes what a primary is asked, one asks it what no replica answered."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding._compat import move_cursor
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.replicas.choosing import (
    is_reading,
    primary_of,
    refuse_transaction_there,
)
from dbpatterns.sharding.replicas.positions import forget, is_asking, leave, lose
from dbpatterns.sharding.replicas.seen import is_open, seen
from dbpatterns.transactions.sqlstates import RETRYABLE, is_connection_loss, sqlstate_of

__all__ = ["watch"]

Execute = Callable[[Any, Any, bool, dict[str, Any]], Any]


def watch(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Watch a new connection of a shard that has replicas, or of a replica; others cost nothing.

    A receiver of `connection_created`.
    """
    with suppress(ConfigurationError):  # the checks tell
        for primary, replicas in ShardingSettings.load().replicas.items():
            if connection.alias == primary:
                _wrap(connection, _note)
            elif connection.alias in replicas:
                _wrap(connection, _move)
                forget(connection.alias)


def _wrap(connection: BaseDatabaseWrapper, wrapper: Any) -> None:
    # First: Django's `execute_wrapper()` takes the last one away when it ends.
    if wrapper not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, wrapper)


def _note(execute: Execute, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    if is_asking():
        return execute(sql, params, many, context)
    connection = context["connection"]
    if is_reading() and not is_open(connection):
        refuse_transaction_there(connection.alias)
    try:
        return execute(sql, params, many, context)
    finally:  # an error tells nothing of what became of the statement
        seen().note(connection, is_write=_may_write(sql))


def _move(execute: Execute, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Ask the primary what no replica has answered, on the cursor that waits for it.

    A replica failed, or was promoted: then its answer is dropped, and only a write stays there.
    """
    replica = context["connection"]
    primary = primary_of(replica.alias)
    is_kept = is_asking() or not is_reading() or is_open(replica) or primary == replica.alias
    try:
        found = execute(sql, params, many, context)
        if is_kept or not _is_promoted(replica):
            return found
        leave(replica.alias, primary)
        if _may_write(sql):
            return found
    except (OperationalError, InterfaceError) as error:
        if is_kept:
            raise
        state = sqlstate_of(error)
        if isinstance(error, InterfaceError) or is_connection_loss(state):
            lose(replica.alias, primary, error)
        elif state not in RETRYABLE:  # those it answers when replay needs what a query reads
            raise
    seen().turn_from(primary)
    move_cursor(context["cursor"], connections[primary])
    try:
        return execute(sql, params, many, {**context, "connection": connections[primary]})
    finally:
        seen().note(connections[primary], is_write=False)


def _is_promoted(replica: Any) -> bool:
    """Tell whether a server has ceased to follow; it says so with each answer, so no query."""
    said: str | None = replica.connection.info.parameter_status("in_hot_standby")
    return said == "off"


def _may_write(sql: Any) -> bool:
    return not (isinstance(sql, str) and sql.lstrip("( \n")[:6].upper() == "SELECT")
