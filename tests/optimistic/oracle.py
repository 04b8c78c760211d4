"""Writers that keep a ledger of what they were told is committed, and what the rows must then be.

`python -m tests.optimistic.oracle DATABASE SEED TRIES` is one writer in a process of its own; it
prints its ledger.
"""

import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

PATHS = ("save", "update_fields", "expression", "update", "bulk_update", "delete")
ROWS = 3


class Commit(NamedTuple):
    """One write that was reported as done."""

    pk: int
    path: str
    version: int | None
    """The row's version after it; None where the writer is not told."""
    amount: int
    """How much it added; of a delete what it took away."""
    title: str | None = None


def write(seed: str, tries: int, meet: Callable[[], object] = lambda: None) -> list[Commit]:
    """Read and write rows at random; return what was committed."""
    from django.db import OperationalError

    from dbpatterns.optimistic import StaleObjectError
    from tests.testapp.models import Page

    chance, ledger = random.Random(seed), []
    meet()
    for number in range(tries):
        rows = list(Page.objects.order_by("pk"))
        chance.shuffle(rows)
        path = chance.choice(PATHS)
        try:
            ledger += _write(path, rows, f"{seed}-{number}")
        except StaleObjectError:
            pass
        except OperationalError as error:  # a deadlock, or SQLite's lock: all is as before
            state = getattr(error.__cause__, "sqlstate", None)
            if state != "40P01" and "locked" not in str(error):
                raise
    return ledger


def _write(path: str, rows: Sequence[Any], title: str) -> list[Commit]:
    from django.db import transaction
    from django.db.models import F

    row, model = rows[0], type(rows[0])
    if path == "delete":
        pk, version, amount = row.pk, row.version, row.amount
        with transaction.atomic():
            row.delete()
            model.objects.create(title="new")
        return [Commit(pk, path, version, -amount)]
    if path == "update":
        done = model.objects.filter(pk=row.pk).update(amount=F("amount") + 1)
        return [Commit(row.pk, path, None, 1)] * done
    if path == "bulk_update":
        for each in rows[:2]:
            each.amount += 1
        model.objects.bulk_update(rows[:2], ["amount"])
        return [Commit(each.pk, path, each.version, 1) for each in rows[:2]]
    if path == "expression":
        row.amount = F("amount") + 1
        row.save(update_fields=["amount"])
        return [Commit(row.pk, path, row.version, 1)]
    row.amount += 1
    if path == "update_fields":
        row.save(update_fields=["amount"])
        return [Commit(row.pk, path, row.version, 1)]
    row.title = title
    row.save()
    return [Commit(row.pk, path, row.version, 1, title)]


def faults(ledger: Sequence[Commit]) -> list[str]:
    """Return where the rows are not what the commits made them; the ledger is of all writers."""
    from tests.testapp.models import Page

    found = []
    stored = {row.pk: row for row in Page.objects.all()}
    of_row: dict[int, list[Commit]] = defaultdict(list)
    for each in ledger:
        of_row[each.pk].append(each)
    for pk in stored.keys() | of_row.keys():
        deletes = [each for each in of_row[pk] if each.path == "delete"]
        writes = [each for each in of_row[pk] if each.path != "delete"]
        if len(deletes) != (pk not in stored):
            found.append(f"{pk}: {len(deletes)} deletes, and it is{' not' * bool(deletes)} gone")
            continue
        row = stored.get(pk)
        version = row.version if row else deletes[0].version
        amount = row.amount if row else -deletes[0].amount
        known = [each.version for each in writes if each.version is not None]
        if version != 1 + len(writes):
            found.append(f"{pk}: at version {version} after {len(writes)} writes")
        if amount != sum(each.amount for each in writes):
            found.append(f"{pk}: {amount} after {sum(each.amount for each in writes)}")
        if len(set(known)) < len(known):
            found.append(f"{pk}: two writes were told the same version")
        titles = [each for each in writes if each.title]
        last = max(titles, key=lambda each: each.version or 0).title if titles else None
        if row and last and row.title != last:
            found.append(f"{pk}: {row.title} and not {last}")
    return found


if __name__ == "__main__":
    import django

    django.setup()
    from django.db import connection

    connection.settings_dict["NAME"] = sys.argv[1]
    print("ready", flush=True)
    sys.stdin.readline()  # until all are
    print(json.dumps(write(sys.argv[2], int(sys.argv[3]))))
