"""Certified tails: bounds that hold as often as they say, for independent requests and for bursts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import measurements, record
from scipy import stats

from benchmarks.coverage import coverage
from benchmarks.workloads import autoregressive, queue
from fineserve_shapes.measure.blocks import MOST_BLOCKS, Blocks
from fineserve_shapes.measure.certified import QUANTILES, Tails, bound, order_statistic
from fineserve_shapes.measure.dependence import FALSE_ALARMS, dependent, effective
from fineserve_shapes.measure.histogram import RELATIVE_ERROR

BUCKET = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)


def blocks_of(values_s: np.ndarray, at_s: np.ndarray | None = None) -> Blocks:
    blocks = Blocks()
    blocks.record(np.arange(len(values_s)) * 0.05 if at_s is None else at_s, values_s)
    return blocks


@pytest.mark.parametrize(("title", "smallest"), [("p90", 44), ("p99", 459), ("p99.9", 4603)])
def test_below_the_smallest_sample_there_is_no_bound(title: str, smallest: int):
    q = QUANTILES[title]
    values_s = 0.1 + np.arange(smallest) * (5**0.5 - 1) / 2 % 1  # long ones evenly among the short
    assert bound(blocks_of(values_s[1:]), q).value_s is None
    assert bound(blocks_of(values_s), q).value_s == values_s.max()
    assert (order_statistic(smallest - 1, q), order_statistic(smallest, q)) == (None, smallest)


@pytest.mark.parametrize("q", QUANTILES.values())
def test_of_independent_requests_it_is_the_order_statistic_rounded_up(q: float):
    values_s = np.random.default_rng(2).lognormal(-2, 1, 20_000)
    found = bound(blocks_of(values_s), q)
    exact_s = np.sort(values_s)[order_statistic(20_000, q) - 1]
    assert (found.method, found.effective) == ("binomial", 20_000)
    assert exact_s <= found.value_s <= exact_s * BUCKET


@given(st.integers(44, 20_000), st.sampled_from(sorted(QUANTILES.values())))
def test_the_order_statistic_is_the_first_that_is_sure_enough(requests: int, q: float):
    """Against the definition: the k-th exceeds the quantile unless at most k - 1 values lie below it."""
    rank = order_statistic(requests, q)
    if rank is None:
        assert 1 - q**requests < 0.99
    else:
        assert stats.binom.cdf(rank - 1, requests, q) >= 0.99 > stats.binom.cdf(rank - 2, requests, q)


def test_bursts_are_told_from_independent_requests():
    rng = np.random.default_rng(3)
    burst = bound(blocks_of(*reversed(queue(0.5).draw(rng, 10_000))), 0.9)
    alone = bound(blocks_of(*reversed(autoregressive(0.0).draw(rng, 10_000))), 0.9)
    assert (burst.method, alone.method) == ("blocks", "binomial")
    assert burst.effective < 2_000
    assert alone.effective == 10_000


def test_false_alarms_are_as_rare_as_stated():
    """Of 400 samples 10 % are 40; by chance more than 60 are so in less than 1 of 1,000 (seeded)."""
    rng = np.random.default_rng(4)
    totals = rng.poisson(20, 128).astype(float)
    alarms = sum(dependent(rng.binomial(totals.astype(int), 0.05).astype(float), totals) for _ in range(400))
    assert alarms <= 400 * FALSE_ALARMS + 20


def test_blocks_that_are_all_alike_are_worth_a_number_too():
    """As many marked ones in each: nothing deviates, as with volleys at an even pace."""
    assert 0 < effective(np.ones(16), np.full(16, 5.0), 0.99) <= 80


def test_a_single_marked_request_is_no_sign_of_heaps():
    """Nor is a single one that is not marked: there is none with which it could share its fate."""
    totals = np.array([1.0, 7.0, *[4.0] * 30])
    for place in (0, 1, 5):
        alone = np.zeros(32)
        alone[place] = 1.0
        for marked in (alone, totals - alone):
            assert effective(marked, totals, 0.999) == totals.sum()
            assert not dependent(marked, totals)


@pytest.mark.parametrize("heap", [1, 5, 20])
def test_requests_that_share_their_fate_are_worth_one(heap: int):
    """Heaps of k requests of one fate are worth 1/k as many requests, and never more than that by a tenth, on average."""
    rng = np.random.default_rng(5)
    fates = rng.random((200, 128, 400 // heap)) < 0.1
    worth = [effective(heap * one.sum(axis=1).astype(float), np.full(128, 400.0), 0.99) for one in fates]
    assert 0.4 * 51_200 / heap < np.mean(worth) <= 51_200 / heap * 1.1


@pytest.mark.parametrize("workload", [autoregressive(0.0), autoregressive(0.5), queue(0.5)])
def test_bounds_hold_as_often_as_they_say(workload):
    """A bound that is wrong in 1 of 100 is so in more than 7 of 200 in about 1 of 1,000 (seeded)."""
    assert coverage(workload, 2_000, 0.9, 200, seed=6).wrong <= 7 / 200


def test_the_classic_bound_fails_on_bursts():
    seen = coverage(queue(0.5), 2_000, 0.9, 200, seed=7)
    assert seen.classic_wrong > 0.05
    assert seen.wrong <= 7 / 200
    assert seen.none < 0.1


@given(st.lists(st.tuples(st.floats(0, 5_000), st.floats(1e-4, 100)), min_size=1, max_size=60), st.randoms())
def test_batches_in_any_order_from_any_worker_give_the_same(requests: list[tuple[float, float]], random):
    at_s, values_s = np.array(requests).T
    whole = blocks_of(values_s, at_s)
    parts = [Blocks() for _ in range(3)]
    order = random.sample(range(len(requests)), len(requests))
    for place, one in enumerate(order):
        parts[place % 3].record(at_s[[one]], values_s[[one]])
    merged = parts.pop(random.randrange(3))
    for part in parts:
        merged.merge(part)
    assert (merged.width_s, merged.maximum_s) == (whole.width_s, whole.maximum_s)
    assert merged.totals.tolist() == whole.totals.tolist()
    assert merged.buckets.tolist() == whole.buckets.tolist()


def test_a_day_takes_no_more_blocks_than_a_minute():
    blocks = blocks_of(np.full(1_000, 0.1), np.linspace(0, 86_400, 1_000))
    assert len(blocks.totals) == MOST_BLOCKS
    assert blocks.totals.sum() == 1_000
    assert blocks.width_s == 1024


def test_a_bound_is_never_above_the_longest_duration():
    for longest_s in (0.3, 1e5):
        assert bound(blocks_of(np.full(1_000, longest_s)), 0.99).value_s == longest_s


def test_tails_are_those_of_whole_answers_by_the_time_of_due():
    tails = Tails()
    tails.add(
        measurements([record(i) for i in range(50)] + [record(i, "timeout", end_s=999.0) for i in range(50)]).records
    )
    found = tails.bounds()
    assert found["e2e_latency"]["p90"].value_s == pytest.approx(0.401, rel=RELATIVE_ERROR * 2)
    assert found["ttft"]["p90"].effective == 50
    assert found["ttft"]["p99"].value_s is None
    assert Tails().bounds()["tpot"]["p90"].value_s is None


def test_tails_of_two_workers_add_up():
    rows = measurements([record(i, first_token_s=0.1 * i + 0.1 + 0.001 * (i % 7)) for i in range(200)]).records
    whole, left, right = Tails(), Tails(), Tails()
    whole.add(rows)
    left.add(rows[::2])
    right.add(rows[1::2])
    left.merge(right)
    assert left.bounds() == whole.bounds()
