"""Cleaner: which rows of a trace are kept, and with what lengths; every row left out is counted under one reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.prefixblocks import PrefixBlocks
from fineserve_shapes.workload.traces.columns import CleanRows, taken
from fineserve_shapes.workload.traces.forms import PREFIX_COLUMN, Form, TraceColumns
from fineserve_shapes.workload.traces.selection import selected
from fineserve_shapes.workload.traces.survey import CLAMP_BITS, RowTally
from fineserve_shapes.workload.traces.timestamps import fractional
from fineserve_shapes.workload.traces.tracefile import Chunk, TraceFile, no_number, wrong_value
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

MAX_LENGTH = 2**31 - 1  # a larger number is no length of a text
MAX_TICKS = 2.0**63  # in nanoseconds 292 years from 1970


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Applies the selection and then the policies of the options.

    form: the published form of the file, whose own rules hold too; None where it has none that we know.
    block_tokens: how many tokens of a prompt stand behind each of its ids; another number of ids is an error.
    whole_in: the unit that was taken for granted because timestamps are whole numbers; one that is not is an error.
    """

    file: TraceFile
    columns: TraceColumns
    options: TraceOptions
    form: Form | None = None
    block_tokens: int | None = None
    whole_in: str | None = None

    def clean(self, chunk: Chunk, tally: RowTally) -> CleanRows:
        """The rows of a chunk to keep; all of its rows are counted in the tally, which has counted those before it.

        Raises InputError for values that are no times or lengths, and for rows that a policy calls an error.
        """
        first_row = tally.rows
        tally.rows += chunk.rows
        all_ticks, all_inputs, all_outputs = (chunk.numbers[name] for name in self.columns)
        if self.options.time_origin == "trace":
            tally.count_ticks(all_ticks if chunk.every_tick is None else chunk.every_tick, first_row)

        kept = np.arange(len(all_ticks))  # places in the chunk
        if self.options.conditions:
            kept = np.flatnonzero(selected(chunk.texts, self.options.conditions, len(all_ticks)))
            tally.filtered += chunk.rows - len(kept)
        missing = np.isnan(_picked(all_ticks, kept))
        if missing.any():
            if self.options.missing_timestamp == "error":
                row = first_row + chunk.places[kept]
                raise self._error(missing, row, 0, all_ticks[kept], "(--missing-timestamp drop leaves such rows out)")
            tally.drop("missing_timestamp", int(np.count_nonzero(missing)))
            kept = kept[~missing]
        if self.form is not None:
            kept = self._by_form(self.form, chunk, kept, first_row, tally)
        row = first_row + (kept if chunk.at is None else chunk.at[kept])
        ticks, inputs, outputs = (_picked(values, kept) for values in (all_ticks, all_inputs, all_outputs))
        absurd = np.abs(ticks) > MAX_TICKS
        if absurd.any():
            raise self._error(absurd, row, 0, ticks, "is no time")
        if self.whole_in is not None and (broken := fractional(ticks)).any():
            complaint = f"is no whole number of {self.whole_in}, as the first are: say --timestamp-unit s, ms, us or ns"
            raise self._error(broken, row, 0, ticks, complaint)

        recorded = np.zeros(len(row), dtype=np.uint8)
        prefix = None if chunk.ids is None else chunk.ids[kept]
        clean = CleanRows(row, ticks, self._lengths(row, 1, inputs), self._lengths(row, 2, outputs), recorded, prefix)
        if prefix is not None and self.block_tokens is not None:
            clean = replace(clean, prefix=self._blocks(clean, prefix, self.block_tokens))
        clean = self._within_context(self._at_least_one(clean, tally), tally)
        if clean.prefix is not None and clean.clamped.any():
            most = -(-clean.input_tokens // clean.prefix.block_tokens)
            clean = replace(clean, prefix=clean.prefix.cut(most))
        return clean

    def _by_form(self, form: Form, chunk: Chunk, kept: IntArray, first_row: int, tally: RowTally) -> IntArray:
        """The places that the form's own rules leave."""
        if form.images is not None:
            labels = chunk.texts[form.images]
            images = np.array([*(_number(label) for label in labels.categories), 0.0])[np.asarray(labels.codes)][kept]
            if np.isnan(images).any():
                first = kept[np.argmax(np.isnan(images))]
                raise no_number(self.file, first_row + int(chunk.places[first]), form.images, labels[first])
            tally.drop("with_images", int(np.count_nonzero(images)))
            kept = kept[images == 0]
        if form.unknown_length is not None:
            lengths = np.stack([chunk.numbers[name][kept] for name in self.columns[1:]])
            unknown = ((lengths == form.unknown_length) | np.isnan(lengths)).any(axis=0)
            tally.drop("unknown_length", int(np.count_nonzero(unknown)))
            kept = kept[~unknown]
        return kept

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
            tally.drop("below_one", int(np.count_nonzero(low)))
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
            tally.drop("beyond_max_model_len", int(np.count_nonzero(long)))
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


def _picked(values: FloatArray, places: IntArray) -> FloatArray:
    """The values at ascending places, without a copy where these are all."""
    return values if len(places) == len(values) else values[places]


def _number(label: str) -> float:
    """A text as a number; NaN where it is none."""
    try:
        return float(label)
    except ValueError:
        return math.nan
