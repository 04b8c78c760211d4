"""A writer that dies before its nth statement, for every n, and what it leaves."""

import os
import signal
from collections.abc import Callable
from typing import Any

from django.db import connections

from dbpatterns.sharding.errors import ValueTaken
from dbpatterns.sharding.lookups import indexes_of
from dbpatterns.sharding.models import LookupEntry
from dbpatterns.sharding.reservations import resolve
from tests.parcels.models import Member
from tests.processes import until

__all__ = ["run"]

VALUE, OTHER = "eva@example.com", "olga@example.com"


def run(names: dict[str, str], a: int, b: int) -> dict[str, Any]:
    """Kill a child before each statement of each write; return what was wrong, if anything."""
    for alias, name in names.items():
        connections[alias].settings_dict["NAME"] = name
    faults: list[str] = []
    states: set[str] = set()
    kills = 0
    for write in (_make, _change, _delete):
        for number in range(100):
            _begin(a, is_there=write is not _make)
            connections.close_all()
            if not _killed(lambda: write(a), number):  # noqa: B023
                break
            kills += 1
            states.add(str(sorted(LookupEntry.objects.values_list("value", "is_settled"))))
            faults += [f"{write.__name__} {number}: {each}" for each in _faults(a, b)]
        else:
            faults.append(f"{write.__name__} never ends")
    connections.close_all()
    return {"faults": faults, "kills": kills, "states": len(states)}


def _begin(a: int, *, is_there: bool) -> None:
    LookupEntry.objects.all().delete()
    for alias in connections:
        if alias != "default":
            Member.objects.using(alias).all().delete()
    LookupEntry.objects.all().delete()
    if is_there:
        Member.objects.create(id=a, email=VALUE)


def _make(a: int) -> None:
    Member.objects.create(id=a, email=VALUE)


def _change(a: int) -> None:
    member = Member.objects.get(pk=a)
    member.email = OTHER
    member.save()


def _delete(a: int) -> None:
    Member.objects.get(pk=a).delete()


def _killed(write: Callable[[], None], number: int) -> bool:
    """Run a write in a child that kills itself before a statement; tell whether it got there."""
    child = os.fork()
    if child == 0:
        left = [number]

        def count(execute: Any, *args: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return execute(*args)

        for alias in connections:
            connections[alias].execute_wrappers.append(count)
        try:
            write()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _faults(a: int, b: int) -> list[str]:
    (index,) = indexes_of(Member)

    def is_swept() -> bool:  # the server may take a moment to see that its client is gone
        pending = LookupEntry.objects.filter(is_settled=False)
        return None not in {resolve(index, each) for each in pending}

    has = Member.objects.filter(pk=a).values_list("email", flat=True).first()
    if has is not None and Member.objects.filter(email=has).count() != 1:
        return [f"{has} is not found"]
    until(is_swept)
    has = Member.objects.filter(pk=a).values_list("email", flat=True).first()
    entered = set(LookupEntry.objects.values_list("value", flat=True))
    found = []
    if entered != ({has} - {None}):
        found.append(f"the row has {has}, the index {sorted(entered)}")
    for value in (VALUE, OTHER):
        try:
            Member.objects.create(id=b, email=value)
        except ValueTaken:
            is_free = False
        else:
            is_free = True
            Member.objects.get(pk=b).delete()
        if is_free == (value == has):
            found.append(f"the row has {has}, and {value} was {'free' if is_free else 'taken'}")
    return found
