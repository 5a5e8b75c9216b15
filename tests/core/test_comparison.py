"""Differences between two runs, with confidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import measurements, record
from scipy import optimize

from benchmarks.workloads import Workload, autoregressive, queue
from fineserve_shapes.measure import records
from fineserve_shapes.measure.comparison import Difference, compare, differences
from fineserve_shapes.measure.resampling import BLOCKS, GRAIN, QUANTILES, Cells, Sample, Spans, resample
from fineserve_shapes.measure.slo import Slo, Slos


def rows_of(at_s: np.ndarray, ttft_s: np.ndarray) -> records.Records:
    """Requests that have a TTFT alone."""
    rows = np.zeros(len(at_s), dtype=records.RECORD)
    rows["due_s"], rows["sent_s"], rows["first_token_s"] = at_s, at_s, at_s + ttft_s
    rows["last_token_s"] = rows["end_s"] = np.nan
    return rows


def by_name(differences: list[Difference]) -> dict[str, Difference]:
    return {one.name: one for one in differences}


def test_a_change_is_after_less_before_in_the_summarys_units():
    rows = [record(i) for i in range(300)]
    slower = [record(i, first_token_s=0.1 * i + 0.251) for i in range(300)]
    found = by_name(compare(measurements(rows).records, measurements(slower).records, Slo.parse("ttft=220ms")))
    assert found["median_ttft_ms"].change == pytest.approx(50)
    assert found["median_ttft_ms"].ratio == pytest.approx(0.25)
    assert found["p90_ttft_from_due_ms"].after == pytest.approx(251)
    assert found["median_tpot_ms"].change == pytest.approx(-5)
    assert found["steady.request_throughput"].change == 0
    assert not found["steady.request_throughput"].sure
    assert found["goodput.rps"].change == pytest.approx(-300 / 29.9)
    assert found["goodput.rps"].sure


def test_the_same_runs_give_the_same_intervals_and_a_run_does_not_differ_from_itself():
    rows = rows_of(*queue(0.5).draw(np.random.default_rng(1), 5_000))
    once, again = compare(rows, rows), compare(rows, rows[::-1])
    assert once == again
    assert not any(one.sure for one in once)


def test_of_too_few_requests_there_is_no_interval():
    found = by_name(compare(*(rows_of(*autoregressive(0).draw(np.random.default_rng(2), 500)),) * 2))
    assert found["p90_ttft_ms"].low is not None
    assert found["p99_ttft_ms"].low is None
    assert not found["p99_ttft_ms"].sure
    assert compare(rows_of(np.empty(0), np.empty(0)), rows_of(np.array([1.0]), np.array([1.0]))) == []


PAIRS = 200
MOST_MISSED = 21
"""Of 200 intervals at 95 %, 22 and more miss in 1 of 2,000."""


def slow_share(workload: Workload, limit_s: float) -> float:
    """How many of its latencies are no longer than that, in the long run."""
    return float(optimize.brentq(lambda q: workload.quantile(q) - limit_s, 1e-6, 1 - 1e-9))


@pytest.mark.parametrize(
    ("before", "after", "requests"),
    [
        (autoregressive(0.0), autoregressive(0.0), 2_000),
        (autoregressive(0.0), autoregressive(0.9), 2_000),
        (queue(0.6), queue(0.5), 4_000),
    ],
    ids=["alone", "together", "bursts"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(before: Workload, after: Workload, requests: int):
    """And they are not much wider than who knew the spread would make them."""
    rng = np.random.default_rng(3)
    limit_s = before.quantile(0.95)
    slo = Slo((("ttft", limit_s),))
    truth = {f"{name}_ttft_ms": 1e3 * (after.quantile(q) - before.quantile(q)) for name, q in QUANTILES.items()} | {
        "goodput.share": slow_share(after, limit_s) - 0.95
    }
    found: dict[str, list[Difference]] = {name: [] for name in truth}
    for _ in range(PAIRS):
        runs = (resample(Sample(rows_of(*run.draw(rng, requests)), slo), rng, 200) for run in (before, after))
        for one in differences(*runs):
            if one.name in truth:
                found[one.name].append(one)
    for name, pairs in found.items():
        assert sum(not one.low <= truth[name] <= one.high for one in pairs) <= MOST_MISSED, name
        half = np.mean([one.high - one.low for one in pairs]) / 2
        assert half <= 1.35 * 1.96 * np.std([one.change for one in pairs]), name


def answers(rng: np.random.Generator, rate_rps: float, gap_s: float) -> records.Records:
    """Two minutes of Poisson arrivals; each answer has 11 chunks of a token, with gaps that are its own in the mean."""
    due_s = np.sort(rng.uniform(0, 120, rng.poisson(120 * rate_rps)))
    rows = rows_of(due_s, np.full(len(due_s), 0.05))
    rows["chunks"] = rows["output_tokens"] = 11
    rows["last_token_s"] = rows["first_token_s"] + 10 * gap_s * rng.gamma(4, 0.25, len(due_s))
    rows["end_s"] = rows["last_token_s"]
    return rows


def test_rates_and_gaps_between_chunks_have_intervals_that_hold_the_truth():
    """Rates of what came in the window; the mean gap needs the columns of a request log alone."""
    rng = np.random.default_rng(4)
    truth = {"mean_itl_ms": 2.0, "steady.request_throughput": 5.0, "steady.output_throughput": 55.0}
    missed = dict.fromkeys(truth, 0)
    for _ in range(PAIRS):
        runs = (resample(Sample(answers(rng, *one)), rng, 200) for one in ((10.0, 0.02), (15.0, 0.022)))
        for one in differences(*runs):
            if one.name in truth:
                missed[one.name] += not one.low <= truth[one.name] <= one.high
    assert max(missed.values()) <= MOST_MISSED, missed


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, BLOCKS - 1)), min_size=1, max_size=400),
    st.sampled_from([0.5, 0.9, 0.99]), st.integers(0, 1_000),
)  # fmt: skip
def test_a_quantile_of_a_resample_is_that_of_its_values_written_out(values: list[tuple[int, int]], q: float, seed: int):
    """Found by halves over cells, it is that of the slow twin, which repeats each block's values and sorts them."""
    durations, block = np.array([one for one, _ in values], dtype=float), np.array([place for _, place in values])
    drawn = np.random.default_rng(seed).multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS), size=20).astype(float)
    found = Cells.of(durations, block).resampled(q, drawn)
    for times, one in zip(drawn.astype(int), found, strict=True):
        written_out = np.sort(np.repeat(durations, times[block]))
        if len(written_out):
            assert one == written_out[max(math.ceil(round(q * len(written_out), 6)) - 1, 0)]


def test_values_that_are_counted_and_not_sorted_have_the_same_quantiles(monkeypatch: pytest.MonkeyPatch):
    """Within the grain, and in each resample within what a cell holds."""
    rng = np.random.default_rng(5)
    gaps_s, block = rng.lognormal(-4, 0.5, 40_000), rng.integers(0, BLOCKS, 40_000)
    drawn = rng.multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS), size=50).astype(float)
    exact = Cells.of(gaps_s, block)
    monkeypatch.setattr("fineserve_shapes.measure.resampling.MOST_SORTED", 1_000)
    counted = Cells.of(gaps_s, block)
    assert counted.count == exact.count
    assert counted.quantiles == pytest.approx(exact.quantiles, rel=GRAIN)
    assert counted.resampled(0.9, drawn) == pytest.approx(exact.resampled(0.9, drawn), rel=2e-3)


def test_what_comes_in_a_block_is_a_share_of_what_is_spread_over_time():
    """Nothing is lost within the window, and what came outside of it does not count."""
    spans = Spans(0.0, 32.0)
    found = spans.shares(np.array([1.0, 30.0, 5.5]), np.array([3.0, 34.0, 5.5]), np.array([8.0, 4.0, 1.0]))
    assert found[[1, 2, 5, 30, 31]].tolist() == pytest.approx([4, 4, 1, 1, 1])
    assert found.sum() == pytest.approx(11)


def test_requests_that_were_never_sent_are_misses():
    rows = measurements([record(i) for i in range(300)]).records
    slo = Slo.parse("ttft=220ms")
    found = by_name(differences(*(resample(Sample(rows, slo, lost), np.random.default_rng(0))
                                  for lost in (np.empty(0), np.linspace(0, 29, 100)))))  # fmt: skip
    assert (found["goodput.share"].before, found["goodput.share"].after) == (1.0, 0.75)
    assert found["goodput.share"].sure
    assert found["goodput.rps"].change == pytest.approx(0)


def test_of_streams_without_an_slo_nothing_is_planned_to_be_good():
    rows = measurements([record(i, stream=i % 2) for i in range(300)]).records
    found = resample(Sample(rows, Slos((Slo.parse("ttft=220ms"), None))), np.random.default_rng(0))
    assert found["goodput.share"].value == 1.0
