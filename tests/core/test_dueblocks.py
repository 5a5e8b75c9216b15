"""What is known of a step while it goes on: counts by when requests were due, and what a decision makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.measure import records
from fineserve_shapes.measure.decision import LOOKS, STEP_ERROR, Decision, Seen, Verdict, decide, fewest, spent, weakest
from fineserve_shapes.measure.dueblocks import DueBlocks
from fineserve_shapes.measure.measurements import GAPS, SENT, Measurements
from fineserve_shapes.measure.series import Series
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.measure.tally import Tally
from fineserve_shapes.outcome import OK, OUTCOMES

SLO = Slo.parse("ttft=100ms")
NOTHING = np.empty(0)


def measured(due_s: list[float], ttft_s: list[float], outcome: int = OK) -> Measurements:
    """Requests that were sent when they were due, and that have ended."""
    rows = np.zeros(len(due_s), dtype=records.RECORD)
    rows["due_s"] = rows["sent_s"] = due_s
    rows["first_token_s"] = np.array(due_s) + ttft_s
    rows["last_token_s"] = rows["end_s"] = rows["first_token_s"]
    rows["outcome"] = outcome
    return Measurements(rows, np.empty(0, dtype=SENT), {}, np.empty(0, dtype=GAPS), [])


def test_requests_count_in_the_block_in_which_they_were_due():
    blocks = DueBlocks(SLO, 1.0)
    blocks.plan(np.zeros(6, dtype=np.int64), np.array([0.5, 1.2, 1.4, 1.6, 2.5, 9.0]))
    blocks.add(measured([2.5, 1.2, 1.4], [0.2, 0.08, 0.03]))
    seen = blocks.seen(1.0, 4.0, NOTHING)
    assert seen.totals.tolist() == [3, 1, 0]
    assert seen.missed.tolist() == [0, 1, 0]
    assert seen.nearly.tolist() == [1, 1, 0]
    assert seen.open.tolist() == [1, 0, 0]
    assert [blocks.open_before(end_s) for end_s in (0.0, 1.0, 2.0, 4.0, 99.0)] == [0, 1, 2, 2, 3]


def test_what_we_cancelled_has_not_ended_and_what_failed_has_missed():
    blocks = DueBlocks(SLO, 1.0)
    blocks.plan(np.zeros(2, dtype=np.int64), np.array([0.1, 0.2]))
    blocks.add(measured([0.1], [0.01], OUTCOMES.index("cancelled")))
    blocks.add(measured([0.2], [0.01], OUTCOMES.index("timeout")))
    seen = blocks.seen(0.0, 1.0, NOTHING)
    assert (seen.missed.tolist(), seen.open.tolist()) == ([1], [1])


@given(st.lists(st.floats(0, 400), min_size=1, max_size=50), st.floats(0.05, 1.0))
def test_no_request_is_lost_between_blocks(due_s: list[float], block_s: float):
    """However long blocks are, and in whatever batches requests end."""
    due = np.sort(due_s)
    blocks = DueBlocks(SLO, block_s)
    blocks.plan(np.zeros(len(due), dtype=np.int64), due)
    for at_s in due_s:
        blocks.add(measured([at_s], [0.3]))
    seen = blocks.seen(0.0, 401.0, NOTHING)
    assert (seen.totals.sum(), seen.missed.sum(), seen.open.sum()) == (len(due_s), len(due_s), 0)


def test_a_tally_feeds_its_followers_with_all_that_it_gets():
    tally, blocks = Tally(SLO), DueBlocks(SLO, 1.0)
    tally.followers.append(blocks)
    tally.plan(np.zeros(2, dtype=np.int64), np.array([0.1, 0.2]))
    tally.add(measured([0.1], [0.01]))
    assert (blocks.open_before(1.0), tally.total.good) == (1, 1)


def test_open_requests_count_against_either_verdict():
    """As missed where the step would hold, as met where it would fail: both are certain whatever becomes of them."""
    totals = np.full(100, 50.0)
    for missed, verdict in ((0.0, Verdict.HOLDS), (20.0, Verdict.FAILS)):
        known = Seen(totals, np.full(100, missed))
        assert decide(known, 0.9, 3).verdict == verdict
        some_open = Seen(totals, np.full(100, missed), open=np.full(100, 1.0))
        assert decide(some_open, 0.9, 3).verdict == verdict
    assert decide(Seen(totals, np.zeros(100), open=np.full(100, 20.0)), 0.9, 3).verdict == Verdict.UNDECIDED
    assert decide(Seen(totals, np.zeros(100), open=np.full(100, 5.0)), 0.9, 3).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
def test_so_many_requests_can_hold_and_one_less_cannot(share: float):
    for requests, verdict in ((fewest(share), Verdict.HOLDS), (fewest(share) - 1, Verdict.UNDECIDED)):
        assert decide(Seen(np.array([float(requests)]), np.zeros(1)), share, len(LOOKS) - 1).verdict == verdict
    assert share ** fewest(share) <= spent(1.0, STEP_ERROR) - spent(LOOKS[-2], STEP_ERROR)


def test_a_count_second_by_second_is_that_of_its_slots():
    """Wider slots of long ago are spread evenly: nothing is lost."""
    series = Series()
    due_s = np.sort(np.random.default_rng(1).uniform(0, 3_000, 5_000))
    series.plan(np.zeros(len(due_s), dtype=np.int64), due_s)
    found = series.by_second("planned", 0, 3_001)
    assert found.sum() == pytest.approx(len(due_s))
    late = np.bincount(due_s.astype(np.int64), minlength=3_001)
    assert found[2_000:].tolist() == late[2_000:].tolist()
    assert series.by_second("planned", 10, 10).tolist() == []


def test_a_stream_counts_by_itself():
    """What is planned, and what has ended, of the others is nothing to it."""
    blocks = DueBlocks(SLO, 1.0, stream=1)
    blocks.plan(np.array([0, 1, 1, 0]), np.array([0.1, 0.2, 0.3, 0.4]))
    ended = measured([0.1, 0.2], [0.2, 0.2])
    ended.records["stream"] = [0, 1]
    blocks.add(ended)
    seen = blocks.seen(0.0, 1.0, NOTHING)
    assert (seen.totals.tolist(), seen.missed.tolist(), seen.open.tolist()) == ([2], [1], [1])


def of_share(verdict: Verdict, share: float | None, *, grows: bool = False) -> Decision:
    return Decision(verdict, "so it is", share, grows=grows)


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ({"a": of_share(Verdict.HOLDS, 0.99), "b": of_share(Verdict.HOLDS, 0.95)}, (Verdict.HOLDS, "b")),
        ({"a": of_share(Verdict.HOLDS, 0.91), "b": of_share(Verdict.UNDECIDED, 0.92)}, (Verdict.UNDECIDED, "b")),
        ({"a": of_share(Verdict.UNDECIDED, 0.5), "b": of_share(Verdict.FAILS, 0.8)}, (Verdict.FAILS, "b")),
        ({"a": of_share(Verdict.FAILS, 0.7), "b": of_share(Verdict.FAILS, 0.8)}, (Verdict.FAILS, "a")),
        ({"a": of_share(Verdict.HOLDS, 1.0), "b": of_share(Verdict.UNDECIDED, None)}, (Verdict.UNDECIDED, "b")),
        ({name: of_share(Verdict.FAILS, 1.0, grows=True) for name in "ab"}, (Verdict.FAILS, None)),
        (
            {"a": of_share(Verdict.FAILS, 0.99, grows=True), "b": of_share(Verdict.FAILS, 0.995)},
            (Verdict.FAILS, "b"),
        ),
    ],
)
def test_the_weakest_stream_decides(decisions: dict[str, Decision], expected: tuple[Verdict, str | None]):
    """All must hold, any may fail; requests in flight that grow are no one stream's."""
    found = weakest(decisions)
    assert (found.verdict, found.stream) == expected
    assert found.why.startswith(f"{found.stream}: " if found.stream else "so it is")


def test_a_stream_that_meets_its_share_exactly_seldom_fails_the_step_and_seldom_holds_it():
    """Whatever the others do: neither in more than 0.5 % of steps, at all looks together. Of 400 steps 8 and more would in
    1 of 1,000 (seeded)."""
    rng, share, steps = np.random.default_rng(11), 0.9, 400
    wrong = dict.fromkeys(Verdict, 0)
    for _ in range(steps):
        missed = [rng.binomial(20, 1 - share, 40).astype(float) for _ in range(3)]
        for look, part in enumerate(LOOKS):
            blocks = int(40 * part)
            decided = weakest(
                {
                    name: decide(Seen(np.full(blocks, 20.0), of_stream[:blocks]), share, look, ways=3)
                    for name, of_stream in zip("abc", missed, strict=True)
                }
            )
            if decided.verdict is not Verdict.UNDECIDED:
                wrong[decided.verdict] += 1
                break
    assert max(wrong[Verdict.HOLDS], wrong[Verdict.FAILS]) < 8
