"""Telemetry: a pattern says what happened once; listeners turn it into a log line, metric or span.

    if telemetry.is_heard():
        telemetry.emit(Event("reshard.batch", database="shard_0", seconds=0.2, facts={"rows": 500}))

Nobody listening costs one truth test, when the caller asks first. A listener that raises is
logged and never breaks the work it watches.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Event", "Listener", "emit", "is_heard", "listening", "subscribe", "unsubscribe"]

logger = logging.getLogger("dbpatterns.telemetry")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `name` is `<pattern>.<past participle or noun>`."""

    name: str
    database: str = ""
    seconds: float = 0.0
    facts: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


Listener = Callable[[Event], None]
_LOCK = threading.RLock()
_listeners: tuple[tuple[Listener, object], ...] = ()
"""Each with its `listening` block, or None. Replaced, never changed: `emit` needs no lock."""


def is_heard() -> bool:
    """Tell whether anybody listens; ask before collecting facts that cost something."""
    return bool(_listeners)


def emit(event: Event) -> None:
    """Hand one event to every listener, in the order they subscribed, in this thread."""
    called: list[Listener] = []
    for listener, _ in _listeners:
        if listener in called:
            continue
        called.append(listener)
        try:
            listener(event)
        except Exception:
            logger.exception(
                "Listener %r failed on %s.", listener, event.name, extra={"event": event.name}
            )


def subscribe(listener: Listener) -> None:
    """Call `listener` for every event from now on; a second subscription changes nothing.

    Threads may subscribe and unsubscribe at once.
    """
    global _listeners
    with _LOCK:
        if (listener, None) not in _listeners:
            _listeners = (*_listeners, (listener, None))


def unsubscribe(listener: Listener) -> None:
    """Stop calling `listener`; one that never subscribed is no error."""
    global _listeners
    with _LOCK:
        _listeners = tuple(each for each in _listeners if each[0] != listener)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Subscribe for the length of a block; for tests and for spans around long work.

    Of several blocks with one listener, the last to end ends it; a subscription outlasts them.
    """
    global _listeners
    block = object()
    with _LOCK:
        _listeners = (*_listeners, (listener, block))
    try:
        yield
    finally:
        with _LOCK:
            _listeners = tuple(each for each in _listeners if each[1] is not block)
