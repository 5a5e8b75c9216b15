"""The rate of now: what was added in the last seconds, whatever came before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.measure.currentrate import OVER_S, Flow


def test_before_two_moments_there_is_no_rate():
    flow = Flow()
    assert (flow.rate, flow.over_s) == (None, 0.0)
    flow.note(3.0, 7)
    assert flow.rate is None
    flow.note(4.0, 17)
    assert (flow.rate, flow.over_s) == (10.0, 1.0)


@given(steps=st.lists(st.tuples(st.floats(0.05, 3.0), st.integers(0, 1000)), min_size=2, max_size=200))
def test_it_is_the_growth_since_the_last_moment_that_lies_back_far_enough(steps: list[tuple[float, int]]):
    flow = Flow()
    moments, at_s, count = [], 0.0, 0
    for step_s, growth in steps:
        at_s, count = at_s + step_s, count + growth
        moments.append((at_s, count))
        flow.note(at_s, count)
    old = [moment for moment in moments if moment[0] <= at_s - OVER_S]
    begin_s, before = old[-1] if old else moments[0]
    assert flow.over_s == pytest.approx(at_s - begin_s)
    assert flow.rate == pytest.approx((count - before) / (at_s - begin_s))
