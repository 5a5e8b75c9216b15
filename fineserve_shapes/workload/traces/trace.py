"""Trace: a recorded trace, cleaned, cut and in time order, however long."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.sourcedigest import source_digest
from fineserve_shapes.workload.traces.columns import CleanRows, Columns, joined, pieces, taken
from fineserve_shapes.workload.traces.parquetfile import ParquetFile
from fineserve_shapes.workload.traces.reading import CHUNK_ROWS, Reading, begin
from fineserve_shapes.workload.traces.selection import Condition, nearest
from fineserve_shapes.workload.traces.survey import RowTally, TraceSurvey, human_span
from fineserve_shapes.workload.traces.timeline import cap_gaps, spread
from fineserve_shapes.workload.traces.tracefile import TraceFile, Wanted, listed
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

__all__ = ["Columns", "Trace", "TraceOptions", "TraceSurvey", "open_trace"]

# Up to so many kept rows are held (24 bytes each) and sorted where need be. Reading them takes a quarter of a second.
MEMORY_ROWS = 2_000_000

MOST_LABELS = 1000  # of a column, that are looked at to say what it holds


class Trace:
    """What `open_trace` returns.

    name: the file's name.
    digest: of the file's bytes (`source_digest`).
    opening: the survey of what was read on opening: the whole file, or the head of a long one (`complete` says which).
    """

    def __init__(self, reading: Reading, *, chunk_rows: int, memory_rows: int) -> None:
        file = reading.file
        self.name = file.path.name
        self.digest = source_digest(file.path)
        self.options = reading.options
        self._file = file
        self._unit = reading.unit
        self._block_tokens = reading.block_tokens
        self._cleaner = reading.cleaner
        self._wanted = reading.wanted()
        self._chunk_rows = chunk_rows
        self._memory_rows = memory_rows
        self._held: Columns | None = None
        self._survey: TraceSurvey | None = None
        self._mark = file.mark if isinstance(file, ParquetFile) else None
        self.opening = self._read_mark() or self._read_head()

    @property
    def survey(self) -> TraceSurvey | None:
        """The survey of the whole file; None until a long one has been read to its end."""
        return self._survey

    def read_survey(self, meanwhile: Callable[[], None] = lambda: None) -> TraceSurvey:
        """The survey of the whole file, for which a long one is read once, by itself and to its end; `meanwhile` is
        called now and then."""
        if self._survey is None:
            for _ in self._streamed(past_slice=True):
                meanwhile()
        assert self._survey is not None
        return self._survey

    def adopt(self, survey: TraceSurvey) -> None:
        """Take over the survey of this trace that somebody else has read."""
        if self._survey is None:
            self._survey = survey

    def blocks(self, seed: int | None = None) -> Iterator[Columns]:
        """The kept rows in ascending time, chunk by chunk; each call starts anew.

        Times are trace seconds from the start of the slice, spread and capped as the options say. seed: of the
        spreading; None takes the options'. Raises InputError where a long file turns out to be unsorted or damaged.
        """
        options, seed = self.options, self.options.seed if seed is None else seed
        chunks = self._streamed(past_slice=False) if self._held is None else pieces(self._held, self._chunk_rows)
        if options.spread_within_s is not None:
            chunks = spread(chunks, options.spread_within_s, np.random.default_rng(seed), options.duration_s)
        if options.max_gap_s is not None:
            chunks = cap_gaps(chunks, options.max_gap_s)
        return chunks

    @property
    def size(self) -> tuple[int, float] | None:
        """Rows and the time of the last one, where the file itself says so."""
        if self._mark is None or not self._survey or self._held is not None or self._options_change_times:
            return None
        return self._survey.kept, self._survey.span_s

    @property
    def _options_change_times(self) -> bool:
        return self.options.spread_within_s is not None or self.options.max_gap_s is not None

    def _read_mark(self) -> TraceSurvey | None:
        """The survey of a long file that is marked as sorted and clean, if the options leave all of its rows as they
        are: nothing of it needs to be read."""
        options, mark = self.options, self._mark
        if mark is None or mark.rows <= self._chunk_rows:
            return None
        self._memory_rows = 0  # what it holds is known, so a first chunk tells enough
        if (
            options.conditions
            or options.max_model_len is not None
            or options.start_at_s
            or options.duration_s is not None
        ):
            return None
        tally = RowTally(rows=mark.rows, kept=mark.rows, clean=mark.rows, clean_span_s=mark.span_s, span_s=mark.span_s)
        self._survey = self._surveyed(tally, complete=True)
        return self._survey

    def _read_head(self) -> TraceSurvey:
        tally = RowTally()
        head: list[CleanRows] = []
        for rows in self._cleaned(tally):
            head.append(rows)
            if tally.clean > self._memory_rows:
                break
        else:
            if not head:
                raise nothing_left(self._file, self.options, tally)
            rows = _sorted(joined(head))
            self._held = self._slice(rows, origin(rows.ticks[0], tally), tally)
            if not tally.kept:
                raise nothing_left(self._file, self.options, tally)
            self._survey = self._surveyed(tally, complete=True)
            return self._survey
        # a long file: it is read anew for every pass, so that memory does not grow with it
        for _ in self._sliced(head, tally):
            pass
        return self._surveyed(tally, complete=False)

    def _cleaned(self, tally: RowTally) -> Iterator[CleanRows]:
        for chunk in self._file.chunks(self._wanted, self._chunk_rows):
            rows = self._cleaner.clean(chunk, tally)
            tally.clean += len(rows)
            if len(rows):
                yield rows

    def _streamed(self, past_slice: bool) -> Iterator[Columns]:
        """A long file from its start, to the end of the slice or, for the survey, of the file."""
        tally = RowTally()
        end_s = np.inf if self.options.duration_s is None else self.options.start_at_s + self.options.duration_s
        for columns in self._sliced(self._cleaned(tally), tally):
            if len(columns) or past_slice:
                yield columns
            if not past_slice and tally.clean_span_s >= end_s:
                break
        else:
            self._survey = self._surveyed(tally, complete=True)
        if not tally.kept:
            raise nothing_left(self._file, self.options, tally)

    def _sliced(self, parts: Iterable[CleanRows], tally: RowTally) -> Iterator[Columns]:
        first_tick, last_tick = None, -np.inf
        for rows in parts:
            if tally.early_row is not None:
                raise self._unsorted(tally.early_row)
            backwards = rows.ticks < np.concatenate(([last_tick], rows.ticks[:-1]))
            if backwards.any():
                raise self._unsorted(int(rows.row[np.argmax(backwards)]))
            last_tick = rows.ticks[-1]
            if first_tick is None:
                first_tick = rows.ticks[0] if tally.opening_tick is None else tally.opening_tick
            yield self._slice(rows, first_tick, tally)

    def _slice(self, rows: CleanRows, first_tick: float, tally: RowTally) -> Columns:
        """What is in the slice of some ascending rows, in seconds from its start."""
        time_s = rows.ticks - first_tick
        time_s /= self._unit.per_second
        tally.count_times(time_s)
        time_s -= self.options.start_at_s
        end_s = np.inf if self.options.duration_s is None else self.options.duration_s
        inside = slice(*np.searchsorted(time_s, [0.0, end_s]))
        tally.count_slice(rows.clamped[inside], len(rows))
        columns = taken(Columns(time_s, rows.input_tokens, rows.output_tokens, rows.prefix), inside)
        if len(columns):
            tally.span_s = float(columns.time_s[-1])
        return columns

    def _surveyed(self, tally: RowTally, complete: bool) -> TraceSurvey:
        return tally.survey(self.name, self._unit, complete=complete, block_tokens=self._block_tokens)

    def _unsorted(self, row: int) -> InputError:
        return InputError(
            f"{self._file.path}: {self._file.place(row)} is earlier than the row before it, and the file has more than"
            f" {self._memory_rows:,} rows, too many to sort here: sort it with"
            f" `fineserve trace convert {self._file.path} --out FILE`"
        )


def origin(first_tick: float, tally: RowTally) -> float:
    """Where time 0 is, of rows in time order that begin with this tick: there, or at the first row of the whole file."""
    return first_tick if tally.earliest is None else tally.earliest[0]


def nothing_left(file: TraceFile, options: TraceOptions, tally: RowTally) -> InputError:
    """The error for a trace of which no row is left."""
    if tally.clean:
        end = "the end" if options.duration_s is None else f"{options.start_at_s + options.duration_s:g} s"
        why = (
            f"the slice from {options.start_at_s:g} s to {end} holds none of its {tally.clean:,} usable rows, which"
            f" span {human_span(tally.clean_span_s)} (--start-at, --duration)"
        )
    elif not tally.rows:
        why = "it has no rows below its header"
    elif tally.filtered == tally.rows:
        why = _none_selected(file, options.conditions)
    else:
        dropped = ", ".join(f"{rows:,} {reason}" for reason, rows in tally.dropped.items() if rows)
        why = f"none of its {tally.rows:,} rows can be used: {dropped}" + (
            f", {tally.filtered:,} filtered out" if tally.filtered else ""
        )
    return InputError(f"{file.path}: {why}")


def _none_selected(file: TraceFile, conditions: Sequence[Condition]) -> str:
    """Why no row meets the conditions: what the columns hold instead."""
    found: dict[str, dict[str, None]] = {condition.column: {} for condition in conditions}
    for chunk in file.chunks(Wanted((), tuple(found), date_times=False), CHUNK_ROWS):
        for column, labels in chunk.texts.items():
            found[column].update(dict.fromkeys(map(str, labels.categories)))
        if all(len(labels) > MOST_LABELS for labels in found.values()):
            break
    asked = " and ".join(f"{condition.column} {clipped(condition.value)}" for condition in conditions)
    held = "; ".join(f"{clipped(column)} {listed(sorted(labels))}" for column, labels in found.items())
    near = next(filter(None, (nearest(one.value, found[one.column]) for one in conditions if not one.loose)), "")
    flags = ", ".join(dict.fromkeys(condition.flag for condition in conditions))
    return f"no row has {asked}: the file has {held} ({flags}){near}"


def open_trace(
    path: str | os.PathLike[str],
    options: TraceOptions = TraceOptions(),  # noqa: B008 - a frozen value
    *,
    chunk_rows: int = CHUNK_ROWS,
    memory_rows: int = MEMORY_ROWS,
) -> Trace:
    """Open a recorded trace: find its columns and its unit, and read up to memory_rows kept rows.

    A file that ends there is held, and sorted where it is not. A longer one is read anew, in chunks, by each pass, so
    that memory does not grow with it; it must be in time order. chunk_rows changes no result.

    Raises InputError where the file is missing, damaged, in no form we know, or has no usable row; its message names
    the file, the row, the column and the value.
    """
    return Trace(begin(path, options), chunk_rows=chunk_rows, memory_rows=memory_rows)


def _sorted(rows: CleanRows) -> CleanRows:
    """In time order; equal times stay in the file's order."""
    if np.all(rows.ticks[1:] >= rows.ticks[:-1]):
        return rows
    return taken(rows, np.argsort(rows.ticks, kind="stable"))
