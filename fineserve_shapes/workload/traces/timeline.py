"""Timeline: the recorded times of a trace made smoother or shorter, in one pass and whatever the chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.workload.traces.columns import RowsLike, joined, taken


class TimedRows(RowsLike, Protocol):
    """Rows with a time, such as `Columns`."""

    @property
    def time_s(self) -> FloatArray: ...


Timed = TypeVar("Timed", bound=TimedRows)


def spread(
    chunks: Iterable[Timed], interval_s: float, rng: np.random.Generator, end_s: float | None = None
) -> Iterator[Timed]:
    """Times drawn uniformly within their interval, and sorted in it: what a coarse clock took away.

    Row by row, t becomes k w + U (min((k + 1) w, end) - k w), where w is the interval, k = floor(t / w) and U is
    uniform on [0, 1). Counts per interval stay as they are. A row's draw depends on its place in the trace alone.
    """
    held: list[Timed] = []  # rows of the last interval, of which the next chunk may have more
    for chunk in chunks:
        if not len(chunk):
            continue
        held.append(chunk)
        last = np.floor(chunk.time_s[-1] / interval_s)
        if np.floor(held[0].time_s[0] / interval_s) == last:
            continue
        rows = joined(held)
        cut = int(np.searchsorted(np.floor(rows.time_s / interval_s), last))
        held = [taken(rows, slice(cut, None))]
        yield _spread(taken(rows, slice(cut)), interval_s, rng, end_s)
    if held:
        yield _spread(joined(held), interval_s, rng, end_s)


def _spread(rows: Timed, interval_s: float, rng: np.random.Generator, end_s: float | None) -> Timed:
    start_s = np.floor(rows.time_s / interval_s) * interval_s
    width_s = interval_s if end_s is None else np.clip(end_s - start_s, 0.0, interval_s)
    time_s = start_s + rng.random(len(rows)) * width_s
    order = np.argsort(time_s, kind="stable")
    return _at(taken(rows, order), time_s[order])


def cap_gaps(chunks: Iterable[Timed], max_gap_s: float) -> Iterator[Timed]:
    """No gap above max_gap_s: what a longer one has too much is cut out of the time line, the one before the first row
    included."""
    last_s = cut_s = 0.0
    for chunk in chunks:
        if not len(chunk):
            continue
        excess_s = np.maximum(np.diff(chunk.time_s, prepend=last_s) - max_gap_s, 0.0)
        # summed from the left over all chunks, so that rounding is the same however the trace is divided
        cuts_s = np.cumsum(np.concatenate(([cut_s], excess_s)))[1:]
        last_s, cut_s = chunk.time_s[-1], cuts_s[-1]
        yield _at(chunk, chunk.time_s - cuts_s)


def _at(rows: Timed, time_s: FloatArray) -> Timed:
    """The same requests at other times."""
    return replace(rows, time_s=time_s)
