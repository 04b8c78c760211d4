"""A key's slot is what PostgreSQL says, for each kind of key, in every process and version."""

import random
import subprocess
import sys
from collections.abc import Callable
from uuid import UUID

import pytest
from django.db import connection

from dbpatterns.errors import UsageError
from dbpatterns.sharding.hashing import SLOTS, Key, slot_of

EDGES = [0, 1, 2, -1, 2**31, -(2**31), 2**40 + 7, 2**63 - 1, -(2**63)]
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ÄÖüßéčž",
    "\u4e2d\u6587\u0628\u05d0",
    "\U0001f600\U0001d11e",
    " '%\\\n",
)


def integers() -> list[Key]:
    chance = random.Random(1)
    drawn = [chance.randrange(-(2**63), 2**63) for _ in range(10_000)]
    return [*EDGES, *range(1, 11_000), *drawn]


def texts() -> list[Key]:
    """Of each length up to three blocks of the hash and more, from letters of one to four bytes."""
    chance = random.Random(2)
    return ["", *("".join(chance.choices(ALPHABETS[n % 5], k=n % 41)) for n in range(20_000))]


def uuids() -> list[Key]:
    chance = random.Random(3)
    return [UUID(int=0), *(UUID(int=chance.getrandbits(128)) for _ in range(5_000))]


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (0, 6576),
        (1, 4024),
        (2, 8570),
        (-1, 12197),
        (5369, 9800),
        (2**31, 14966),
        (-(2**63), 8575),
        ("", 10406),
        ("prague", 14164),
        ("twelve bytes", 9494),
        ("Příliš žluťoučký kůň", 2917),
        (UUID("0190163d-8694-739b-aea5-966c26f8ad91"), 14569),
    ],
)
def test_slot_of_a_key_never_changes(key: Key, slot: int) -> None:
    assert slot_of(key) == slot


def test_slots_are_the_same_in_every_process() -> None:
    """Python's own hash of a text is not, which is the harm."""
    program = (
        "from dbpatterns.sharding.hashing import slot_of; print(slot_of('prague'), hash('prague'))"
    )
    said = {
        tuple(subprocess.check_output([sys.executable, "-c", program], text=True).split())
        for _ in range(3)
    }
    assert {slot for slot, _ in said} == {str(slot_of("prague"))}
    assert len({own for _, own in said}) > 1


@pytest.mark.postgresql
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "drawn"), [("bigint", integers), ("text", texts), ("uuid", uuids)]
)
def test_the_server_agrees_on_every_slot(kind: str, drawn: Callable[[], list[Key]]) -> None:
    keys = drawn()
    slots = [slot_of(key) for key in keys]
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE hashed (key {kind}) PARTITION BY HASH (key)")
        agreed = (
            f"SELECT count(*) FROM unnest(%s::{kind}[], %s::int[]) AS t(key, slot)"
            " WHERE satisfies_hash_partition('hashed'::regclass, %s, slot, key)"
        )
        cursor.execute(agreed, [keys, slots, SLOTS])
        assert cursor.fetchone() == (len(keys),)
        cursor.execute(agreed, [keys, [(slot + 1) % SLOTS for slot in slots], SLOTS])
        assert cursor.fetchone() == (0,)  # the server does refuse a wrong slot


@pytest.mark.parametrize("key", [True, 1.0, b"1", None, 2**63, -(2**63) - 1, "a\0b", "\ud800"])
def test_what_is_no_key_is_a_usage_error(key: object) -> None:
    with pytest.raises(UsageError, match="A shard key is an integer of 64 bits, a text or a UUID"):
        slot_of(key)  # type: ignore[arg-type]
