"""Bursts: several requests at nearly one instant, with negative-binomial sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import scipy

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.text import clipped

from ..errors import InputError
from .arrivals import SEGMENTS_PER_BLOCK, Arrivals, Modulated, Poisson, Profile, Scaled
from .block import BLOCK_ROWS

MILLISECOND_S = 1e-3
# Below this an alpha changes no count that could be observed, and NumPy's r = 1 / alpha would grow without bound.
NO_ALPHA = 1e-9
# No size of a burst and no count of samples comes near it, and its square is still a float.
MAX_VALUE = 1e15


@dataclass(frozen=True, slots=True)
class NBParameters:
    """The contents of an NB file: counts with mean mu and variance mu + alpha mu^2.

    Parameters
    ----------
    nb_mu, nb_alpha : float
        Parameters of the negative binomial law; mu positive, alpha at least 0.
    num_samples : int, optional
        How many bursts they were fitted to.
    mean, variance : float, optional
        Of those bursts' sizes.
    ks_stat, ks_pvalue : float, optional
        Goodness of fit of the negative binomial law.
    """

    nb_mu: float
    nb_alpha: float
    num_samples: int | None = None
    mean: float | None = None
    variance: float | None = None
    ks_stat: float | None = None
    ks_pvalue: float | None = None

    def moments(self) -> tuple[float, float]:
        """Mean and variance of sizes: the sample's where the file has both, else mu and mu + alpha mu^2."""
        if self.mean is not None and self.variance is not None:
            return self.mean, self.variance
        return self.nb_mu, self.nb_mu + self.nb_alpha * self.nb_mu**2


def read_nb(path: str | Path) -> NBParameters:
    """Read an NB JSON file in FineServe's form.

    Raises
    ------
    InputError
        If the file cannot be read, is no JSON object, or a value is missing or out of its range; the message names
        the file, the key and the value.
    """
    try:
        content: object = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror} (--parametric-nb-json)") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error} (--parametric-nb-json)") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object with nb_mu and nb_alpha is due (--parametric-nb-json)")
    values: dict[str, float] = {}
    for key in ("nb_mu", "nb_alpha", "num_samples", "mean", "variance", "ks_stat", "ks_pvalue"):
        value: object = content.get(key)
        if value is None and key not in ("nb_mu", "nb_alpha"):
            continue
        positive = key in ("nb_mu", "mean")
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not 0 <= number < MAX_VALUE or (positive and number == 0):
            shown = "it is missing" if value is None else f"got {clipped(repr(str(value)))}"
            least = "positive" if positive else "at least 0"
            raise InputError(f"{path}: {key} must be a number, {least}; {shown} (--parametric-nb-json)")
        values[key] = float(number)
    samples = values.pop("num_samples", None)
    return NBParameters(**values, num_samples=None if samples is None else int(samples))


def write_nb(parameters: NBParameters, path: str | Path) -> None:
    """Write an NB JSON file in FineServe's form; values that are not known are left out."""
    known = {key: value for key, value in asdict(parameters).items() if value is not None}
    Path(path).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class BurstSizes:
    """Sizes B = 1 + N of bursts, at least 1, with the mean and variance given.

    Parameters
    ----------
    mean, variance : float
        Of B. The mean must exceed 1.

    Raises
    ------
    InputError
        If the mean is 1 or less, or no whole numbers have so small a variance about the mean.

    Notes
    -----
    N has mean m = mean - 1 and variance v = variance. Over-dispersed, v > m: negative binomial with
    alpha = (v - m) / m^2, in NumPy's parameters r = 1 / alpha, p = r / (r + m). v = m: Poisson. Under-dispersed, v < m:
    Binomial(n, m / n) has variance m (1 - m / n), so N is drawn with n from the two whole numbers about m^2 / (m - v),
    mixed so that the variance is v exactly; below n = m, where there is no binomial law, the two whole numbers about m
    stand in. The least variance of whole numbers with mean m, f (1 - f) for the fraction f of m, is the limit.
    An unshifted law would put a share of bursts at size 0, which deletes them.
    """

    mean: float
    variance: float

    def __post_init__(self) -> None:
        if not 1 < self.mean < math.inf:
            raise InputError(f"the mean size of a burst must exceed 1, got {self.mean} (nb_mu or mean of the NB file)")
        least = (self.mean % 1) * (1 - self.mean % 1)
        if not least - 1e-9 <= self.variance < math.inf:
            raise InputError(
                f"sizes of bursts with mean {self.mean} have a variance of at least {least:.4g}, got {self.variance} "
                "(variance of the NB file)"
            )

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """Sizes, shape (n,)."""
        mean = self.mean - 1
        alpha = (self.variance - mean) / mean**2
        if alpha >= -NO_ALPHA:
            return 1 + _counts(rng, np.full(n, mean), max(alpha, 0.0))
        # trials is where Binomial(trials, mean / trials) would have the variance; whole numbers of trials lie about it.
        trials = mean**2 / (mean - self.variance)
        fewer, more = math.floor(trials), math.floor(trials) + 1
        few_variance = mean * (1 - mean / fewer) if fewer >= mean else (mean % 1) * (1 - mean % 1)
        more_variance = mean * (1 - mean / more)
        apart = more_variance - few_variance
        # Where the two laws are one, either will do.
        share = min(max((self.variance - few_variance) / apart, 0.0), 1.0) if apart > 1e-12 else 1.0
        few = rng.binomial(fewer, mean / fewer, n) if fewer >= mean else math.floor(mean) + (rng.random(n) < mean % 1)
        return 1 + np.where(rng.random(n) < share, rng.binomial(more, mean / more, n), few).astype(np.int64)


def _counts(rng: np.random.Generator, mean: FloatArray, alpha: float) -> IntArray:
    """Negative-binomial counts with the means given and variance mean + alpha mean^2."""
    if alpha < NO_ALPHA:
        return rng.poisson(mean).astype(np.int64)
    r = 1 / alpha
    return rng.negative_binomial(r, r / (r + mean)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Bursts:
    """Arrivals that come in bursts: the first request of a burst at its instant, the others soon after.

    Parameters
    ----------
    instants : Arrivals
        When bursts begin.
    sizes : BurstSizes
        How many requests each has; the mean rate is the instants' rate times the mean size.
    within_s : float
        The others are due uniformly within so many seconds of the instant.
    """

    instants: Arrivals
    sizes: BurstSizes
    within_s: float = MILLISECOND_S

    def __post_init__(self) -> None:
        if not 0 <= self.within_s < math.inf:
            raise InputError(f"the length of a burst must be at least 0, got {self.within_s} s")
        if isinstance(self.instants, Poisson) and math.isinf(self.instants.rate_rps):
            raise InputError("request rate inf makes all requests due at once; bursts need a finite rate")

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Ascending times. Instants, sizes and the spread draw from streams of their own, spawned from rng."""
        instants_rng, sizes_rng, spread_rng = rng.spawn(3)
        waiting = np.empty(0)
        for instants_s in self.instants.blocks(instants_rng):
            sizes = self.sizes.sample(sizes_rng, len(instants_s))
            others = np.repeat(instants_s, sizes - 1)
            others += self.within_s * spread_rng.random(len(others))
            times_s = np.concatenate([waiting, instants_s, others])
            times_s.sort(kind="stable")
            # Bursts of the next block start at this one's last instant or later: what is due after it must wait.
            due = int(np.searchsorted(times_s, instants_s[-1], side="right"))
            waiting = times_s[due:]
            yield times_s[:due]
        if len(waiting):
            yield waiting


@dataclass(frozen=True, slots=True)
class NegativeBinomialSlots:
    """Negative-binomial counts in slots of a millisecond, at a profile's rate.

    Parameters
    ----------
    profile : Profile
        The rate of requests; its shapes are not used, so the burstiness of its gaps is lost.
    alpha : float
        A slot with mean m has variance m + alpha m^2.
    slot_s : float
        Length of a slot in seconds. Slots start anew with each segment of the profile.

    Notes
    -----
    This is the layer as the FineServe generator documents it, but with the mean taken from the rate: its own way,
    nb_mu in every slot, sends 1000 nb_mu requests per second whatever the windows say.
    """

    profile: Profile
    alpha: float
    slot_s: float = MILLISECOND_S

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"nb_alpha must be at least 0, got {self.alpha} (--parametric-nb-json)")
        if not 0 < self.slot_s < math.inf:
            raise InputError(f"the length of a slot must be positive, got {self.slot_s} s")

    def blocks(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Ascending times, uniform within their slots."""
        profile_rng, counts_rng, spread_rng = rng.spawn(3)
        start_s = 0.0
        ready: list[FloatArray] = []
        rows = 0
        for segment in self.profile.segments(profile_rng):
            for borders_s in self._slots(segment.duration_s):
                counts = _counts(counts_rng, np.diff(segment.operational(borders_s)), self.alpha)
                times_s = np.repeat(start_s + borders_s[:-1], counts)
                times_s += spread_rng.random(len(times_s)) * np.repeat(np.diff(borders_s), counts)
                times_s.sort(kind="stable")
                ready.append(times_s)
                rows += len(times_s)
                if rows >= BLOCK_ROWS or (rows and len(ready) >= SEGMENTS_PER_BLOCK):
                    yield np.concatenate(ready)
                    ready, rows = [], 0
            start_s += segment.duration_s
        if rows:
            yield np.concatenate(ready)

    def _slots(self, duration_s: float) -> Iterator[FloatArray]:
        """Borders of some thousand slots at a time, the last one cut at the end."""
        for first in count(step=BLOCK_ROWS):
            borders_s = self.slot_s * np.arange(first, first + BLOCK_ROWS + 1, dtype=np.float64)
            if borders_s[-1] >= duration_s:
                yield np.append(borders_s[borders_s < duration_s], duration_s)
                return
            yield borders_s


def with_bursts(
    profile: Profile,
    nb: NBParameters,
    *,
    mode: Literal["batch", "slot"] = "batch",
    gamma_fitted_to: Literal["bursts", "requests"] = "bursts",
) -> Arrivals:
    """The burst layer over a profile of gamma windows.

    Parameters
    ----------
    profile : Profile
        Windows, with the rates of their gamma gaps: 1 / (k * theta).
    nb : NBParameters
        Sizes of bursts, with mean E[B].
    mode : {"batch", "slot"}
        "batch": gamma gaps between bursts, sizes from `BurstSizes`. "slot": `NegativeBinomialSlots` with nb_alpha.
    gamma_fitted_to : {"bursts", "requests"}
        What the profile's rate counts. "bursts" (so are the published files): requests come at E[B] / (k * theta).
        "requests": they come at 1 / (k * theta), and bursts at 1 / E[B] of that with the burstiness kept.

    Raises
    ------
    InputError
        In batch mode if the mean size is 1 or less.
    """
    mean, variance = nb.moments()
    if mode == "slot":
        return NegativeBinomialSlots(Scaled(profile, mean) if gamma_fitted_to == "bursts" else profile, nb.nb_alpha)
    sizes = BurstSizes(mean, variance)
    return Bursts(Modulated(profile if gamma_fitted_to == "bursts" else Scaled(profile, 1 / mean)), sizes)


def split_bursts(times_s: FloatArray, within_s: float = 0.0) -> tuple[FloatArray, IntArray]:
    """Divide arrivals into bursts: a burst takes what comes within `within_s` of its first request.

    Parameters
    ----------
    times_s : FloatArray, shape (n,)
        Ascending.
    within_s : float
        Seconds; 0 joins equal times only, which fits traces whose bursts share a time stamp. A longer one also joins
        bursts that are merely close, of which bursty gaps have many.

    Returns
    -------
    instants_s : FloatArray, shape (m,)
        When bursts begin.
    sizes : IntArray, shape (m,)
        How many requests each has.
    """
    is_start = np.diff(times_s, prepend=-np.inf) > within_s
    fresh = np.flatnonzero(is_start)
    while len(fresh):
        # A chain of close requests may last longer than a burst: what lies past its end starts another.
        after = np.searchsorted(times_s, times_s[fresh] + within_s, side="right")
        after = after[after < len(times_s)]
        fresh = after[~is_start[after]]
        is_start[fresh] = True
    starts = np.flatnonzero(is_start)
    return times_s[starts], np.diff(starts, append=len(times_s)).astype(np.int64)


def fit_nb(sizes: IntArray) -> NBParameters:
    """Fit a negative binomial law to sizes of bursts by maximum likelihood.

    Parameters
    ----------
    sizes : IntArray, shape (n,)
        At least one.

    Returns
    -------
    NBParameters
        All values known. mu is the mean (its estimate whatever alpha is); alpha is 0 where sizes are not
        over-dispersed. ks_stat is the greatest distance of the cumulative shares, and ks_pvalue its asymptotic
        p-value, too large for a discrete law with fitted parameters: a small one is evidence, a large one is none.
    """
    if not len(sizes):
        raise InputError("no burst to fit sizes to")
    values, counts = np.unique(sizes, return_counts=True)
    mean, variance, n = float(sizes.mean()), float(sizes.var(ddof=1)) if len(sizes) > 1 else 0.0, len(sizes)
    alpha = 0.0
    if variance > mean:

        def loss(log_alpha: float) -> float:
            r = math.exp(-log_alpha)
            return -float(counts @ scipy.stats.nbinom.logpmf(values, r, r / (r + mean))) / n

        alpha = math.exp(float(scipy.optimize.minimize_scalar(loss, bounds=(-14, 7), method="bounded").x))
    law = scipy.stats.nbinom(1 / alpha, 1 / (1 + alpha * mean)) if alpha else scipy.stats.poisson(mean)
    shares = np.cumsum(counts) / n
    # Between two sizes that occur the empirical share stands still: the law is farthest just below the next one.
    below = np.concatenate([[0.0], shares[:-1]])
    distance = float(np.maximum(np.abs(shares - law.cdf(values)), np.abs(below - law.cdf(values - 1))).max())
    pvalue = float(scipy.stats.kstwobign.sf(distance * math.sqrt(n)))
    return NBParameters(mean, alpha, n, mean, variance, distance, pvalue)
