"""Optimistic locking: no save overwrites what it has not read."""

from dbpatterns.optimistic.errors import StaleObjectError, UnknownVersion
from dbpatterns.optimistic.fields import VersionField
from dbpatterns.optimistic.models import VersionedManager, VersionedModel, VersionedQuerySet

__all__ = [
    "StaleObjectError",
    "UnknownVersion",
    "VersionField",
    "VersionedManager",
    "VersionedModel",
    "VersionedQuerySet",
]
