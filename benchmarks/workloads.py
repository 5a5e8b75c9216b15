"""Workloads with a known truth: latencies in time order, drawn from models whose quantiles have a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, signal, stats

from fineserve_shapes.arrays import FloatArray

Draw = Callable[[np.random.Generator, int], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Workload:
    """draw(rng, n): times and latencies, shape (n,), seconds. quantile(q): of the latency, in the long run."""

    draw: Draw
    quantile: Callable[[float], float]


def autoregressive(rho: float) -> Workload:
    """Log-normal latencies whose logarithms are an AR(1) process; rho = 0: independent ones. Poisson arrivals at 20/s."""

    def draw(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray]:
        noise = rng.standard_normal(n)
        noise[1:] *= math.sqrt(1 - rho**2)
        return np.cumsum(rng.exponential(0.05, n)), 0.1 * np.exp(signal.lfilter([1.0], [1.0, -rho], noise))

    return Workload(draw, lambda q: 0.1 * math.exp(stats.norm.ppf(q)))


def sojourns(rng: np.random.Generator, n: int, load: float, cv: float) -> tuple[FloatArray, FloatArray]:
    """A server that serves one by one, 20/s at most, in exponential times; gamma gaps. Begins in equilibrium, about."""
    warm = int(10 * max(1.0, cv**2) / (1 - load) ** 2)
    gaps = rng.gamma(1 / cv**2, cv**2, n + warm) / load
    services = rng.exponential(1.0, n + warm)
    walk = np.cumsum(np.concatenate([[0.0], services[:-1] - gaps[1:]]))  # Lindley's recursion
    sojourn = walk - np.minimum.accumulate(walk) + services
    at = np.cumsum(gaps)[warm:]
    return 0.05 * (at - at[0]), 0.05 * sojourn[warm:]


def queue_root(load: float, cv: float) -> float:
    """The root s of s = A(1 - s), A the transform of the gaps: a sojourn is exponential with rate 1 - s (GI/M/1)."""
    if load >= 1:
        return 1.0
    return float(optimize.brentq(lambda s: s - (1 + cv**2 / load * (1 - s)) ** (-1 / cv**2), 1e-9, 1 - 1e-9))


def queue(load: float, cv: float = 1.0) -> Workload:
    """Sojourns in a queue. Source of the quantile: Kleinrock, Queueing Systems 1, 1975, section 6.4."""
    rate = (1 - queue_root(load, cv)) / 0.05
    return Workload(lambda rng, n: sojourns(rng, n, load, cv), lambda q: -math.log(1 - q) / rate)


def regimes(share: float, stay: float) -> Workload:
    """Log-normal latencies, eight times as long in a bad state that holds for a geometric number of requests."""

    def draw(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray]:
        visits = int(4 * n / stay) + 8
        lengths = np.empty(visits, dtype=np.int64)
        bad = bool(rng.random() < share)
        states = (np.arange(visits) % 2 == 0) == bad
        lengths = rng.geometric(np.where(states, 1 / stay, share / (1 - share) / stay))
        slow = np.repeat(states, lengths)[:n]
        return np.cumsum(rng.exponential(0.05, n)), 0.1 * rng.lognormal(0, 0.5, n) * np.where(slow, 8.0, 1.0)

    def missing(x: float, q: float) -> float:
        below = stats.norm.cdf(math.log(x / 0.1) / 0.5), stats.norm.cdf(math.log(x / 0.8) / 0.5)
        return float((1 - share) * below[0] + share * below[1] - q)

    return Workload(draw, lambda q: float(optimize.brentq(lambda x: missing(x, q), 1e-3, 1e3)))
