"""Recorded times spread within an interval, and idle gaps capped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.workload.traces.columns import Columns, joined, pieces
from fineserve_shapes.workload.traces.timeline import cap_gaps, spread

TIMES = st.lists(st.one_of(st.floats(0, 30), st.integers(0, 30).map(float)), min_size=1, max_size=50).map(sorted)


def columns(times: list[float]) -> Columns:
    numbers = np.arange(1, len(times) + 1)
    return Columns(np.array(times), numbers, 2 * numbers)


def spread_all(rows: Columns, interval_s: float, chunk_rows: int = 1000, end_s: float | None = None) -> Columns:
    return joined(list(spread(pieces(rows, chunk_rows), interval_s, np.random.default_rng(7), end_s)))


@given(TIMES, st.sampled_from([0.1, 1.0, 7.5]), st.integers(1, 60))
def test_spreading_keeps_the_counts_per_interval_and_the_pairs_of_lengths(times, interval_s, chunk_rows):
    rows = columns(times)
    result = spread_all(rows, interval_s, chunk_rows)
    assert np.all(np.diff(result.time_s) >= 0)
    # U may round up to the end of the interval, so not floor
    start_s = np.floor(rows.time_s / interval_s) * interval_s
    assert np.all((result.time_s >= start_s) & (result.time_s <= start_s + interval_s))
    assert sorted(result.input_tokens) == sorted(rows.input_tokens)
    np.testing.assert_array_equal(result.output_tokens, 2 * result.input_tokens)
    np.testing.assert_array_equal(result.time_s, spread_all(rows, interval_s).time_s)


def test_spreading_is_uniform_and_stays_in_the_slice():
    result = spread_all(columns([2.0] * 4000), 1.0, chunk_rows=100, end_s=2.5)
    assert result.time_s.min() >= 2.0
    assert result.time_s.max() < 2.5
    # Kolmogorov-Smirnov against uniform, fixed seed: 1.63 / sqrt(n) is passed by chance in 1 of 100
    expected = 2.0 + 0.5 * np.arange(1, 4001) / 4000
    assert np.abs(result.time_s - expected).max() / 0.5 < 1.63 / np.sqrt(4000)


def test_a_long_gap_shrinks_and_short_ones_stay():
    rows = next(cap_gaps([columns([1.0, 2.0, 100.0, 100.5, 300.0])], 3.0))
    assert rows.time_s.tolist() == [1.0, 2.0, 5.0, 5.5, 8.5]


def test_the_gap_before_the_first_row_is_capped_too():
    assert next(cap_gaps([columns([50.0, 51.0])], 3.0)).time_s.tolist() == [3.0, 4.0]


@given(TIMES, st.sampled_from([0.01, 1.0, 5.0]), st.integers(1, 60))
def test_no_gap_is_longer_than_the_cap_whatever_the_chunks(times, max_gap_s, chunk_rows):
    rows = columns(times)
    result = joined(list(cap_gaps(pieces(rows, chunk_rows), max_gap_s)))
    gaps_s = np.diff(result.time_s, prepend=0.0)
    assert gaps_s == pytest.approx(np.minimum(np.diff(rows.time_s, prepend=0.0), max_gap_s), abs=1e-9)
    np.testing.assert_array_equal(result.time_s, next(cap_gaps([rows], max_gap_s)).time_s)
