"""Extension: gamma windows that last as long as the run does, repeated with jitter or drawn from a model of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy

from fineserve_shapes.arrays import FloatArray

from ..errors import InputError
from .arrivals import MAX_SHAPE, MIN_SHAPE, Segment
from .windows import GammaWindows

DAY_S = 86_400.0
HARMONICS = 4
BATCH_WINDOWS = 256
MIN_WINDOWS = 12


@dataclass(frozen=True, slots=True)
class RepeatJitter:
    """The windows over and over, each time with a rate and a shape jittered per window. Endless.

    Parameters
    ----------
    windows : GammaWindows
        What is repeated, with its span as the period.
    ratio : float
        s of the factors; at least 0, and 0 repeats the windows as they are.

    Notes
    -----
    Each window of each repetition (the first too) draws two independent factors LogNormal(-s^2/2, s^2), whose mean is
    1: one for the rate, so that the mean *rate* is kept, and one for the shape k at constant mean gap k * theta. One
    factor per window, not per request, so that it does not average out within the window.
    """

    windows: GammaWindows
    ratio: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 2:
            raise InputError(f"the jitter must lie between 0 and 2, got {self.ratio} (--parametric-jitter-ratio)")

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:
        """Segments without end."""
        while True:
            factors = np.exp(self.ratio * (rng.standard_normal((2, len(self.windows))) - self.ratio / 2))
            shape = np.clip(self.windows.shape * factors[1], MIN_SHAPE, MAX_SHAPE)
            yield from self.windows.laid_out(self.windows.rate_rps * factors[0], shape)


@dataclass(frozen=True, slots=True)
class ModelSample:
    """New windows from a model of the ones given: a daily mean curve and fluctuations about it. Endless.

    Parameters
    ----------
    windows : GammaWindows
        What the model is fitted to.
    independent : bool
        Draw each window independently, without the daily cycle and without memory.

    Notes
    -----
    x = (log rate, log k) is modelled as x' = m' + A (x - m) + e, with e ~ N(0, Q): a VAR(1) about a mean curve m(t).
    The curve is a constant plus four harmonics (fewer below 48 windows) of 24 hours, or of the span where that is
    shorter, fitted by least squares; A and Q are least squares on what is left. The state starts in its stationary
    law. Independent draws come from N(mean, covariance) of x over all windows. Rates are multiplied by a constant so
    that their expectation over a period equals the data's mean rate (exp of a normal variable has mean
    exp(m + variance/2)).
    """

    windows: GammaWindows
    independent: bool = False

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:
        """Segments without end, all of the windows' median length."""
        model = self.fitted()
        duration_s = float(np.median(self.windows.duration_s))
        state = _root(model.stationary) @ rng.standard_normal(2)
        root = _root(model.innovation)
        first, batch = 0, BATCH_WINDOWS
        while True:
            time_s = duration_s * (np.arange(first, first + batch, dtype=np.float64) + 0.5)
            noise = rng.standard_normal((batch, 2)) @ root.T
            x = model.mean(time_s)
            for row in range(batch):
                x[row] += state
                state = model.memory @ state + noise[row]
            rate_rps = np.exp(x[:, 0]) * model.rate_factor
            shape = np.clip(np.exp(x[:, 1]), MIN_SHAPE, MAX_SHAPE)
            for rate, k in zip(rate_rps.tolist(), shape.tolist(), strict=True):
                yield Segment(duration_s, rate, rate, k)
            first += batch

    def fitted(self) -> WindowModel:
        """The model fitted to the windows."""
        windows = self.windows
        x = np.log(np.column_stack([windows.rate_rps, windows.shape]))
        time_s = np.asarray((windows.start_s + windows.end_s) / 2 - windows.start_s[0], np.float64)
        period_s = min(DAY_S, windows.span_s)
        harmonics = 0 if self.independent else min(HARMONICS, len(windows) // MIN_WINDOWS)
        curve = np.asarray(np.linalg.lstsq(_harmonics(time_s, period_s, harmonics), x, rcond=None)[0], np.float64)
        rest = x - _harmonics(time_s, period_s, harmonics) @ curve
        memory: FloatArray = np.zeros((2, 2))
        innovation = rest.T @ rest / max(len(rest) - 1, 1)
        # Only windows that touch tell of memory from one to the next.
        touching = np.flatnonzero(windows.start_s[1:] <= windows.end_s[:-1])
        if not self.independent and len(touching) >= MIN_WINDOWS:
            before, after = rest[touching], rest[touching + 1]
            memory = np.asarray(np.linalg.lstsq(before, after, rcond=None)[0].T, np.float64)
            radius = float(np.abs(np.linalg.eigvals(memory)).max())
            memory = memory * min(1.0, 0.98 / max(radius, 1e-12))
            innovation = np.atleast_2d(np.cov((after - before @ memory.T).T))
        stationary = np.asarray(scipy.linalg.solve_discrete_lyapunov(memory, innovation))
        model = WindowModel(period_s, curve, memory, innovation, stationary, 1.0)
        steps = max(round(period_s / float(np.median(windows.duration_s))), 1)
        rates = np.exp(model.mean((np.arange(steps) + 0.5) * period_s / steps)[:, 0] + stationary[0, 0] / 2)
        return replace(model, rate_factor=windows.mean_rate_rps / float(rates.mean()))


@dataclass(frozen=True, slots=True, eq=False)
class WindowModel:
    """What `ModelSample` draws from; see its notes.

    period_s: of the mean curve. curve: coefficients of the mean of (log rate, log k), shape (1 + 2 H, 2).
    memory: A, shape (2, 2). innovation: Q. stationary: S = A S A' + Q. rate_factor: the rescaling of the rate.
    """

    period_s: float
    curve: FloatArray
    memory: FloatArray
    innovation: FloatArray
    stationary: FloatArray
    rate_factor: float

    def mean(self, time_s: FloatArray) -> FloatArray:
        """Mean of (log rate, log k) at the times, shape (n, 2), before the rescaling."""
        return _harmonics(time_s, self.period_s, len(self.curve) // 2) @ self.curve


def _harmonics(time_s: FloatArray, period_s: float, count: int) -> FloatArray:
    """Columns 1, cos(w t), sin(w t), cos(2 w t), ... for w = 2 pi / period."""
    angle = 2 * np.pi * time_s[:, None] / period_s * np.arange(1, count + 1)
    return np.hstack([np.ones((len(time_s), 1)), np.cos(angle), np.sin(angle)])


def _root(covariance: FloatArray) -> FloatArray:
    """A square root of a covariance matrix, which may be singular."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root: FloatArray = vectors * np.sqrt(np.maximum(values, 0.0))
    return root
