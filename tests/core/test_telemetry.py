"""Telemetry: heard in order, silent when nobody listens, never harmful."""

import logging

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
