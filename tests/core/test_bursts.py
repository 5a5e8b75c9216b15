"""Bursts: the NB file, the sizes, the two ways to place them, and the fit.

Statistical tests have fixed seeds; a z-test passes below 4.5 (false alarm 7e-6 each) unless it says otherwise.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import until
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.dispersion import BurstinessMeter, binned, dispersion, within_windows
from fineserve_shapes.workload.arrivals import Arrivals, Constant, Gamma, Modulated, Piecewise, Poisson, Segment, ramp
from fineserve_shapes.workload.bursts import (
    Bursts,
    BurstSizes,
    NBParameters,
    NegativeBinomialSlots,
    fit_nb,
    read_nb,
    split_bursts,
    with_bursts,
    write_nb,
)
from fineserve_shapes.workload.windows import read_windows

MAX_Z = 4.5
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "fineserve" / "Parametric"
LT10B = NBParameters(nb_mu=2.6285, nb_alpha=0.03696, mean=2.6285, variance=2.9729)


# --- the file


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    for parameters in (LT10B, NBParameters(3, 0.1), fit_nb(np.array([1, 2, 2, 5]))):
        write_nb(parameters, tmp_path / "nb.json")
        assert read_nb(tmp_path / "nb.json") == parameters


def test_the_sample_s_moments_come_before_the_law_s() -> None:
    assert LT10B.moments() == (2.6285, 2.9729)
    assert NBParameters(3, 0.5).moments() == (3, 3 + 0.5 * 9)
    assert NBParameters(3, 0.5, mean=2).moments() == (3, 3 + 0.5 * 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON file"),
        ("[1]", "a JSON object with nb_mu and nb_alpha is due"),
        ('{"nb_mu": 2}', "nb_alpha must be a number, at least 0; it is missing"),
        ('{"nb_mu": "2", "nb_alpha": 1}', "nb_mu must be a number, positive; got '2'"),
        ('{"nb_mu": 0, "nb_alpha": 1}', "nb_mu must be a number, positive; got '0'"),
        ('{"nb_mu": NaN, "nb_alpha": 1}', "nb_mu must be a number, positive; got 'nan'"),
        ('{"nb_mu": 2, "nb_alpha": -0.1}', "nb_alpha must be a number, at least 0; got '-0.1'"),
        ('{"nb_mu": 2, "nb_alpha": Infinity}', "nb_alpha must be a number, at least 0; got 'inf'"),
        ('{"nb_mu": true, "nb_alpha": 1}', "nb_mu must be a number, positive; got 'True'"),
        ('{"nb_mu": 2, "nb_alpha": 1, "variance": [1]}', "variance must be a number, at least 0; got '[1]'"),
        ("[" * 100_000, "not a JSON file"),
    ],
)
def test_a_malformed_file_is_refused_with_the_key(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "nb.json"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_nb(path)
    assert str(caught.value).startswith(str(path))


def test_binary_files_and_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nb.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not a JSON file"):
        read_nb(tmp_path / "nb.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_nb(tmp_path)


# --- sizes


def z_of_moments(sizes: IntArray, mean: float, variance: float) -> tuple[float, float]:
    """Standard errors between the sample's mean and variance and those due."""
    deviations = (sizes - mean) ** 2
    return (
        float((sizes.mean() - mean) / math.sqrt(max(variance, 1e-12) / len(sizes))),
        float((deviations.mean() - variance) / max(deviations.std() / math.sqrt(len(sizes)), 1e-9)),
    )


@pytest.mark.parametrize(
    ("mean", "variance"),
    [
        (2.6285, 2.9729),  # lt10B: negative binomial
        (1.2, 5.0),  # far over-dispersed
        (4.0, 3.0),  # Poisson
        (4.0, 2.0),  # binomial with whole trials
        (3.7, 1.3),  # between two binomials
        (2.6, 0.3),  # between a binomial and the two nearest whole numbers
        (2.6, 0.24),  # the two nearest whole numbers
        (3.0, 0.0),  # always three
        (1.05, 0.0475),  # nearly always one
    ],
)
def test_sizes_have_the_mean_and_the_variance_due_and_none_is_below_one(mean: float, variance: float) -> None:
    sizes = BurstSizes(mean, variance).sample(np.random.default_rng(1), 200_000)
    assert sizes.dtype == np.int64
    assert sizes.min() >= 1
    z_mean, z_variance = z_of_moments(sizes, mean, variance)
    assert abs(z_mean) < MAX_Z
    assert abs(z_variance) < MAX_Z


def test_over_dispersed_sizes_follow_the_shifted_law() -> None:
    sizes = BurstSizes(2.6285, 2.9729).sample(np.random.default_rng(2), 100_000)
    alpha = (2.9729 - 1.6285) / 1.6285**2
    assert alpha == pytest.approx(0.507, abs=5e-4)
    law = stats.nbinom(1 / alpha, 1 / (1 + alpha * 1.6285), loc=1)
    observed = np.bincount(np.minimum(sizes, 12), minlength=13)[1:]
    expected = 100_000 * np.append(law.pmf(np.arange(1, 12)), law.sf(11))
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@given(mean=st.floats(1.001, 50), share=st.floats(0, 1))
def test_every_variance_that_whole_numbers_can_have_is_drawn(mean: float, share: float) -> None:
    least = (mean % 1) * (1 - mean % 1)
    variance = least + share * max(mean - 1 - least, 0)
    sizes = BurstSizes(mean, variance).sample(np.random.default_rng(3), 3000)
    assert sizes.min() >= 1
    assert abs(sizes.mean() - mean) < 5 * math.sqrt(variance / 3000) + 0.01


@pytest.mark.parametrize(
    ("mean", "variance", "message"),
    [
        (1.0, 1.0, "mean size of a burst must exceed 1, got 1.0"),
        (0.5, 1.0, "must exceed 1, got 0.5"),
        (math.nan, 1.0, "must exceed 1, got nan"),
        (2.5, 0.2, "variance of at least 0.25, got 0.2"),
        (2.5, math.inf, "got inf"),
    ],
)
def test_impossible_sizes_are_refused(mean: float, variance: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BurstSizes(mean, variance)


# --- placing


def slow_bursts(instants_s: FloatArray, sizes: IntArray, spread: Any, within_s: float) -> list[float]:
    """All requests, one burst at a time, sorted at the end."""
    times_s = []
    for instant_s, size in zip(instants_s, sizes, strict=True):
        times_s.append(instant_s)
        times_s.extend(instant_s + within_s * spread.random() for _ in range(size - 1))
    return sorted(times_s)


def test_bursts_equal_their_slow_twin_across_blocks() -> None:
    """Bursts of half a second on gaps of a tenth: most overlap the next ones, and every border of a block cuts some."""
    arrivals, sizes = Piecewise((Segment(2000, 10, 10, 0.5),)), BurstSizes(2.6, 3)
    fast = np.concatenate(list(Bursts(arrivals, sizes, within_s=0.5).blocks(np.random.default_rng(8))))
    instants_rng, sizes_rng, spread_rng = np.random.default_rng(8).spawn(3)
    blocks = list(arrivals.blocks(instants_rng))
    assert len(blocks) > 2
    drawn = np.concatenate([sizes.sample(sizes_rng, len(block)) for block in blocks])
    assert fast.tolist() == slow_bursts(np.concatenate(blocks), drawn, spread_rng, 0.5)


def test_the_requests_of_a_burst_come_within_its_millisecond_and_the_first_at_its_instant() -> None:
    blocks = itertools.islice(Bursts(Constant(10), BurstSizes(3, 4)).blocks(np.random.default_rng(1)), 5)
    times_s = np.concatenate(list(blocks))
    offsets_s = times_s - np.floor(times_s * 10 + 1e-6) / 10
    assert (np.diff(times_s) >= 0).all()
    assert offsets_s.max() < 1e-3
    starts_s = split_bursts(times_s, 0.05)[0]
    assert starts_s == pytest.approx(np.arange(len(starts_s)) / 10)


def test_fitted_to_bursts_requests_come_at_the_mean_size_times_the_rate() -> None:
    counts = binned(until(with_bursts(Gamma(20, 0.3), LT10B), 5000), 10, 5000)
    z = (counts.mean() - 200 * 2.6285) / (counts.std() / math.sqrt(len(counts)))
    assert abs(z) < MAX_Z
    # E[B] / k + var(B) / E[B], with a standard error of 6.3 % over 500 counts.
    assert dispersion(counts) == pytest.approx(2.6285 / 0.3 + 2.9729 / 2.6285, rel=4.5 * 0.063)


def test_fitted_to_requests_the_rate_is_that_of_the_windows_and_the_gaps_keep_their_cv() -> None:
    times_s = until(with_bursts(Gamma(20, 0.3), LT10B, gamma_fitted_to="requests"), 5000)
    counts = binned(times_s, 10, 5000)
    assert abs(counts.mean() - 200) / (counts.std() / math.sqrt(len(counts))) < MAX_Z
    assert dispersion(counts) == pytest.approx(2.6285 / 0.3 + 2.9729 / 2.6285, rel=4.5 * 0.063)


@pytest.mark.parametrize("within", ["bursts", "requests"])
def test_slots_take_their_mean_from_the_rate(within: Any) -> None:
    times_s = until(with_bursts(Gamma(20, 0.3), LT10B, mode="slot", gamma_fitted_to=within), 2000)
    rate_rps = 20 * 2.6285 if within == "bursts" else 20
    assert abs(len(times_s) - 2000 * rate_rps) / math.sqrt(2000 * rate_rps) < MAX_Z
    assert dispersion(binned(times_s, 1, 2000)) == pytest.approx(1, abs=4.5 * math.sqrt(2 / 2000))


def test_counts_of_slots_follow_the_negative_binomial_law() -> None:
    """A mean of 2 and alpha 0.5 per slot: variance 2 + 0.5 * 4."""
    times_s = until(NegativeBinomialSlots(Poisson(2000), 0.5), 20)
    counts = binned(times_s, 1e-3, 20)
    law = stats.nbinom(2, 2 / (2 + 2))
    observed = np.bincount(np.minimum(counts, 12), minlength=13)
    assert stats.chisquare(observed, 20_000 * np.append(law.pmf(np.arange(12)), law.sf(11))).pvalue > 1e-4


def test_slots_follow_a_ramp_and_end_with_it() -> None:
    times_s = np.concatenate(list(NegativeBinomialSlots(ramp(0, 100, 100.0005), 0.1).blocks(np.random.default_rng(1))))
    observed = binned(times_s, 10, 100)
    expected = np.arange(5, 100, 10) * 10.0
    assert (np.abs(observed - expected) / np.sqrt(expected) < MAX_Z).all()
    assert times_s.max() < 100.0005


@pytest.mark.parametrize(
    "arrivals",
    [
        with_bursts(Gamma(100, 0.3), LT10B),
        with_bursts(Gamma(100, 0.3), LT10B, mode="slot"),
        with_bursts(Gamma(0.05, 0.3), LT10B, mode="slot"),
        with_bursts(Gamma(0.05, 0.3), LT10B),
    ],
)
def test_blocks_ascend_are_never_empty_and_come_again_with_the_seed(arrivals: Arrivals) -> None:
    blocks, again = (list(itertools.islice(arrivals.blocks(np.random.default_rng(3)), 5)) for _ in range(2))
    assert all(0 < len(block) < 50_000 for block in blocks)
    assert (np.diff(np.concatenate(blocks)) >= 0).all()
    assert np.concatenate(blocks).tobytes() == np.concatenate(again).tobytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_bursts(Gamma(1, 1), NBParameters(1.0, 0.5)), "mean size of a burst must exceed 1, got 1.0"),
        (lambda: Bursts(Poisson(math.inf), BurstSizes(2, 2)), "bursts need a finite rate"),
        (lambda: Bursts(Poisson(1), BurstSizes(2, 2), -1.0), "must be at least 0, got -1.0"),
        (lambda: NegativeBinomialSlots(Poisson(1), -1), "nb_alpha must be at least 0, got -1"),
        (lambda: NegativeBinomialSlots(Poisson(1), 0, 0.0), "slot must be positive, got 0.0"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# --- the fit


@given(
    gaps=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    within=st.integers(0, 9),
)
def test_splitting_equals_walking_from_burst_to_burst(gaps: list[int], within: int) -> None:
    times_s = np.cumsum(gaps).astype(float)
    starts: list[float] = []
    sizes: list[int] = []
    for time_s in times_s:
        if starts and time_s <= starts[-1] + within:
            sizes[-1] += 1
        else:
            starts.append(time_s)
            sizes.append(1)
    found_s, found_sizes = split_bursts(times_s, within)
    assert found_s.tolist() == starts
    assert found_sizes.tolist() == sizes


def test_no_times_make_no_burst() -> None:
    starts_s, sizes = split_bursts(np.empty(0), 1.0)
    assert len(starts_s) == len(sizes) == 0


def test_the_fit_finds_the_law_that_sizes_came_from() -> None:
    sizes = 1 + np.random.default_rng(4).negative_binomial(2, 2 / (2 + 3), 50_000)
    plain = fit_nb(sizes - 1)
    assert plain.nb_mu == pytest.approx(3, rel=0.03)
    assert plain.nb_alpha == pytest.approx(0.5, rel=0.06)
    assert plain.ks_pvalue is not None
    assert plain.ks_pvalue > 0.01
    shifted = fit_nb(sizes)
    assert shifted.moments() == pytest.approx((sizes.mean(), sizes.var(ddof=1)))
    assert shifted.ks_pvalue is not None
    assert shifted.ks_pvalue < 1e-6


def test_the_fit_of_alpha_is_where_the_likelihood_is_greatest() -> None:
    sizes = np.random.default_rng(5).negative_binomial(1, 0.3, 2000)
    found = fit_nb(sizes)

    def likelihood(alpha: float) -> float:
        return float(stats.nbinom.logpmf(sizes, 1 / alpha, 1 / (1 + alpha * found.nb_mu)).sum())

    assert all(likelihood(found.nb_alpha) >= likelihood(factor * found.nb_alpha) for factor in (0.98, 1.02))


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [2, 3, 2, 3]])
def test_sizes_without_over_dispersion_have_no_alpha(sizes: list[int]) -> None:
    found = fit_nb(np.array(sizes))
    assert found.nb_alpha == 0
    assert found.nb_mu == pytest.approx(np.mean(sizes))


def test_no_sizes_cannot_be_fitted() -> None:
    with pytest.raises(InputError, match="no burst"):
        fit_nb(np.empty(0, np.int64))


@pytest.mark.realdata
def test_the_published_day_has_its_rate_and_its_burstiness() -> None:
    """149 requests/s within 1 %, a dispersion within windows of 10.3 at 1 s within 5 %; the first hour is busier."""
    gamma, nb = PUBLISHED / "gamma" / "Dense_lt10B_gamma_5min.csv", PUBLISHED / "nb" / "Dense_lt10B_nb.json"
    if not (gamma.exists() and nb.exists()):
        pytest.skip("the published parameters are not beside the checkout")
    counts = np.zeros(86_401, np.int64)
    meter = BurstinessMeter()
    for block in with_bursts(read_windows(gamma), read_nb(nb)).blocks(np.random.default_rng(1)):
        first = int(block[0])
        seconds = np.bincount(block.astype(np.int64) - first)
        counts[first : first + len(seconds)] += seconds
        meter.add(block)
    result = meter.result(86_400)
    assert result.rate_rps == pytest.approx(149, rel=0.01)
    assert within_windows(counts[:86_400], 300) == pytest.approx(10.3, rel=0.05)
    assert counts[:3600].mean() > 1.05 * counts[:86_400].mean()
    assert result.dispersion[1] == pytest.approx(dispersion(counts[:86_400]))


@pytest.mark.realdata
def test_the_published_burst_file_reads() -> None:
    path = PUBLISHED / "nb" / "Dense_lt10B_nb.json"
    if not path.exists():
        pytest.skip("the published parameters are not beside the checkout")
    found = read_nb(path)
    assert found.num_samples == json.loads(path.read_text())["num_samples"]
    assert found.moments() == pytest.approx((2.6285, 2.9729), abs=1e-4)
    assert BurstSizes(*found.moments()).variance == found.variance


def test_modulated_and_plain_profiles_take_bursts_alike() -> None:
    plain = with_bursts(Gamma(5, 1), LT10B)
    assert plain == Bursts(Modulated(Gamma(5, 1)), BurstSizes(2.6285, 2.9729))
