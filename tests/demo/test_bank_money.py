"""Money as text: nothing lost, nothing rounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.banking.money import MAX_AMOUNT, format_amount, parse_amount


@pytest.mark.parametrize(
    ("text", "minor_units"),
    [("245.20", 24520), (".10", 10), ("5", 500), ("5.", 500), ("0.01", 1), ("7.5000", 750)],
)
def test_decimals_become_minor_units(text: str, minor_units: int) -> None:
    assert parse_amount(text) == minor_units


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-5", "negative"),
        ("0", "is zero"),
        ("0.00", "is zero"),
        ("1.005", "over-precise"),
        ("0.001", "over-precise"),
        ("", "is no amount"),
        (".", "is no amount"),
        ("1,50", "is no amount"),
        ("1e3", "is no amount"),
        ("NaN", "is no amount"),
        (" 1", "is no amount"),
        ("1\n", "is no amount"),
        ("٣", "is no amount"),
        ("10000000000000.01", "too big"),
        ("9" * 5000, "too big"),
    ],
)
def test_what_is_no_amount_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_amount(text)


@given(st.integers(1, MAX_AMOUNT))
def test_an_amount_survives_the_way_out_and_in(minor_units: int) -> None:
    assert parse_amount(format_amount(minor_units)) == minor_units


def test_a_negative_balance_is_written_with_its_sign() -> None:
    assert [format_amount(each) for each in (-5, -12345, 0)] == ["-0.05", "-123.45", "0.00"]
