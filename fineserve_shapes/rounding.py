"""Rounding: a number as a person reads it."""

from __future__ import annotations


def rounded(value: float, digits: int = 3, sign: str = "") -> str:
    """So many significant digits, and whole numbers from 1,000 on; never an exponent. sign: "+" shows that of a positive
    number too.

    >>> [rounded(value) for value in (0.01234, 12.34, 999.9, 12345.6, 0.0)]
    ['0.0123', '12.3', '1,000', '12,346', '0']
    >>> rounded(2e-8)
    '<0.0001'
    """
    shown = f"{value:{sign}.{digits}g}"
    if abs(value) >= 1000 or ("e" in shown and abs(value) > 1):
        return f"{value:{sign},.0f}"
    if "e" in shown:  # nearer to 0 than it is worth writing out
        return "<0.0001" if value > 0 else ">-0.0001"
    return shown


def or_dash(value: float | None) -> str:
    """The same for a table; a dash for what was not measured."""
    return "-" if value is None else rounded(value)
