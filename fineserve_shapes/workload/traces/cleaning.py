"""Cleaner: which rows of a trace are kept, and with what lengths; every row left out is counted under one reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.prefixblocks import PrefixBlocks
from fineserve_shapes.workload.traces.columns import CleanRows, taken
from fineserve_shapes.workload.traces.forms import PREFIX_COLUMN, TraceColumns
from fineserve_shapes.workload.traces.survey import CLAMP_BITS, RowTally
from fineserve_shapes.workload.traces.timestamps import fractional
from fineserve_shapes.workload.traces.tracefile import Chunk, TraceFile, wrong_value
from fineserve_shapes.workload.traces.traceoptions import TraceOptions, normalised

MAX_LENGTH = 2**31 - 1  # a larger number is no length of a text
MAX_TICKS = 2.0**63  # in nanoseconds 292 years from 1970


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Applies the filters and then the policies of the options.

    block_tokens: how many tokens of a prompt stand behind each of its ids; another number of ids is an error.
    whole_in: the unit that was taken for granted because timestamps are whole numbers; one that is not is an error.
    """

    file: TraceFile
    columns: TraceColumns
    options: TraceOptions
    block_tokens: int | None = None
    whole_in: str | None = None

    def clean(self, chunk: Chunk, tally: RowTally) -> CleanRows:
        """The rows of a chunk to keep; all of its rows are counted in the tally, which has counted those before it.

        Raises InputError for values that are no times or lengths, and for rows that a policy calls an error.
        """
        first_row = tally.rows
        tally.rows += chunk.rows
        row: IntArray = np.arange(first_row, tally.rows, dtype=np.int64)
        ticks, inputs, outputs = (chunk.numbers[name] for name in self.columns)

        for name, value in self.options.filters.items():
            labels = chunk.texts[name]
            tally.labels[name].update(map(str, labels.categories))
            wanted = _having(labels, value)[row - first_row]
            tally.filtered += len(row) - int(np.count_nonzero(wanted))
            row, ticks, inputs, outputs = row[wanted], ticks[wanted], inputs[wanted], outputs[wanted]

        missing = np.isnan(ticks)
        if missing.any():
            if self.options.missing_timestamp == "error":
                raise self._error(missing, row, 0, ticks, "(--missing-timestamp drop leaves such rows out)")
            tally.dropped["missing_timestamp"] += int(np.count_nonzero(missing))
            row, ticks, inputs, outputs = row[~missing], ticks[~missing], inputs[~missing], outputs[~missing]
        absurd = np.abs(ticks) > MAX_TICKS
        if absurd.any():
            raise self._error(absurd, row, 0, ticks, "is no time")
        if self.whole_in is not None and (broken := fractional(ticks)).any():
            complaint = f"is no whole number of {self.whole_in}, as the first are: say --timestamp-unit s, ms, us or ns"
            raise self._error(broken, row, 0, ticks, complaint)

        recorded = np.zeros(len(row), dtype=np.uint8)
        prefix = None if chunk.ids is None else chunk.ids[row - first_row]
        clean = CleanRows(row, ticks, self._lengths(row, 1, inputs), self._lengths(row, 2, outputs), recorded, prefix)
        if prefix is not None and self.block_tokens is not None:
            clean = replace(clean, prefix=self._blocks(clean, prefix, self.block_tokens))
        clean = self._within_context(self._at_least_one(clean, tally), tally)
        if clean.prefix is not None and clean.clamped.any():
            most = -(-clean.input_tokens // clean.prefix.block_tokens)
            clean = replace(clean, prefix=clean.prefix.cut(most))
        return clean

    def _blocks(self, rows: CleanRows, prefix: PrefixBlocks, block_tokens: int) -> PrefixBlocks:
        """The ids, each of a block of so many tokens, if there are as many as each prompt has blocks."""
        lengths = rows.input_tokens
        fits = prefix.fitting(lengths, block_tokens)
        if fits.all():
            return replace(prefix, block_tokens=block_tokens)
        first = int(np.argmin(fits))
        best = prefix.best_block_tokens(lengths)
        fit, all_rows = int(np.count_nonzero(prefix.fitting(lengths, best))), len(rows)
        if fit > np.count_nonzero(fits):
            hint = f"blocks of {best:,} would fit" + ("" if fit == all_rows else f" {fit:,} of {all_rows:,} rows")
            hint += f" (--prefix-block-tokens {best})"
        else:
            hint = "no other size fits more rows (--prefix-block-tokens): give the row its ids, or none"
        place = f"{self.file.path}: {self.file.place(int(rows.row[first]))}, column {PREFIX_COLUMN}"
        ids, due = len(prefix[first : first + 1].ids), -(-lengths[first] // block_tokens)
        raise InputError(
            f"{place}: the number of ids is {ids:,}, but {lengths[first]:,} input tokens are {due:,} blocks of"
            f" {block_tokens:,}; {hint}"
        )

    def _lengths(self, row: IntArray, column: int, values: FloatArray) -> IntArray:
        with np.errstate(invalid="ignore"):  # NaN and infinity become some integer, which they do not equal
            lengths = values.astype(np.int64)
        wrong = (lengths != values) | (lengths > MAX_LENGTH)
        if wrong.any():
            first = values[np.argmax(wrong)]
            if np.isnan(first):
                complaint = "where each row must have a length"
            elif abs(first) > MAX_LENGTH:
                complaint = "is no length of a text"
            else:
                complaint = "is no whole number"
            raise self._error(wrong, row, column, values, complaint)
        return lengths

    def _at_least_one(self, rows: CleanRows, tally: RowTally) -> CleanRows:
        low_input, low_output = rows.input_tokens < 1, rows.output_tokens < 1
        low = low_input | low_output
        if not low.any():
            return rows
        if self.options.below_one == "error":
            column, values = (1, rows.input_tokens) if low_input[np.argmax(low)] else (2, rows.output_tokens)
            raise self._error(low, rows.row, column, values, "is below 1 (--below-one drop or clamp)")
        if self.options.below_one == "drop":
            tally.dropped["below_one"] += int(np.count_nonzero(low))
            return taken(rows, ~low)
        inputs, outputs = np.maximum(rows.input_tokens, 1), np.maximum(rows.output_tokens, 1)
        clamped = rows.clamped | low * CLAMP_BITS["below_one"]
        return replace(rows, input_tokens=inputs, output_tokens=outputs, clamped=clamped)

    def _within_context(self, rows: CleanRows, tally: RowTally) -> CleanRows:
        context = self.options.max_model_len
        if context is None:
            return rows
        long = rows.input_tokens + rows.output_tokens > context
        if not long.any():
            return rows
        if self.options.beyond_max_model_len == "error":
            raise self._error(
                long,
                rows.row,
                1,
                rows.input_tokens,
                f"and {rows.output_tokens[np.argmax(long)]} output tokens exceed --max-model-len {context}"
                " (--beyond-max-model-len clamp or drop)",
            )
        if self.options.beyond_max_model_len == "drop":
            tally.dropped["beyond_max_model_len"] += int(np.count_nonzero(long))
            return taken(rows, ~long)
        inputs = np.minimum(rows.input_tokens, context - 1)
        outputs = np.minimum(rows.output_tokens, context - inputs)
        clamped = rows.clamped | long * CLAMP_BITS["beyond_max_model_len"]
        return replace(rows, input_tokens=inputs, output_tokens=outputs, clamped=clamped)

    def _error(
        self, wrong: BoolArray, row: IntArray, column: int, values: FloatArray | IntArray, complaint: str
    ) -> InputError:
        """For the first of the wrong rows."""
        first = int(np.argmax(wrong))
        return wrong_value(self.file, int(row[first]), self.columns[column], values[first].item(), complaint)


def _having(labels: pd.Categorical, value: str) -> BoolArray:
    """The rows with this label, whatever its spelling; a missing label has code -1, the last entry."""
    alike = [normalised(str(label)) == normalised(value) for label in labels.categories]
    return np.array([*alike, False])[np.asarray(labels.codes)]
