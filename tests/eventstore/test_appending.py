"""Appending: all or none, the version expected or nothing, one event for each id."""

import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import Max
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.eventstore import appending
from dbpatterns.eventstore.appending import MAX_BYTES, AppendResult, Expected, NewEvent, append
from dbpatterns.eventstore.errors import EventConflict, InvalidEvents, WrongExpectedVersion
from dbpatterns.eventstore.models import StoredEvent
from tests.processes import in_threads

ANY, NO_STREAM, EXISTS = Expected.ANY, Expected.NO_STREAM, Expected.EXISTS


def event(number: int = 0, **options: Any) -> NewEvent:
    return NewEvent("Counted", {"number": number}, **options)


def some(count: int) -> list[NewEvent]:
    return [event(number) for number in range(count)]


def versions(stream: str = "s") -> list[int]:
    rows = StoredEvent.objects.filter(stream=stream).order_by("position")
    return list(rows.values_list("version", flat=True))


@pytest.mark.django_db(transaction=True)
def test_two_who_read_before_they_insert_collide_with_an_error_of_the_database() -> None:
    both_have_read = threading.Barrier(2)

    def write() -> None:
        last = StoredEvent.objects.filter(stream="s").aggregate(Max("version"))
        both_have_read.wait(timeout=30)
        StoredEvent.objects.create(
            stream="s",
            version=(last["version__max"] or 0) + 1,
            type="Counted",
            type_version=1,
            data={},
            metadata={},
            event_id=uuid.uuid4(),
        )

    assert [type(each) for each in in_threads([write] * 2)].count(IntegrityError) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("expected", [NO_STREAM, 0, 2])
def test_of_eight_who_expect_the_same_version_one_wins(expected: Any) -> None:
    if expected == 2:
        append("s", some(2), expected_version=0)
    before = len(versions())
    results = in_threads([lambda: append("s", some(3), expected_version=expected)] * 8)
    won = [each for each in results if isinstance(each, AppendResult)]
    lost = [each for each in results if isinstance(each, WrongExpectedVersion)]
    assert (len(won), len(lost)) == (1, 7)
    assert versions() == list(range(1, before + 4))
    assert won[0].version == before + 3
    assert {each.actual_version for each in lost} == {before + 3}


@pytest.mark.django_db(transaction=True)
def test_those_who_expect_nothing_all_get_in_one_after_another() -> None:
    results = in_threads([lambda: append("s", some(2), expected_version=ANY)] * 8)
    assert sorted(each.version for each in results) == list(range(2, 17, 2))
    assert versions() == list(range(1, 17))


@pytest.mark.django_db
def test_the_result_says_where_the_events_are_in_their_order() -> None:
    result = append("s", some(5), expected_version=NO_STREAM)
    rows = StoredEvent.objects.order_by("version")
    assert [row.data["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert result == AppendResult(5, tuple(row.position for row in rows))
    assert list(result.positions) == sorted(result.positions)
    assert append("s", some(1), expected_version=5).version == 6


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("stored", "expected", "is_refused"),
    [
        (0, ANY, False),
        (2, ANY, False),
        (0, NO_STREAM, False),
        (2, NO_STREAM, True),
        (0, EXISTS, True),
        (2, EXISTS, False),
        (0, 0, False),
        (2, 0, True),
        (2, 1, True),
        (2, 2, False),
        (2, 3, True),
        (0, 1, True),
    ],
)
def test_what_a_stream_is_expected_to_be(stored: int, expected: Any, is_refused: bool) -> None:
    if stored:
        append("s", some(stored), expected_version=NO_STREAM)
    append("another", some(3), expected_version=NO_STREAM)
    if is_refused:
        with pytest.raises(WrongExpectedVersion, match=f"at version {stored}, and") as caught:
            append("s", some(2), expected_version=expected)
        assert caught.value.stream == "s"
        assert caught.value.expected_version == expected
        assert caught.value.actual_version == stored
        stored -= 2
    else:
        assert append("s", some(2), expected_version=expected).version == stored + 2
    assert versions() == list(range(1, stored + 3))


@pytest.mark.django_db(transaction=True)
def test_an_append_refused_leaves_the_transaction_around_it_usable() -> None:
    append("s", some(1), expected_version=NO_STREAM)
    with transaction.atomic():
        append("before", some(1), expected_version=NO_STREAM)
        with pytest.raises(WrongExpectedVersion):
            append("s", some(3), expected_version=NO_STREAM)
        append("after", some(1), expected_version=NO_STREAM)
    assert [versions(each) for each in ("before", "s", "after")] == [[1], [1], [1]]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("events", [1, 10])
@pytest.mark.parametrize("expected", [ANY, NO_STREAM, 0])
def test_an_append_is_one_statement(events: int, expected: Any) -> None:
    with CaptureQueriesContext(connection) as queries:
        append("s", some(events), expected_version=expected)
    assert [each["sql"].split()[0] for each in queries.captured_queries] == ["INSERT"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("expected", [ANY, NO_STREAM, 0])
def test_the_same_events_again_are_no_second_events(expected: Any) -> None:
    events = some(3)
    first = append("s", events, expected_version=expected)
    append("s", some(1), expected_version=3)
    again = append("s", events, expected_version=expected)
    assert again == AppendResult(3, first.positions, is_replay=True)
    assert versions() == [1, 2, 3, 4]


@pytest.mark.django_db(transaction=True)
def test_the_same_events_by_eight_at_once_are_stored_once() -> None:
    events = some(3)
    results = in_threads([lambda: append("s", events, expected_version=ANY)] * 8)
    assert sorted(each.is_replay for each in results) == [False] + [True] * 7
    assert len({each.positions for each in results}) == 1
    assert versions() == [1, 2, 3]


a, b, c = uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("stream", "ids", "known"),
    [
        ("s", [b, c], {b}),
        ("s", [c, a], {a}),
        ("s", [b, a], {a, b}),
        ("another", [a, b], {a, b}),
    ],
)
def test_a_batch_that_matches_by_half_is_refused(
    stream: str, ids: list[uuid.UUID], known: set[uuid.UUID]
) -> None:
    append("s", [event(event_id=each) for each in (a, b)], expected_version=NO_STREAM)
    with pytest.raises(EventConflict, match="Repeat a batch whole") as caught:
        append(stream, [event(event_id=each) for each in ids], expected_version=ANY)
    assert caught.value.stream == stream
    assert set(caught.value.event_ids) == known
    assert StoredEvent.objects.count() == 2


@pytest.mark.django_db
def test_a_part_of_what_is_stored_is_a_repetition_of_it() -> None:
    append("s", [event(event_id=each) for each in (a, b)], expected_version=NO_STREAM)
    assert append("s", [event(event_id=a)], expected_version=NO_STREAM).version == 1


big = "ü" * (MAX_BYTES // 2)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("stream", "events", "reason"),
    [
        ("s", [], "1 to 1,000 events, not 0"),
        ("s", some(1001), "not 1,001"),
        ("s", [NewEvent("T", {"text": big})], "bytes of JSON"),
        ("s", [NewEvent("T", {}, {"text": big})], "bytes of JSON"),
        ("s", [NewEvent("T", {"text": "x" * (MAX_BYTES - 12)})], "1,000,001 bytes of JSON"),
        ("", some(1), "1 to 255 characters"),
        ("s" * 256, some(1), "1 to 255 characters"),
        ("a\0b", some(1), "no NUL"),
        ("\ud800", some(1), "characters of Unicode"),
        ("s", [NewEvent("T\ud800")], "characters of Unicode"),
        ("s", [NewEvent("")], "1 to 255 characters"),
        ("s", [event(event_id=a), event(event_id=a)], "twice in the batch"),
        ("s", [NewEvent("T", {"x": object()})], "no JSON"),
        ("s", [NewEvent("T", {"x": float("nan")})], "no JSON"),
        ("s", [NewEvent("T", {"x": "\ud800"})], "no JSON"),
        ("s", [NewEvent("T", {1: "x"})], "the key 1 is not text"),  # type: ignore[dict-item]
        ("s", [NewEvent("T", {"x": [({}, {None: 1})]})], "the key None is not text"),
        ("s", [NewEvent("T", {}, {"x": {True: 1}})], "the key True is not text"),
        ("s", [NewEvent("T", {"x": "\\\0"})], "has a NUL"),
        ("s", [NewEvent("T", {"\0": 1})], "has a NUL"),
        ("s", [NewEvent("T", [1])], "not a dict"),  # type: ignore[arg-type]
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_events_over_a_limit_are_refused_and_nothing_is_written(
    stream: str, events: list[NewEvent], reason: str
) -> None:
    with CaptureQueriesContext(connection) as queries, pytest.raises(InvalidEvents, match=reason):
        append(stream, events, expected_version=0)
    assert len(queries) == 0


@pytest.mark.parametrize(
    ("events", "facts"),
    [
        (some(1001), ("s", 1_001, 1_000)),
        ([NewEvent("T", {"text": "x" * (MAX_BYTES - 12)})], ("s", 1_000_001, 1_000_000)),
        ([NewEvent("")], (None, None, None)),
    ],
    ids=["events", "bytes", "no limit"],
)
def test_what_is_over_a_limit_tells_the_facts(events: list[NewEvent], facts: object) -> None:
    with pytest.raises(InvalidEvents) as caught:
        append("s", events, expected_version=0)
    assert (caught.value.stream, caught.value.actual, caught.value.limit) == facts


@pytest.mark.django_db
def test_a_moment_keeps_its_microseconds() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)
    append("s", [NewEvent("T", {"at": at, "time": time(3, 4, 5, 123_456)})], expected_version=0)
    data = StoredEvent.objects.get().data
    assert data == {"at": "2026-01-02T03:04:05.123456Z", "time": "03:04:05.123456"}
    assert datetime.fromisoformat(data["at"]) == at


def test_data_that_is_too_deep_is_refused() -> None:
    data: dict[str, Any] = {}
    for _ in range(100_000):
        data = {"in": data}
    with pytest.raises(InvalidEvents, match="no JSON"):
        append("s", [NewEvent("T", data)], expected_version=0)


@pytest.mark.django_db
def test_another_event_under_a_stored_id_is_a_conflict() -> None:
    append("s", [NewEvent("Paid", {"amount": 1}, event_id=a)], expected_version=0)
    with pytest.raises(EventConflict):
        append("s", [NewEvent("Refunded", {"amount": 1}, event_id=a)], expected_version=0)


@pytest.mark.django_db
def test_other_data_under_a_stored_id_is_a_conflict() -> None:
    append("s", [NewEvent("Paid", {"amount": 1}, event_id=a)], expected_version=0)
    with pytest.raises(EventConflict, match="new events new ids"):
        append("s", [NewEvent("Paid", {"amount": 100}, event_id=a)], expected_version=0)
    with pytest.raises(EventConflict):
        append("s", [NewEvent("Paid", {"amount": True}, event_id=a)], expected_version=0)
    assert StoredEvent.objects.get().data == {"amount": 1}


@pytest.mark.django_db
def test_the_same_data_is_a_repetition_however_it_is_written() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    data = {"b": 1.5e300, "a": [0.1, 1e-7, -0.0, 2**70, "ü\u2028😀", None, True, at], "c": {}}
    twin = {"c": {}, "a": (*data["a"],), "b": 1.5e300}  # type: ignore[misc]
    append("s", [NewEvent("T", data, {"try": 1}, a)], expected_version=0)
    assert append("s", [NewEvent("T", twin, {"try": 2}, a)], expected_version=0).is_replay


@pytest.mark.django_db
def test_data_is_not_compared_with_that_of_another_version_of_the_type() -> None:
    append("s", [NewEvent("T", {"amount": 1}, event_id=a)], expected_version=0)
    StoredEvent.objects.update(type_version=2, data={"amount": 1, "currency": "EUR"})
    assert append("s", [NewEvent("T", {"amount": 1}, event_id=a)], expected_version=0).is_replay


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_those_who_lose_again_and_again_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "_TRIES", 20)

    def write() -> None:
        for _ in range(5):
            with transaction.atomic():
                append("hot", some(1), expected_version=ANY)

    assert in_threads([write] * 40) == [None] * 40
    assert versions("hot") == list(range(1, 201))


@pytest.mark.django_db
def test_what_is_just_within_the_limits_is_stored_as_it_was() -> None:
    append("s" * 255, some(1000), expected_version=0)
    odd: Mapping[str, Any] = {"a": [1, None, {"ü": "\\u0000 '\"{}%s"}], "b": 1.5, "c": "\\"}
    text = "x" * (MAX_BYTES - len('{"text":""}') - len("{}"))
    for data in ({"text": text}, odd, {}):
        append("odd", [NewEvent("T", data, {})], expected_version=ANY)
    rows = StoredEvent.objects.filter(stream="odd").order_by("version")
    assert [row.data for row in rows] == [{"text": text}, odd, {}]
    assert str(rows[1]) == "odd 2 T"


@pytest.mark.parametrize("version", [-1, None, "5", "any version", 0.0, True])
def test_what_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(UsageError, match=f"0 or more, not {version!r}"):
        append("s", some(1), expected_version=version)
