"""Dealing rows by what workers can take: shares, and how they fall and rise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.leases.dealing import LEAST_SHARE, PATIENCE_S, Dealer, Pace

shares = st.dictionaries(st.sampled_from("abcdef"), st.floats(LEAST_SHARE, 1.0), min_size=1)


def test_equals_are_served_in_turn() -> None:
    dealer = Dealer()
    assert dealer.deal([1, 2, 3], {"a": 1.0, "b": 1.0}) == {"a": [1, 3], "b": [2]}
    assert dealer.deal([4, 5], {"a": 1.0, "b": 1.0}) == {"a": [5], "b": [4]}


@given(shares, st.lists(st.integers(0, 50), max_size=20))
def test_everything_is_dealt_once_in_order_and_in_proportion(shares: dict[str, float], rounds: list[int]) -> None:
    """However it comes in pieces, nobody is ever more than one thing per name away from their part."""
    dealer = Dealer()
    got: dict[str, list[int]] = {name: [] for name in shares}
    things = 0
    for count in rounds:
        for name, hand in dealer.deal(range(things, things + count), shares).items():
            got[name] += hand
        things += count
        for name, share in shares.items():
            assert abs(len(got[name]) - things * share / sum(shares.values())) <= len(shares)
    assert sorted(thing for hand in got.values() for thing in hand) == list(range(things))
    assert all(hand == sorted(hand) for hand in got.values())


def test_who_has_no_share_gets_nothing_and_no_arrears_afterwards() -> None:
    dealer = Dealer()
    assert dealer.deal(range(10), {"a": 1.0, "b": 0.0}) == {"a": list(range(10))}
    after = dealer.deal(range(10), {"a": 1.0, "b": 1.0})
    assert {name: len(hand) for name, hand in after.items()} == {"a": 5, "b": 5}


def test_who_joins_late_gets_an_equal_part_from_then_on() -> None:
    dealer = Dealer()
    dealer.deal(range(1001), {"a": 1.0, "b": 1.0})
    assert {name: len(hand) for name, hand in dealer.deal(range(30), dict.fromkeys("abc", 1.0)).items()} == {
        "a": 10,
        "b": 10,
        "c": 10,
    }


def test_a_worker_that_falls_behind_gets_less_and_recovers() -> None:
    pace = Pace()
    reports = [(0.2 * i, 0.3 if i < 40 else 0.001) for i in range(200)]
    seen = []
    for now_s, late_s in reports:
        pace.reported(late_s, now_s)
        seen.append(pace.share)
    assert seen[0] == 0.5
    assert seen[int(PATIENCE_S / 0.2) - 1] == 0.5  # what a cut brings shows only after the rows leased before
    assert min(seen) == pytest.approx(0.125)
    assert seen[-1] == 1.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=200))
def test_a_share_stays_within_its_bounds(reports: list[tuple[float, float]]) -> None:
    pace = Pace()
    now_s = 0.0
    for late_s, pause_s in reports:
        now_s += pause_s
        pace.reported(late_s, now_s)
        assert LEAST_SHARE <= pace.share <= 1.0
