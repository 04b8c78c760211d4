"""Several streams by one statement: all or none, each in its own order, none half told."""

import threading
import uuid
from typing import Any

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.eventstore import streams
from dbpatterns.eventstore.appending import Expected, NewEvent, append
from dbpatterns.eventstore.errors import InvalidEvents
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.reading import RecordedEvent, read, read_all
from dbpatterns.eventstore.streams import append_many, read_many
from tests.processes import in_threads, until
from tests.testapp.models import Balance

committed = pytest.mark.django_db(transaction=True)


class Crash(Exception):
    pass


def some(*numbers: int, **options: Any) -> list[NewEvent]:
    return [NewEvent("Counted", {"number": number}, **options) for number in numbers]


def to(stream: str, *numbers: int) -> list[tuple[str, NewEvent]]:
    return [(stream, event) for event in some(*numbers)]


def sorted_by_position(streams: str) -> list[RecordedEvent]:
    events = [event for stream in streams for event in read(stream)]
    return sorted(events, key=lambda event: event.position)


def numbers(stream: str) -> list[tuple[int, int]]:
    return [(event.version, event.data["number"]) for event in read(stream)]


@committed
def test_two_appends_tell_half_of_it_when_something_happens_between() -> None:
    def tell() -> None:
        append("payer", some(-5), expected_version=Expected.ANY)
        raise Crash

    with pytest.raises(Crash):
        tell()
    assert (numbers("payer"), numbers("payee")) == ([(1, -5)], [])


@pytest.mark.django_db
def test_each_stream_goes_on_after_its_last_version() -> None:
    append("a", some(1, 2), expected_version=0)
    append_many(to("a", 3) + to("b", 5) + to("a", 4) + to("c", 6, 7, 8))
    append_many(to("b", 9))
    assert numbers("a") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert numbers("b") == [(1, 5), (2, 9)]
    assert numbers("c") == [(1, 6), (2, 7), (3, 8)]
    told = [event.data["number"] for event in sorted_by_position("abc")]
    assert told == [1, 2, 3, 5, 4, 6, 7, 8, 9], "positions rise in the given order"


@pytest.mark.django_db
def test_what_is_stored_is_what_was_given() -> None:
    event_id = uuid.uuid4()
    data = {"text": 'ä "quoted" \\ \n 😀', "list": [1, None, {"a": True}], "big": 2**60}
    append_many([('s"\\ä', NewEvent("T\u00fcr", data, {"by": "x"}, event_id))])
    (event,) = read('s"\\ä')
    assert (event.type, event.data, event.metadata, event.event_id) == (
        *("T\u00fcr", data, {"by": "x"}, event_id),
    )
    assert StoredEvent.objects.get().type_version == 1


@committed
def test_however_many_streams_take_one_statement_and_none_takes_none() -> None:
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        append_many((f"s{number % 300}", event) for number in range(600) for event in some(number))
        append_many([])
    sent = [each["sql"].split()[0] for each in queries.captured_queries]
    assert sent == ["BEGIN", "INSERT", "COMMIT"]
    assert StoredEvent.objects.count() == 600


@committed
def test_without_a_transaction_it_is_refused() -> None:
    with pytest.raises(UsageError, match="open one by atomic"):
        append_many(to("a", 1))
    assert not StoredEvent.objects.exists()


@pytest.mark.django_db
def test_one_event_that_is_no_json_keeps_all_of_them_out() -> None:
    with pytest.raises(InvalidEvents):
        append_many([*to("a", 1), ("b", NewEvent("T", {"x": object()}))])
    assert not StoredEvent.objects.exists()


@pytest.mark.django_db
def test_more_than_one_statement_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES_OF_MANY", 20)
    with pytest.raises(InvalidEvents, match="make several") as caught:
        append_many(to("a", 1, 2, 3))
    assert caught.value.limit == 20
    assert not StoredEvent.objects.exists()


@committed
def test_an_id_that_is_stored_keeps_all_of_them_out() -> None:
    event_id = uuid.uuid4()
    append("a", some(1, event_id=event_id), expected_version=0)
    with pytest.raises(IntegrityError), transaction.atomic():
        append_many([*to("b", 2), ("c", *some(3, event_id=event_id))])
    assert StoredEvent.objects.count() == 1


@committed
def test_writers_who_lock_first_never_collide() -> None:
    for account in "ab":
        Balance.objects.create(generation=1, account=account)

    def write(number: int) -> None:
        for _ in range(10):
            with transaction.atomic():
                list(Balance.objects.select_for_update().order_by("account"))
                append_many(to("a", number) + to("b", number))

    assert in_threads([lambda number=number: write(number) for number in range(4)]) == [None] * 4
    seen = [event.data["number"] for event in read("a")]
    assert seen == [event.data["number"] for event in read("b")]
    assert len(seen) == 40


@pytest.mark.postgresql
@committed
def test_a_stream_is_read_in_its_order_though_its_second_writer_began_first() -> None:
    """Its transaction got its id by writing elsewhere, before the one it waited for."""
    Balance.objects.create(generation=1, account="a")
    has_begun, may_append = threading.Event(), threading.Event()

    def begin_first() -> None:
        with transaction.atomic():
            Balance.objects.create(generation=1, account="elsewhere")
            has_begun.set()
            assert may_append.wait(30)
            Balance.objects.select_for_update().get(account="a")
            append_many(to("a", 2))
        connections.close_all()

    writer = threading.Thread(target=begin_first)
    writer.start()
    assert has_begun.wait(30)
    with transaction.atomic():
        Balance.objects.select_for_update().get(account="a")
        append_many(to("a", 1))
    may_append.set()
    writer.join(30)
    until(lambda: len(read_all()) == 2)
    assert [(event.version, event.data["number"]) for event in read_all()] == [(1, 1), (2, 2)]
    assert StoredEvent.objects.values("xid").distinct().count() == 1


@pytest.mark.django_db
def test_several_streams_are_read_on_by_one_query() -> None:
    append_many(to("a", 1, 2, 3) + to("b", 4) + to("c", 5) + to("d", 6))
    with CaptureQueriesContext(connection) as queries:
        events = read_many({"a": 1, "b": 0, "c": 1, "unknown": 0})
    assert len(queries) == 1
    assert [(event.stream, event.version) for event in events] == [("a", 2), ("a", 3), ("b", 1)]
    with CaptureQueriesContext(connection) as queries:
        assert read_many({}) == []
    assert len(queries) == 0


@pytest.mark.django_db
def test_thousands_of_streams_are_read_on_whatever_their_names() -> None:
    names = [*(f"s{number}" for number in range(2_000)), 's"\\ä', "'; --", "😀"]
    append_many((name, event) for name in names for event in some(1, 2))
    found = {(event.stream, event.version) for event in read_many(dict.fromkeys(names, 1))}
    assert found == {(name, 2) for name in names}
