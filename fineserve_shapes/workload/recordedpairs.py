"""Recorded pairs: the lengths of a file's rows, held to be drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.lengths import LengthSource, RecordedPairs
from fineserve_shapes.workload.seeds import Purpose, rng
from fineserve_shapes.workload.sourcedigest import source_digest
from fineserve_shapes.workload.traces.cleaning import Cleaner
from fineserve_shapes.workload.traces.forms import TraceColumns, find_length_columns, form_of_lengths
from fineserve_shapes.workload.traces.reading import CHUNK_ROWS, open_file
from fineserve_shapes.workload.traces.survey import RowTally
from fineserve_shapes.workload.traces.tracefile import Wanted
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

PAIRS_HELD = 1_000_000
"""Of a longer file so many are held, drawn at random."""


def read_pairs(path: Path, options: TraceOptions, seed: int = 0) -> LengthSource:
    """Pairs of input and output length from a trace or any file with two such columns; timestamps are not asked for.

    Filters, the lengths' policies and the names of columns are taken from the options. Of more than `PAIRS_HELD` kept
    rows so many are held, drawn at random without replacement.
    """
    file = open_file(path)
    names = find_length_columns(file, options)
    timeless = TraceColumns("", *names)  # a column of zeros stands in for the timestamps
    form = form_of_lengths(file, names)
    cleaner = Cleaner(file, timeless, options, form)
    labels = [condition.column for condition in options.conditions]
    if form is not None and form.images is not None:
        labels.append(form.images)
    wanted = Wanted(names, tuple(dict.fromkeys(labels)), date_times=False)
    tally = RowTally()
    drawing = rng(seed, Purpose.SAMPLE_OF_LENGTHS)
    keys: FloatArray = np.empty(0)
    inputs = outputs = np.empty(0, dtype=np.int32)
    for chunk in file.chunks(wanted, CHUNK_ROWS):
        chunk.numbers[""] = np.zeros(len(chunk.numbers[names[0]]))
        rows = cleaner.clean(chunk, tally)
        tally.kept += len(rows)
        keys = np.concatenate([keys, drawing.random(len(rows))])
        inputs = np.concatenate([inputs, rows.input_tokens.astype(np.int32)])
        outputs = np.concatenate([outputs, rows.output_tokens.astype(np.int32)])
        if len(keys) > PAIRS_HELD:
            held = np.sort(np.argpartition(keys, PAIRS_HELD)[:PAIRS_HELD])
            keys, inputs, outputs = keys[held], inputs[held], outputs[held]
    if not tally.kept:
        left_out = {"filtered out": tally.filtered, **tally.dropped}
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count) or "no row at all"
        raise InputError(f"{path}: no row has lengths to draw: {why} (--request-lengths-csv)")
    pairs = RecordedPairs(inputs.astype(np.int64), outputs.astype(np.int64))
    line = f"pairs of {path.name}, {tally.kept:,} rows"
    if tally.kept > len(keys):
        line += f", of which {len(keys):,} are held"
    filters = {condition.column: condition.value for condition in options.conditions}
    return LengthSource(pairs, {"pairs": source_digest(path), "filters": filters}, line)
