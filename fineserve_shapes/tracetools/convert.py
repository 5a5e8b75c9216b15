"""Convert: a trace of any size and in any order, into a file that is clean and in time order.

Rows are cleaned chunk by chunk, sorted in runs of some million rows that are kept beside the output while it works
(about 60 bytes a row), and merged range by range, so that memory does not grow with the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from fineserve_shapes.arrays import BoolArray, FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.tracetools.progress import counted
from fineserve_shapes.tracetools.writing import trace_writer
from fineserve_shapes.workload.prefixblocks import PrefixBlocks
from fineserve_shapes.workload.seeds import Purpose, rng
from fineserve_shapes.workload.traces.cleaning import Cleaner
from fineserve_shapes.workload.traces.columns import taken
from fineserve_shapes.workload.traces.forms import PREFIX_COLUMN, find_columns, find_prefixes
from fineserve_shapes.workload.traces.survey import RowTally, TraceSurvey
from fineserve_shapes.workload.traces.timeline import cap_gaps, spread
from fineserve_shapes.workload.traces.timestamps import DATE_TIME
from fineserve_shapes.workload.traces.trace import CHUNK_ROWS, nothing_left, open_file
from fineserve_shapes.workload.traces.tracefile import TraceFile, Wanted
from fineserve_shapes.workload.traces.traceoptions import TraceOptions
from fineserve_shapes.workload.traces.units import find_unit

RUN_ROWS = 1_000_000  # that are sorted at once
SAMPLE_EVERY = 1000  # rows, to find where to cut the runs
LABELS = ("architecture", "scale")


@dataclass(frozen=True, slots=True)
class Rest:
    """The columns of rows beside their time, which are picked and joined as arrays are."""

    table: pa.Table

    @classmethod
    def joined(cls, parts: Sequence[Rest]) -> Rest:
        """The parts one below the other."""
        return cls(pa.concat_tables([part.table for part in parts]).combine_chunks())

    def __getitem__(self, which: slice | IntArray | BoolArray) -> Rest:
        if isinstance(which, slice):
            start, end, _ = which.indices(len(self.table))
            return Rest(self.table.slice(start, max(end - start, 0)))
        places = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return Rest(self.table.take(pa.array(places)))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows in time order: times in seconds, shape (n,), and the rest."""

    time_s: FloatArray
    rest: Rest

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is done to the rows of a slice after the trace options: time divided by a factor, a fraction kept, a limit."""

    time_scale: float = 1.0
    keep_fraction: float = 1.0
    num_prompts: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.time_scale < np.inf:
            raise InputError(f"the time scale must be finite and above 0, got {self.time_scale} (--time-scale)")
        if not 0 < self.keep_fraction <= 1:
            raise InputError(
                f"the fraction to keep must be above 0 and at most 1, got {self.keep_fraction} (--keep-fraction)"
            )
        if self.num_prompts is not None and self.num_prompts < 1:
            raise InputError(f"the number of requests must be at least 1, got {self.num_prompts} (--num-prompts)")


def convert(path: Path, out: Path, options: TraceOptions, scaling: Scaling = Scaling()) -> TraceSurvey:
    """Write the trace's kept rows to `out`, in time order, microseconds from the start of the slice.

    Of further columns, latency, architecture, scale and the ids of shared blocks come along. Raises InputError.
    """
    file = open_file(path)
    if out.exists() and out.resolve() == path.resolve():
        raise InputError(f"{out}: a trace cannot be converted into itself (--out)")
    columns = find_columns(file, options)
    unit = find_unit(file, columns, options.timestamp_unit)
    labels = tuple(name for name in LABELS if name in file.names and file.names.count(name) == 1)
    numbers = ("latency",) if file.names.count("latency") == 1 and "latency" not in columns else ()
    block_tokens = find_prefixes(file, columns, options)
    ids = None if block_tokens is None else PREFIX_COLUMN
    wanted = Wanted((*columns, *numbers), labels, unit.name == DATE_TIME, ids)
    cleaner = Cleaner(file, columns, options, block_tokens, unit.name if unit.whole else None)
    tally = RowTally()
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: there is no such directory (--out)")
    with tempfile.TemporaryDirectory(prefix=".fineserve-", dir=out.parent) as folder:
        runs = _Runs(Path(folder))
        for rows in counted(_clean(file, wanted, cleaner, tally), f"reading {path.name}"):
            tally.clean += len(rows)
            runs.add(rows)
        if not tally.clean:
            raise nothing_left(path, options, tally)
        merged = _sliced(runs.merged(), unit.per_second, options, tally)
        if options.spread_within_s is not None:
            merged = spread(merged, options.spread_within_s, np.random.default_rng(options.seed), options.duration_s)
        if options.max_gap_s is not None:
            merged = cap_gaps(merged, options.max_gap_s)
        with trace_writer(out, block_tokens=block_tokens) as writer:
            for rows in counted(_scaled(merged, scaling, options.seed), f"writing {out.name}"):
                writer.write(rows.time_s, rows.rest.table)
            if not tally.kept:
                raise nothing_left(path, options, tally)
    return tally.survey(path.name, unit, complete=True, block_tokens=block_tokens)


def _clean(file: TraceFile, wanted: Wanted, cleaner: Cleaner, tally: RowTally) -> Iterator[Rows]:
    """Kept rows in the file's order, with times in the file's unit."""
    for chunk in file.chunks(wanted, CHUNK_ROWS):
        first_row = tally.rows
        kept = cleaner.clean(chunk, tally)
        at = kept.row - first_row
        table = {"input_length": pa.array(kept.input_tokens), "output_length": pa.array(kept.output_tokens)}
        for name in wanted.numbers[3:]:
            table[name] = pa.array(chunk.numbers[name][at], from_pandas=True)
        for name in wanted.texts:
            table[name] = _strings(chunk.texts[name], at)
        if kept.prefix is not None:
            table[PREFIX_COLUMN] = _lists(kept.prefix)
        yield Rows(kept.ticks, Rest(pa.table({**table, "clamped": pa.array(kept.clamped)})))


def _strings(labels: pd.Categorical, at: IntArray) -> pa.Array:
    """Labels as text; a missing one stays missing."""
    codes = np.asarray(labels.codes)[at].astype(np.int32)
    names = pa.array([str(name) for name in labels.categories], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), names).cast(pa.string())


def _lists(prefix: PrefixBlocks) -> pa.Array:
    return pa.LargeListArray.from_arrays(prefix.offsets, prefix.ids)


class _Runs:
    """Sorted runs in files of a folder, which are mapped into memory to be merged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[Rows] = []
        self._paths: list[Path] = []

    def add(self, rows: Rows) -> None:
        """Take some rows; a run goes to a file when it is large enough."""
        self._held.append(rows)
        if sum(map(len, self._held)) >= RUN_ROWS:
            self._flush()

    def merged(self) -> Iterator[Rows]:
        """All rows in time order; equal times stay in the order in which they were added."""
        if not self._paths:
            yield self._sorted()
            return
        self._flush()
        runs = [_mapped(path) for path in self._paths]
        sample = np.sort(np.concatenate([run.time_s[::SAMPLE_EVERY] for run in runs]))
        borders = np.unique(sample[:: max(RUN_ROWS // SAMPLE_EVERY, 1)][1:])
        cuts = [np.concatenate(([0], np.searchsorted(run.time_s, borders), [len(run)])) for run in runs]
        for number in range(len(borders) + 1):
            parts = [taken(run, slice(cut[number], cut[number + 1])) for run, cut in zip(runs, cuts, strict=True)]
            self._held = [part for part in parts if len(part)]
            if self._held:
                yield self._sorted()

    def _flush(self) -> None:
        if not self._held:
            return
        rows = self._sorted()
        path = self._folder / f"{len(self._paths)}.arrow"
        table = rows.rest.table.append_column("time_s", pa.array(rows.time_s))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=len(table))
        self._paths.append(path)

    def _sorted(self) -> Rows:
        time_s = np.concatenate([rows.time_s for rows in self._held])
        rest = Rest.joined([rows.rest for rows in self._held])
        self._held = []
        if np.all(time_s[1:] >= time_s[:-1]):
            return Rows(time_s, rest)
        return taken(Rows(time_s, rest), np.argsort(time_s, kind="stable"))


def _mapped(path: Path) -> Rows:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return Rows(table["time_s"].chunk(0).to_numpy(), Rest(table.drop_columns("time_s")))


def _sliced(runs: Iterator[Rows], per_second: float, options: TraceOptions, tally: RowTally) -> Iterator[Rows]:
    """What is in the slice, in seconds from its start."""
    first: float | None = None
    end_s = np.inf if options.duration_s is None else options.duration_s
    for rows in runs:
        first = float(rows.time_s[0]) if first is None else first
        time_s = (rows.time_s - first) / per_second
        tally.count_times(time_s)
        time_s -= options.start_at_s
        start, end = np.searchsorted(time_s, [0.0, end_s]).tolist()
        inside = taken(Rows(time_s, rows.rest), slice(start, end))
        tally.count_slice(inside.rest.table["clamped"].to_numpy(), len(rows))
        if len(inside):
            tally.span_s = float(inside.time_s[-1])
            yield inside


def _scaled(slices: Iterator[Rows], scaling: Scaling, seed: int) -> Iterator[Rows]:
    picking = rng(seed, Purpose.KEPT_REQUESTS)
    left = scaling.num_prompts
    for rows in slices:
        found = replace(rows, time_s=rows.time_s / scaling.time_scale)
        if scaling.keep_fraction < 1:
            found = taken(found, picking.random(len(found)) < scaling.keep_fraction)
        if left is not None:
            found = taken(found, slice(left))
            left -= len(found)
        yield found
        if left == 0:
            return
