"""Columns: sparse sums over slots of time as plain lists for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure.histogram import middles_s


@dataclass(frozen=True, slots=True)
class SeriesColumns:
    """The shape of columns: how many slots of which widths (s), and the names of their fields."""

    slots: int
    widths: IntArray
    counts: Sequence[str]
    quantities: Sequence[str]
    quantiles: Sequence[float]
    place_bits: int
    absent: frozenset[str] = frozenset()  # names of fields that are not measured

    def of(self, at: IntArray, keys: IntArray, sums: FloatArray) -> dict[str, Any]:
        """Columns from sums by slot and key (field and bucket), in any order; equal ones are added."""
        fields, buckets = keys >> self.place_bits, keys & (1 << self.place_bits) - 1
        table = np.zeros((len(self.counts) + len(self.quantities), self.slots))
        np.add.at(table, (fields, at), sums)
        columns: dict[str, Any] = {}
        for place, name in enumerate(self.counts):
            if name in self.absent:
                continue
            values = table[place]
            if name == "in_flight":
                columns[name] = np.round(values / self.widths, 3).tolist()
            else:
                columns[name] = np.round(values).astype(np.int64).tolist()
        for place, name in enumerate(self.quantities, start=len(self.counts)):
            mine = fields == place
            columns[name] = self._quantity(at[mine], buckets[mine], sums[mine], table[place])
        return columns

    def _quantity(self, at: IntArray, buckets: IntArray, sums: FloatArray, count: FloatArray) -> dict[str, Any]:
        order = np.lexsort((buckets, at))
        at, buckets = at[order], buckets[order]
        reached = np.cumsum(sums[order])
        before = np.cumsum(count) - count
        column: dict[str, Any] = {"count": np.round(count).astype(np.int64).tolist()}
        filled = np.flatnonzero(count)
        for q in self.quantiles:
            values: list[float | None] = [None] * self.slots
            # half a count less, since sums of whole numbers are compared
            rank = before[filled] + np.maximum(np.ceil(q * count[filled]), 1) - 0.5
            found = 1e3 * middles_s(buckets[np.searchsorted(reached, rank)])
            for place, value in zip(filled.tolist(), np.round(found, 4).tolist(), strict=True):
                values[place] = value
            column[f"p{100 * q:g}_ms"] = values
        return column
