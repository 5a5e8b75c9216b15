"""Splitting: the values that a column of a trace holds, and what rows each has, in one pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fineserve_shapes.arrays import BoolArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.traces.columns import CleanRows
from fineserve_shapes.workload.traces.forms import check_label
from fineserve_shapes.workload.traces.reading import CHUNK_ROWS, begin
from fineserve_shapes.workload.traces.selection import selected
from fineserve_shapes.workload.traces.survey import RowTally
from fineserve_shapes.workload.traces.trace import nothing_left
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

MOST_VALUES = 10_000  # a column with more says of each row which it is, not whose


@dataclass(frozen=True, slots=True)
class Value:
    """The rows of a trace in which a column holds one value.

    value: as text, as `--where` takes it; "" for rows that hold none. rows: all that the other conditions select.
    usable: those that the cleaning leaves. first_s, last_s: times of the first and the last of these, from the first row
    of the whole file that has a timestamp. input_tokens, output_tokens: their mean lengths. All four are None where no row
    is usable.
    """

    value: str
    rows: int
    usable: int
    first_s: float | None
    last_s: float | None
    input_tokens: float | None
    output_tokens: float | None

    @property
    def rate_rps(self) -> float | None:
        """Usable rows per second between the first and the last; None where there is no time between."""
        if self.first_s is None or self.last_s is None or self.last_s <= self.first_s:
            return None
        return (self.usable - 1) / (self.last_s - self.first_s)


@dataclass(slots=True)
class _Sums:
    """What is added up of one value."""

    rows: int = 0
    usable: int = 0
    first_tick: float = np.inf
    last_tick: float = -np.inf
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def value(self, label: str, origin_tick: float, per_second: float) -> Value:
        """As a value, with times in seconds."""
        if not self.usable:
            return Value(label, self.rows, 0, None, None, None, None)
        return Value(
            label,
            self.rows,
            self.usable,
            (self.first_tick - origin_tick) / per_second,
            (self.last_tick - origin_tick) / per_second,
            self.input_tokens / self.usable,
            self.output_tokens / self.usable,
        )


def split_values(
    path: str | os.PathLike[str],
    options: TraceOptions,
    column: str,
    *,
    chunk_rows: int = CHUNK_ROWS,
    watch: Callable[[Iterator[CleanRows]], Iterator[CleanRows]] = iter,
) -> list[Value]:
    """The values of a column, those with most usable rows first; rows without one come last.

    The file may be in any order and of any length. What the options say of a slice, of spreading and of gaps does not
    act. watch: passes on the usable rows, chunk by chunk, as they are read.

    Raises InputError for a column that is not there or has more than `MOST_VALUES` values, and where no row is usable.
    """
    reading = begin(path, replace(options, time_origin="trace"))
    file, cleaner = reading.file, reading.cleaner
    check_label(file, column, reading.columns, "--by", "to split by")
    tally = RowTally()
    sums: dict[str, _Sums] = {}

    def usable_rows() -> Iterator[CleanRows]:
        for chunk in file.chunks(reading.wanted(texts=(column,)), chunk_rows):
            first_row = tally.rows
            here = selected(chunk.texts, options.conditions, len(chunk.places))
            rows = cleaner.clean(chunk, tally)
            tally.clean += len(rows)
            labels = chunk.texts[column]
            _add(sums, labels, here, np.searchsorted(chunk.places, rows.row - first_row), rows)
            if len(sums) > MOST_VALUES:
                raise InputError(
                    f"{file.path}: column {clipped(column)} has more than {MOST_VALUES:,} values, too many to split by"
                    " (--by)"
                )
            yield rows

    for _ in watch(usable_rows()):
        pass
    if not tally.clean or tally.earliest is None:
        raise nothing_left(file, options, tally)
    values = [one.value(label, tally.earliest[0], reading.unit.per_second) for label, one in sums.items()]
    return sorted(values, key=lambda value: (not value.value, -value.usable, value.value))


def _add(sums: dict[str, _Sums], labels: pd.Categorical, here: BoolArray, usable: IntArray, rows: CleanRows) -> None:
    """Add a chunk. labels: of its rows; here: which of them are selected; usable: the places of those kept."""
    names = [*map(str, labels.categories), ""]
    codes = np.asarray(labels.codes).astype(np.int64)
    codes[codes < 0] = len(names) - 1
    counts = np.bincount(codes[here], minlength=len(names))
    kept = codes[usable]
    usable_counts = np.bincount(kept, minlength=len(names))
    inputs = np.bincount(kept, weights=rows.input_tokens, minlength=len(names))
    outputs = np.bincount(kept, weights=rows.output_tokens, minlength=len(names))
    first, last = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(first, kept, rows.ticks)
    np.maximum.at(last, kept, rows.ticks)
    for code in np.flatnonzero(counts).tolist():
        one = sums.setdefault(names[code], _Sums())
        one.rows += int(counts[code])
        one.usable += int(usable_counts[code])
        one.first_tick = min(one.first_tick, float(first[code]))
        one.last_tick = max(one.last_tick, float(last[code]))
        one.input_tokens += float(inputs[code])
        one.output_tokens += float(outputs[code])
