"""Arrivals: when requests are due, as lazy blocks of ascending times.

A `Profile` says how the rate goes (a run of `Segment`s); an `Arrivals` delivers times. All renewal arrivals, from
Poisson to gamma gaps over thousands of windows, come out of one routine, `renewal`, which works in operational time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Protocol

import numpy as np
import scipy

from fineserve_shapes.arrays import FloatArray

from ..errors import InputError
from .block import BLOCK_ROWS

# A block goes out after so many segments even when it is short: a slow workload must not compute days ahead.
SEGMENTS_PER_BLOCK = 64
MIN_SHAPE, MAX_SHAPE = 1e-3, 1e4


class Arrivals(Protocol):
    """Something that says when requests are due."""

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Ascending due times in seconds from the start of the run, each block of shape (n,) with n >= 1."""


class Profile(Protocol):
    """Something that says how the rate and the burstiness go in time."""

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:
        """Segments that follow each other without a hole, from the start of the run."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time with a linear rate and one burstiness.

    Parameters
    ----------
    duration_s : float
        Length in seconds; `inf` only with a constant positive rate.
    start_rps, end_rps : float
        Rate at either end, requests per second; at least 0.
    shape : float
        Shape k of the gamma gaps in operational time: their coefficient of variation is 1/sqrt(k); 1 is Poisson.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    duration_s: float
    start_rps: float
    end_rps: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        if not self.duration_s > 0:
            raise InputError(f"the duration of a rate segment must be positive, got {self.duration_s} s")
        for rate_rps in (self.start_rps, self.end_rps):
            if not 0 <= rate_rps < math.inf:
                raise InputError(f"a rate must be at least 0 and finite, got {rate_rps} requests/s")
        _check_shape(self.shape)
        if math.isinf(self.duration_s) and not self.start_rps == self.end_rps > 0:
            raise InputError(
                f"a segment without an end needs one positive rate, got {self.start_rps} to {self.end_rps} requests/s"
            )

    @property
    def slope(self) -> float:
        """Change of the rate, requests per second per second."""
        return (self.end_rps - self.start_rps) / self.duration_s

    @property
    def expected(self) -> float:
        """Expected number of requests: the segment's length in operational time."""
        return self.duration_s * (self.start_rps + self.end_rps) / 2

    def operational(self, time_s: FloatArray) -> FloatArray:
        """L(t) = a t + s t^2 / 2 for times from the segment's start, with a the first rate and s the slope."""
        return time_s * (self.start_rps + self.slope / 2 * time_s)

    def time_s(self, operational: FloatArray) -> FloatArray:
        """The inverse of `operational`, ascending where its argument is, never past the segment's end."""
        if self.start_rps == self.end_rps:
            return np.minimum(operational / self.start_rps, self.duration_s)
        # 2u / (a + sqrt(a^2 + 2su)) solves the quadratic without subtracting nearly equal numbers.
        root = np.sqrt(np.maximum(self.start_rps**2 + 2 * self.slope * operational, 0.0))
        time_s = np.divide(2 * operational, self.start_rps + root, out=np.zeros_like(root), where=operational > 0)
        return np.minimum(np.maximum.accumulate(time_s), self.duration_s)


def renewal(segments: Iterable[Segment], rng: np.random.Generator) -> Iterator[FloatArray]:
    """Times of a renewal process with gamma gaps whose rate and shape follow the segments.

    Parameters
    ----------
    segments : iterable of Segment
        Consumed lazily; the process ends where they end.
    rng : numpy.random.Generator
        Source of the gaps.

    Yields
    ------
    FloatArray
        Times in seconds, shape (n,), ascending.

    Notes
    -----
    In operational time L(t), the integral of the rate, gaps are Gamma(k, 1/k) with mean 1; times are the inverse of L
    at their partial sums. The first gap is in equilibrium, U * Gamma(k + 1, 1/k), which makes the process stationary:
    the expected number in any stretch is exactly its length in operational time. A gap that a border cuts carries its
    residue over. Where k changes at the border, the residue is mapped to the equal quantile of the new shape's
    equilibrium law (`carried`), so every segment sees a stationary process of its own shape, and its expected count is
    exact whatever its neighbours' shapes are. (Keeping the residue as it is would be off by (1/k_new - 1/k_old) / 2.)

    References
    ----------
    Cox, "Renewal Theory" (1962), sections 2.2 and 5.2, for the equilibrium process.
    """
    ready: list[FloatArray] = []
    rows = visited = 0
    start_s = residue = 0.0
    shape: float | None = None
    for segment in segments:
        if shape is None:
            residue = rng.random() * float(rng.standard_gamma(segment.shape + 1)) / segment.shape
        else:
            residue = carried(residue, shape, segment.shape)
        shape, length = segment.shape, segment.expected
        while residue < length:
            left = min(length - residue, BLOCK_ROWS)
            sums = np.empty(min(int(left + 2 * math.sqrt(left / shape)) + 8, BLOCK_ROWS) + 1)
            sums[0] = residue
            # Gaps drawn past the border are dropped: they are independent of where the border fell.
            np.divide(rng.standard_gamma(shape, len(sums) - 1), shape, out=sums[1:])
            np.cumsum(sums, out=sums)
            inside = min(int(np.searchsorted(sums, length)), len(sums) - 1)
            residue = float(sums[inside])
            if inside:
                ready.append(start_s + segment.time_s(sums[:inside]))
                rows += inside
            if rows >= BLOCK_ROWS:
                yield np.concatenate(ready)
                ready, rows, visited = [], 0, 0
        residue -= length
        start_s += segment.duration_s
        visited += 1
        if rows and visited >= SEGMENTS_PER_BLOCK:
            yield np.concatenate(ready)
            ready, rows, visited = [], 0, 0
    if rows:
        yield np.concatenate(ready)


def carried(residue: float, shape: float, new_shape: float) -> float:
    """The time to the next arrival, seen across a border at which the shape of the gaps changes.

    The residue of a stationary process has the equilibrium law, with survival
    S_e(x) = S_{k+1}(x) - x S_k(x), where S_j is the survival of Gamma(j, 1/k). Returned is the x with
    S_e(x; new_shape) = S_e(residue; shape): the residue itself where the shapes agree.
    """
    if new_shape == shape or residue <= 0:
        return residue
    survival, _ = _equilibrium(residue, shape)
    guess = residue * (1 + 1 / new_shape) / (1 + 1 / shape)
    if survival < 1e-250:  # beyond what floating point can invert; it is never drawn in earnest
        return guess
    target = math.log(survival)
    low, high = 0.0, math.inf
    for _ in range(200):
        value, density = _equilibrium(guess, new_shape)
        if value > survival:
            low = guess
        else:
            high = guess
        # Newton on log S_e, whose slope is -density / S_e; halving where that would leave the bracket.
        following = guess + (math.log(value) - target) * value / density if min(value, density) > 0 else low
        if not low < following < high:
            following = (low + high) / 2 if high < math.inf else 2 * guess
        settled = abs(following - guess) <= 1e-9 * guess
        guess = following
        if settled:
            break
    return guess


def _equilibrium(x: float, shape: float) -> tuple[float, float]:
    """Survival and density at x of the equilibrium law of unit-mean gamma gaps."""
    density = float(scipy.special.gammaincc(shape, shape * x))
    return float(scipy.special.gammaincc(shape + 1, shape * x)) - x * density, density


def _check_shape(shape: float) -> None:
    if not MIN_SHAPE <= shape <= MAX_SHAPE:
        raise InputError(f"the shape of gamma gaps must lie between {MIN_SHAPE} and {MAX_SHAPE:.0f}, got {shape}")


def _check_rate(rate_rps: float) -> None:
    if not rate_rps > 0:
        raise InputError(f"request rate must be positive, got {rate_rps} (--request-rate)")


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals at one rate: gaps are exponential, counts have dispersion 1. Endless.

    Parameters
    ----------
    rate_rps : float
        Requests per second; `inf` makes all of them due at 0.
    """

    rate_rps: float

    def __post_init__(self) -> None:
        _check_rate(self.rate_rps)

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:  # noqa: ARG002 - nothing is random here
        """One segment without an end. Raises InputError at an infinite rate, which has no time to divide."""
        if math.isinf(self.rate_rps):
            raise InputError("request rate inf makes all requests due at once; this workload needs a finite rate")
        return _forever(self.rate_rps, 1.0)

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Ascending times; zeros without end at an infinite rate."""
        if math.isinf(self.rate_rps):
            return map(np.zeros, repeat(BLOCK_ROWS))
        return renewal(self.segments(rng), rng)


@dataclass(frozen=True, slots=True)
class Constant:
    """Evenly spaced arrivals at i / rate_rps, i = 0, 1, ...; without rounding error that grows. Endless."""

    rate_rps: float

    def __post_init__(self) -> None:
        _check_rate(self.rate_rps)
        if math.isinf(self.rate_rps):
            raise InputError("a constant rate must be finite, got inf (--request-rate)")

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:  # noqa: ARG002 - nothing is random here
        """Ascending times."""
        first = 0
        while True:
            yield np.arange(first, first + BLOCK_ROWS) / self.rate_rps
            first += BLOCK_ROWS


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma gaps at one rate and one burstiness. Endless.

    Gaps are Gamma(k, theta) with k = shape and k * theta = 1 / rate_rps: coefficient of variation 1/sqrt(k), and the
    dispersion of counts tends to 1/k over long times. The first gap is in equilibrium (see `renewal`).

    Parameters
    ----------
    rate_rps : float
        Requests per second.
    shape : float
        k, which vLLM calls burstiness: 1 is Poisson, below 1 is burstier.
    """

    rate_rps: float
    shape: float

    def __post_init__(self) -> None:
        _check_rate(self.rate_rps)
        if math.isinf(self.rate_rps):
            raise InputError("the rate of gamma arrivals must be finite, got inf (--request-rate)")
        _check_shape(self.shape)

    @classmethod
    def with_cv(cls, rate_rps: float, cv: float) -> Gamma:
        """Gamma gaps with the coefficient of variation given: k = 1 / cv^2."""
        if not cv > 0:
            raise InputError(f"the coefficient of variation of gaps must be positive, got {cv}")
        return cls(rate_rps, 1 / cv**2)

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:  # noqa: ARG002 - nothing is random here
        """One segment without an end."""
        return _forever(self.rate_rps, self.shape)

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Ascending times."""
        return renewal(self.segments(rng), rng)


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Gamma gaps (Poisson where the shape is 1) whose rate goes through the pieces once, then ends.

    Parameters
    ----------
    pieces : tuple of Segment
        At least one; only the last may be without an end.
    """

    pieces: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.pieces:
            raise InputError("a piecewise rate needs at least one piece")
        if any(math.isinf(piece.duration_s) for piece in self.pieces[:-1]):
            raise InputError("only the last piece of a piecewise rate may be without an end")

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:  # noqa: ARG002 - nothing is random here
        """The pieces."""
        return iter(self.pieces)

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Ascending times."""
        return renewal(self.segments(rng), rng)


def ramp(start_rps: float, end_rps: float, duration_s: float, *, shape: float = 1.0, hold: bool = False) -> Piecewise:
    """A rate that goes linearly from one value to another, and with `hold` stays there for ever."""
    pieces = (Segment(duration_s, start_rps, end_rps, shape),)
    return Piecewise((*pieces, Segment(math.inf, end_rps, end_rps, shape)) if hold else pieces)


@dataclass(frozen=True, slots=True)
class Modulated:
    """Gamma gaps over any profile, such as the windows of a file and their extensions."""

    profile: Profile

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Ascending times. The profile and the gaps draw from streams of their own, spawned from rng."""
        profile_rng, gaps_rng = rng.spawn(2)
        return renewal(self.profile.segments(profile_rng), gaps_rng)


@dataclass(frozen=True, slots=True)
class Scaled:
    """A profile at `factor` times its rate and with the burstiness it had (the gaps' CV stays)."""

    profile: Profile
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise InputError(f"a rate can be scaled by a positive number only, got {self.factor} (--rate-scale)")

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:
        """The profile's segments with their rates multiplied."""
        for segment in self.profile.segments(rng):
            yield replace(segment, start_rps=segment.start_rps * self.factor, end_rps=segment.end_rps * self.factor)


def _forever(rate_rps: float, shape: float) -> Iterator[Segment]:
    return iter((Segment(math.inf, rate_rps, rate_rps, shape),))
