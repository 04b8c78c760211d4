"""Many writers on one row, by every path: what they were told is written is what is there."""

import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, connection, connections
from django.db.models import F

from dbpatterns.optimistic import StaleObjectError
from tests.testapp.models import Page, PlainPage

pytestmark = pytest.mark.django_db(transaction=True)


def save(row: Any) -> None:
    row.amount += 1
    row.save()


def save_some(row: Any) -> None:
    row.amount += 1
    row.save(update_fields=["amount"])


def save_expression(row: Any) -> None:
    row.amount = F("amount") + 1
    row.save(update_fields=["amount"])


def bulk_update(row: Any) -> None:
    row.amount += 1
    type(row).objects.bulk_update([row], ["amount"])


def update(row: Any) -> None:
    if not type(row).objects.filter(pk=row.pk).update(amount=F("amount") + 1):
        raise StaleObjectError(
            "gone", model="Page", pks=[row.pk], expected_version=0, stored_version=None
        )


PATHS = [save, save_some, save_expression, bulk_update, update]


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


def test_the_row_is_the_sum_of_what_the_writers_were_told() -> None:
    pk = Page.objects.create(title="row").pk

    def work(number: int) -> int:
        chance, written = random.Random(number), 0
        for _ in range(25):
            row = Page.objects.get(pk=pk)
            try:
                chance.choice(PATHS)(row)
            except StaleObjectError:
                continue
            except OperationalError as error:
                if connection.vendor != "sqlite" or "locked" not in str(error):
                    raise
                continue
            written += 1
        return written

    written = sum(in_threads(work, 4))
    assert written
    assert Page.objects.values_list("amount", "version").get() == (written, written + 1)


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
