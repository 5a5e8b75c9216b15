"""Histograms: a stated error, and merging that loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fineserve_shapes.measure.histogram import LARGEST_S, RELATIVE_ERROR, SMALLEST_S, Histogram

durations = arrays.arrays(np.float64, st.integers(1, 200), elements=st.floats(SMALLEST_S, LARGEST_S))


def filled(values_s: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.record(values_s)
    return histogram


@given(durations, st.floats(0, 1))
def test_quantiles_are_within_the_stated_error(values_s: np.ndarray, q: float):
    exact = np.quantile(values_s, q, method="inverted_cdf")
    assert filled(values_s).quantile(q) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001)


@given(durations)
def test_cumulative_counts_reach_all_values_and_agree_with_the_quantiles(values_s: np.ndarray):
    histogram = filled(values_s)
    found_s, reached = histogram.cumulative()
    assert reached[-1] == len(values_s)
    quantiles_s = [histogram.quantile((count - 0.5) / len(values_s)) for count in reached.tolist()]
    assert quantiles_s == pytest.approx(found_s.tolist())


@given(durations, durations)
def test_merging_gives_the_histogram_of_all_values(left_s: np.ndarray, right_s: np.ndarray):
    merged = filled(left_s)
    merged.merge(Histogram.unpack(filled(right_s).pack()))
    together = filled(np.concatenate([left_s, right_s]))
    assert merged.count == together.count
    assert [merged.quantile(q / 20) for q in range(21)] == [together.quantile(q / 20) for q in range(21)]
    assert merged.mean_s == pytest.approx(together.mean_s)
    assert merged.std_s == pytest.approx(together.std_s, abs=1e-6 * LARGEST_S)


@given(durations)
def test_mean_and_extremes_are_exact(values_s: np.ndarray):
    histogram = filled(values_s)
    assert histogram.mean_s == pytest.approx(values_s.mean())
    assert (histogram.minimum_s, histogram.maximum_s) == (values_s.min(), values_s.max())
    assert (histogram.quantile(0), histogram.quantile(1)) == (
        pytest.approx(values_s.min(), rel=2 * RELATIVE_ERROR),
        pytest.approx(values_s.max(), rel=2 * RELATIVE_ERROR),
    )


def test_what_was_not_measured_is_not_counted():
    histogram = filled(np.array([np.nan, 0.5, np.nan]))
    assert histogram.count == 1
    assert filled(np.array([np.nan])).quantile(0.5) is None


def test_nothing_is_lost_beyond_the_range():
    histogram = filled(np.array([0.0, 1e-9, -1e-6, 1e6]))
    assert histogram.count == 4
    assert histogram.quantile(1) == pytest.approx(LARGEST_S, rel=0.02)


@pytest.mark.parametrize("packed", [{"places": b"\xff\xff", "counts": b"\x01" * 8, "sums": [0, 0, 0, 0]},
                                    {"places": b"", "counts": b"\x01" * 8, "sums": [0, 0, 0, 0]}])  # fmt: skip
def test_a_message_that_is_no_histogram_is_refused(packed: dict[str, object]):
    with pytest.raises(ValueError, match="no packed histogram"):
        Histogram.unpack(packed)


def test_a_quantile_outside_of_its_range_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        Histogram().quantile(1.5)
