"""Differing text: runs beside each other as lines for a terminal."""

from __future__ import annotations

from fineserve_shapes.htmlreport.differing import LEGEND, Cell, Table
from fineserve_shapes.text import clipped, shorten

_NAME_CHARS, _VALUE_CHARS = 32, 48
_REASON_CHARS = 1_000


def table_lines(table: Table) -> list[str]:
    """Verdicts and what follows from them first, then where the configuration differs, then the figures."""
    rows = [
        ("", table.labels),
        ("verdict", [verdict for verdict, _ in table.verdicts]),
        *table.differs,
        *((title, [_words(cell) for cell in cells]) for title, cells in table.figures),
    ]
    shown = [(clipped(name, _NAME_CHARS), [clipped(value, _VALUE_CHARS) for value in values]) for name, values in rows]
    first = max(len(name) for name, _ in shown)
    widths = [max(len(values[place]) for _, values in shown) for place in range(len(table.labels))]
    lines = [
        "  ".join([f"{name:<{first}}", *(f"{value:<{width}}" for value, width in zip(values, widths, strict=True))])
        for name, values in shown
    ]
    reasons = [
        f"{label} is {verdict}: {shorten(reason, _REASON_CHARS)}"
        for label, (verdict, reason) in zip(table.labels, table.verdicts, strict=True) if reason
    ]  # fmt: skip
    return [*table.warnings, *(line.rstrip() for line in lines), *reasons, LEGEND]


def _words(cell: Cell) -> str:
    interval = f" ({cell.interval})" if cell.interval else ""
    change = f"  {cell.change}{interval}" if cell.change else ""
    return f"{cell.value}{change}{' *' if cell.sure else ''}"
