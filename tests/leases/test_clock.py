"""Common time from pings: how far the estimate may be from the truth."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.leases.clock import KEPT_PINGS, MAX_DRIFT, ClockEstimate

SLACK_S = 1e-6  # of float64 at a skew of up to some days

delay_s = st.floats(0, 10)
pings = st.lists(st.tuples(delay_s, delay_s, st.floats(0, 5)), min_size=1, max_size=2 * KEPT_PINGS)


@given(st.floats(-1e5, 1e5), pings)
def test_the_error_is_at_most_the_uncertainty_whatever_the_delays(
    skew_s: float, ways: list[tuple[float, float, float]]
) -> None:
    """Way there and way back may differ as they like."""
    clock = ClockEstimate()
    now_s = 100.0
    for there_s, back_s, pause_s in ways:
        clock.answered(now_s, now_s + there_s + skew_s, now_s + there_s + back_s)
        assert abs(clock.offset_s - skew_s) <= clock.uncertainty_s + SLACK_S
        now_s += there_s + back_s + pause_s


@given(st.floats(-1e5, 1e5), st.floats(-MAX_DRIFT, MAX_DRIFT), pings)
def test_the_error_is_at_most_the_uncertainty_while_the_clocks_drift_apart(
    skew_s: float, drift: float, ways: list[tuple[float, float, float]]
) -> None:
    """The bound holds at the time of the last ping, with the offset as it is then."""
    clock = ClockEstimate()
    now_s = 100.0
    for there_s, back_s, pause_s in ways:
        at_master_s = now_s + there_s
        received_s = at_master_s + back_s
        clock.answered(now_s, at_master_s + skew_s + drift * at_master_s, received_s)
        assert abs(clock.offset_s - (skew_s + drift * received_s)) <= clock.uncertainty_s + SLACK_S
        now_s = received_s + pause_s


def test_a_drift_is_followed_closely() -> None:
    """50 ppm over ten minutes are 30 ms; at one ping a second the estimate stays within half a millisecond."""
    clock = ClockEstimate()
    rng = random.Random(1)
    worst_s = 0.0
    for second in range(600):
        there_s, back_s = rng.expovariate(1e4), rng.expovariate(1e4)
        offset_s = 2.0 + 5e-5 * second
        clock.answered(second, second + there_s + offset_s, second + there_s + back_s)
        worst_s = max(worst_s, abs(clock.offset_s - offset_s))
    assert worst_s < 5e-4


def test_a_change_of_route_is_forgotten_after_the_pings_that_are_kept() -> None:
    """A quick ping of long ago is no evidence for ever."""
    clock = ClockEstimate()
    clock.answered(0, 1000.0, 1e-6)
    for second in range(1, KEPT_PINGS + 1):
        clock.answered(second, second + 0.01, second + 0.02)
    assert clock.offset_s == pytest.approx(0.0, abs=1e-9)
    assert clock.pings == KEPT_PINGS + 1


def test_a_quick_ping_counts_more_than_slow_ones() -> None:
    clock = ClockEstimate()
    clock.answered(0.0, 5.0005, 0.001)
    for second in (1, 2, 3):
        clock.answered(second, second + 5.4, second + 0.5)
    assert clock.offset_s == pytest.approx(5.0, abs=1e-9)
    assert clock.uncertainty_s < 0.001


def test_nothing_is_known_before_the_first_ping() -> None:
    assert (ClockEstimate().offset_s, ClockEstimate().uncertainty_s) == (0.0, math.inf)


def test_one_process_has_one_clock() -> None:
    assert (ClockEstimate(same_clock=True).offset_s, ClockEstimate(same_clock=True).uncertainty_s) == (0.0, 0.0)
