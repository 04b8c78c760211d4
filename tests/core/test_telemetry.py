"""Telemetry: heard in order, silent when nobody listens, never harmful."""

import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dbpatterns import telemetry
from dbpatterns.telemetry import Event


def test_listeners_hear_every_event_in_order() -> None:
    heard: list[str] = []
    with (
        telemetry.listening(lambda event: heard.append(f"first {event.name}")),
        telemetry.listening(lambda event: heard.append(f"second {event.name}")),
    ):
        telemetry.emit(Event("reshard.batch"))
    telemetry.emit(Event("reshard.done"))
    assert heard == ["first reshard.batch", "second reshard.batch"]


def test_is_heard_says_whether_facts_are_worth_collecting() -> None:
    assert not telemetry.is_heard()
    with telemetry.listening(print):
        assert telemetry.is_heard()
    assert not telemetry.is_heard()


def test_a_listener_subscribed_twice_hears_once() -> None:
    heard: list[Event] = []
    telemetry.subscribe(heard.append)
    with telemetry.listening(heard.append):
        telemetry.emit(Event("once"))
    telemetry.unsubscribe(heard.append)
    telemetry.unsubscribe(heard.append)
    assert heard == [Event("once")]


def test_a_block_within_another_leaves_the_outer_one_and_a_subscription_alone() -> None:
    heard: list[str] = []

    def listen(event: Event) -> None:
        heard.append(event.name)

    with telemetry.listening(listen):
        with telemetry.listening(listen):
            telemetry.emit(Event("inner"))
        telemetry.emit(Event("outer"))
        telemetry.subscribe(listen)
    telemetry.emit(Event("subscribed"))
    with telemetry.listening(listen):
        telemetry.unsubscribe(listen)
        telemetry.emit(Event("never"))
    assert heard == ["inner", "outer", "subscribed"]
    assert not telemetry.is_heard()


class Meeting:
    """A listener that is compared by two threads at once, unless one keeps the other waiting."""

    barrier: threading.Barrier | None = None

    def __call__(self, event: Event) -> None: ...

    def __eq__(self, other: object) -> bool:
        if self.barrier is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.barrier.wait(timeout=0.5)
        return self is other


def test_two_threads_that_unsubscribe_at_once_both_do() -> None:
    def one(event: Event) -> None: ...
    def two(event: Event) -> None: ...

    meeting = Meeting()
    for listener in (meeting, one, two):
        telemetry.subscribe(listener)
    meeting.barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(telemetry.unsubscribe, (one, two)))
    telemetry.unsubscribe(meeting)
    assert not telemetry.is_heard()


def test_a_failing_listener_breaks_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def fail(event: Event) -> None:
        raise RuntimeError("out of order")

    with (
        caplog.at_level(logging.ERROR, "dbpatterns.telemetry"),
        telemetry.listening(fail),
        telemetry.listening(lambda event: heard.append(event.name)),
    ):
        telemetry.emit(Event("reshard.batch"))
    assert heard == ["reshard.batch"]
    assert "failed on reshard.batch" in caplog.text
    assert "out of order" in caplog.text


def test_an_event_cannot_be_changed() -> None:
    event = Event("reshard.batch")
    with pytest.raises(AttributeError):
        event.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        event.facts["rows"] = 1  # type: ignore[index]
