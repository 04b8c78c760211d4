"""The errors every pattern builds on.

Two questions decide which one to raise. Is the code wrong? `UsageError`, which nobody
should catch. Are the settings wrong? `ConfigurationError`, which Django reports at start.
What the world does wrong (a lost connection, a stale row) gets an error of its own in
its pattern, which also inherits what a generic handler already catches.
"""

import copyreg
from typing import Any

from django.core.exceptions import ImproperlyConfigured

__all__ = ["ConfigurationError", "DBPatternsError", "UsageError"]


class DBPatternsError(Exception):
    """Any error this package raises: the one name to catch.

    It can be copied and pickled, and so come from another process, whatever its constructor takes.
    """

    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class UsageError(DBPatternsError, RuntimeError):
    """The calling code is wrong. Never catch this: change the code."""


class ConfigurationError(DBPatternsError, ImproperlyConfigured):
    """The settings are wrong. The message names the line to add or change."""
