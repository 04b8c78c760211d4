"""Many writers on one row, by every path: what they were told is written is what is there."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections

from dbpatterns.optimistic import StaleObjectError
from tests.optimistic.oracle import PATHS, ROWS, Commit, faults, write
from tests.testapp.models import Page, PlainPage

pytestmark = pytest.mark.django_db(transaction=True)
WRITERS, TRIES = 4, 150


def save(row: Any) -> None:
    row.amount += 1
    row.save()


def save_some(row: Any) -> None:
    row.amount += 1
    row.save(update_fields=["amount"])


def bulk_update(row: Any) -> None:
    row.amount += 1
    type(row).objects.bulk_update([row], ["amount"])


def in_threads(work: Any, count: int) -> list[Any]:
    def run(number: int) -> Any:
        try:
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("path", [save, save_some, bulk_update])
@pytest.mark.parametrize("model", [PlainPage, Page])
def test_two_that_read_the_same_row_are_both_told_only_by_a_version(model: Any, path: Any) -> None:
    pk = model.objects.create(title="row").pk
    both_have_read = threading.Barrier(2, timeout=30)
    first_is_done = threading.Event()

    def work(number: int) -> bool:
        row = model.objects.get(pk=pk)
        both_have_read.wait()
        if number:
            assert first_is_done.wait(30)
        try:
            path(row)
        except StaleObjectError:
            return False
        finally:
            first_is_done.set()
        return True

    told = in_threads(work, 2)
    stored = model.objects.get(pk=pk).amount
    if model is Page:
        assert (told, stored) == ([True, False], 1)
    else:
        assert (told, stored) == ([True, True], 1)  # two were told, one is there: a lost update


def assert_all_ways_are_there(ledger: list[Commit]) -> None:
    assert {each.path for each in ledger} == set(PATHS)
    assert faults(ledger) == []


def test_rows_are_what_threads_were_told_they_had_committed() -> None:
    Page.objects.bulk_create([Page(title="new") for _ in range(ROWS)])
    all_are_there = threading.Barrier(WRITERS, timeout=30)
    ledgers = in_threads(lambda number: write(f"t{number}", TRIES, all_are_there.wait), WRITERS)
    assert_all_ways_are_there([each for ledger in ledgers for each in ledger])


def test_rows_are_what_processes_were_told_they_had_committed() -> None:
    Page.objects.bulk_create([Page(title="new") for _ in range(ROWS)])
    name = str(connection.settings_dict["NAME"])
    command = [sys.executable, "-m", "tests.optimistic.oracle", name]
    writers = [
        subprocess.Popen(
            [*command, f"p{number}", str(TRIES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WRITERS)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        told = [writer.communicate(timeout=120)[0] for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert_all_ways_are_there([Commit(*each) for ledger in told for each in json.loads(ledger)])


def test_the_oracle_finds_what_is_lost() -> None:
    Page.objects.bulk_create([Page(title="new") for _ in range(ROWS)])
    ledger = write("alone", TRIES)
    assert_all_ways_are_there(ledger)
    pk = Page.objects.order_by("pk")[0].pk
    plain = Page._base_manager.filter(pk=pk)  # goes round the versions
    version, amount = plain.values_list("version", "amount").get()
    plain.update(amount=amount - 1)
    assert faults(ledger) == [f"{pk}: {amount - 1} after {amount}"]
    plain.update(amount=amount)
    stored = Page.objects.get(pk=pk).title
    assert faults([*ledger, Commit(pk, "save", version + 1, 0, "lost")]) == [
        f"{pk}: at version {version} after {version} writes",
        f"{pk}: {stored} and not lost",
    ]
    twice = next(each for each in ledger if each.pk == pk and each.version)
    assert f"{pk}: two writes were told the same version" in faults([*ledger, twice])
    assert faults([*ledger, Commit(pk, "delete", version, -amount)]) == [
        f"{pk}: 1 deletes, and it is not gone"
    ]
    plain.delete()
    assert f"{pk}: 0 deletes, and it is gone" in faults(ledger)
    wrong = Commit(pk, "delete", version, 1 - amount)
    assert faults([*ledger, wrong]) == [f"{pk}: {amount - 1} after {amount}"]


WRITER = """
import os, sys, django
django.setup()
from django.db import OperationalError, connection
connection.settings_dict["NAME"] = sys.argv[1]
from dbpatterns.optimistic import StaleObjectError
from tests.testapp.models import Page
while True:
    row = Page.objects.get()
    row.amount += 1
    try:
        row.save()
    except StaleObjectError:
        continue
    except OperationalError as error:
        if "locked" not in str(error): raise
        continue
    os.write(1, b".")
"""


def test_a_writer_that_is_killed_leaves_no_half_write_and_loses_none() -> None:
    Page.objects.create(title="row")
    name = str(connection.settings_dict["NAME"])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name], stdout=subprocess.PIPE, env=dict(os.environ)
        )
        for _ in range(2)
    ]
    told = 0
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.read(20) == b"." * 20
            told += 20
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
    for writer in writers:
        assert writer.stdout is not None
        told += len(writer.stdout.read())
        writer.stdout.close()
        writer.wait()
    amount, version = Page.objects.values_list("amount", "version").get()
    assert version == amount + 1
    assert told <= amount <= told + 2  # committed, and killed before it said so
