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
_listeners: tuple[Listener, ...] = ()
"""Whom to call. Replaced, never changed, so that `emit` needs no lock."""
_subscribed: list[Listener] = []
_in_blocks: list[Listener] = []
"""One entry for each `listening` block that is open."""


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
    """Call `listener` for every event from now on; a second subscription changes nothing.

    Threads may subscribe and unsubscribe at once.
    """
    with _LOCK:
        if listener not in _subscribed:
            _subscribed.append(listener)
        _replace()


def unsubscribe(listener: Listener) -> None:
    """Stop calling `listener`; one that never subscribed is no error."""
    with _LOCK:
        for those in (_subscribed, _in_blocks):
            those[:] = [each for each in those if each != listener]
        _replace()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Subscribe for the length of a block; for tests and for spans around long work.

    Of several blocks with one listener, the last to end ends it; a subscription outlasts them.
    """
    with _LOCK:
        _in_blocks.append(listener)
        _replace()
    try:
        yield
    finally:
        with _LOCK:
            if listener in _in_blocks:  # else it was unsubscribed
                _in_blocks.remove(listener)
            _replace()


def _replace() -> None:
    """Have all listeners called, each once, in the order in which they came."""
    global _listeners
    wanted = (*_subscribed, *_in_blocks)
    kept = [each for each in _listeners if each in wanted]
    for each in wanted:
        if each not in kept:
            kept.append(each)
    _listeners = tuple(kept)
