"""Gamma fit: from recorded times to gamma windows, with standard errors and goodness of fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from fineserve_shapes.arrays import FloatArray, IntArray

from ..errors import InputError
from .arrivals import MAX_SHAPE, MIN_SHAPE
from .windows import GammaWindows

# Recorded gaps of fewer steps than this are taken as the interval that they stand for. From here on the density does:
# its relative error is about 1 / (6 j^2) at j steps.
CENSORED_STEPS = 32
# With fewer gaps a window's own shape says nothing.
MIN_GAPS = 8
_STEP = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class GammaFit:
    """Gamma windows fitted to times, and how well.

    windows: the fit; windows without an arrival are holes in it.
    gaps: number of gaps in each window, shape (n,), as all that follow.
    se_log_shape, se_log_scale: standard errors of log k and log theta, from the curvature of the likelihood. NaN in a
        window with fewer than 8 gaps, whose shape is the median of the others (1 where there is none), and where the
        likelihood has no maximum, so that k and theta come from the means of the gaps and of their logarithms.
    ks_stat, ks_pvalue: greatest distance between the cumulative shares of recorded and fitted gaps, and its asymptotic
        p-value. Parameters fitted to the same gaps make it too large: a small one is evidence of a misfit, a large one
        is no proof of a fit. NaN with fewer than 8 gaps.
    """

    windows: GammaWindows
    gaps: IntArray
    se_log_shape: FloatArray
    se_log_scale: FloatArray
    ks_stat: FloatArray
    ks_pvalue: FloatArray

    @property
    def misfit_share(self) -> float:
        """Share of the windows with a fit of their own whose ks_pvalue is below 0.01; NaN without any."""
        own = self.ks_pvalue[np.isfinite(self.ks_pvalue)]
        return float((own < 0.01).mean()) if len(own) else math.nan


def time_resolution_s(times_s: FloatArray) -> float:
    """The coarsest of 1 s, 0.1 s, ..., 0.1 us on whose multiples all times lie; 0 if they lie on none."""
    for digits in range(8):
        # What double precision leaves of a decimal time grows with the time.
        slack = 1e-3 + 4 * np.spacing(np.abs(times_s)) * 10**digits
        steps = times_s * 10**digits
        if len(times_s) and bool((np.abs(steps - np.round(steps)) <= slack).all()) and slack.max() < 0.1:
            return 10.0**-digits
    return 0.0


def fit_windows(
    times_s: Iterable[FloatArray], window_s: float = 300.0, resolution_s: float = 0.0, end_s: float | None = None
) -> GammaFit:
    """Fit a gamma law to the gaps of each window by maximum likelihood.

    Parameters
    ----------
    times_s : iterable of FloatArray
        Blocks of times in seconds, at least 0 and ascending over all blocks. One window at a time is held.
    window_s : float
        Length of a window in seconds; windows start at 0.
    resolution_s : float
        Step of the recorded times in seconds (see `time_resolution_s`); 0 if they are exact.
    end_s : float, optional
        When the recording ended, by default with its last arrival. Windows have their full length all the same.

    Returns
    -------
    GammaFit

    Raises
    ------
    InputError
        If no window holds an arrival.

    Notes
    -----
    The gaps of a window are those that start in it; the last one, which its end cuts, counts as censored from the
    right. Times cut down to a multiple of d turn a gap into the j steps between two cells. For gaps at any phase,
    P(gap recorded as j) = (H((j+1) d) - 2 H(j d) + H((j-1) d)) / d with H the integral of the cumulative
    distribution F from 0, and H(d) / d for j = 0. That is the likelihood of small j; a gap of 0 is not taken as 0,
    whose logarithm is infinite, nor dropped. log k and log theta go by Newton's method on differences.
    """
    if not 0 < window_s < math.inf:
        raise InputError(f"the window length must be positive, got {window_s} s (--parametric-window-seconds)")
    rows: list[tuple[float, ...]] = []
    for index, inside, last_s in _by_window(times_s, window_s, end_s):
        gaps: FloatArray = np.diff(inside)
        # Even exact times are cut to what a double resolves.
        law = _Likelihood(gaps, last_s, max(resolution_s, 4 * float(np.spacing(inside[-1]))))
        if len(gaps) < MIN_GAPS or not gaps.any():
            rows.append((index, len(gaps), math.nan, window_s / len(inside), *[math.nan] * 4))
        else:
            shape, scale_s, se_shape, se_scale = law.maximum()
            rows.append((index, len(gaps), shape, shape * scale_s, se_shape, se_scale, *law.ks(shape, scale_s)))
    if not rows:
        raise InputError("no arrival to fit gamma windows to")
    index_, count, shapes, mean_s, se_log_shape, se_log_scale, ks_stat, ks_pvalue = np.array(rows).T.copy()
    own = np.isfinite(shapes)
    shapes[~own] = np.median(shapes[own]) if own.any() else 1.0
    windows = GammaWindows(index_ * window_s, (index_ + 1) * window_s, shapes, mean_s / shapes)
    return GammaFit(windows, count.astype(np.int64), se_log_shape, se_log_scale, ks_stat, ks_pvalue)


def _by_window(
    times_s: Iterable[FloatArray], window_s: float, end_s: float | None
) -> Iterator[tuple[int, FloatArray, float]]:
    """The windows that hold arrivals: index, times, and for how long the last one was seen to be the last."""
    held: list[FloatArray] = []
    current = 0
    for block in times_s:
        for part in np.split(block, np.flatnonzero(np.diff(np.floor_divide(block, window_s))) + 1):
            if not len(part):
                continue
            index = int(part[0] // window_s)
            if held and index != current:
                inside = np.concatenate(held)
                yield current, inside, (current + 1) * window_s - float(inside[-1])
                held = []
            current = index
            held.append(part)
    if held:
        inside = np.concatenate(held)
        last_s = float(inside[-1])
        yield current, inside, min((current + 1) * window_s, last_s if end_s is None else end_s) - last_s


class _Likelihood:
    """The log-likelihood of the gaps of one window as a function of log k and log theta."""

    def __init__(self, gaps_s: FloatArray, last_s: float, step_s: float) -> None:
        self.gaps_s, self.last_s, self.step_s = gaps_s, last_s, step_s
        is_small = gaps_s < (CENSORED_STEPS - 0.5) * step_s
        self.steps, counts = np.unique(np.round(gaps_s[is_small] / step_s), return_counts=True)
        self.counts, large_s = counts.astype(np.float64), gaps_s[~is_small]
        self.n, self.sum_s, self.sum_log = len(large_s), float(large_s.sum()), float(np.log(large_s).sum())

    def __call__(self, log_shape: FloatArray, log_scale: FloatArray) -> FloatArray:
        """Values at the points, of their shape."""
        k, theta = np.exp(log_shape), np.exp(log_scale)
        value = (k - 1) * self.sum_log - self.sum_s / theta - self.n * (scipy.special.gammaln(k) + k * log_scale)
        value += _log(scipy.special.gammaincc(k, self.last_s / theta))
        if len(self.steps):
            value += _log(self._recorded(k[..., None], theta[..., None])) @ self.counts
        return np.asarray(value)

    def _recorded(self, k: FloatArray, theta: FloatArray) -> FloatArray:
        """P(gap recorded as j) for the small j that occur, along the last axis."""
        d, j = self.step_s, self.steps
        inner = _integral(np.maximum(j - 1, 0) * d, k, theta) - 2 * _integral(j * d, k, theta)
        return np.asarray((_integral((j + 1) * d, k, theta) + np.where(j > 0, inner, 0.0)) / d)

    def maximum(self) -> tuple[float, float, float, float]:
        """k, theta and the standard errors of their logarithms.

        Where the likelihood has no maximum within the allowed shapes (evenly spaced times, say), k and theta are those
        that the search starts from, and the errors NaN.
        """
        x = start = self._start()
        offsets = _STEP * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1]])
        for _ in range(100):
            value = self(*(x + offsets).T)
            gradient = np.array([value[1] - value[2], value[3] - value[4]]) / (2 * _STEP)
            xx, yy = value[1] - 2 * value[0] + value[2], value[3] - 2 * value[0] + value[4]
            xy = (value[5] + value[6] - 2 * value[0] - xx - yy) / 2
            information = -np.array([[xx, xy], [xy, yy]]) / _STEP**2
            curvature, axes = np.linalg.eigh(information)
            # Away from the maximum the curvature may have the wrong sign: its size still gives a step uphill.
            step = axes @ ((axes.T @ gradient) / np.maximum(np.abs(curvature), 1e-6 * len(self.gaps_s)))
            length = float(np.abs(step).max())
            x = x + step / max(1.0, length)
            if not math.log(MIN_SHAPE) <= x[0] <= math.log(MAX_SHAPE):
                break
            if length < 1e-7 and curvature.min() > 0:
                return *np.exp(x).tolist(), *np.sqrt(np.diag(np.linalg.inv(information))).tolist()
        return *np.exp(start).tolist(), math.nan, math.nan

    def _start(self) -> FloatArray:
        """log k and log theta from the mean gap and the mean log gap, with small gaps at a third of a step."""
        gaps_s = np.maximum(self.gaps_s, self.step_s / 3)
        spread = max(math.log(float(gaps_s.mean())) - float(np.log(gaps_s).mean()), 1e-4)
        shape = (3 - spread + math.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)
        return np.log([shape, float(gaps_s.mean()) / shape])

    def ks(self, shape: float, scale_s: float) -> tuple[float, float]:
        """Distance of the cumulative shares and its p-value, for gaps as they were recorded."""
        n, d = len(self.gaps_s), self.step_s
        steps, counts = np.unique(np.round(self.gaps_s / d), return_counts=True)
        shares = np.cumsum(counts) / n
        at, below = (self._cumulative(j, shape, scale_s) for j in (steps, steps - 1))
        distance = float(max(np.abs(shares - at).max(), np.abs(shares - counts / n - below).max()))
        return distance, float(scipy.stats.kstwobign.sf(distance * math.sqrt(n)))

    def _cumulative(self, j: FloatArray, shape: float, scale_s: float) -> FloatArray:
        """P(gap recorded as at most j), 0 for j below 0."""
        d = self.step_s
        cumulative = scipy.special.gammainc(shape, np.maximum(j + 0.5, 0.0) * d / scale_s)
        near = (j >= 0) & (j < CENSORED_STEPS)
        upper, lower = (_integral((j[near] + steps) * d, shape, scale_s) for steps in (1, 0))
        cumulative[near] = (upper - lower) / d
        return np.asarray(cumulative)


def _integral(x: FloatArray, k: FloatArray | float, theta: FloatArray | float) -> FloatArray:
    """H(x), the integral of the gamma distribution function from 0 to x: x F_k(x) - k theta F_{k+1}(x)."""
    return np.asarray(x * scipy.special.gammainc(k, x / theta) - k * theta * scipy.special.gammainc(k + 1, x / theta))


def _log(probability: FloatArray) -> FloatArray:
    """Logarithm of a probability that rounding may have taken to 0 or below."""
    return np.asarray(np.log(np.maximum(probability, np.finfo(np.float64).tiny)))
