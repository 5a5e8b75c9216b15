"""Saturation: whether requests in flight grow without end, so that the server is offered more than it can do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.measure.quantiles import student

BATCHES = 16


@dataclass(frozen=True, slots=True)
class Growth:
    """The slope of requests in flight over time, requests per second, with a confidence interval."""

    slope_rps: float
    low_rps: float
    high_rps: float

    @property
    def grows(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low_rps > 0


def growth(at_s: FloatArray, in_flight: FloatArray, confidence: float = 0.99) -> Growth | None:
    """The slope and its interval; each side is wrong with 1 - confidence. None: fewer than 16 samples.

    Parameters
    ----------
    at_s, in_flight : shape (n,)
        When requests in flight were counted, ascending, evenly, and how many they were; without the filling up at the
        beginning, which grows on any server.

    Notes
    -----
    Counts of a queue hang together over seconds, and over minutes near its capacity, so the error of a fitted line would
    be far too small. Counts are averaged to 16 batch means (Law, Simulation Modeling and Analysis, 2015, section 9.5.3),
    and the slope is the mean of their 15 steps, with its error by Student. A queue that is offered more than it can do
    is a random walk with a drift, whose steps are independent: there the error is right. Of a queue in equilibrium
    neighbouring steps go against each other, and it is too large, never too small.
    """
    if len(at_s) < BATCHES:
        return None
    edges = np.linspace(0, len(at_s), BATCHES + 1).astype(np.int64)[:-1]
    sizes = np.diff(np.append(edges, len(at_s)))
    times_s, means = np.add.reduceat(at_s, edges) / sizes, np.add.reduceat(in_flight.astype(np.float64), edges) / sizes
    steps = np.diff(means)
    batch_s = float(times_s[-1] - times_s[0]) / len(steps)
    slope = float(steps.mean()) / batch_s
    error = float(steps.std(ddof=1)) / math.sqrt(len(steps)) / batch_s
    margin = student(confidence, len(steps) - 1) * error
    return Growth(slope, slope - margin, slope + margin)
