"""Comparison: what differs between two runs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure import records
from fineserve_shapes.measure.quantiles import student_over_normal
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.outcome import OK

CONFIDENCE = 0.95
BLOCKS = 32
RESAMPLES = 1_000
FEWEST_ABOVE = 20
"""A quantile is compared where so many requests, in each run, lie above it."""
_MOST_CELLS = 2_048

_LATENCIES: dict[str, Callable[[records.Records], FloatArray]] = {
    "ttft": records.ttft_s,
    "ttft_from_due": records.ttft_from_due_s,
    "tpot": records.tpot_s,
    "e2e_latency": records.e2e_s,
}
_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two runs, by its name in the summary (`p99_ttft_ms`, `request_throughput`, `goodput.rps`).

    change: after - before, with its confidence interval from low to high; None where there are too few requests to tell.
    """

    name: str
    before: float
    after: float
    low: float | None
    high: float | None

    @property
    def change(self) -> float:
        """After - before."""
        return self.after - self.before

    @property
    def ratio(self) -> float | None:
        """Change / before."""
        return self.change / self.before if self.before else None

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def compare(
    before: records.Records,
    after: records.Records,
    slo: Slo | None = None,
    confidence: float = CONFIDENCE,
    rng: np.random.Generator | None = None,
) -> list[Difference]:
    """The differences of median, p90 and p99 of each latency, of the rate and, with an SLO, of goodput.

    Parameters
    ----------
    before, after : Records
        Requests that were sent, in any order, those of a warm-up left out. Latencies, rate and goodput are of those that
        ended `ok`, per second from the first time of due to the last.
    confidence : float
        Of each interval by itself. Of some twenty intervals at 95 % one leaves out 0 by chance.
    rng : Generator
        Of the bootstrap; by default always the same one, so that the same runs give the same intervals.

    Notes
    -----
    A bootstrap over blocks of time: each run is cut into 32 equal spans of due, 32 are drawn from them with replacement,
    1,000 times, and the figure is taken of what they hold. Requests that a burst made slow together are drawn together,
    so the spread is right for bursts too, as long as they are short beside a 32nd of the run. Runs are drawn
    independently, which is on the safe side where both had the same plan. The interval is symmetric: the deviation that
    a share `confidence` of the resamples does not exceed (Hall, Biometrika 75, 1988), stretched by sqrt(b / (b - 1)),
    since b blocks vary by so much more than their resamples, and by Student's quantile over the normal's.
    Source: Lahiri, Resampling Methods for Dependent Data, 2003, chapter 2 (non-overlapping blocks).
    """
    rng = np.random.default_rng(0) if rng is None else rng
    runs = _Resampled(before, slo, rng), _Resampled(after, slo, rng)
    upper = (1 + confidence) / 2
    stretch = math.sqrt(BLOCKS / (BLOCKS - 1)) * student_over_normal(upper, BLOCKS - 1)
    found = []
    for name in [name for name in runs[0].figures if name in runs[1].figures]:
        (left, lefts), (right, rights) = (run.figures[name] for run in runs)
        low = high = None
        if lefts is not None and rights is not None:
            change = right - left
            margin = stretch * float(np.quantile(np.abs(rights - lefts - change), confidence))
            low, high = change - margin, change + margin
        found.append(Difference(name, left, right, low, high))
    return found


class _Resampled:
    """A run's figures by name, each with its values in the resamples (None: too few requests)."""

    def __init__(self, rows: records.Records, slo: Slo | None, rng: np.random.Generator) -> None:
        self.figures: dict[str, tuple[float, FloatArray | None]] = {}
        ok = rows[rows["outcome"] == OK]
        if not len(ok):
            return
        begin_s, end_s = float(rows["due_s"].min()), float(rows["due_s"].max())
        span_s = end_s - begin_s
        width_s = span_s / BLOCKS or 1.0
        self._drawn = rng.multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS), size=RESAMPLES).astype(np.float64)
        block = np.minimum(((ok["due_s"] - begin_s) / width_s).astype(np.int64), BLOCKS - 1)
        for name, latency_s in _LATENCIES.items():
            values_ms = 1e3 * latency_s(ok)
            there = ~np.isnan(values_ms)
            if there.any():
                self._add_quantiles(name, values_ms[there], block[there])
        if span_s > 0:
            self._add_rate("request_throughput", block, span_s)
            if slo is not None:
                self._add_rate("goodput.rps", block[slo.met(ok)], span_s)

    def _add_rate(self, name: str, block: IntArray, span_s: float) -> None:
        counts = np.bincount(block, minlength=BLOCKS).astype(np.float64)
        self.figures[name] = len(block) / span_s, self._drawn @ counts / span_s

    def _add_quantiles(self, name: str, values: FloatArray, block: IntArray) -> None:
        """Of values in cells of equal numbers, each by its largest: 2,048 cells are finer than any resample can tell."""
        order = np.argsort(values, kind="stable")
        values, n = values[order], len(values)
        cells = min(n, _MOST_CELLS)
        cell = np.arange(n) * cells // n
        counts = (
            np.bincount(block[order] * cells + cell, minlength=BLOCKS * cells).reshape(BLOCKS, cells).astype(np.float64)
        )
        largest = values[np.searchsorted(cell, np.arange(cells), side="right") - 1]
        below = self._drawn @ counts
        np.cumsum(below, axis=1, out=below)
        for title, q in _QUANTILES.items():
            point = float(values[max(math.ceil(q * n) - 1, 0)])
            resampled = None
            if n * (1 - q) >= FEWEST_ABOVE:
                ranks = np.ceil(q * below[:, -1:])
                resampled = largest[np.minimum((below < ranks).sum(axis=1), cells - 1)]
            self.figures[f"{title}_{name}_ms"] = point, resampled
