"""Money as people write it, and as the ledger keeps it: whole minor units."""

import re
from typing import Final

__all__ = ["MAX_AMOUNT", "MINOR_UNITS", "format_amount", "parse_amount"]

MINOR_UNITS: Final = 2
"""Decimal places of every currency the demo knows."""
MAX_AMOUNT: Final = 10**15
"""The largest amount in one booking, in minor units: a sum of 9,000 still fits 64 bits."""

_AMOUNT = re.compile(r"(-?)(\d*)(?:\.(\d*))?", re.ASCII)


def parse_amount(text: str) -> int:
    """Return the minor units of a positive decimal like `245.20` or `.10`.

    Raises: ValueError: with one clear sentence; no amount, negative, zero, over-precise, too big.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise ValueError(f"{text!r} is no amount: write digits, like 245.20.")
    if match[1]:
        raise ValueError(f"{text} is negative: an amount is above zero.")
    fraction = match[3] or ""
    if len(fraction.rstrip("0")) > MINOR_UNITS:
        raise ValueError(f"{text} is over-precise: at most {MINOR_UNITS} decimals.")
    if len(text) > 40:
        raise ValueError(f"{text[:20]}… is too big an amount.")
    amount = int(match[2] or "0") * 10**MINOR_UNITS + int(fraction[:MINOR_UNITS].ljust(2, "0"))
    if amount == 0:
        raise ValueError(f"{text} is zero: an amount is above zero.")
    if amount > MAX_AMOUNT:
        raise ValueError(f"{text} is too big: at most {format_amount(MAX_AMOUNT)}.")
    return amount


def format_amount(minor_units: int) -> str:
    """Return minor units as a decimal, like `-245.20`; no grouping, for machines too."""
    sign = "-" if minor_units < 0 else ""
    whole, fraction = divmod(abs(minor_units), 10**MINOR_UNITS)
    return f"{sign}{whole}.{fraction:0{MINOR_UNITS}}"
