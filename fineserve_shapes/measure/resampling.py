"""Resampling: the figures of a run, and what they might have been, by a bootstrap over blocks of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure import records
from fineserve_shapes.measure.dependence import freedom
from fineserve_shapes.measure.slo import Slo, Slos
from fineserve_shapes.outcome import OK

BLOCKS = 32
RESAMPLES = 1_000
QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}
FEWEST_ABOVE = 20
"""A quantile has an interval where so many values lie above it."""
GRAIN = 1e-4
"""Durations of which there are very many are counted in buckets of this relative width."""
MOST_SORTED = 500_000
_MOST_CELLS = 2_048
_SHORTEST = 1e-6

_LATENCIES: dict[str, Callable[[records.Records], FloatArray]] = {
    "ttft": records.ttft_s,
    "ttft_from_due": records.ttft_from_due_s,
    "tpot": records.tpot_s,
    "e2e_latency": records.e2e_s,
}


@dataclass(frozen=True, slots=True)
class Spans:
    """A run's steady window, seconds of the run, in 32 equal blocks of time."""

    begin_s: float
    end_s: float

    @property
    def whole(self) -> Spans:
        """The whole seconds in it, cut into 32 again."""
        begin_s, end_s = math.ceil(self.begin_s), math.floor(self.end_s)
        return Spans(begin_s, max(begin_s, end_s))

    @property
    def span_s(self) -> float:
        """How long all blocks are together."""
        return self.end_s - self.begin_s

    def block(self, at_s: FloatArray) -> IntArray:
        """The block of each time, shape (n,); earlier ones are in the first, later ones in the last."""
        width_s = self.span_s / BLOCKS or 1.0
        return np.clip(((at_s - self.begin_s) / width_s).astype(np.int64), 0, BLOCKS - 1)

    def inside(self, at_s: FloatArray) -> FloatArray:
        """Those of the times that lie in the window; NaN, which is no time, does not."""
        return at_s[(at_s >= self.begin_s) & (at_s <= self.end_s)]

    def shares(self, from_s: FloatArray, to_s: FloatArray, weights: FloatArray) -> FloatArray:
        """How much of weights that are spread evenly over times falls into each block, shape (32,)."""
        borders = np.linspace(self.begin_s, self.end_s, BLOCKS + 1)
        lasting_s = np.maximum(to_s - from_s, 1e-9)
        until = [float(weights @ np.clip((border - from_s) / lasting_s, 0.0, 1.0)) for border in borders.tolist()]
        return np.diff(until)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Durations in ascending order, cut into at most 2,048 cells, by block of time.

    largest: the longest of each cell, shape (c,). reached: how many durations of each block lie in it or below, shape
    (c, 32). quantiles: by name; exact, or of the grain, a relative width.
    """

    largest: FloatArray
    reached: FloatArray
    quantiles: dict[str, float]
    grain: float = 0.0

    @classmethod
    def of(cls, values: FloatArray, block: IntArray) -> Cells:
        """values, block: shape (n,), n above 0; no value is NaN.

        Cells hold equal numbers, which is finer than any resample can tell. Where there are more than 500,000 values, as
        of gaps between tokens, they are not sorted but counted in buckets of 0.01 %, which are joined to cells.
        """
        n = len(values)
        if n <= MOST_SORTED:
            order = np.argsort(values, kind="stable")
            values, block = values[order], block[order]
            cell = np.arange(n) * min(n, _MOST_CELLS) // n
            return cls._joined(cell, block, np.ones(n), values, 0.0)
        place = np.floor(np.log(np.maximum(values, _SHORTEST)) / GRAIN).astype(np.int64)
        lowest = int(place.min())
        found, counts = np.unique((place - lowest) * BLOCKS + block, return_counts=True)
        bucket, block = found // BLOCKS, found % BLOCKS
        in_bucket = np.bincount(bucket, weights=counts)
        before = (np.cumsum(in_bucket) - in_bucket).astype(np.int64)
        _, cell = np.unique(before[bucket] * _MOST_CELLS // n, return_inverse=True)
        return cls._joined(cell, block, counts.astype(np.float64), np.exp(GRAIN * (bucket + lowest + 0.5)), GRAIN)

    @classmethod
    def _joined(cls, cell: IntArray, block: IntArray, counts: FloatArray, values: FloatArray, grain: float) -> Cells:
        """Of counts of values in ascending order, each with its cell and its block."""
        cells = int(cell[-1]) + 1
        table = np.bincount(cell * BLOCKS + block, weights=counts, minlength=cells * BLOCKS).reshape(cells, BLOCKS)
        reached = np.cumsum(counts)
        quantiles = {
            title: float(values[np.searchsorted(reached, math.ceil(round(q * reached[-1], 6)))])
            for title, q in QUANTILES.items()
        }
        largest = values[np.searchsorted(cell, np.arange(cells), side="right") - 1]
        return cls(largest, np.cumsum(table, axis=0), quantiles, grain)

    @property
    def count(self) -> int:
        """How many durations there are."""
        return int(self.reached[-1].sum())

    def residuals(self, q: float) -> FloatArray:
        """How many durations of each block lie above a quantile, less its share of those of the block, shape (32,)."""
        totals = self.reached[-1]
        below = self.reached[int(np.searchsorted(self.reached.sum(axis=1), math.ceil(round(q * self.count, 6))))]
        return np.asarray((totals - below) - (totals.sum() - below.sum()) / totals.sum() * totals)

    def resampled(self, q: float, drawn: FloatArray) -> FloatArray:
        """A quantile in each resample. drawn: how often each block is in it, shape (r, 32).

        Found by halves, since the number up to a cell grows with the cell: 11 products in place of 2,048.
        """
        rank = np.ceil(np.round(q * (drawn @ self.reached[-1]), 6))
        low = np.zeros(len(drawn), dtype=np.int64)
        high = np.full(len(drawn), len(self.largest) - 1, dtype=np.int64)
        while (low < high).any():
            middle = (low + high) // 2
            enough = np.einsum("rb,rb->r", self.reached[middle], drawn) >= rank
            high = np.where(enough, middle, high)
            low = np.where(enough, low, middle + 1)
        return np.asarray(self.largest[low])


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What is known of a run's requests.

    rows: those that were sent, the warm-up's left out, in any order. slo: what is good. lost_due_s: when those were due
    that were planned and not sent, or of which nothing was heard: they are misses. gaps: between the chunks of answers
    that ended `ok`, by the blocks of `spans`; None: not known. start_s: of the steady window; by default the first time of
    due.
    """

    rows: records.Records
    slo: Slo | Slos | None = None
    lost_due_s: FloatArray = field(default_factory=lambda: np.empty(0))
    gaps: Cells | None = None
    start_s: float | None = None

    @property
    def spans(self) -> Spans:
        """The blocks of the steady window, which ends with the last time of due."""
        due_s = np.concatenate([self.rows["due_s"], self.lost_due_s])
        if not len(due_s):
            return Spans(0.0, 0.0)
        return Spans(float(due_s.min()) if self.start_s is None else self.start_s, float(due_s.max()))


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A figure and its values in the resamples; None: there are too few requests.

    freedom: how many blocks tell of its spread, less one: few, where a few blocks have all that is slow. grain: how coarse
    the value is.
    """

    value: float
    resampled: FloatArray | None
    freedom: float = BLOCKS - 1
    grain: float = 0.0


def resample(sample: Sample, rng: np.random.Generator, resamples: int = RESAMPLES) -> dict[str, Figure]:
    """The figures of a run, by their names in its summary (`p99_ttft_ms`, `steady.output_throughput`, `goodput.share`).

    Median, p90 and p99 of each latency, the mean of the gaps between chunks (and their quantiles where the gaps are
    known), requests that ended `ok` and output tokens that came in the window's whole seconds, and with an SLO goodput,
    per second and as a share of what was planned. A request belongs to a block by its time of due; what came, by when.
    """
    rows = sample.rows
    ok = rows[rows["outcome"] == OK]
    if not len(ok):
        return {}
    spans = sample.spans
    drawn = rng.multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS), size=resamples).astype(np.float64)
    block = spans.block(ok["due_s"])
    found: dict[str, Figure] = {}
    for name, latency_s in _LATENCIES.items():
        values_ms = 1e3 * latency_s(ok)
        there = ~np.isnan(values_ms)
        if there.any():
            found |= _quantiles(name, Cells.of(values_ms[there], block[there]), drawn)
    many = ok["chunks"] > 1
    if many.any():
        lasting_ms = 1e3 * (ok["last_token_s"] - ok["first_token_s"])[many]
        gaps = (ok["chunks"][many] - 1).astype(np.float64)
        found["mean_itl_ms"] = _ratio(_sums(block[many], lasting_ms), _sums(block[many], gaps), drawn)
    if sample.gaps is not None:
        found |= _quantiles("itl", sample.gaps, drawn)
    whole = spans.whole
    if whole.span_s > 0:
        ended = whole.inside(ok["end_s"])
        if len(ended):
            found["steady.request_throughput"] = _rate(_sums(whole.block(ended)), whole.span_s, drawn)
        told = ok[(ok["output_tokens"] > 0) & ~np.isnan(ok["first_token_s"])]
        if len(told):
            tokens = told["output_tokens"].astype(np.float64)
            came = whole.shares(told["first_token_s"], told["last_token_s"], tokens)
            found["steady.output_throughput"] = _rate(came, whole.span_s, drawn)
    if spans.span_s > 0 and sample.slo is not None:
        good = _sums(spans.block(rows["due_s"][sample.slo.met(rows)]))
        found["goodput.rps"] = _rate(good, spans.span_s, drawn)
        planned = _sums(spans.block(np.concatenate([_judged(sample), sample.lost_due_s])))
        found["goodput.share"] = _ratio(good, planned, drawn)
    return found


def _judged(sample: Sample) -> FloatArray:
    """When the sent requests were due that have an SLO."""
    due_s: FloatArray = sample.rows["due_s"]
    if isinstance(sample.slo, Slos):
        with_slo = [number for number, slo in enumerate(sample.slo.by_stream) if slo is not None]
        return due_s[np.isin(sample.rows["stream"], with_slo)]
    return due_s


def _sums(block: IntArray, weights: FloatArray | None = None) -> FloatArray:
    return np.bincount(block, weights=weights, minlength=BLOCKS).astype(np.float64)


def _rate(sums: FloatArray, span_s: float, drawn: FloatArray) -> Figure:
    return _figure(float(sums.sum()) / span_s, drawn @ sums / span_s, sums - sums.mean())


def _ratio(sums: FloatArray, counts: FloatArray, drawn: FloatArray) -> Figure:
    ratio = float(sums.sum() / counts.sum())
    return _figure(ratio, drawn @ sums / np.maximum(drawn @ counts, 1e-9), sums - ratio * counts)


def _quantiles(name: str, cells: Cells, drawn: FloatArray) -> dict[str, Figure]:
    found = {}
    for title, q in QUANTILES.items():
        value = cells.quantiles[title]
        enough = cells.count * (1 - q) >= FEWEST_ABOVE
        resampled = cells.resampled(q, drawn) if enough else None
        found[f"{title}_{name}_ms"] = _figure(value, resampled, cells.residuals(q), cells.grain * value)
    return found


def _figure(value: float, resampled: FloatArray | None, residuals: FloatArray, grain: float = 0.0) -> Figure:
    if resampled is not None:
        resampled = value + math.sqrt(lasting(residuals)) * (resampled - value)
    return Figure(value, resampled, freedom(residuals), grain)


def lasting(residuals: FloatArray) -> float:
    """By how much the variance of a sum of residuals is larger than if neighbouring blocks were independent; 1 at least.

    1 + 2 (2/3 r1 + 1/3 r2), r the autocorrelation at one and two blocks. Source: Newey and West, Econometrica 55, 1987.
    """
    total = float(residuals @ residuals)
    if not total:
        return 1.0
    one, two = (float(residuals[lag:] @ residuals[:-lag]) / total for lag in (1, 2))
    return max(1.0, 1 + 4 / 3 * one + 2 / 3 * two)
