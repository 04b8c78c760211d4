"""Reading all streams: what a cursor on positions misses, and what this one does not."""

import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from dbpatterns.errors import UsageError
from dbpatterns.eventstore import horizons, reading
from dbpatterns.eventstore.appending import Expected, NewEvent, append
from dbpatterns.eventstore.epochs import new_epoch
from dbpatterns.eventstore.errors import EpochChanged
from dbpatterns.eventstore.horizons import horizon
from dbpatterns.eventstore.models import EventStoreEpoch, StoredEvent
from dbpatterns.eventstore.reading import Checkpoint, read, read_all
from tests.processes import in_threads
from tests.testapp.models import Effect

TAIL_SECONDS = float(os.environ.get("DBPATTERNS_TEST_TAIL_SECONDS", "3"))


def write(stream: str, count: int = 1) -> None:
    append(stream, [NewEvent("T", {"n": n}) for n in range(count)], expected_version=Expected.ANY)


def by_position(after: int) -> list[StoredEvent]:
    """What one would write first: a cursor on the position."""
    return list(StoredEvent.objects.filter(position__gt=after).order_by("position"))


def streams(events: list[Any]) -> list[str]:
    return [each.stream for each in events]


@contextmanager
def elsewhere() -> Iterator[Any]:
    """Another connection, in a transaction that is open until the block ends."""
    other = connections.create_connection("default")
    mine = connections["default"]
    other.settings_dict = mine.settings_dict

    @contextmanager
    def there() -> Iterator[None]:
        connections["default"] = other
        try:
            yield
        finally:
            connections["default"] = mine

    try:
        with there():
            block = transaction.atomic()
            block.__enter__()
        yield there
        with there():
            block.__exit__(None, None, None)
    finally:
        other.close()


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_cursor_on_positions_never_sees_what_commits_behind_it() -> None:
    with elsewhere() as there:
        with there():
            write("early")  # position 1, not committed
        write("late")  # position 2, committed
        seen = by_position(after=0)
    assert streams(seen) == ["late"]
    assert by_position(after=seen[-1].position) == []  # "early" is committed, and missed for good


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_this_cursor_waits_and_sees_both() -> None:
    with elsewhere() as there:
        with there():
            write("early")
        write("late")
        assert read_all() == []  # "late" waits for what may come before it
    assert streams(read_all()) == ["early", "late"]


def under_the_horizon(after: int) -> list[StoredEvent]:
    """The second thing one would write: positions of transactions that are over."""
    return list(
        StoredEvent.objects.raw(
            "SELECT * FROM dbpatterns_eventstore_event WHERE position > %s "
            "AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY position",
            [after],
        )
    )


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_the_horizon_alone_misses_who_has_the_later_id_and_the_earlier_position() -> None:
    with ExitStack() as one_ends, ExitStack() as two_ends:
        one = one_ends.enter_context(elsewhere())
        two = two_ends.enter_context(elsewhere())
        with one():
            Effect.objects.create(key="elsewhere")  # takes the lower id
        with two():
            write("two")  # takes the higher id, and position 1
        with one():
            write("one")  # position 2
        one_ends.close()  # commits; what is below the horizon now is position 2
        seen, mine = under_the_horizon(after=0), read_all()
        assert streams(seen) == streams(mine) == ["one"]
        two_ends.close()
    assert under_the_horizon(after=seen[-1].position) == []  # "two" is missed for good
    assert streams(read_all(after=mine[-1].checkpoint)) == ["two"]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("expected", [1, Expected.ANY, Expected.EXISTS])
def test_a_stream_comes_in_its_own_order_also_from_transactions_in_another(expected: Any) -> None:
    with elsewhere() as there:
        with there():
            Effect.objects.create(key="elsewhere")  # takes the lower id
        write("s")  # version 1, by the higher id
        with there():
            append("s", [NewEvent("T"), NewEvent("T")], expected_version=expected)
            append("another", [NewEvent("T")], expected_version=0)
        assert read_all() == []
    assert [(each.stream, each.version) for each in read_all()] == [
        ("another", 1),
        ("s", 1),
        ("s", 2),
        ("s", 3),
    ]


@pytest.mark.django_db(transaction=True)
def test_a_tailing_reader_of_six_writers_misses_nothing_and_sees_nothing_twice() -> None:
    """As long as `DBPATTERNS_TEST_TAIL_SECONDS` says: a minute in `make chaos`."""
    end = time.monotonic() + TAIL_SECONDS
    over = threading.Event()
    left = threading.Semaphore(0)

    def writer(number: int) -> list[uuid.UUID]:
        try:
            return write_until_the_end(number)
        finally:
            left.release()

    def write_until_the_end(number: int) -> list[uuid.UUID]:
        dice = random.Random(number)
        written: list[uuid.UUID] = []
        turn = 0
        while turn < 10 or time.monotonic() < end:  # however slow the machine is
            turn += 1
            events = [NewEvent("T") for _ in range(dice.randint(1, 3))]
            with transaction.atomic():
                if dice.random() < 0.5:
                    Effect.objects.create(key="elsewhere")  # gets its id before its position
                append(f"s{number}-{turn}", events, expected_version=0)
                if dice.random() < 0.3:  # a stream of all six
                    shared = [NewEvent("T")]
                    append("shared", shared, expected_version=Expected.ANY)
                    events += shared
                if dice.random() < 0.3:
                    Effect.objects.count()
                if is_lost := dice.random() < 0.03:
                    transaction.set_rollback(True)
            if not is_lost:
                written += [each.event_id for each in events]
        return written

    def reader() -> list[Any]:
        seen: list[Any] = []
        while True:
            was_over = over.is_set()
            after = seen[-1].checkpoint if seen else None
            events = read_all(after=after, limit=100)
            seen += events
            if was_over and not events:
                return seen

    def tell() -> None:
        for _ in range(6):
            left.acquire()
        over.set()

    writers = [lambda number=number: writer(number) for number in range(6)]
    *written, seen, _ = in_threads([*writers, reader, tell])
    counted = Counter(each.event_id for each in seen)
    expected = {event_id for each in written for event_id in each}
    assert len(expected) > 50
    assert set(counted) == expected, "missed or invented"
    assert set(counted.values()) == {1}, "doubled"
    assert [each.checkpoint for each in seen] == sorted(each.checkpoint for each in seen)
    shared = [each.version for each in seen if each.stream == "shared"]
    assert shared == list(range(1, len(shared) + 1))


@pytest.mark.django_db(transaction=True)
def test_pages_go_on_where_the_last_one_ended() -> None:
    for number in range(7):
        write(f"s{number}", 2)
    seen: list[Any] = []
    while page := read_all(after=seen[-1].checkpoint if seen else None, limit=3):
        assert len(page) <= 3
        seen += page
    assert [(each.stream, each.version) for each in seen] == [
        (f"s{number}", version) for number in range(7) for version in (1, 2)
    ]


@pytest.mark.django_db(transaction=True)
def test_a_page_is_two_queries() -> None:
    write("s", 10)
    read_all()
    with CaptureQueriesContext(connection) as queries:
        assert len(read_all(limit=10)) == 10
    assert len(queries) == 2


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 event, not 0"):
        read_all(limit=0)


@pytest.mark.django_db
def test_a_stream_is_read_in_order_from_a_version_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAGE", 3)
    write("s", 9)
    write("another", 2)
    assert [each.version for each in read("s")] == list(range(1, 10))
    assert [each.version for each in read("s", from_version=4)] == list(range(4, 10))
    assert list(read("nothing")) == []
    event = next(read("s"))
    assert (event.type, event.data, event.metadata, event.checkpoint) == ("T", {"n": 0}, {}, None)


@pytest.mark.django_db(transaction=True)
def test_a_checkpoint_of_another_life_of_the_store_is_refused() -> None:
    write("s", 2)
    old = read_all()[0].checkpoint
    assert old is not None
    epoch = new_epoch()
    with pytest.raises(EpochChanged, match="begin again"):
        read_all(after=old)
    events = read_all()
    assert {each.checkpoint.epoch for each in events if each.checkpoint} == {epoch}
    assert [each.version for each in events] == [1, 2]
    write("s")
    assert [each.version for each in read_all(after=events[-1].checkpoint)] == [3]
    assert read_all(after=replace(events[0].checkpoint))[0].version == 2  # type: ignore[type-var]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_dump_restored_on_another_server_is_noticed_and_declared() -> None:
    write("s", 2)
    read_all()
    EventStoreEpoch.objects.update(server="another")
    with connection.cursor() as cursor:  # its transaction ids were far ahead of ours
        cursor.execute("UPDATE dbpatterns_eventstore_event SET xid = '99999999999'")
    with pytest.raises(EpochChanged, match=r"another server \(another, here is \d+\).*new_epoch"):
        read_all()
    new_epoch()
    assert [each.version for each in read_all()] == [1, 2]


@pytest.mark.django_db(transaction=True)
def test_of_readers_who_come_first_one_makes_the_epoch() -> None:
    write("s")
    pages = in_threads([read_all] * 4)
    assert len({page[0].checkpoint.epoch for page in pages}) == 1
    assert str(EventStoreEpoch.objects.get()) == str(pages[0][0].checkpoint.epoch)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_the_horizon_names_who_holds_it() -> None:
    write("s", 2)
    assert horizon().hidden_events == 0
    with elsewhere() as there:
        with there():
            Effect.objects.create(key="long")
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                pid = cursor.fetchone()[0]
        write("s", 3)
        found = horizon()
        assert (found.hidden_events, found.holder_pid) == (3, pid)
        assert found.holder_seconds > 0
    assert horizon() == horizons.Horizon(0, None, 0.0)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_prepared_transaction_is_waited_for_and_named_and_none_of_its_events_is_skipped() -> None:
    with transaction.atomic():
        write("prepared", 2)
        with connection.cursor() as cursor:
            cursor.execute("PREPARE TRANSACTION 'forgotten'")
    try:
        write("s", 3)
        assert read_all() == []
        found = horizon()
        assert (found.hidden_events, found.holder_pid) == (3, None)
        assert found.holder_gid == "forgotten"
        assert found.holder_seconds > 0
    finally:
        with connection.cursor() as cursor:
            cursor.execute("COMMIT PREPARED 'forgotten'")
    assert streams(read_all()) == ["prepared"] * 2 + ["s"] * 3
    assert horizon() == horizons.Horizon(0, None, 0.0)


@pytest.mark.django_db
def test_sqlite_has_no_horizon() -> None:
    if connection.vendor == "sqlite":
        assert horizon() == horizons.Horizon(0, None, 0.0)


def test_checkpoints_are_ordered_by_transaction_then_position() -> None:
    one = uuid.uuid4()
    assert Checkpoint(one, 1, 9) < Checkpoint(one, 2, 1) < Checkpoint(one, 2, 2)
