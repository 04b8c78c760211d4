"""Telemetry: a pattern says what happened once; listeners turn it into a log line, metric or span.

    if telemetry.is_heard():
        telemetry.emit(Event("reshard.batch", database="shard_0", seconds=0.2, facts={"rows": 500}))

Nobody listening costs one truth test, when the caller asks first. A listener that raises is
logged and never breaks the work it watches.
"""

import logging
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
_listeners: tuple[Listener, ...] = ()


def is_heard() -> bool:
    """Tell whether anybody listens; ask before collecting facts that cost something."""
    return bool(_listeners)


def emit(event: Event) -> None:
    """Hand one event to every listener, in the order they subscribed, in this thread."""
    for listener in _listeners:
        try:
            listener(event)
        except Exception:
            logger.exception(
                "Listener %r failed on %s.", listener, event.name, extra={"event": event.name}
            )


def subscribe(listener: Listener) -> None:
    """Call `listener` for every event from now on; a second subscription changes nothing."""
    global _listeners
    if listener not in _listeners:
        _listeners = (*_listeners, listener)


def unsubscribe(listener: Listener) -> None:
    """Stop calling `listener`; one that never subscribed is no error."""
    global _listeners
    _listeners = tuple(each for each in _listeners if each != listener)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Subscribe for the length of a block; for tests and for spans around long work."""
    subscribe(listener)
    try:
        yield
    finally:
        unsubscribe(listener)
