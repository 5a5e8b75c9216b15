"""Dispersion: how bursty arrivals turned out, from their gaps and from their counts.

It stands between the rooms: plans are made with it in mind, and what was delivered is measured with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray

WIDTHS_S = (1, 10, 300)


@dataclass(frozen=True, slots=True)
class Burstiness:
    """Realised figures of some arrivals; None where there are too few to tell.

    requests: how many. span_s: observed time in seconds. rate_rps: requests / span.
    gap_cv: standard deviation over mean of the gaps.
    dispersion: variance over mean of the counts in bins of 1, 10 and 300 s, by width; 1 for Poisson.
    """

    requests: int
    span_s: float
    rate_rps: float | None
    gap_cv: float | None
    dispersion: dict[int, float | None]


@dataclass(slots=True)
class BurstinessMeter:
    """Takes arrivals block by block, in memory that does not grow.

    Times are seconds from the start of the run, ascending over all blocks; bins start at 0.
    """

    _bins: tuple[_Bins, ...] = field(default_factory=lambda: tuple(_Bins(width) for width in WIDTHS_S))
    _requests: int = 0
    _first_s: float = 0.0
    _last_s: float = 0.0
    _squares: float = 0.0

    def add(self, times_s: FloatArray) -> None:
        """Take a block of times, shape (n,)."""
        if not len(times_s):
            return
        if not self._requests:
            self._first_s = self._last_s = float(times_s[0])
        gaps = np.diff(times_s, prepend=self._last_s)
        # Not gaps @ gaps: BLAS would take threads for it, which spin on the cores that send.
        self._squares += float(np.square(gaps).sum())
        self._requests += len(times_s)
        self._last_s = float(times_s[-1])
        bins, counts = np.floor(times_s), np.ones(len(times_s), np.int64)
        for meter in self._bins:
            bins, counts = _runs(bins // meter.width_s * meter.width_s, counts)
            meter.add(int(bins[0]) // meter.width_s, int(bins[-1]) // meter.width_s, counts)

    def result(self, span_s: float | None = None) -> Burstiness:
        """The figures over span_s seconds, by default up to the last arrival; a bin that is cut short is left out."""
        span_s = self._last_s if span_s is None else max(float(span_s), self._last_s)
        gaps = self._requests - 1
        mean_s = (self._last_s - self._first_s) / gaps if gaps > 0 else 0.0
        variance = max(self._squares / gaps - mean_s**2, 0.0) if gaps > 0 else 0.0
        return Burstiness(
            requests=self._requests,
            span_s=span_s,
            rate_rps=self._requests / span_s if span_s > 0 else None,
            gap_cv=math.sqrt(variance) / mean_s if gaps > 1 and mean_s > 0 else None,
            dispersion={bins.width_s: bins.dispersion(span_s) for bins in self._bins},
        )


@dataclass(slots=True)
class _Bins:
    """Counts in bins of one width, as running sums; whole numbers of Python, which do not overflow."""

    width_s: int
    total: int = 0
    squares: int = 0
    open_bin: int = 0
    open_count: int = 0

    def add(self, first_bin: int, last_bin: int, counts: IntArray) -> None:
        """Take the counts of the bins that are not empty, in order; only the last one may grow later."""
        if first_bin == self.open_bin:
            counts = np.concatenate([[counts[0] + self.open_count], counts[1:]])
        else:
            self.total += self.open_count
            self.squares += self.open_count**2
        self.total += int(counts[:-1].sum())
        self.squares += int(counts[:-1] @ counts[:-1])
        self.open_bin, self.open_count = last_bin, int(counts[-1])

    def dispersion(self, span_s: float) -> float | None:
        whole = int(span_s // self.width_s)
        last = self.open_count if self.open_bin < whole else 0
        total, squares = self.total + last, self.squares + last**2
        if whole < 2 or not total:
            return None
        return (squares - total**2 / whole) / (whole - 1) * whole / total


def _runs(bins: FloatArray, counts: IntArray) -> tuple[FloatArray, IntArray]:
    """Equal neighbours in bins joined, and the sums of their counts."""
    starts = np.flatnonzero(np.diff(bins, prepend=-1.0))
    sums: IntArray = np.add.reduceat(counts, starts)
    return bins[starts], sums


def binned(times_s: FloatArray, width_s: float, span_s: float) -> IntArray:
    """Counts of times in bins of one width from 0, shape (n,); what a cut bin at the end holds is left out."""
    bins = int(span_s / width_s + 1e-9)
    return np.bincount((times_s[times_s < bins * width_s] / width_s).astype(np.int64), minlength=bins)[:bins]


def dispersion(counts: IntArray) -> float | None:
    """Variance (unbiased) over mean of counts; None for fewer than two bins or none filled."""
    if len(counts) < 2 or not counts.any():
        return None
    return float(counts.var(ddof=1) / counts.mean())


def within_windows(counts: IntArray, per_window: int) -> float | None:
    """Mean over windows of the dispersion of the counts within each: burstiness without the changes of the rate.

    Parameters
    ----------
    counts : IntArray, shape (n,)
        Counts per bin.
    per_window : int
        Bins in a window.
    """
    windows = counts[: len(counts) // per_window * per_window].reshape(-1, per_window)
    values = [value for window in windows if (value := dispersion(window)) is not None]
    return float(np.mean(values)) if values else None
