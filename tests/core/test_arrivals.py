"""Arrivals: the laws of renewal processes over changing rates.

Statistical tests have fixed seeds. A z-test passes below 4.5 (false alarm 7e-6), a Kolmogorov-Smirnov test above
p = 1e-4: were the seeds drawn anew, a run of this file would fail without cause about once in 1000 times.
"""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from drawn import until
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from thorough import examples

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.dispersion import BurstinessMeter, binned, dispersion, within_windows
from fineserve_shapes.workload.arrivals import (
    Arrivals,
    Constant,
    Gamma,
    Modulated,
    Piecewise,
    Poisson,
    Profile,
    Scaled,
    Segment,
    carried,
    ramp,
    renewal,
)
from fineserve_shapes.workload.block import BLOCK_ROWS

MAX_Z = 4.5
MIN_P = 1e-4


def first(arrivals: Arrivals, n: int, seed: int = 1) -> FloatArray:
    """The first n times."""
    blocks: list[FloatArray] = []
    for block in arrivals.blocks(np.random.default_rng(seed)):
        blocks.append(block)
        if sum(map(len, blocks)) >= n:
            break
    return np.concatenate(blocks)[:n]


def z_of_mean(sample: Any, expected: float) -> float:
    """How many standard errors the sample's mean lies from what is expected."""
    values = np.asarray(sample, float)
    return float((values.mean() - expected) / (values.std(ddof=1) / math.sqrt(len(values))))


class Tape:
    """A generator that writes down its draws, for the twin to draw the same."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.uniform = 0.0
        self.equilibrium = 0.0
        self.calls: list[list[float]] = []

    def random(self) -> float:
        self.uniform = self.rng.random()
        return self.uniform

    def standard_gamma(self, shape: float, size: int | None = None) -> Any:
        drawn = self.rng.standard_gamma(shape, size)
        if size is None:
            self.equilibrium = float(drawn)
        else:
            self.calls.append(drawn.tolist())
        return drawn


def twin(segments: list[Segment], tape: Tape) -> Iterator[float]:
    """The renewal process one gap at a time: the remaining gap is worn down by the rate until it is used up."""

    def survival(x: float, shape: float) -> float:
        return float(integrate.quad(stats.gamma(shape, scale=1 / shape).sf, x, np.inf, epsabs=1e-12)[0])

    calls = iter(tape.calls)
    draws: Iterator[float] = iter(())
    left, shape, start_s = tape.uniform * tape.equilibrium / segments[0].shape, segments[0].shape, 0.0
    for segment in segments:
        if segment.shape != shape:
            due = survival(left, shape)
            left = optimize.brentq(lambda x, s=segment, due=due: survival(x, s.shape) - due, 0, 1e3, xtol=1e-13)
            shape = segment.shape
        draws = iter(())  # what was drawn for the segment before is not used in this one
        at_s = 0.0

        def worn(t: float, s: Segment = segment) -> float:
            return s.start_rps * t + (s.end_rps - s.start_rps) / s.duration_s * t**2 / 2

        while left < worn(segment.duration_s) - worn(at_s):
            goal = worn(at_s) + left
            at_s = optimize.brentq(lambda t, goal=goal: worn(t) - goal, at_s, segment.duration_s, xtol=1e-13)
            yield start_s + at_s
            gap = next(draws, None)
            if gap is None:
                draws = iter(next(calls))
                gap = next(draws)
            left = gap / shape
        left -= worn(segment.duration_s) - worn(at_s)
        start_s += segment.duration_s


@pytest.mark.parametrize("seed", range(3))
def test_the_fast_algorithm_equals_its_slow_twin(seed: int) -> None:
    segments = [
        Segment(10, 3, 3, 0.5),
        Segment(7, 0.05, 0.05, 0.5),
        Segment(5, 0, 20, 0.5),
        Segment(4, 20, 1, 2.0),
        Segment(3, 0, 0, 2.0),
        Segment(8, 5, 5, 0.3),
        Segment(0.01, 5, 5, 4.0),
        Segment(20, 4, 4, 1.0),
    ]
    tape = Tape(seed)
    fast = np.concatenate(list(renewal(segments, tape)))  # type: ignore[arg-type]
    slow = list(twin(segments, tape))
    assert len(fast) == len(slow) > 100
    assert np.abs(fast - slow).max() < 1e-8


@given(
    residue=st.floats(1e-9, 50),
    shape=st.floats(0.05, 50),
    new_shape=st.floats(0.05, 50),
)
@settings(max_examples=examples(200), deadline=None)
def test_a_residue_keeps_its_quantile_across_a_border(residue: float, shape: float, new_shape: float) -> None:
    def survival(x: float, k: float) -> float:
        return float(stats.gamma.sf(x, k + 1, scale=1 / k) - x * stats.gamma.sf(x, k, scale=1 / k))

    moved = carried(residue, shape, new_shape)
    assert moved > 0
    assert survival(moved, new_shape) == pytest.approx(survival(residue, shape), abs=1e-9)


def test_a_residue_stays_where_the_shape_does() -> None:
    assert carried(0.7, 0.3, 0.3) == 0.7


def test_a_residue_beyond_what_can_be_inverted_stays_finite() -> None:
    assert 0 < carried(1e5, 0.3, 3.0) < 1e6


@pytest.mark.parametrize("shape", [0.2, 1.0, 5.0])
def test_from_the_first_instant_on_the_expected_count_is_rate_times_time(shape: float) -> None:
    """The equilibrium start: no bias at 0, where a start with a whole gap has one of (1/k - 1)/2."""
    rng = np.random.default_rng(5)
    counts = [sum(map(len, renewal([Segment(2.5, 1, 1, shape)], rng))) for _ in range(4000)]
    assert abs(z_of_mean(counts, 2.5)) < MAX_Z


def test_counts_per_window_under_a_constant_rate() -> None:
    counts = binned(until(Gamma(5, 0.3), 20_000), 10, 20_000)
    assert abs(z_of_mean(counts, 50)) < MAX_Z


def test_counts_per_window_where_a_busy_one_follows_a_quiet_one() -> None:
    """Means of 0.1 s and 10 s in 10-s windows: 100 and 1 are due, 50.5 on average; gaps read at their draw give 14."""
    windows = tuple(Segment(10, rate, rate, 0.4) for rate in (10, 0.1)) * 4000
    counts = binned(first(Piecewise(windows), 10**7), 10, 80_000)
    assert abs(z_of_mean(counts[0::2], 100)) < MAX_Z
    assert abs(z_of_mean(counts[1::2], 1)) < MAX_Z
    pairs = counts.reshape(-1, 2).mean(axis=1)
    assert abs(z_of_mean(pairs, 50.5)) < MAX_Z
    assert pairs.mean() == pytest.approx(50.5, rel=0.01)


def test_counts_per_window_where_the_shape_changes_at_every_border() -> None:
    """Carrying the residue as it is would be off by (1/2 - 1/0.2)/2 = -2.25 of 5 in every second window."""
    windows = tuple(Segment(5, 1, 1, shape) for shape in (0.2, 2.0)) * 8000
    counts = binned(first(Piecewise(windows), 10**7), 5, 80_000)
    assert abs(z_of_mean(counts[0::2], 5)) < MAX_Z
    assert abs(z_of_mean(counts[1::2], 5)) < MAX_Z


@pytest.mark.parametrize("shape", [0.28, 0.6, 1.0, 3.0])
def test_gaps_follow_scipys_gamma(shape: float) -> None:
    rate_rps = 20.0
    gaps_s = np.diff(first(Gamma(rate_rps, shape), 50_000))
    # Times are sums: gaps below their rounding are left out on both sides.
    law = stats.gamma(shape, scale=1 / (rate_rps * shape))
    kept = gaps_s[gaps_s > 1e-8]
    below = law.cdf(1e-8)
    assert stats.kstest(kept, lambda x: (law.cdf(x) - below) / (1 - below)).pvalue > MIN_P
    assert abs(z_of_mean(gaps_s, 1 / rate_rps)) < MAX_Z
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1 / math.sqrt(shape), rel=0.05)


def test_dispersion_of_gamma_counts_tends_to_one_over_k() -> None:
    counts = binned(until(Gamma(50, 0.25), 20_000), 10, 20_000)
    # The standard error of a variance of 2000 counts is about 3.2 %.
    assert dispersion(counts) == pytest.approx(4, rel=4.5 * 0.032)


def test_poisson_counts_are_poisson_and_its_gaps_exponential() -> None:
    times_s = until(Poisson(10), 20_000)
    assert stats.kstest(np.diff(times_s), stats.expon(scale=0.1).cdf).pvalue > MIN_P
    assert abs(len(times_s) - 200_000) / math.sqrt(200_000) < MAX_Z
    assert dispersion(binned(times_s, 1, 20_000)) == pytest.approx(1, abs=4.5 * math.sqrt(2 / 20_000))


def test_at_an_infinite_rate_all_are_due_at_once() -> None:
    assert first(Poisson(math.inf), 10_000).tolist() == [0.0] * 10_000


def test_constant_arrivals_are_where_they_should_be_after_millions() -> None:
    blocks = itertools.islice(Constant(3).blocks(np.random.default_rng(1)), 1000, 1001)
    assert next(blocks)[5] == (1000 * BLOCK_ROWS + 5) / 3


def test_a_cv_is_one_over_the_root_of_the_shape() -> None:
    assert Gamma.with_cv(2, 2.0) == Gamma(2, 0.25)


@pytest.mark.parametrize(("start_rps", "end_rps"), [(0, 40), (40, 0), (10, 30)])
def test_counts_along_a_ramp_follow_its_line(start_rps: float, end_rps: float) -> None:
    arrivals = ramp(start_rps, end_rps, 1000)
    observed = binned(first(arrivals, 10**6), 50, 1000)
    middles_s = np.arange(25, 1000, 50)
    expected = 50 * (start_rps + (end_rps - start_rps) * middles_s / 1000)
    assert stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected)) > MIN_P


def test_a_ramp_holds_its_last_rate_if_asked_to() -> None:
    times_s = until(ramp(0, 20, 10, hold=True), 5000)
    assert abs(z_of_mean(binned(times_s, 10, 5000)[1:], 200)) < MAX_Z


def test_nothing_is_due_where_the_rate_is_zero() -> None:
    times_s = first(Piecewise((Segment(10, 50, 50), Segment(100, 0, 0), Segment(10, 50, 50))), 10**6)
    assert not ((times_s > 10) & (times_s < 110)).any()
    assert times_s.max() < 120
    assert len(times_s) > 500


def test_scaling_a_profile_keeps_the_burstiness() -> None:
    meters = []
    for profile in (Gamma(10, 0.25), Scaled(Gamma(10, 0.25), 7)):
        meter = BurstinessMeter()
        meter.add(first(Modulated(profile), 100_000))
        meters.append(meter.result())
    plain, fast = meters
    assert plain.rate_rps is not None
    assert plain.gap_cv is not None
    assert fast.rate_rps == pytest.approx(7 * plain.rate_rps, rel=0.03)
    assert fast.gap_cv == pytest.approx(plain.gap_cv, rel=0.03)


class Endless:
    """Windows without end, for lazy reading."""

    def __init__(self, rate_rps: float) -> None:
        self.rate_rps = rate_rps
        self.asked = 0

    def segments(self, rng: np.random.Generator) -> Iterator[Segment]:
        for shape in itertools.cycle((0.27, 0.29)):
            self.asked += 1
            yield Segment(300, self.rate_rps, self.rate_rps, shape)


@pytest.mark.parametrize(
    "arrivals",
    [Poisson(100), Constant(100), Gamma(100, 0.3), Modulated(Endless(57)), Modulated(Endless(0.01)), ramp(0, 500, 600)],
    ids=lambda arrivals: type(arrivals).__name__,
)
def test_blocks_ascend_are_never_empty_and_stay_small(arrivals: Arrivals) -> None:
    blocks = list(itertools.islice(arrivals.blocks(np.random.default_rng(3)), 20))
    assert all(0 < len(block) < 3 * BLOCK_ROWS for block in blocks)
    times_s = np.concatenate(blocks)
    assert times_s[0] >= 0
    assert (np.diff(times_s) >= 0).all()


@pytest.mark.parametrize("arrivals", [Poisson(100), Gamma(100, 0.3), Modulated(Endless(57))])
def test_the_same_seed_gives_the_same_times(arrivals: Arrivals) -> None:
    assert first(arrivals, 20_000, seed=4).tobytes() == first(arrivals, 20_000, seed=4).tobytes()
    assert first(arrivals, 20_000, seed=4).tobytes() != first(arrivals, 20_000, seed=5).tobytes()


def test_a_slow_workload_is_not_computed_days_ahead() -> None:
    profile = Endless(1e-4)
    next(Modulated(profile).blocks(np.random.default_rng(1)))
    assert profile.asked < 500


def test_one_million_arrivals_over_windows_take_under_half_a_second_of_cpu() -> None:
    begun_s = time.process_time()
    first(Modulated(Endless(5)), 1_000_000)
    assert time.process_time() - begun_s < 0.5


def test_memory_does_not_grow_with_the_number_of_arrivals() -> None:
    blocks = Modulated(Endless(57)).blocks(np.random.default_rng(1))
    next(blocks)
    tracemalloc.start()
    try:
        assert sum(len(block) for block in itertools.islice(blocks, 300)) > 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson(-3.0), r"request rate must be positive, got -3.0 \(--request-rate\)"),
        (lambda: Poisson(math.nan), "must be positive, got nan"),
        (lambda: Constant(math.inf), "must be finite, got inf"),
        (lambda: Gamma(math.inf, 1), "must be finite, got inf"),
        (lambda: Gamma(1, 0), "shape of gamma gaps must lie between .* got 0"),
        (lambda: Gamma.with_cv(1, -1), "must be positive, got -1"),
        (lambda: Segment(0, 1, 1), "duration of a rate segment must be positive, got 0"),
        (lambda: Segment(1, -1, 1), "at least 0 and finite, got -1"),
        (lambda: Segment(math.inf, 1, 2), "needs one positive rate, got 1 to 2"),
        (lambda: Piecewise(()), "at least one piece"),
        (lambda: Piecewise((Segment(math.inf, 1, 1), Segment(1, 1, 1))), "only the last piece"),
        (lambda: Scaled(Gamma(1, 1), 0), r"got 0 \(--rate-scale\)"),
        (lambda: Poisson(math.inf).segments(np.random.default_rng()), "needs a finite rate"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_all_profiles_are_profiles() -> None:
    profiles: Iterable[Profile] = (Poisson(1), Gamma(1, 1), ramp(1, 2, 3), Scaled(Poisson(1), 2), Endless(1))
    assert all(next(iter(profile.segments(np.random.default_rng(1)))).expected > 0 for profile in profiles)


def naive_burstiness(times_s: FloatArray, width_s: int, span_s: float) -> float:
    """Dispersion of counts, bin by bin."""
    whole = int(span_s // width_s)
    counts = [int(((times_s >= i * width_s) & (times_s < (i + 1) * width_s)).sum()) for i in range(whole)]
    return float(np.var(counts, ddof=1) / np.mean(counts))


@pytest.mark.parametrize("rate_rps", [0.02, 0.7, 30])
def test_the_meter_agrees_with_counting_bin_by_bin(rate_rps: float) -> None:
    times_s = until(Gamma(rate_rps, 0.5), 2000)
    meter = BurstinessMeter()
    for block in np.array_split(times_s, 23):
        meter.add(block)
    result = meter.result(2000)
    gaps_s = np.diff(times_s)
    assert result.requests == len(times_s)
    assert result.gap_cv == pytest.approx(gaps_s.std() / gaps_s.mean())
    for width_s, value in result.dispersion.items():
        assert value == pytest.approx(naive_burstiness(times_s, width_s, 2000))
        assert value == pytest.approx(dispersion(binned(times_s, width_s, 2000)))


def test_what_cannot_be_told_is_none() -> None:
    empty = BurstinessMeter().result()
    assert (empty.requests, empty.rate_rps, empty.gap_cv, empty.dispersion[1]) == (0, None, None, None)
    assert within_windows(np.zeros(600, np.int64), 300) is None
