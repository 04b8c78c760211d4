"""The event store: appending beside `eventsourcing` and select-then-insert, and the tail's lag.

Eight workers, each on streams of its own and on its own connection, in slices of a second and a
half that take turns. The peer is eventsourcing's PostgreSQL recorder as its factory makes it, so
with its table lock: without, its readers miss events. It prepares its statements; "prepared" is
ours with `server_side_binding` and `prepare_threshold` among Django's OPTIONS.
"""

import json
import os
import random
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.models import Max

from benchmarks.crowd import Crowd, Steps
from benchmarks.measuring import Bar, row
from dbpatterns.eventstore.appending import NewEvent, append
from dbpatterns.eventstore.models import StoredEvent
from dbpatterns.eventstore.reading import read_all

DATABASE = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"
WORKERS = 8
WRITERS = 6
ROUNDS = int(os.environ.get("BENCH_EVENT_ROUNDS", "8"))
SLICE_SECONDS = 1.5
TAIL_SECONDS = 20.0
STREAM_EVENTS = 100
"""Then the worker begins another stream."""
DATA = {"account": "7", "amount": 500, "currency": "EUR", "text": "x" * 100}


def rows() -> list[dict[str, object]]:
    """Return the rows of appending, and of PostgreSQL the one of tailing."""
    call_command("migrate", verbosity=0)
    if connection.vendor != "postgresql":
        return [_appending(1, {}), _appending(10, {})]
    default = connections.settings["default"]
    options = default["OPTIONS"] | {"server_side_binding": True, "prepare_threshold": 0}
    connections.settings["prepared"] = {**default, "OPTIONS": options}
    prepared: Callable[[int], Steps] = partial(_ours, using="prepared")
    peers = {"prepared": prepared, "eventsourcing": _eventsourcing}
    return [_appending(1, peers), _appending(10, peers), _tailing()]


def _appending(events: int, peers: dict[str, Callable[[int], Steps]]) -> dict[str, object]:
    made = {"ours": _ours, "select_then_insert": _select_then_insert, **peers}
    crowd = Crowd({name: make(events) for name, make in made.items()}, WORKERS)
    rates: dict[str, list[float]] = {name: [] for name in made}
    shuffled = random.Random(1)
    for number in range(ROUNDS + 1):
        for name in shuffled.sample(list(made), len(made)):
            rate = crowd.rate(name, seconds=SLICE_SECONDS) * events
            if number:  # the first one makes connections
                rates[name].append(rate)
    crowd.dismiss()

    def times(peer: str, variant: str = "ours") -> float:
        pairs = zip(rates[variant], rates[peer], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    peer = "eventsourcing"
    bar = Bar({1: 1.5, 10: 2.0}[events], f"times {peer}", at_least=True)
    return row(
        DATABASE,
        f"append {events} event{'s' * (events > 1)}, {WORKERS} workers",
        unit="events/s",
        figures={
            name: statistics.median(rates[name]) if name in rates else None
            for name in ("ours", "prepared", "eventsourcing", "select_then_insert")
        },
        ratio=times(peer) if peers else None,
        judged=times(peer, "prepared") if peers else None,
        bar=bar if peers else None,
        also=f"{times('select_then_insert'):.1f} times select-then-insert"
        + (f"; prepared {times(peer, 'prepared'):.2f} times {peer}" if peers else ""),
        detail=rates,
    )


def _new_events(count: int) -> list[NewEvent]:
    return [NewEvent("MoneyMoved", DATA) for _ in range(count)]


def _ours(events: int, using: str = "default") -> Steps:
    def steps(number: int) -> Callable[[], object]:
        stream, version = "", STREAM_EVENTS

        def step() -> None:
            nonlocal stream, version
            if version >= STREAM_EVENTS:
                stream, version = str(uuid.uuid4()), 0
            result = append(stream, _new_events(events), expected_version=version, using=using)
            version = result.version

        return step

    return steps


def _select_then_insert(events: int) -> Steps:
    def steps(number: int) -> Callable[[], object]:
        stream, version = "", STREAM_EVENTS

        def step() -> None:
            nonlocal stream, version
            if version >= STREAM_EVENTS:
                stream = str(uuid.uuid4())
            with transaction.atomic():
                found = StoredEvent.objects.filter(stream=stream).aggregate(last=Max("version"))
                version = found["last"] or 0
                StoredEvent.objects.bulk_create(
                    StoredEvent(
                        stream=stream,
                        version=version + each,
                        type="MoneyMoved",
                        type_version=1,
                        data=DATA,
                        metadata={},
                        event_id=uuid.uuid4(),
                    )
                    for each in range(1, events + 1)
                )
                version += events

        return step

    return steps


def _eventsourcing(events: int) -> Steps:
    def steps(number: int) -> Callable[[], object]:

        postgres: Any = import_module("eventsourcing.postgres")  # typed in the bench group only
        persistence: Any = import_module("eventsourcing.persistence")

        settings = connection.settings_dict
        store = postgres.PostgresDatastore(
            dbname=settings["NAME"],
            host=settings["HOST"],
            port=settings["PORT"],
            user=settings["USER"],
            password=settings["PASSWORD"],
        )
        recorder = postgres.PostgresApplicationRecorder(store, events_table_name="peer_events")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(1)")
            recorder.create_table()
            cursor.execute("SELECT pg_advisory_unlock(1)")
        stream, version = uuid.uuid4(), STREAM_EVENTS

        def step() -> None:
            nonlocal stream, version
            if version >= STREAM_EVENTS:
                stream, version = uuid.uuid4(), 0
            recorder.insert_events(
                [
                    persistence.StoredEvent(
                        originator_id=stream,
                        originator_version=version + each,
                        topic="MoneyMoved",
                        state=json.dumps(DATA).encode(),
                    )
                    for each in range(1, events + 1)
                ]
            )
            version += events

        return step

    return steps


def _tailing() -> dict[str, object]:
    """How long after its commit an event is seen, by a cursor on positions and by ours.

    The two readers ask in turn, every two milliseconds, while six writers of threads write, half
    of them elsewhere first. The first may skip events, which is what ours waits for.
    """
    committed: dict[uuid.UUID, float] = {}
    seen: dict[str, dict[uuid.UUID, float]] = {"position": {}, "ours": {}}
    end = time.monotonic() + TAIL_SECONDS

    def write(number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            events = _new_events(1)
            with transaction.atomic():
                if dice.random() < 0.5:
                    append(f"other-{uuid.uuid4()}", _new_events(1), expected_version=0)
                append(str(uuid.uuid4()), events, expected_version=0)
                if dice.random() < 0.03:
                    transaction.set_rollback(True)
                    continue
            committed[events[0].event_id] = time.monotonic()
            time.sleep(dice.uniform(0, 0.01))
        connections.close_all()

    last: Any = None
    while page := read_all(after=last, limit=5_000):
        last = page[-1].checkpoint
    position = StoredEvent.objects.aggregate(last=Max("position"))["last"] or 0
    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for each in writers:
        each.start()

    def read_positions() -> None:
        nonlocal position
        later = StoredEvent.objects.filter(position__gt=position).order_by("position")
        for event_id, at in later.values_list("event_id", "position"):
            position = at
            seen["position"].setdefault(event_id, time.monotonic())

    def read_ours() -> None:
        nonlocal last
        for event in read_all(after=last, limit=5_000):
            last = event.checkpoint
            seen["ours"].setdefault(event.event_id, time.monotonic())

    readers = [read_positions, read_ours]
    while time.monotonic() < end + 1:
        random.shuffle(readers)  # who asks later sees what was committed meanwhile
        for read in readers:
            read()
        time.sleep(0.002)
    for each in writers:
        each.join()
    lags = {
        name: [(times[each] - at) * 1e3 for each, at in committed.items() if each in times]
        for name, times in seen.items()
    }
    medians = {name: statistics.median(each) for name, each in lags.items()}
    missed = {name: len(committed.keys() - times.keys()) for name, times in seen.items()}
    added = medians["ours"] - medians["position"]
    return row(
        DATABASE,
        f"tail of {len(committed):,} events, {WRITERS} writers",
        unit="ms",
        figures={
            "ours": medians["ours"],
            "prepared": None,
            "eventsourcing": None,
            "select_then_insert": medians["position"],
        },
        bar=Bar(10, "ms added, 0 missed"),
        judged=added if not missed["ours"] else 1e9,
        also=f"adds {added:.1f} ms; missed {missed['ours']}, by position {missed['position']}",
        detail={"medians": medians, "missed": missed},
    )
