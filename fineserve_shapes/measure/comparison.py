"""Comparison: what differs between two runs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fineserve_shapes.measure import records
from fineserve_shapes.measure.quantiles import student_over_normal
from fineserve_shapes.measure.resampling import BLOCKS, Figure, Sample, resample
from fineserve_shapes.measure.slo import Slo

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two runs, by its name in the summary (`p99_ttft_ms`, `steady.output_throughput`, `goodput.rps`).

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
    """The differences of all figures (see `resample`) of two runs.

    Parameters
    ----------
    before, after : Records
        Requests that were sent, in any order, those of a warm-up left out.
    confidence : float
        Of each interval by itself. Of some twenty intervals at 95 % one leaves out 0 by chance.
    rng : Generator
        Of the bootstrap; by default always the same one, so that the same runs give the same intervals.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    return differences(resample(Sample(before, slo), rng), resample(Sample(after, slo), rng), confidence)


def differences(
    before: Mapping[str, Figure], after: Mapping[str, Figure], confidence: float = CONFIDENCE
) -> list[Difference]:
    """The difference of each figure that both runs have.

    Notes
    -----
    A bootstrap over blocks of time: each run is cut into 32 equal spans, 32 are drawn from them with replacement, 1,000
    times, and the figure is taken of what they hold. Requests that a burst made slow together are drawn together,
    so the spread is right for bursts too, as long as they are short beside a 32nd of the run. Runs are drawn
    independently, which is on the safe side where both had the same plan. The interval is symmetric: the deviation that
    a share `confidence` of the resamples does not exceed (Hall, Biometrika 75, 1988), stretched by sqrt(b / (b - 1)),
    since b blocks vary by so much more than their resamples, and by Student's quantile over the normal's.
    Source: Lahiri, Resampling Methods for Dependent Data, 2003, chapter 2 (non-overlapping blocks).
    """
    found = []
    for name in [name for name in before if name in after]:
        left, right = before[name], after[name]
        low = high = None
        if left.resampled is not None and right.resampled is not None:
            change = right.value - left.value
            deviations = np.abs(right.resampled - left.resampled - change)
            student = student_over_normal((1 + confidence) / 2, _freedom(left, right))
            margin = math.sqrt(BLOCKS / (BLOCKS - 1)) * student * float(np.quantile(deviations, confidence))
            margin += left.grain + right.grain
            low, high = change - margin, change + margin
        found.append(Difference(name, left.value, right.value, low, high))
    return found


def _freedom(left: Figure, right: Figure) -> float:
    """Degrees of freedom of the variance of a difference: Welch, Biometrika 34, 1947."""
    variances = [float(np.var(one.resampled)) if one.resampled is not None else 0.0 for one in (left, right)]
    if not any(variances):
        return min(left.freedom, right.freedom)
    parts = variances[0] ** 2 / left.freedom + variances[1] ** 2 / right.freedom
    return sum(variances) ** 2 / parts
