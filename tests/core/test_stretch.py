"""How much of a workload a step takes: so many requests, or seconds, after the server has settled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_plan import endless, plan_of, read

from fineserve_shapes.errors import InputError
from fineserve_shapes.planning.stretch import Stretch


@given(st.floats(0, 50), st.integers(2, 3_000), st.floats(0.1, 10))
def test_it_has_so_many_requests_after_settling_at_any_scale(settle_s: float, requests: int, scale: float):
    plan, longest_s = Stretch(settle_s, requests, None, 1).of(endless().faster(scale))
    due_s = read(plan).due_s
    assert np.count_nonzero(due_s >= settle_s) == requests
    assert due_s[-1] == pytest.approx(settle_s + longest_s)
    assert plan.requests == len(due_s)


@given(st.floats(0, 20), st.floats(1, 50), st.integers(1, 50))
def test_or_so_many_seconds_and_at_least_the_requests_that_decide(settle_s: float, time_s: float, fewest: int):
    plan, longest_s = Stretch(settle_s, None, time_s, fewest).of(endless())
    after = np.count_nonzero(read(plan).due_s >= settle_s)
    assert after >= fewest
    assert longest_s >= time_s - 1e-9
    assert longest_s == pytest.approx(time_s) or after == fewest


def test_a_plan_that_ends_sooner_is_taken_to_its_end():
    whole = plan_of([0.5 * i for i in range(100)])
    plan, longest_s = Stretch(10.0, 1_000, None, 50).of(whole)
    assert plan is whole
    assert longest_s == 39.5


@pytest.mark.parametrize(
    ("due_s", "reason"),
    [
        ([0.5 * i for i in range(40)], "20 requests after 10 s of settling, and a step needs 50"),
        ([0.0] * 100, "with 0 req"),
    ],
)
def test_too_few_requests_are_told_with_the_way_out(due_s: list[float], reason: str):
    with pytest.raises(InputError, match=reason):
        Stretch(10.0, 1_000, None, 50).of(plan_of(due_s))


def test_requests_that_are_due_at_once_have_no_rate():
    with pytest.raises(InputError, match="no rate"):
        Stretch(0.0, 50, None, 50).of(plan_of([0.0] * 100))


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [((1.0, None, None, 1), "--step-requests"), ((1.0, 5, 5.0, 1), "--step-time"), ((1.0, 5, None, 9), "--slo-share"),
     ((1.0, None, 0.0, 1), "--step-time")],
)  # fmt: skip
def test_what_is_no_step_is_refused(arguments: tuple, flag: str):
    with pytest.raises(InputError, match=flag):
        Stretch(*arguments)
