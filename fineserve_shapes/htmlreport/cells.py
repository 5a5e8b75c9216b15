"""Cells: values as text for tables."""

from __future__ import annotations

from typing import Any

from fineserve_shapes.rounding import rounded
from fineserve_shapes.text import shorten


def number(value: Any) -> str:
    """A value for a cell: four significant digits, a dash for what was not measured."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return rounded(value, 4)
    return shorten(str(value))


def signed(value: float) -> str:
    """A change: three significant digits behind its sign."""
    return rounded(value, sign="+")
