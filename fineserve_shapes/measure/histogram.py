"""Histogram: latencies in buckets of constant relative width, which add up exactly across workers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray

RELATIVE_ERROR = 0.005
SMALLEST_S = 1e-5
LARGEST_S = 7200.0

_RATIO = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_RATIO = math.log(_RATIO)
BUCKETS = math.ceil(math.log(LARGEST_S / SMALLEST_S) / _LOG_RATIO) + 1


def places(values_s: FloatArray) -> IntArray:
    """The bucket of each duration, shape (n,); none may be NaN."""
    with np.errstate(divide="ignore"):
        found = np.ceil(np.log(np.maximum(values_s, 0.0) / SMALLEST_S) / _LOG_RATIO)
    return np.clip(found, 0, BUCKETS - 1).astype(np.int64)


def edges_s(places: IntArray) -> FloatArray:
    """The longest durations that buckets hold, shape (n,); the last bucket holds longer ones too."""
    return np.asarray(SMALLEST_S * _RATIO ** places.astype(np.float64))


def middles_s(places: IntArray) -> FloatArray:
    """The durations that stand for buckets, shape (n,)."""
    return np.asarray(SMALLEST_S * _RATIO ** places.astype(np.float64) * 2 / (1 + _RATIO))


class Histogram:
    """Counts of durations in buckets whose borders grow by a constant factor.

    Bucket 0 holds all up to `SMALLEST_S`, bucket i those in (s * g^(i-1), s * g^i], with g = (1 + e) / (1 - e). The value
    s * g^i * 2 / (1 + g) stands for its bucket and is off by at most the relative error e = 0.5 % for durations from 10 us
    to two hours; longer ones are counted in the last bucket. Mean, deviation, minimum and maximum are exact. Source of the
    bucket law: Masson et al., "DDSketch", VLDB 2019.
    """

    __slots__ = ("_counts", "count", "maximum_s", "minimum_s", "squares_s2", "sum_s")

    def __init__(self) -> None:
        self._counts: IntArray = np.zeros(BUCKETS, dtype=np.int64)
        self.count = 0
        self.sum_s = 0.0
        self.squares_s2 = 0.0
        self.minimum_s = math.inf
        self.maximum_s = -math.inf

    def record(self, values_s: FloatArray, at: IntArray | None = None) -> None:
        """Count durations, shape (n,), seconds; NaN (there was no such moment) is passed over, below 0 counts as 0.

        at: their `places` where those are known, and none is NaN.
        """
        values = values_s if at is not None else values_s[~np.isnan(values_s)]
        if not len(values):
            return
        values = np.maximum(values, 0.0)
        np.add.at(self._counts, places(values) if at is None else at, 1)
        self.count += len(values)
        self.sum_s += float(values.sum())
        self.squares_s2 += float(np.square(values).sum())
        self.minimum_s = min(self.minimum_s, float(values.min()))
        self.maximum_s = max(self.maximum_s, float(values.max()))

    def merge(self, other: Histogram) -> None:
        """Add another's counts: the result is that of one histogram fed with all values."""
        self._counts += other._counts
        self.count += other.count
        self.sum_s += other.sum_s
        self.squares_s2 += other.squares_s2
        self.minimum_s = min(self.minimum_s, other.minimum_s)
        self.maximum_s = max(self.maximum_s, other.maximum_s)

    def quantile(self, q: float) -> float | None:
        """The smallest value that at least a share q of the values does not exceed, within the stated error.

        None where there are no values. Raises ValueError for q outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, got {q}")
        if not self.count:
            return None
        rank = max(1, math.ceil(q * self.count))
        value = float(middles_s(np.searchsorted(np.cumsum(self._counts), [rank]))[0])
        return min(max(value, self.minimum_s), self.maximum_s)

    def cumulative(self) -> tuple[FloatArray, IntArray]:
        """The values of the buckets that hold something, shape (n,), seconds, ascending, and how many values there are up
        to each, shape (n,); within the stated error."""
        filled = np.flatnonzero(self._counts)
        return np.clip(middles_s(filled), self.minimum_s, self.maximum_s), np.cumsum(self._counts[filled])

    def above(self, value_s: float) -> int:
        """How many values are larger, within the stated error."""
        return int(self._counts[int(places(np.array([value_s]))[0]) + 1 :].sum())

    @property
    def mean_s(self) -> float | None:
        """Arithmetic mean."""
        return self.sum_s / self.count if self.count else None

    @property
    def std_s(self) -> float | None:
        """Standard deviation of the values as a population."""
        if not self.count:
            return None
        mean = self.sum_s / self.count
        return math.sqrt(max(0.0, self.squares_s2 / self.count - mean * mean))

    def pack(self) -> dict[str, Any]:
        """Plain values for a message; only the buckets that hold something."""
        filled = np.flatnonzero(self._counts)
        return {
            "places": filled.astype("<u2").tobytes(),
            "counts": self._counts[filled].astype("<i8").tobytes(),
            "sums": [self.sum_s, self.squares_s2, self.minimum_s, self.maximum_s],
        }

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> Histogram:
        """The histogram that was packed. Raises ValueError for anything else."""
        filled = np.frombuffer(packed["places"], dtype="<u2")
        counts = np.frombuffer(packed["counts"], dtype="<i8")
        if len(filled) != len(counts) or (len(filled) and int(filled.max()) >= BUCKETS) or bool((counts < 0).any()):
            raise ValueError("this is no packed histogram")
        histogram = cls()
        histogram._counts[filled] = counts
        histogram.count = int(counts.sum())
        histogram.sum_s, histogram.squares_s2, histogram.minimum_s, histogram.maximum_s = map(float, packed["sums"])
        return histogram
