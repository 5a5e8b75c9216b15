"""Plans: laws of the blocks and of what is derived, fingerprints, and plans of traces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.workload.block import BLOCK_ROWS, Block, split
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.replay import replay_plan, trace_plan
from fineserve_shapes.workload.traces.trace import TraceOptions, open_trace


def block(due_s: FloatArray) -> Block:
    numbers = np.arange(1, len(due_s) + 1)
    return Block(np.zeros_like(numbers), due_s, numbers, 2 * numbers, np.zeros_like(numbers))


def plan_of(due_s: list[float], rows: int = 5000, sized: bool = True, **identity: object) -> Plan:
    whole = block(np.array(due_s, dtype=np.float64))
    return Plan(lambda: split(whole, rows), identity=identity, sized=sized)


def endless() -> Plan:
    """Two requests a second."""

    def source() -> Iterator[Block]:
        for start_s in range(0, 1 << 60, 500):
            yield block(start_s + np.arange(0, 500, 0.5))

    return Plan(source, identity={"every": 0.5})


def read(plan: Plan) -> Block:
    blocks = list(plan)
    if not blocks:
        return block(np.array([]))
    return Block(*(np.concatenate([getattr(b, name) for b in blocks]) for name in Block.__slots__[:5]))


DUES = st.lists(st.floats(0, 1000), min_size=1, max_size=40).map(sorted)


# --- any plan


@given(DUES, st.integers(1, 50))
def test_blocks_are_numbered_from_0_and_iteration_starts_anew(due_s, rows):
    plan = plan_of(due_s, rows)
    for _ in range(2):
        whole = read(plan)
        assert whole.index.tolist() == list(range(len(due_s)))
        assert whole.due_s.tolist() == due_s


@given(DUES, st.integers(0, 10**9), st.integers(1, 30))
def test_a_plan_may_be_numbered_from_elsewhere_and_keeps_its_rows(due_s, first, limit):
    """So do those that are made of it: the next run's prompts are other ones."""
    plan = plan_of(due_s)
    numbered = plan.numbered_from(first)
    assert read(numbered).index.tolist() == list(range(first, first + len(due_s)))
    assert read(numbered).due_s.tolist() == due_s
    assert (numbered.requests, numbered.span_s) == (plan.requests, plan.span_s)
    part = read(numbered.faster(2.0).limited(limit))
    assert part.index.tolist() == list(range(first, first + min(limit, len(due_s))))


def test_blocks_have_at_most_4096_rows_whatever_the_source_gives():
    plan = plan_of(list(range(10_000)), rows=10_000)
    assert [len(b) for b in plan] == [BLOCK_ROWS, BLOCK_ROWS, 10_000 - 2 * BLOCK_ROWS]


@given(DUES, st.floats(0.01, 100))
def test_faster_divides_times_and_keeps_order(due_s, factor):
    plan = plan_of(due_s)
    fast = plan.faster(factor)
    np.testing.assert_array_equal(read(fast).due_s, np.array(due_s) / factor)
    np.testing.assert_array_equal(read(fast).input_tokens, read(plan).input_tokens)
    assert fast.requests == plan.requests
    assert fast.span_s == plan.span_s / factor


@given(DUES, st.floats(0, 1000), st.floats(0.001, 1000), st.integers(1, 50))
def test_between_has_what_is_due_there_from_its_start(due_s, start_s, length_s, rows):
    part = read(plan_of(due_s, rows).between(start_s, start_s + length_s))
    assert part.due_s.tolist() == [due - start_s for due in due_s if start_s <= due < start_s + length_s]
    assert part.index.tolist() == list(range(len(part)))


@given(DUES, st.integers(1, 60), st.integers(1, 50))
def test_limited_has_the_first_requests(due_s, requests, rows):
    plan = plan_of(due_s, rows).limited(requests)
    assert read(plan).due_s.tolist() == due_s[:requests]
    assert plan.requests == min(requests, len(due_s))


@given(DUES, st.integers(1, 50))
def test_thinned_does_not_depend_on_blocks_and_keeps_pairs(due_s, rows):
    thin = read(plan_of(due_s, rows).thinned(0.5, seed=3))
    np.testing.assert_array_equal(thin.due_s, read(plan_of(due_s).thinned(0.5, seed=3)).due_s)
    np.testing.assert_array_equal(thin.output_tokens, 2 * thin.input_tokens)


def test_thinned_keeps_the_fraction():
    # 4 standard deviations: passed by chance in 1 of 16,000; the seed is fixed
    kept = plan_of(list(range(100_000))).thinned(0.3, seed=1).requests
    assert abs(kept - 30_000) < 4 * np.sqrt(100_000 * 0.3 * 0.7)
    assert plan_of([1.0, 2.0]).thinned(1.0, seed=1).requests == 2


@pytest.mark.parametrize(
    ("derive", "message"),
    [
        (lambda plan: plan.faster(0.0), r"finite and above 0, got 0.0 \(--time-scale\)"),
        (lambda plan: plan.faster(float("inf")), r"got inf \(--time-scale\)"),
        (lambda plan: plan.faster(float("nan")), r"got nan \(--time-scale\)"),
        (lambda plan: plan.thinned(0.0, 1), r"got 0.0 \(--keep-fraction\)"),
        (lambda plan: plan.thinned(1.5, 1), r"got 1.5 \(--keep-fraction\)"),
        (lambda plan: plan.between(-1.0, 1.0), "got -1.0 to 1.0 s"),
        (lambda plan: plan.between(2.0, 2.0), "got 2.0 to 2.0 s"),
        (lambda plan: plan.limited(0), r"at least 1, got 0 \(--num-prompts\)"),
    ],
)
def test_bad_values_are_named_with_their_flag(derive, message):
    with pytest.raises(InputError, match=message):
        derive(plan_of([1.0]))


# --- size and description


def test_a_sized_plan_knows_its_size():
    plan = plan_of([1.0, 2.0, 4.0])
    assert (plan.requests, plan.span_s, plan.rate_rps) == (3, 4.0, 0.75)


def test_a_long_plan_knows_its_size_when_it_has_been_read_to_its_end():
    plan = plan_of([1.0, 2.0, 4.0], sized=False)
    assert (plan.requests, plan.span_s, plan.rate_rps) == (None, None, None)
    next(iter(plan))
    assert plan.requests is None
    read(plan)
    assert (plan.requests, plan.span_s) == (3, 4.0)


def test_a_span_of_0_has_no_rate():
    assert plan_of([0.0, 0.0]).rate_rps is None


def test_an_endless_plan_is_lazy_and_its_limited_form_is_sized():
    plan = endless()
    assert plan.requests is None
    assert len(plan.fingerprint) == 16
    assert plan.thinned(0.5, 1).faster(2.0).limited(100).requests == 100
    assert plan.between(10_000, 10_001).limited(5).requests == 2
    assert sum(len(b) for b in islice(plan, 10)) == 10_000


def test_the_description_has_all_keys_and_takes_the_details_when_asked():
    details: dict[str, object] = {}
    plan = Plan(lambda: repeat(block(np.array([1.0, 2.0])), 1), identity={}, sized=True, details=lambda: details)
    keys = [
        "requests",
        "span_s",
        "rate_rps",
        "trace_span_s",
        "fingerprint",
        "timestamp_unit",
        "rows",
        "dropped",
        "clamped",
    ]
    assert list(plan.description()) == keys
    details["rows"] = 7
    assert plan.faster(2.0).description() == {
        **dict.fromkeys(keys), "requests": 2, "span_s": 1.0, "rate_rps": 2.0, "rows": 7,
        "fingerprint": plan.faster(2.0).fingerprint,
    }  # fmt: skip


# --- fingerprints


@given(DUES, st.integers(1, 50))
def test_a_fingerprint_depends_on_rows_and_identity_and_not_on_blocks(due_s, rows):
    fingerprint = plan_of(due_s, seed=1).fingerprint
    assert plan_of(due_s, rows, seed=1).fingerprint == fingerprint
    assert plan_of(due_s, seed=2).fingerprint != fingerprint
    assert plan_of([*due_s, 1001.0], seed=1).fingerprint != fingerprint
    assert plan_of(due_s, seed=1).faster(2.0).fingerprint != fingerprint


def test_a_fingerprint_reads_only_the_first_rows():
    def source() -> Iterator[Block]:
        yield block(np.arange(4096.0))
        raise AssertionError("read on")

    assert Plan(source, identity={}).fingerprint == Plan(lambda: [block(np.arange(4096.0))], identity={}).fingerprint


def test_a_fingerprint_stays_the_same_over_releases():
    assert plan_of([0.0, 1.5], seed=0).fingerprint == "5047f07a5a2df837"


# --- plans of traces


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = ["timestamp,input_length,output_length", *(f"{700 * i},{i + 1},{i % 7}" for i in range(200)), ",1,1"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


def test_a_replay_does_its_steps_in_the_stated_order(path):
    # row i is at 0.7 i - 0.7 trace seconds, since row 0 is dropped; the slice [7, 14) has rows 11 to 20 but 14
    options = TraceOptions(start_at_s=7.0, duration_s=7.0, max_gap_s=1.0)
    whole = read(replay_plan(path, options, time_scale=2.0, num_prompts=5))
    assert whole.input_tokens.tolist() == [12, 13, 14, 16, 17]
    assert whole.due_s == pytest.approx(np.array([0.0, 0.7, 1.4, 2.4, 3.1]) / 2)


def test_a_replay_describes_itself(path):
    plan = replay_plan(path, time_scale=10.0)
    description = plan.description()
    assert description == {
        "requests": 171,
        "span_s": pytest.approx(13.86),
        "rate_rps": pytest.approx(171 / 13.86),
        "trace_span_s": pytest.approx(138.6),
        "fingerprint": plan.fingerprint,
        "timestamp_unit": "ms",
        "rows": 201,
        "kept": 171,
        "filtered": 0,
        "outside_slice": 0,
        "dropped": {"missing_timestamp": 1, "below_one": 29, "beyond_max_model_len": 0},
        "clamped": {"below_one": 0, "beyond_max_model_len": 0},
    }


def test_a_long_replay_describes_itself_when_it_has_been_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["timestamp,input_length,output_length", *(f"{i},1,1" for i in range(5000))]) + "\n")
    plan = trace_plan(open_trace(path, chunk_rows=20, memory_rows=50))
    before = plan.description()
    assert before["requests"] is before["rows"] is before["trace_span_s"] is None
    assert before["timestamp_unit"] == "ms"
    read(plan)
    assert plan.description() == replay_plan(path).description()


@given(
    chunk_rows=st.integers(1, 250),
    memory_rows=st.sampled_from([30, 1000]),
    options=st.builds(
        TraceOptions,
        start_at_s=st.sampled_from([0.0, 20.0]),
        duration_s=st.sampled_from([None, 60.0]),
        spread_within_s=st.sampled_from([None, 1.0, 30.0]),
        max_gap_s=st.sampled_from([None, 0.5]),
        below_one=st.sampled_from(["drop", "clamp"]),
    ),
)
@settings(deadline=None, max_examples=examples(40))
def test_the_same_arguments_give_the_same_plan_however_it_is_read(tmp_path_factory, chunk_rows, memory_rows, options):
    path = tmp_path_factory.mktemp("plan") / "t.csv"
    rows = (f"{700 * i},{i + 1},{i % 7}" for i in range(200))
    path.write_text("\n".join(["timestamp,input_length,output_length", *rows]) + "\n")
    reference = replay_plan(path, options)
    plan = trace_plan(open_trace(path, options, chunk_rows=chunk_rows, memory_rows=memory_rows))
    assert plan.fingerprint == reference.fingerprint
    actual, expected = read(plan), read(reference)
    for name in Block.__slots__[:5]:
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
    assert np.all(np.diff(actual.due_s) >= 0)
    assert actual.due_s[0] >= 0


@pytest.mark.parametrize(
    "changed",
    [
        {"below_one": "clamp"}, {"max_model_len": 100}, {"start_at_s": 1.0}, {"duration_s": 9.0}, {"max_gap_s": 0.1},
        {"spread_within_s": 1.0}, {"seed": 1}, {"timestamp_unit": "s"}, {"missing_timestamp": "drop", "seed": 2},
    ],
)  # fmt: skip
def test_a_changed_option_gives_another_fingerprint(path, changed):
    assert replay_plan(path, TraceOptions(**changed)).fingerprint != replay_plan(path).fingerprint


def test_a_changed_argument_or_file_gives_another_fingerprint_and_another_name_does_not(path):
    plan = replay_plan(path)
    assert replay_plan(path, time_scale=2.0).fingerprint != plan.fingerprint
    assert replay_plan(path, num_prompts=5).fingerprint != plan.fingerprint
    renamed = path.rename(path.with_name("other.csv"))
    assert replay_plan(renamed).fingerprint == plan.fingerprint
    with renamed.open("a") as file:
        file.write("999999,1,1\n")
    assert replay_plan(renamed).fingerprint != plan.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"), [({"time_scale": -1.0}, r"--time-scale"), ({"num_prompts": 0}, r"--num-prompts")]
)
def test_bad_arguments_of_a_replay_are_named(path, arguments, message):
    with pytest.raises(InputError, match=message):
        replay_plan(path, **arguments)
