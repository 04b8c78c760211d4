"""Snapshots: what a long stream adds up to, so that reading it need not begin at its first event.

    state, version = replay("account:7", apply, initial={"balance": 0}, kind="balance-v1")

A snapshot is a cache of one function's result. Change the function, and give it another `kind`.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from django.db import router

from dbpatterns.eventstore.errors import InvalidState
from dbpatterns.eventstore.models import StreamSnapshot
from dbpatterns.eventstore.reading import RecordedEvent, read
from dbpatterns.exact_json import storable_json

__all__ = ["Apply", "replay", "save_snapshot"]

Apply = Callable[[dict[str, Any], RecordedEvent], dict[str, Any]]


def replay(
    stream: str, apply: Apply, *, initial: dict[str, Any], kind: str = "", using: str | None = None
) -> tuple[dict[str, Any], int]:
    """Return a stream's state and its version, 0 when there is no such stream.

    One query for the snapshot, if it has a kind, and one for each thousand events after it. The
    version is what the next `append` expects.

    Args:
        apply: returns the state after an event; the state is JSON values.
    """
    state, version = deepcopy(initial), 0  # which `apply` may change
    if kind:
        snapshots = StreamSnapshot.objects.using(using or router.db_for_read(StreamSnapshot))
        if found := snapshots.filter(stream=stream, kind=kind).first():
            state, version = found.state, found.version
    for event in read(stream, from_version=version + 1, using=using):
        state, version = apply(state, event), event.version
    return state, version


def save_snapshot(
    stream: str, kind: str, version: int, state: dict[str, Any], *, using: str | None = None
) -> None:
    """Keep a state that `replay` returned, unless a later one is kept; two statements at most.

    Raises: InvalidState: it has NaN, a key that is not text, or other things that are no JSON.
    """
    try:
        storable_json(state)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidState(
            f"The state {kind!r} of stream {stream!r} is no JSON: {error}. Keep numbers as "
            "numbers or text, and let keys be text.",
            stream=stream,
            kind=kind,
        ) from error
    alias = using or router.db_for_write(StreamSnapshot)
    snapshots = StreamSnapshot.objects.using(alias)
    kept = snapshots.filter(stream=stream, kind=kind)
    if not kept.filter(version__lt=version).update(version=version, state=state):
        new = StreamSnapshot(stream=stream, kind=kind, version=version, state=state)
        snapshots.bulk_create([new], ignore_conflicts=True)
