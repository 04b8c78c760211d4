"""Shards of one kind: those for which Django compiles a question to the same SQL.

Compiling is most of what a statement costs, so it is done once for all of them. That holds where
the database's class, its server's version and its settings are equal, and the compiler reads
nothing else of the connection, which is watched for.
"""

from typing import Any

__all__ = ["Noting", "kind_of"]

ALIKE = frozenset(
    {
        *("Database", "data_types", "data_types_suffix", "display_name", "features", "operators"),
        *("ops", "pattern_esc", "pattern_ops", "timezone", "timezone_name", "vendor"),
    }
)
"""What connections of one kind have in common."""
OWN = frozenset(
    {
        *("NAME", "HOST", "PORT", "USER", "PASSWORD", "TEST", "ATOMIC_REQUESTS", "AUTOCOMMIT"),
        *("CONN_HEALTH_CHECKS", "CONN_MAX_AGE", "DISABLE_SERVER_SIDE_CURSORS"),
    }
)
"""The settings that each of them may have of its own."""


class Noting:
    """A connection that notes whether a compiler reads of it what another may have otherwise.

    As an expression of the caller's may do, or Django to refuse an inner query of another database.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.is_alike = True

    def __getattr__(self, name: str) -> Any:
        self.is_alike &= name in ALIKE
        return getattr(self._connection, name)


def kind_of(connection: Any) -> object:
    """Return what is equal for connections of one kind; None before the server has been asked.

    Features follow from its version, which Django asks for once. No query and no connecting: that
    has a deadline.
    """
    if connection.vendor == "sqlite":
        version = connection.get_database_version()  # of this process's library
    elif connection.connection is not None or "pg_version" in vars(connection):
        version = connection.pg_version
    else:
        return None
    settings = {name: each for name, each in connection.settings_dict.items() if name not in OWN}
    return type(connection), version, settings
