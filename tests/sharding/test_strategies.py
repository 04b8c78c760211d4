"""The four strategies: each key has one shard, and a map that is none is refused."""

import uuid
from itertools import count
from typing import Any

import pytest

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding.hashing import SLOTS, slot_of
from dbpatterns.sharding.strategies import (
    LOWEST,
    Directory,
    Geographic,
    Hash,
    Range,
    encode,
    equal_runs,
)

KEYS = [5, "prague", uuid.UUID(int=5), -(2**63), "", "é🎈"]


class TestRange:
    def test_a_bound_is_the_first_of_its_range(self) -> None:
        placed = Range((), {LOWEST: "a", "int:10": "b", "int:20": "c"})
        assert [placed.shard_of(key) for key in (-5, 9, 10, 19, 20, 2**62)] == list("aabbcc")
        assert placed.holders(7) == {"a", "b", "c"}

    def test_texts_are_in_the_order_of_code_points(self) -> None:
        placed = Range((), {LOWEST: "a", "str:Z": "b", "str:a": "c", "str:é": "d"})
        assert [placed.shard_of(key) for key in ("A", "Z", "_", "a", "z", "é", "ü")] == list(
            "abbccdd"
        )

    def test_numbers_are_not_in_the_order_of_their_texts(self) -> None:
        placed = Range((), {LOWEST: "a", "int:9": "b", "int:10": "c"})
        assert [placed.shard_of(key) for key in (8, 9, 10, 100)] == list("abcc")

    def test_a_key_of_another_type_has_no_place(self) -> None:
        with pytest.raises(UsageError, match="The map is of int keys, and 'm' is none"):
            Range((), {LOWEST: "a", "int:9": "b"}).shard_of("m")

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ({"int:9": "a"}, "begins below every key, and this one has a gap"),
            ({}, "has a gap"),
            ({LOWEST: "a", "int:9": "b", "str:m": "c"}, "bounds of one type, and this one of two"),
            ({LOWEST: "a", "float:9": "b"}, "'float:9', which is no key"),
            ({LOWEST: "a", "int:nine": "b"}, "'int:nine', which is no key"),
            ({LOWEST: "a", "uuid:7": "b"}, "'uuid:7', which is no key"),
        ],
    )
    def test_what_is_no_map(self, keys: dict[str, str], words: str) -> None:
        with pytest.raises(ConfigurationError, match=words):
            Range((), keys)

    def test_slots_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="this one has slots"):
            Range(((0, "a"),), {LOWEST: "a"})


class TestSlots:
    def test_a_run_begins_with_its_first_slot(self) -> None:
        placed = Hash([(0, "a"), (100, "b")], {})
        assert [placed.of_slot(slot) for slot in (0, 99, 100, SLOTS - 1)] == list("aabb")

    def test_runs_are_equal(self) -> None:
        assert equal_runs("abc") == [(0, "a"), (5_462, "b"), (10_923, "c")]

    def test_a_slot_of_two_placed_keys_is_held_by_all_their_shards(self) -> None:
        one = next(key for key in count() if slot_of(key) == 7)
        other = next(key for key in count(one + 1) if slot_of(key) == 7)
        placed = Directory([(0, "a")], {encode(one): "b", encode(other): "c"})
        assert placed.holders(7) == {"a", "b", "c"}
        assert placed.holders(8) == {"a"}


class TestGeographic:
    def test_a_region_s_shard(self) -> None:
        placed = Geographic((), {"str:eu": "a", "str:us": "b", "str:uk": "a"})
        assert [placed.shard_of(key) for key in ("eu", "us", "uk")] == list("aba")
        assert placed.shards == placed.holders(3) == {"a", "b"}

    def test_an_unknown_region_names_the_known(self) -> None:
        with pytest.raises(LookupError, match=r"no such region is placed \(placed: eu, us\)"):
            Geographic((), {"str:us": "b", "str:eu": "a"}).shard_of("mars")

    def test_one_is_not_a_text(self) -> None:
        with pytest.raises(LookupError):
            Geographic((), {"int:1": "a"}).shard_of("1")

    @pytest.mark.parametrize("key", [None, True, 1.0])
    def test_what_is_no_key(self, key: Any) -> None:
        with pytest.raises(UsageError):
            Geographic((), {"int:1": "a"}).shard_of(key)

    def test_slots_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="this one has slots"):
            Geographic(((0, "a"),), {})

    def test_a_key_that_nobody_can_read_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="'region', which is no key"):
            Geographic((), {"region": "a"})


class TestDirectory:
    def test_a_key_s_own_shard_or_its_slot_s(self) -> None:
        for key in KEYS:
            slots = ((0, "a"), (slot_of(key) or 1, "b"))
            assert Hash(slots, {}).shard_of(key) == "b"
            assert Directory(slots, {encode(key): "c"}).shard_of(key) == "c"
            assert Directory(slots, {encode(key): "c"}).holders(slot_of(key)) == {"b", "c"}

    def test_a_key_that_nobody_can_read_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="'7', which is no key"):
            Directory(((0, "a"),), {"7": "a"})


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ((), "slots 0 to 16,383 have no shard"),
        (((3, "a"),), "slots 0 to 2 have no shard"),
        (((0, "a"), (9, "b"), (5, "c")), "not in order"),
        (((0, "a"), (5, "b"), (5, "c")), "not in order"),
        (((0, "a"), (SLOTS, "b")), "not in order below 16,384"),
    ],
)
@pytest.mark.parametrize("kind", [Hash, Directory])
def test_slots_with_a_gap_or_an_overlap(kind: Any, slots: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        kind(slots, {})
