"""Upcasting: events of old versions are read as if today's code had written them.

    @upcaster("MoneyMoved", from_version=1)
    def amounts_have_a_currency(data):
        return {**data, "currency": "EUR"}

A stored event is never changed. Each function goes one version up, and an event is read through
all that are left; what `append` writes has the newest version known. `manage.py check` refuses a
type whose versions have a gap.
"""

from collections.abc import Callable, Iterator
from typing import Any

from dbpatterns.errors import UsageError
from dbpatterns.eventstore.errors import UnknownEventVersion

__all__ = ["Upcaster", "current_version", "gaps", "upcast", "upcaster"]

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

_upcasters: dict[str, dict[int, Upcaster]] = {}


def upcaster(type: str, /, *, from_version: int) -> Callable[[Upcaster], Upcaster]:
    """Register a function from `from_version` of an event type's data to the next version.

    It is given a dict of its own and returns one; it must not look anything up that may change.
    Raises: UsageError: `from_version` is under 1, or has another function.
    """

    def register(function: Upcaster) -> Upcaster:
        known = _upcasters.setdefault(type, {})
        if from_version < 1:
            raise UsageError(f"Versions of {type!r} begin at 1, not {from_version}.")
        if from_version in known:
            raise UsageError(
                f"Version {from_version} of {type!r} is upcast by {_name(known[from_version])} "
                f"already, not by {_name(function)}."
            )
        known[from_version] = function
        return function

    return register


def current_version(type: str) -> int:
    """Return the version that `append` writes: one above the last upcaster's, or 1."""
    return max(_upcasters.get(type, ()), default=0) + 1


def upcast(type: str, version: int, data: dict[str, Any]) -> dict[str, Any]:
    """Return an event's data in the current version.

    Raises: UnknownEventVersion: newer than this code. UsageError: a gap, or no dict returned.
    """
    newest = current_version(type)
    if version > newest:
        raise UnknownEventVersion(type=type, version=version, newest=newest)
    for each in range(version, newest):
        step = _upcasters[type].get(each)
        if step is None:
            raise UsageError(f"Nothing upcasts version {each} of {type!r}; see `manage.py check`.")
        data = step(data)
        if not isinstance(data, dict):
            raise UsageError(f"{_name(step)} must return a dict, not {data!r}.")
    return data


def gaps() -> Iterator[tuple[str, int]]:
    """Yield each type and version that has no upcaster although a later one has."""
    for type, known in sorted(_upcasters.items()):
        for version in range(1, max(known, default=0)):
            if version not in known:
                yield type, version


def _name(function: Upcaster) -> str:
    return f"{function.__module__}.{function.__qualname__}"
