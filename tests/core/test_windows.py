"""Gamma windows: the file, the extension beyond it, and the fit.

Statistical tests have fixed seeds; a z-test passes below 4.5 (false alarm 7e-6 each) unless it says otherwise.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.dispersion import BurstinessMeter
from fineserve_shapes.workload.arrivals import Gamma, Modulated, Piecewise, Segment
from fineserve_shapes.workload.extension import DAY_S, ModelSample, RepeatJitter
from fineserve_shapes.workload.gammafit import fit_windows, time_resolution_s
from fineserve_shapes.workload.windows import GammaWindows, read_windows, write_windows

MAX_Z = 4.5
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "fineserve"
CLASSES = ("Dense_lt10B", "Dense_10to30B", "Dense_30to100B", "MoE_gt100B")


def windows(rates_rps: FloatArray, shapes: FloatArray | float, window_s: float = 300.0) -> GammaWindows:
    """Windows that follow each other from 0."""
    shape = np.broadcast_to(shapes, rates_rps.shape).astype(float)
    borders_s = np.linspace(0, window_s * len(rates_rps), len(rates_rps) + 1)
    return GammaWindows(borders_s[:-1], borders_s[1:], shape, 1 / (rates_rps * shape))


def a_day(seed: int = 0) -> GammaWindows:
    """A day of 288 windows with a cycle, noise with memory, and a shape that goes with the rate."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((289, 2))
    for i in range(288):
        noise[i + 1] = 0.8 * noise[i] + rng.normal(0, (0.05, 0.02))
    cycle = np.sin(2 * np.pi * np.arange(288) / 288)
    return windows(np.exp(1 + 0.5 * cycle + noise[1:, 0]), np.exp(-1 + 0.1 * cycle + noise[1:, 1]))


def drawn(profile: RepeatJitter | ModelSample, n: int, seed: int = 1) -> tuple[FloatArray, FloatArray]:
    """Rates and shapes of the first n windows."""
    segments = list(itertools.islice(profile.segments(np.random.default_rng(seed)), n))
    return np.array([s.start_rps for s in segments]), np.array([s.shape for s in segments])


def published(model_class: str) -> GammaWindows:
    """A published file, or a skip."""
    path = PUBLISHED / "Parametric" / "gamma" / f"{model_class}_gamma_5min.csv"
    if not path.exists():
        pytest.skip("the published gamma files are not beside the checkout")
    return read_windows(path)


# --- the file


def test_rows_without_window_columns_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("gamma_shape,gamma_scale\n0.5,200\n0.25,800\n")
    read = read_windows(path, window_s=60)
    assert read.start_s.tolist() == [0, 60]
    assert read.end_s.tolist() == [60, 120]
    assert read.shape.tolist() == [0.5, 0.25]
    assert read.rate_rps == pytest.approx([10, 5])
    assert read.mean_rate_rps == pytest.approx(7.5)


def test_window_columns_are_used_where_they_are_there(tmp_path: Path) -> None:
    """In any order, beside others, with a byte-order mark, CRLF, quotes and blank lines; a hole is quiet."""
    path = tmp_path / "g.csv"
    header = 'note,gamma_scale,window_end_ms,"gamma_shape",window_start_ms'
    lines = ("\ufeff" + header, 'x,"100",11000,1,1000', "", "y,100,41000,1,31000", "")
    path.write_bytes("\r\n".join(lines).encode())
    read = read_windows(path)
    assert read.start_s.tolist() == [0, 30]
    assert read.end_s.tolist() == [10, 40]
    assert read.mean_rate_rps == pytest.approx(5)
    times_s = np.concatenate(list(Modulated(read).blocks(np.random.default_rng(1))))
    assert not ((times_s > 10) & (times_s < 30)).any()
    assert 120 < len(times_s) < 280


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    day = a_day()
    write_windows(day, tmp_path / "g.csv")
    read = read_windows(tmp_path / "g.csv")
    for name in ("start_s", "end_s", "shape", "scale_s"):
        assert getattr(read, name) == pytest.approx(getattr(day, name), rel=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 1: no column gamma_shape or gamma_scale; it has nothing"),
        (b"timestamp,output\n1,2\n", "row 1: no column gamma_shape or gamma_scale; it has timestamp, output"),
        (b"gamma_shape,gamma_scale\n", "no row below the header"),
        (b"gamma_shape,gamma_scale\n1,1\n0.5\n", "row 3, column gamma_scale: '' is not a finite number"),
        (b"gamma_shape,gamma_scale\n1,nan\n", "row 2, column gamma_scale: 'nan' is not a finite number"),
        (b"gamma_shape,gamma_scale\n1,1e999\n", "row 2, column gamma_scale: '1e999' is not a finite number"),
        (b"gamma_shape,gamma_scale\n-1,5\n", "row 2: gamma_shape must lie between 0.001 and 10000, got -1.0"),
        (b"gamma_shape,gamma_scale\n1,0\n", "row 2: gamma_scale must be positive and finite, got 0.0 ms"),
        (b"gamma_shape,gamma_scale\n1,1e-9\n", "row 2: a mean gap of 1e-09 ms is below what can be sent"),
        (b"gamma_shape,gamma_shape,gamma_scale\n1,1,1\n", "row 1: column gamma_shape is there 2 times"),
        (b"gamma_shape,gamma_scale,window_start_ms\n1,1,1\n", "row 1: no column window_end_ms"),
        (b"gamma_shape,gamma_scale,window_start_ms,window_end_ms\n1,1,9,9\n", "row 2: it must end after its start"),
        (
            b"gamma_shape,gamma_scale,window_start_ms,window_end_ms\n1,1,0,9\n1,1,8,20\n",
            "row 3, column window_start_ms: 8.0 lies before the end of the window above, 9.0",
        ),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not a CSV text file"),
        (b"gamma_shape,gamma_scale\n\x00,1\n", "row 2, column gamma_shape: '\\x00' is not a finite number"),
    ],
)
def test_a_malformed_file_is_refused_with_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "g.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_windows(path)
    assert str(caught.value).startswith(str(path))


def test_no_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(InputError, match="cannot be read"):
            read_windows(path)


def test_bad_windows_are_refused() -> None:
    one = np.ones(2)
    with pytest.raises(InputError, match="window 2 starts before window 1 ends"):
        GammaWindows(np.array([0.0, 5]), np.array([10.0, 20]), one, one)
    with pytest.raises(InputError, match="not one window"):
        GammaWindows(*[np.empty(0)] * 4)
    with pytest.raises(InputError, match="window 1: gamma_shape must lie"):
        GammaWindows(np.zeros(1), np.ones(1), np.zeros(1), np.ones(1))
    with pytest.raises(InputError, match=r"got -1 s \(--parametric-window-seconds\)"):
        read_windows("any.csv", window_s=-1)


def test_scaling_multiplies_the_rate_and_keeps_the_shape() -> None:
    day, fast = a_day(), a_day().scaled(4)
    assert fast.rate_rps == pytest.approx(4 * day.rate_rps)
    assert fast.shape.tolist() == day.shape.tolist()
    with pytest.raises(InputError, match="--rate-scale"):
        day.scaled(0)


# --- the extension


def test_without_jitter_the_windows_repeat_as_they_are() -> None:
    day = a_day()
    rates, shapes = drawn(RepeatJitter(day, 0), 3 * 288)
    assert rates.tolist() == np.tile(day.rate_rps, 3).tolist()
    assert shapes.tolist() == np.tile(day.shape, 3).tolist()


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2, 0.5])
def test_jitter_keeps_the_mean_rate_and_the_mean_shape(ratio: float) -> None:
    day = a_day()
    rates, shapes = drawn(RepeatJitter(day, ratio), 60 * 288)
    for factors in (rates / np.tile(day.rate_rps, 60), shapes / np.tile(day.shape, 60)):
        assert abs(factors.mean() - 1) / (factors.std() / math.sqrt(len(factors))) < MAX_Z
        assert np.log(factors).std() == pytest.approx(ratio, rel=4.5 / math.sqrt(2 * len(factors)))
    assert abs(np.corrcoef(rates / np.tile(day.rate_rps, 60), shapes / np.tile(day.shape, 60))[0, 1]) < 0.035


def test_jitter_is_one_factor_per_window_and_repetition_and_shows_in_the_counts() -> None:
    """Jittered per request it would average out: counts of windows would have the dispersion of the gaps alone."""
    profile = RepeatJitter(windows(np.full(50, 20.0), 1.0), 0.3)
    blocks = itertools.takewhile(lambda b: b[0] < 300_000, Modulated(profile).blocks(np.random.default_rng(2)))
    counts = np.bincount((np.concatenate(list(blocks)) // 300).astype(int))[:1000]
    # Poisson counts of 6000 under a factor of variance exp(s^2) - 1.
    expected = math.sqrt(1 / 6000 + math.expm1(0.09))
    assert counts.std() / counts.mean() == pytest.approx(expected, rel=0.15)
    assert abs(counts.mean() / 6000 - 1) < MAX_Z * expected / math.sqrt(1000)


@pytest.mark.parametrize("independent", [False, True])
def test_the_model_keeps_the_mean_rate(independent: bool) -> None:
    day = a_day()
    rates, _ = drawn(ModelSample(day, independent), 400 * 288)
    days = rates.reshape(400, 288).mean(axis=1)
    assert abs(days.mean() - day.mean_rate_rps) / (days.std() / math.sqrt(400)) < MAX_Z


def test_the_model_keeps_the_daily_cycle_the_spread_and_the_memory() -> None:
    day = a_day()
    rates, shapes = (np.log(values).reshape(100, 288) for values in drawn(ModelSample(day), 100 * 288))
    log_rate, log_shape = np.log(day.rate_rps), np.log(day.shape)
    assert np.corrcoef(rates.mean(axis=0), log_rate)[0, 1] > 0.95
    assert np.corrcoef(shapes.mean(axis=0), log_shape)[0, 1] > 0.85
    assert rates.std() == pytest.approx(log_rate.std(), rel=0.05)
    assert np.corrcoef(rates.ravel(), shapes.ravel())[0, 1] == pytest.approx(
        np.corrcoef(log_rate, log_shape)[0, 1], abs=0.05
    )
    memory = np.mean([np.corrcoef(row[:-1], row[1:])[0, 1] for row in rates])
    assert memory == pytest.approx(np.corrcoef(log_rate[:-1], log_rate[1:])[0, 1], abs=0.02)


def test_the_days_of_the_model_differ() -> None:
    rates, _ = drawn(ModelSample(a_day()), 2 * 288)
    assert np.abs(np.log(rates[:288] / rates[288:])).mean() > 0.02


def test_independent_windows_have_the_spread_and_no_cycle() -> None:
    day = a_day()
    rates, shapes = (np.log(values) for values in drawn(ModelSample(day, independent=True), 100 * 288))
    log_rate, log_shape = np.log(day.rate_rps), np.log(day.shape)
    assert rates.std() == pytest.approx(log_rate.std(), rel=0.03)
    assert np.corrcoef(rates, shapes)[0, 1] == pytest.approx(np.corrcoef(log_rate, log_shape)[0, 1], abs=0.02)
    assert abs(np.corrcoef(rates[:-1], rates[1:])[0, 1]) < 4.5 / math.sqrt(len(rates))
    assert np.abs(rates.reshape(100, 288).mean(axis=0) - rates.mean()).max() < 5 * log_rate.std() / 10


@pytest.mark.parametrize("n", [1, 2, 11, 30])
def test_few_windows_have_a_model_too(n: int) -> None:
    few = windows(np.linspace(1, 2, n), 0.5)
    rates, shapes = drawn(ModelSample(few), 5000)
    assert rates.mean() == pytest.approx(few.mean_rate_rps, rel=0.05)
    assert shapes == pytest.approx(0.5)


def test_the_cycle_of_a_file_of_several_days_is_the_day() -> None:
    three = windows(np.tile(a_day().rate_rps, 3), np.tile(a_day().shape, 3))
    assert ModelSample(three).fitted().period_s == DAY_S
    assert ModelSample(windows(np.ones(12), 0.5)).fitted().period_s == 3600


def test_the_same_seed_gives_the_same_windows() -> None:
    for profile in (RepeatJitter(a_day()), ModelSample(a_day())):
        assert drawn(profile, 700, seed=3)[0].tobytes() == drawn(profile, 700, seed=3)[0].tobytes()


@pytest.mark.parametrize("ratio", [-0.1, math.nan, 3])
def test_a_jitter_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="--parametric-jitter-ratio"):
        RepeatJitter(a_day(), ratio)


# --- the fit


def slow_fit(gaps_s: FloatArray, last_s: float) -> FloatArray:
    """log k and log theta by a general search on scipy's densities."""

    def loss(x: FloatArray) -> float:
        law = stats.gamma(math.exp(x[0]), scale=math.exp(x[1]))
        return -float(law.logpdf(gaps_s).sum() + law.logsf(last_s))

    found = optimize.minimize(loss, [0, math.log(gaps_s.mean())], method="Nelder-Mead", options={"xatol": 1e-8})
    return np.asarray(found.x)


@pytest.mark.parametrize("shape", [0.4, 1.0, 6.0])
def test_the_fit_equals_a_slow_search_on_scipys_density(shape: float) -> None:
    times_s = np.concatenate(list(Piecewise((Segment(300, 1, 1, shape),)).blocks(np.random.default_rng(4))))
    fit = fit_windows([times_s], end_s=300)
    log_shape, log_scale = slow_fit(np.diff(times_s), 300 - times_s[-1])
    assert math.log(fit.windows.shape[0]) == pytest.approx(log_shape, abs=1e-4)
    assert math.log(fit.windows.scale_s[0]) == pytest.approx(log_scale, abs=1e-4)


@pytest.mark.parametrize("resolution_s", [0.0, 1e-6, 1e-3, 0.1, 1.0])
def test_the_fit_of_recorded_times_is_unbiased_at_any_resolution(resolution_s: float) -> None:
    """Taken as they are, gaps of 0 have no logarithm; dropped, they make the shape look larger."""
    times_s = np.concatenate(list(Piecewise((Segment(30_000, 4, 4, 0.5),)).blocks(np.random.default_rng(9))))
    if resolution_s:
        times_s = np.floor(times_s / resolution_s) * resolution_s
    fit = fit_windows(np.array_split(times_s, 7), 600, resolution_s, end_s=30_000)
    for found, true, error in (
        (fit.windows.shape, 0.5, fit.se_log_shape),
        (fit.windows.scale_s, 0.5, fit.se_log_scale),
    ):
        z = np.log(found / true) / error
        assert abs(z).max() < MAX_Z
        assert abs(z.mean()) < MAX_Z / math.sqrt(len(z))
    assert fit.misfit_share < 0.05


def test_the_standard_errors_are_those_that_repetition_shows() -> None:
    times_s = np.concatenate(list(Piecewise((Segment(200_000, 1, 1, 0.4),)).blocks(np.random.default_rng(2))))
    fit = fit_windows([times_s], 500, end_s=200_000)
    for found, error in ((fit.windows.shape, fit.se_log_shape), (fit.windows.scale_s, fit.se_log_scale)):
        assert np.log(found).std() == pytest.approx(error.mean(), rel=4.5 / math.sqrt(2 * 400))


def test_a_law_that_is_no_gamma_is_told() -> None:
    rng = np.random.default_rng(1)
    gaps_s = rng.choice([0.01, 1.0], 3000) * rng.uniform(0.9, 1.1, 3000)
    assert fit_windows([np.cumsum(gaps_s)]).misfit_share == 1
    gamma = fit_windows([np.cumsum(rng.gamma(0.5, 1, 3000))])
    assert gamma.misfit_share < 0.2


def test_quiet_windows_are_holes_and_sparse_ones_take_the_others_shape() -> None:
    rng = np.random.default_rng(1)
    busy_s = np.cumsum(rng.gamma(0.5, 0.2, 2500))
    times_s = np.concatenate([busy_s[busy_s < 100], [250.0, 260.0]])
    fit = fit_windows([times_s], 100, end_s=300)
    assert fit.windows.start_s.tolist() == [0, 200]
    assert fit.gaps.tolist() == [(busy_s < 100).sum() - 1, 1]
    assert fit.windows.shape[1] == fit.windows.shape[0]
    assert fit.windows.rate_rps[1] == pytest.approx(2 / 100)
    assert np.isnan(fit.se_log_shape[1])


@pytest.mark.parametrize("times_s", [np.array([5.0]), np.zeros(100), np.arange(1000) * 0.1])
def test_degenerate_times_are_fitted_all_the_same(times_s: FloatArray) -> None:
    fit = fit_windows([times_s], 300, time_resolution_s(times_s))
    assert len(fit.windows) == 1
    assert np.isnan(fit.se_log_shape).all()
    assert fit.windows.rate_rps[0] == pytest.approx(10 if times_s[-1] > 10 else len(times_s) / 300)


def test_no_times_cannot_be_fitted() -> None:
    with pytest.raises(InputError, match="no arrival to fit"):
        fit_windows([np.empty(0)])


@pytest.mark.parametrize("digits", range(8))
def test_the_resolution_of_times_is_found(digits: int) -> None:
    times_s = 86_000 + np.random.default_rng(1).integers(10**digits * 300, size=2000) / 10**digits
    assert time_resolution_s(np.sort(times_s)) == pytest.approx(10.0**-digits)


def test_exact_times_have_no_resolution() -> None:
    assert time_resolution_s(np.random.default_rng(1).random(1000)) == 0


@pytest.mark.realdata
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_synthesised_day_is_fitted_back(model_class: str) -> None:
    """Times cut to microseconds; |z| under 4 on log shape and log scale in 99 % of the windows."""
    source = published(model_class)
    times_s = np.concatenate(list(Modulated(source).blocks(np.random.default_rng(7))))
    times_s = np.floor(1e6 * times_s) / 1e6
    assert len(times_s) == pytest.approx(source.mean_rate_rps * DAY_S, rel=0.02)
    fit = fit_windows([times_s], 300, time_resolution_s(times_s[:100_000]), end_s=DAY_S)
    assert len(fit.windows) == 288
    for found, true, error in (
        (fit.windows.shape, source.shape, fit.se_log_shape),
        (fit.windows.scale_s, source.scale_s, fit.se_log_scale),
    ):
        assert (np.abs(np.log(found / true) / error) < 4).mean() >= 0.99


@pytest.mark.realdata
@pytest.mark.parametrize("model_class", CLASSES)
def test_the_model_of_a_published_day_keeps_what_was_published(model_class: str) -> None:
    source = published(model_class)
    rates, shapes = (np.log(values).reshape(50, 288) for values in drawn(ModelSample(source), 50 * 288))
    log_rate, log_shape, log_scale = np.log(source.rate_rps), np.log(source.shape), np.log(source.scale_s)
    assert np.exp(rates).mean() == pytest.approx(source.mean_rate_rps, rel=0.02)
    assert rates.std() == pytest.approx(log_rate.std(), rel=0.06)
    assert np.corrcoef(rates.mean(axis=0), log_rate)[0, 1] > 0.8
    assert np.corrcoef(shapes.ravel(), -(rates + shapes).ravel())[0, 1] == pytest.approx(
        np.corrcoef(log_shape, log_scale)[0, 1], abs=0.06
    )
    memory = np.mean([np.corrcoef(row[:-1], row[1:])[0, 1] for row in rates])
    assert memory == pytest.approx(np.corrcoef(log_rate[:-1], log_rate[1:])[0, 1], abs=0.02)


@pytest.mark.realdata
def test_the_recorded_trace_is_no_gamma_at_short_times_and_the_fit_says_so() -> None:
    path = PUBLISHED / "replay" / "Dense_30to100B.csv"
    if not path.exists():
        pytest.skip("the published replay files are not beside the checkout")
    timestamps = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=[3])
    times_s = np.sort(timestamps[np.isfinite(timestamps)]) / 1e6
    times_s -= times_s[0]
    fit = fit_windows([times_s], 300, time_resolution_s(times_s))
    assert fit.misfit_share > 0.9
    again = BurstinessMeter()
    for block in Modulated(fit.windows).blocks(np.random.default_rng(1)):
        again.add(block)
    assert again.result().rate_rps == pytest.approx(len(times_s) / times_s[-1], rel=0.05)


def test_a_fit_of_one_law_gives_that_law_back() -> None:
    blocks = itertools.takewhile(lambda b: b[0] < 3000, Gamma(30, 0.3).blocks(np.random.default_rng(6)))
    fit = fit_windows(blocks, 300)
    assert fit.windows.shape.mean() == pytest.approx(0.3, rel=0.02)
    assert fit.windows.mean_rate_rps == pytest.approx(30, rel=0.03)
