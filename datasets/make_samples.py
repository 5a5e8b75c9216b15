#!/usr/bin/env python3
"""Make the sample data of this folder: traces and window parameters with the published statistics of FineServe.

usage: make_samples.py [OUT_DIR]        (default: the folder of this script)

Everything is drawn here, from a fixed seed, to match figures that describe the FineServe release (means, ranges,
correlations, quantiles); no row of it is copied. The same NumPy gives the same bytes. The README says what differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SEED = 8  # of the first forty, the one whose short slices come nearest to their class in rate and burstiness
WINDOW_S = 300
WINDOWS = 288  # a day
BUSIEST_WINDOW = 180  # 15 h: assumed, since the published figures name no hour


@dataclass(frozen=True)
class ModelClass:
    """Published statistics of a class's day of gamma windows, and how much of such a day its sample trace shows."""

    name: str
    architecture: str
    scale: str
    mean_shape: float
    mean_rate: float  # gaps per second: mean over the windows of 1 / (shape x scale)
    correlation: float  # of log shape with log scale
    persistence: float  # lag-1 autocorrelation of log rate
    shape_range: tuple[float, float]
    scale_range_ms: tuple[float, float]
    trace_s: int


CLASSES = (
    ModelClass("Dense_lt10B", "Dense", "<10B", 0.288, 56.8, -0.92, 0.98, (0.275, 0.311), (42, 79), 40),
    ModelClass("Dense_10to30B", "Dense", "10-30B", 0.271, 17.7, -0.92, 0.997, (0.241, 0.299), (128, 549), 300),
    ModelClass("Dense_30to100B", "Dense", "30-100B", 0.582, 0.69, 0.22, 0.84, (0.438, 1.072), (1782, 4340), 7200),
    ModelClass("MoE_gt100B", "MoE", ">100B", 0.365, 2.87, 0.71, 0.89, (0.291, 0.409), (641, 1319), 1800),
)

# Requests per burst, published for Dense_lt10B only.
BURSTS = {"mean": 2.6285, "variance": 2.9729, "nb_mu": 2.6285, "nb_alpha": 0.03696}
BURST_S = 0.001

# Lengths, published for Dense_30to100B only; the other classes are assumed to have the same.
LENGTH_PROBABILITIES = (0.01, 0.25, 0.50, 0.75, 0.90, 0.99)
INPUT_QUANTILES = (29, 362, 960, 2400, 3630, 7417)
OUTPUT_QUANTILES = (1, 30, 136, 406, 759, 2049)
LENGTH_CORRELATION = 0.09


def gamma_windows(model: ModelClass, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Shape and scale (ms) of each window of a day, with the class's statistics.

    Both logarithms follow a daily curve with noise: the scale's is lowest, so the rate highest, in the busiest window,
    and the shape's is partly the scale's, partly a curve of its own. Four settings are then searched for, each against
    one statistic: how the values bend between the ends of their ranges (mean shape; mean rate), how much of the scale's
    curve is in the shape's (correlation), and how strong the noise is (persistence).
    """
    angle = 2 * np.pi * (np.arange(WINDOWS) - BUSIEST_WINDOW) / WINDOWS
    curves = [
        curve + sum(0.3 / n * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4))
        for curve in (-np.cos(angle), np.sin(angle))
    ]
    noises = rng.standard_normal((2, WINDOWS))

    def windows(noise: float) -> tuple[Floats, Floats]:
        own, other = (
            standardised(np.sqrt(1 - noise**2) * standardised(curve) + noise * standardised(white))
            for curve, white in zip(curves, noises, strict=True)
        )
        other = standardised(other - own * np.mean(own * other))
        mixing = model.correlation
        for _ in range(5):  # bending changes the correlation a little: mix that much more
            shape, scale_ms = bent(mixing * own + np.sqrt(1 - mixing**2) * other, own, model)
            miss = model.correlation - np.corrcoef(np.log(shape), np.log(scale_ms))[0, 1]
            mixing = float(np.clip(mixing + miss, -0.999, 0.999))
        return shape, scale_ms

    def persistence(noise: float) -> float:
        shape, scale_ms = windows(noise)
        log_rate = np.log(shape * scale_ms)
        return float(np.corrcoef(log_rate[1:], log_rate[:-1])[0, 1])

    return windows(bisect(lambda noise: model.persistence - persistence(noise), 0.0, 0.95))


def bent(shape_curve: Floats, scale_curve: Floats, model: ModelClass) -> tuple[Floats, Floats]:
    """Curves bent into the class's ranges so that the mean shape, then the mean rate, is the class's."""
    shape = bent_until(shape_curve, model.shape_range, lambda shape: float(shape.mean()) - model.mean_shape)
    scale_ms = bent_until(
        scale_curve, model.scale_range_ms, lambda scale_ms: model.mean_rate - float(np.mean(1e3 / (shape * scale_ms)))
    )
    return shape, scale_ms


def bent_until(curve: Floats, ends: tuple[float, float], excess: Callable[[Floats], float]) -> Floats:
    """The curve mapped onto a range, in logarithms and bent by a power, so that the `excess` of the result is zero."""
    position = (curve - curve.min()) / (curve.max() - curve.min())
    low, high = ends

    def values(log_power: float) -> Floats:
        return np.asarray(low * (high / low) ** (position ** np.exp(log_power)))

    return values(bisect(lambda log_power: -excess(values(log_power)), -4.0, 4.0))


def bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function crosses zero (or the end nearest to that)."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return low


def standardised(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / values.std())


def instants_s(shape: Floats, scale_ms: Floats, span_s: float, rng: np.random.Generator) -> Floats:
    """Times with gamma gaps whose rate and shape are the window's, from 0 up to the span.

    In operational time, where the rate is 1, so that a gap that reaches over a border goes on at the new rate. The
    first gap is in equilibrium (a uniform share of a size-biased gap): the trace is a slice, not a beginning.
    """
    borders_s = np.minimum(WINDOW_S * np.arange(len(shape) + 1), span_s)
    rate = 1e3 / (shape * scale_ms)
    borders = np.concatenate(([0.0], np.cumsum(rate * np.diff(borders_s))))
    at = rng.uniform() * rng.gamma(shape[0] + 1, 1 / shape[0])
    times = []
    while at < borders[-1]:
        times.append(at)
        here = shape[np.searchsorted(borders, at, side="right") - 1]
        at += rng.gamma(here, 1 / here)
    return np.asarray(np.interp(times, borders, borders_s))


def burst_sizes(count: int, rng: np.random.Generator) -> Ints:
    """Sizes of at least 1: one plus a negative binomial, with the published mean and variance."""
    rest = BURSTS["mean"] - 1
    n = rest**2 / (BURSTS["variance"] - rest)
    return np.asarray(1 + rng.negative_binomial(n, n / (n + rest), count))


def lengths(count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Input and output lengths with the published quantiles and correlation.

    Log length is piecewise linear in the normal score between the published quantiles (lognormal in pieces), and goes
    on as steeply beyond them. Scores are the exact ones, shuffled, so quantiles hold in samples of any size.
    """
    scores = np.array([NormalDist().inv_cdf((rank + 0.5) / count) for rank in range(count)])
    input_scores, noise = rng.permutation(scores), rng.permutation(scores)
    input_tokens = tokens_of(input_scores, INPUT_QUANTILES)

    def output_tokens(mixing: float) -> Ints:
        mixed = mixing * input_scores + np.sqrt(1 - mixing**2) * noise
        return tokens_of(scores[mixed.argsort().argsort()], OUTPUT_QUANTILES)

    def correlation(mixing: float) -> float:
        return float(np.corrcoef(input_tokens, output_tokens(mixing))[0, 1])

    return input_tokens, output_tokens(bisect(lambda mixing: correlation(mixing) - LENGTH_CORRELATION, -0.5, 0.9))


def tokens_of(scores: Floats, quantiles: tuple[int, ...]) -> Ints:
    at = np.array([NormalDist().inv_cdf(p) for p in LENGTH_PROBABILITIES])
    logs = np.log(quantiles)
    slopes = np.diff(logs) / np.diff(at)
    piece = np.clip(np.searchsorted(at, scores) - 1, 0, len(slopes) - 1)
    tokens = np.exp(logs[piece] + slopes[piece] * (scores - at[piece]))
    return np.asarray(np.maximum(np.rint(tokens), 1), dtype=np.int64)


def trace(model: ModelClass, shape: Floats, scale_ms: Floats, rng: np.random.Generator) -> pd.DataFrame:
    """A slice of the class's day, taken where the rate is nearest the day's mean."""
    rate = 1e3 / (shape * scale_ms)
    count = -(-model.trace_s // WINDOW_S)
    slices = np.convolve(rate, np.full(count, 1 / count), mode="valid")
    first = int(np.argmin(np.abs(slices - rate.mean())))
    part = slice(first, first + count)
    times_s = instants_s(shape[part], scale_ms[part], model.trace_s, rng)
    if model.name == "Dense_lt10B":
        times_s = np.repeat(times_s, burst_sizes(len(times_s), rng))
        times_s = np.sort(times_s + BURST_S * rng.uniform(size=len(times_s)))
    input_tokens, output_tokens = lengths(len(times_s), rng)
    return pd.DataFrame(
        {
            "input_length": input_tokens,
            "output_length": output_tokens,
            "latency": None,  # a sample was never served
            "timestamp": np.floor(1e6 * times_s),
            "architecture": model.architecture,
            "scale": model.scale,
        }
    )


def main(out: Path) -> None:
    for folder in ("replay", "Parametric/gamma", "Parametric/nb"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    seeds = np.random.SeedSequence(SEED).spawn(2 * len(CLASSES))
    for number, model in enumerate(CLASSES):
        windows_rng, trace_rng = map(np.random.default_rng, seeds[2 * number : 2 * number + 2])
        shape, scale_ms = gamma_windows(model, windows_rng)
        windows = pd.DataFrame({"gamma_shape": shape.round(6), "gamma_scale": scale_ms.round(4)})
        windows.to_csv(out / f"Parametric/gamma/{model.name}_gamma_5min.csv", index=False, lineterminator="\n")
        rows = trace(model, shape, scale_ms, trace_rng)
        rows.to_csv(out / f"replay/{model.name}.csv", index=False, lineterminator="\n", float_format="%.1f")
    (out / "Parametric/nb/Dense_lt10B_nb.json").write_text(json.dumps(BURSTS, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
