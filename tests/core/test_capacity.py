"""The search for a capacity: what it tries, what it answers, and how often it is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.searches import SERVERS, Server, quality, step
from benchmarks.workloads import queue_root
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.capacity import TOLERANCE, Capacity, Search
from fineserve_shapes.measure.decision import LOOKS, STEP_ERROR, Decision, Seen, Verdict, decide, spent
from fineserve_shapes.measure.knee import knee
from fineserve_shapes.measure.saturation import growth
from fineserve_shapes.measure.sweep import Sweep

HOLDS, FAILS, UNDECIDED, INVALID = (
    Decision(one, "") for one in (Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED, Verdict.INVALID)
)


def searched(search: Search, capacity: float, unsure: float = 1.0) -> tuple[Capacity, list[float]]:
    """Search against a server that holds up to a scale, and that leaves undecided what is nearer than a factor."""
    tried = []
    while (scale := search.next_scale) is not None:
        tried.append(scale)
        near = capacity / unsure < scale < capacity * unsure
        search.take(UNDECIDED if near else HOLDS if scale <= capacity else FAILS)
        assert len(tried) < 50
    return search.capacity, tried


@given(st.floats(1 / 50, 50), st.floats(1 / 50, 50))
def test_the_interval_holds_the_capacity_and_is_narrow(capacity: float, start: float):
    found, tried = searched(Search(0.9, start), capacity)
    assert found.limited_by == "server"
    assert found.low is not None
    assert found.high is not None
    assert found.low <= capacity <= found.high <= found.low * (1 + TOLERANCE) * (1 + 1e-12)
    assert found.low <= found.estimate <= found.high
    assert len(set(tried)) == len(tried) == found.steps <= 2 + 12 + 5


@given(st.floats(0.1, 10), st.floats(1.001, 1.3))
def test_what_stays_undecided_bounds_nothing_and_the_search_ends(capacity: float, unsure: float):
    found, tried = searched(Search(0.9), capacity, unsure)
    assert found.low <= capacity <= found.high
    assert found.high / found.low <= unsure**2 * (1 + TOLERANCE) * (1 + 1e-12)
    assert len(set(tried)) == len(tried)


@given(st.floats(0.1, 10), st.floats(1.001, 1.5))
def test_what_undecided_steps_met_leads_to_the_answer_and_the_bounds_come_after(capacity: float, unsure: float):
    search, tried = Search(0.9), []
    while (scale := search.next_scale) is not None:
        tried.append(scale)
        near = capacity / unsure < scale < capacity * unsure
        share = 0.9 + 0.05 * (1 if scale <= capacity else -1)
        verdict = Verdict.UNDECIDED if near else Verdict.HOLDS if scale <= capacity else Verdict.FAILS
        search.take(Decision(verdict, "", share, effective=100.0))
        assert len(tried) < 60
    assert len(set(tried)) == len(tried)
    found = search.capacity
    assert found.low <= capacity <= found.high
    assert found.estimate == pytest.approx(capacity, rel=TOLERANCE)
    assert found.high / found.low <= unsure**2 * (1 + TOLERANCE) * (1 + 1e-12)


def test_it_doubles_and_then_takes_the_middle():
    _, tried = searched(Search(0.9, 1.0), 3.0)
    assert tried[:4] == [1.0, 2.0, 4.0, pytest.approx(math.sqrt(8))]
    _, tried = searched(Search(0.9, 1.0), 0.3)
    assert tried[:4] == [1.0, 0.5, 0.25, pytest.approx(math.sqrt(0.125))]


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [(100.0, Capacity(8.0, None, 8.0, "range", 4)), (0.01, Capacity(None, 0.5, None, "range", 2))],
)
def test_a_capacity_out_of_range_is_said_to_be_so(capacity: float, expected: Capacity):
    assert searched(Search(0.9, 1.0, 0.5, 8.0), capacity)[0] == expected


def test_a_load_that_is_not_delivered_twice_makes_the_client_the_limit():
    search = Search(0.9)
    search.take(HOLDS)
    search.take(INVALID)
    assert search.next_scale == 2.0
    search.take(INVALID)
    assert search.next_scale is None
    assert search.capacity == Capacity(1.0, None, 1.0, "client", 3)
    with pytest.raises(ValueError, match="the search is over"):
        search.take(HOLDS)


def test_an_invalid_step_that_comes_right_costs_one_step():
    search = Search(0.9)
    for decision in (INVALID, HOLDS, INVALID, FAILS):
        search.take(decision)
    assert search.next_scale == pytest.approx(math.sqrt(2))


def test_a_search_goes_first_to_where_the_answer_likely_is():
    """Steps that stay undecided are taken by the share that they met; bounds come after."""
    search = Search(0.9)
    for decision, following in (
        (Decision(Verdict.UNDECIDED, "", 0.97), 2.0),
        (Decision(Verdict.FAILS, "", 0.5), math.sqrt(2)),
        (Decision(Verdict.UNDECIDED, "", 0.8), 2**0.25),
        (Decision(Verdict.UNDECIDED, "", 0.95), 2**0.375),
    ):
        search.take(decision)
        assert search.next_scale == pytest.approx(following)


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ((HOLDS, HOLDS), Capacity(2.0, None, 2.0, "range", 2)),
        ((FAILS, FAILS), Capacity(None, 0.5, None, "range", 2)),
        ((HOLDS, FAILS), Capacity(1.0, 2.0, math.sqrt(2), "server", 2)),
        ((INVALID, HOLDS), Capacity(1.0, None, 1.0, "range", 2)),
    ],
)
def test_a_search_that_may_take_no_more_steps_says_what_it_knows(decisions: tuple[Decision, ...], expected: Capacity):
    search = Search(0.9, most_steps=2)
    for decision in decisions:
        search.take(decision)
    assert search.next_scale is None
    assert search.capacity == expected


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.floats(0.1, 10))
def test_a_sweep_tries_every_scale_once_in_order(scales: list[float], capacity: float):
    found, tried = searched(Sweep(0.9, scales), capacity)
    assert tried == sorted(set(scales))
    assert found.low == max((scale for scale in scales if scale <= capacity), default=None)
    assert found.high == min((scale for scale in scales if scale > capacity), default=None)
    assert found.limited_by == ("range" if None in (found.low, found.high) else "server")


def test_a_sweep_in_which_a_lower_scale_failed_is_bounded_by_that():
    sweep = Sweep(0.9, [1, 2, 3, 4])
    for decision in (HOLDS, FAILS, HOLDS, UNDECIDED):
        sweep.take(decision)
    assert (sweep.capacity.low, sweep.capacity.high) == (1, 2)


def test_a_load_that_cannot_be_delivered_twice_does_not_end_a_sweep():
    """What was in its way, another program say, may be gone at the next scale."""
    sweep, tried = Sweep(0.9, [1, 2, 3]), []
    for decision in (INVALID, HOLDS, INVALID, INVALID, INVALID, INVALID):
        tried.append(sweep.next_scale)
        sweep.take(decision)
    assert tried == [1, 1, 2, 2, 3, 3]
    assert sweep.next_scale is None
    assert sweep.capacity == Capacity(1, None, 1, "client", 6)


def test_between_bounds_the_server_is_the_limit_whatever_could_not_be_delivered():
    sweep = Sweep(0.9, [1, 2, 3])
    for decision in (HOLDS, INVALID, INVALID, FAILS):
        sweep.take(decision)
    assert (sweep.capacity.low, sweep.capacity.high, sweep.capacity.limited_by) == (1, 3, "server")


def test_a_sweep_without_a_scale_is_refused():
    with pytest.raises(InputError, match="at least one scale"):
        Sweep(0.9, [])


def test_the_knee_is_where_a_curve_leaves_the_straight_line():
    """Of -log(1 - load) it is where the slope 1 / (1 - load) is that of the line."""
    load = np.linspace(0.1, 0.95, 18)
    assert knee(load, 1 / (1 - load)) == pytest.approx(1 - 0.85 / math.log(0.9 / 0.05), abs=0.03)
    assert knee(load, np.exp(load)) is None
    assert knee(load[:3], 1 / (1 - load[:3])) is None
    assert knee(load, np.ones(18)) is None


@pytest.mark.parametrize("arguments", [(0.9, 0.0), (0.9, 2.0, 3.0), (0.9, 1.0, 0.5, math.inf), (0.9, math.nan)])
def test_a_search_without_a_range_is_refused(arguments: tuple[float, ...]):
    with pytest.raises(InputError, match="between its lowest and its highest scale"):
        Search(*arguments)


@pytest.mark.parametrize("share", [0.0, 1.0, 95.0])
def test_a_share_that_is_none_is_refused(share: float):
    with pytest.raises(InputError, match="--slo-share must lie between 0 and 1"):
        Search(share)


def test_the_looks_spend_what_may_be_spent_and_no_more():
    shares = [spent(look) - spent(before) for before, look in zip((0.0, *LOOKS), LOOKS, strict=False)]
    assert sum(shares) == pytest.approx(STEP_ERROR)
    assert shares == sorted(shares)


@pytest.mark.parametrize(("missed", "verdict"), [(0.0, Verdict.HOLDS), (0.1, Verdict.UNDECIDED), (0.5, Verdict.FAILS)])
def test_a_clear_case_is_decided_and_a_close_one_is_not(missed: float, verdict: Verdict):
    rng = np.random.default_rng(1)
    decision = decide(Seen(np.full(100, 50.0), rng.binomial(50, missed, 100).astype(float)), 0.9, 3)
    assert decision.verdict == verdict
    assert decision.low <= decision.share <= decision.high


def test_one_request_that_nearly_missed_does_not_undo_a_step_that_holds():
    totals, nearly = np.full(100, 2.0), np.zeros(100)
    nearly[70] = 1.0
    assert decide(Seen(totals, np.zeros(100), nearly), 0.9, 3) == decide(Seen(totals, np.zeros(100)), 0.9, 3)
    assert decide(Seen(totals, nearly, nearly), 0.9, 3).verdict is Verdict.HOLDS


def test_nothing_seen_decides_nothing():
    assert decide(Seen(np.zeros(10), np.zeros(10)), 0.9, 3).verdict == Verdict.UNDECIDED


def test_looking_often_does_not_find_by_chance():
    """At exactly the SLO's share each side is wrong in 1 of 200; more than 6 of 400 are so in 1 of 200 (seeded)."""
    rng = np.random.default_rng(2)
    wrong = {Verdict.HOLDS: 0, Verdict.FAILS: 0}
    for _ in range(400):
        missed = rng.binomial(20, 0.1, 120).astype(float)
        for look, progress in enumerate(LOOKS):
            end = int(120 * progress)
            verdict = decide(Seen(np.full(end, 20.0), missed[:end]), 0.9, look).verdict
            if verdict != Verdict.UNDECIDED:
                wrong[verdict] += 1
                break
    assert max(wrong.values()) <= 6


def test_requests_in_flight_that_grow_fail_a_step_whose_answers_still_meet_the_slo():
    """A server offered a tenth more than it can do, and an SLO that is not missed yet."""
    server = Server(cv=1.0, share=0.9, limit_s=600.0, longest_s=240)
    decision, _ = step(server, np.random.default_rng(3), 1.1)
    assert decision.verdict == Verdict.FAILS
    assert "requests in flight grow by" in decision.why


def test_a_queue_in_equilibrium_does_not_grow():
    """A slope above 0 is found in 1 of 100; more than 9 of 300 are so in less than 1 of 1,000 (seeded)."""
    rng = np.random.default_rng(4)
    server = Server(cv=2.0, share=0.9, limit_s=1.0, longest_s=240)
    found = [growth(np.arange(240.0), server.seen(rng, 0.8).in_flight) for _ in range(300)]
    assert sum(one is not None and one.grows for one in found) <= 9


def test_a_line_has_its_slope():
    found = growth(np.arange(100.0), 5 + 0.5 * np.arange(100.0))
    assert (found.slope_rps, found.grows) == (pytest.approx(0.5), True)
    assert not growth(np.arange(100.0), np.full(100, 7.0)).grows
    assert growth(np.arange(15.0), np.arange(15.0)) is None


@pytest.mark.parametrize("server", [SERVERS[0], SERVERS[2]])
def test_the_interval_holds_the_capacity_and_the_estimate_is_near(server: Server):
    """Wrong in 1 of 20 and 1 of 10 at most: 4 and 5 of 15 searches are so in 1 of 180 and 1 of 80 (seeded)."""
    seen = quality(server, 15, seed=5)
    assert seen.covers >= 12 / 15
    assert seen.near >= 11 / 15
    assert server.capacity == pytest.approx(0.72, abs=0.02)


def test_the_truth_is_that_of_the_models():
    """M/M/1: sojourns are exponential with rate 1 - load; burstier gaps: longer ones."""
    assert queue_root(0.7, 1.0) == pytest.approx(0.7)
    assert queue_root(0.7, 2.0) > 0.7
