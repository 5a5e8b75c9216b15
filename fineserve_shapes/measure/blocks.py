"""Blocks: durations counted by block of time, in memory that does not grow with the run."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure.histogram import BUCKETS, places

MOST_BLOCKS = 128
SHORTEST_S = 0.125


class Blocks:
    """A histogram of durations for each of at most 128 equal blocks of the run's time.

    Blocks are 1/8 s long; when the run has grown past 128 of them they are joined two by two. The width follows from the
    latest time alone, so that batches in any order, from any number of workers, give the same counts, and two Blocks add
    up to that of all their durations. Memory: at most 1.1 MB.
    """

    __slots__ = ("_counts", "maximum_s", "width_s")

    def __init__(self) -> None:
        self.width_s = SHORTEST_S
        self.maximum_s = -math.inf
        self._counts: npt.NDArray[np.int32] = _empty()

    def record(self, at_s: FloatArray, values_s: FloatArray) -> None:
        """Count durations at times of the run, both of shape (n,), seconds; a duration that is NaN is passed over."""
        known = ~np.isnan(values_s)
        at_s, values_s = np.maximum(at_s[known], 0.0), values_s[known]
        if len(at_s):
            self._widen(float(at_s.max()))
            self.maximum_s = max(self.maximum_s, float(values_s.max()))
            np.add.at(self._counts, ((at_s / self.width_s).astype(np.int64), places(values_s)), 1)

    def merge(self, other: Blocks) -> None:
        """Add another's counts: the result is that of one fed with all durations."""
        wide = other._copy()
        while wide.width_s < self.width_s:
            wide._join()
        while self.width_s < wide.width_s:
            self._join()
        self._counts += wide._counts
        self.maximum_s = max(self.maximum_s, other.maximum_s)

    @property
    def buckets(self) -> IntArray:
        """How many durations there are in each of the histogram's buckets, shape (BUCKETS,)."""
        return np.asarray(self._counts.sum(axis=0, dtype=np.int64))

    @property
    def totals(self) -> FloatArray:
        """How many durations there are in each block, shape (128,), in order of time."""
        return np.asarray(self._counts.sum(axis=1), dtype=np.float64)

    def above(self, bucket: int) -> FloatArray:
        """How many durations of each block lie in higher buckets than this one, shape (128,)."""
        return np.asarray(self._counts[:, bucket + 1 :].sum(axis=1), dtype=np.float64)

    def _widen(self, latest_s: float) -> None:
        while latest_s >= MOST_BLOCKS * self.width_s:
            self._join()

    def _join(self) -> None:
        joined = _empty()
        joined[: MOST_BLOCKS // 2] = self._counts[::2] + self._counts[1::2]
        self._counts = joined
        self.width_s *= 2

    def _copy(self) -> Blocks:
        copied = Blocks()
        copied.width_s, copied._counts = self.width_s, self._counts.copy()
        return copied


def _empty() -> npt.NDArray[np.int32]:
    return np.zeros((MOST_BLOCKS, BUCKETS), dtype=np.int32)
