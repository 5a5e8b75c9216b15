"""The engine model by laws: whatever arrives and leaves, the limits hold and every token comes, in its order."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.batching import BatchEngine, EngineParameters
from fineserve_shapes.simulator.engine import Engine, Sequence
from fineserve_shapes.simulator.kvcache import Content
from fineserve_shapes.simulator.schedule import ConstantEngine

KV_TOKENS = 120


@dataclass
class Run:
    """What an engine did with a load, checked at every step."""

    tokens: list[tuple[float, int]] = field(default_factory=list)  # due_s, index of the sequence
    first_s: dict[int, float] = field(default_factory=dict)
    sequences: list[Sequence] = field(default_factory=list)


def drive(engine: Engine, load: list[tuple[float, int, int]], limits: EngineParameters | None = None) -> Run:
    """Submit (arrival_s, prompt, output) rows in order, and step until nothing is left."""
    run = Run()
    index: dict[Sequence, int] = {}

    def take(until_s: float) -> None:
        while (next_s := engine.next_s()) is not None and next_s <= until_s:
            if limits is not None:
                assert engine.running <= limits.max_num_seqs
                assert engine.kv_usage <= 1.0
            for due_s, sequence, count in engine.advance(next_s):
                run.tokens += [(due_s, index[sequence])] * count
                run.first_s.setdefault(index[sequence], due_s)

    for number, (arrival_s, prompt, output) in enumerate(load):
        take(arrival_s)
        sequence = Sequence(prompt, output)
        index[sequence] = number
        run.sequences.append(sequence)
        engine.submit(sequence, arrival_s)
    take(float("inf"))
    return run


@st.composite
def loads(draw: st.DrawFn) -> list[tuple[float, int, int]]:
    gaps = draw(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=25))
    rows = []
    now_s = 0.0
    for gap_s in gaps:
        now_s += gap_s
        rows.append((now_s, draw(st.integers(1, 60)), draw(st.integers(1, 60))))
    return rows


parameters = st.builds(
    EngineParameters,
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(6, 80),
    kv_cache_tokens=st.just(KV_TOKENS),
    block_tokens=st.sampled_from([1, 5]),
    jitter=st.sampled_from([0.0, 0.3]),
    tail_probability=st.sampled_from([0.0, 0.1]),
)


@given(loads(), parameters)
@settings(deadline=None, max_examples=examples(150))
def test_every_sequence_gets_its_tokens_within_the_limits(
    load: list[tuple[float, int, int]], limits: EngineParameters
) -> None:
    """Running sequences and KV slots stay within their limits, and in the end every token was given and nothing held."""
    engine = BatchEngine(limits, random.Random(1))
    run = drive(engine, load, limits)
    given_tokens = [sum(1 for _, index in run.tokens if index == number) for number in range(len(load))]
    assert given_tokens == [output for _, _, output in load]
    assert [due_s for due_s, _ in run.tokens] == sorted(due_s for due_s, _ in run.tokens)
    assert (engine.running, engine.waiting, engine.kv_usage) == (0, 0, 0.0)
    assert all(run.first_s[number] > arrival_s for number, (arrival_s, _, _) in enumerate(load))


@given(loads(), parameters)
@settings(deadline=None, max_examples=examples(80))
def test_sequences_are_admitted_first_come_first_served(
    load: list[tuple[float, int, int]], limits: EngineParameters
) -> None:
    """Admission follows arrival, with preemption or without."""
    run = drive(BatchEngine(limits, random.Random(1)), load)
    admitted = [sequence.admitted_s for sequence in run.sequences]
    assert None not in admitted
    assert admitted == sorted(time_s for time_s in admitted if time_s is not None)


@given(loads(), parameters, st.integers(0, 100))
@settings(deadline=None, max_examples=examples(50))
def test_the_same_seed_gives_the_same_schedule(
    load: list[tuple[float, int, int]], limits: EngineParameters, seed: int
) -> None:
    first, second = (drive(BatchEngine(limits, random.Random(seed)), load).tokens for _ in range(2))
    assert first == second


@given(loads(), parameters, st.data())
@settings(deadline=None, max_examples=examples(100))
def test_an_aborted_sequence_gets_no_further_token_and_frees_its_slots(
    load: list[tuple[float, int, int]], limits: EngineParameters, data: st.DataObject
) -> None:
    engine = BatchEngine(limits, random.Random(1))
    sequences = [Sequence(prompt, output) for _, prompt, output in load]
    for sequence in sequences:
        engine.submit(sequence, 0.0)
    for _ in range(data.draw(st.integers(0, 20))):
        if (next_s := engine.next_s()) is not None:
            engine.advance(next_s)
    aborted = data.draw(st.sets(st.sampled_from(sequences), min_size=1))
    for sequence in aborted:
        engine.abort(sequence)
        engine.abort(sequence)
    after = []
    while (next_s := engine.next_s()) is not None:
        after += [sequence for _, sequence, _ in engine.advance(next_s)]
    assert not aborted & set(after)
    assert all(sequence.generated == sequence.output_tokens for sequence in set(sequences) - aborted)
    assert (engine.running, engine.waiting, engine.kv_usage) == (0, 0, 0.0)


@given(loads(), parameters, st.integers(1, 3), st.integers(0, 3), st.data())
@settings(deadline=None, max_examples=examples(150))
def test_shared_blocks_change_when_tokens_come_and_not_which(
    load: list[tuple[float, int, int]], limits: EngineParameters, kinds: int, drafts: int, data: st.DataObject
) -> None:
    """Prompts of few kinds, drafts, aborts: within the limits, whole blocks are found, and nothing is held at the end."""
    limits = replace(limits, draft_tokens=drafts, max_num_batched_tokens=limits.max_num_batched_tokens * (1 + drafts))
    engine = BatchEngine(limits, random.Random(1))
    sequences = []
    given_tokens: Counter[Sequence] = Counter()

    def take(until_s: float) -> None:
        while (next_s := engine.next_s()) is not None and next_s <= until_s:
            assert engine.running <= limits.max_num_seqs
            assert 0.0 <= engine.kv_usage <= 1.0
            for _, sequence, count in engine.advance(next_s):
                assert 1 <= count <= engine.tokens_at_once
                given_tokens[sequence] += count

    for number, (arrival_s, prompt, output) in enumerate(load):
        take(arrival_s)
        kind = number % kinds
        content = Content([(kind, n) for n in range(prompt)], lambda token, kind=kind: (kind, "answer", token))
        sequences.append(Sequence(prompt, output, content))
        engine.submit(sequences[-1], arrival_s)
        if data.draw(st.integers(0, 9)) == 0:
            engine.abort(data.draw(st.sampled_from(sequences)))
    gone = {sequence for sequence in sequences if not sequence.live and sequence.generated < sequence.output_tokens}
    take(float("inf"))
    for sequence in sequences:
        assert sequence in gone or given_tokens[sequence] == sequence.output_tokens
        assert sequence.cached_tokens % limits.block_tokens == 0
        assert sequence.cached_tokens < sequence.prompt_tokens
    assert (engine.running, engine.waiting, engine.kv_usage) == (0, 0, 0.0)
    assert engine.counters.prefix_hits == sum(sequence.cached_tokens for sequence in sequences)


def test_a_full_cache_preempts_the_last_admitted_which_is_computed_anew() -> None:
    """Two sequences of 50 + 50 tokens in 120 slots: the younger yields, and still gets all its tokens."""
    engine = BatchEngine(EngineParameters(kv_cache_tokens=KV_TOKENS, block_tokens=1, jitter=0.0), random.Random(0))
    run = drive(engine, [(0.0, 50, 50), (0.0, 50, 50)])
    assert engine.counters.preemptions == 1
    assert [sequence.preempted for sequence in run.sequences] == [0, 1]
    assert [index for _, index in run.tokens].count(1) == 50


def test_a_step_lasts_as_long_as_its_parts() -> None:
    """Alone: prefill and a step, then steps; a second sequence makes each step longer by its share."""
    limits = EngineParameters(
        prefill_s_per_token=1e-3, prefill_fixed_s=0.1, step_s=0.01, per_sequence_s=0.002, jitter=0.0
    )
    alone = drive(BatchEngine(limits, random.Random(0)), [(1.0, 100, 3)])
    assert [due_s for due_s, _ in alone.tokens] == pytest.approx([1.212, 1.224, 1.236])
    both = drive(BatchEngine(limits, random.Random(0)), [(1.0, 100, 4), (1.215, 1, 2)])
    # the second waits for the step in progress to end at 1.224, and is prefilled in the next one
    assert [index for _, index in both.tokens] == [0, 0, 0, 1, 0, 1]
    assert [due_s for due_s, _ in both.tokens] == pytest.approx([1.212, 1.224, 1.339, 1.339, 1.353, 1.353])


def test_a_long_prompt_is_computed_in_chunks_while_others_decode() -> None:
    """A prompt of 100 tokens under a budget of 41 takes three steps, in each of which the other gets its token."""
    limits = EngineParameters(max_num_batched_tokens=41, max_num_seqs=4, jitter=0.0)
    run = drive(BatchEngine(limits, random.Random(0)), [(0.0, 1, 8), (0.001, 100, 1)])
    before = [index for due_s, index in run.tokens if due_s < run.first_s[1]]
    assert before == [0, 0, 0]


def test_late_calls_do_not_move_the_schedule() -> None:
    """Advancing once, far too late, gives the due times that advancing step by step gives."""
    load = [(0.0, 10, 20), (0.0, 30, 10)]
    prompt = drive(BatchEngine(EngineParameters(), random.Random(5)), load).tokens
    engine = BatchEngine(EngineParameters(), random.Random(5))
    for arrival_s, prompt_tokens, output in load:
        engine.submit(Sequence(prompt_tokens, output), arrival_s)
    assert [due_s for due_s, _, _ in engine.advance(1e9)] == [due_s for due_s, _ in prompt]


def test_jitter_keeps_the_mean_and_tails_lengthen() -> None:
    """10,000 steps: the mean within 1 % (some 3 standard errors of 0.3 %), the tail's longest step at most 100 times."""
    limits = EngineParameters(
        step_s=1.0, per_sequence_s=0.0, prefill_s_per_token=0.0, jitter=0.3, kv_cache_tokens=20_000
    )
    times_s = [due_s for due_s, _ in drive(BatchEngine(limits, random.Random(2)), [(0.0, 1, 10_000)]).tokens]
    assert times_s[-1] / 10_000 == pytest.approx(1.0, rel=0.01)
    tails = EngineParameters(
        step_s=1.0, per_sequence_s=0.0, prefill_s_per_token=0.0, jitter=0.0, tail_probability=0.1, tail_shape=0.5
    )
    times_s = [due_s for due_s, _ in drive(BatchEngine(tails, random.Random(2)), [(0.0, 1, 10_000)]).tokens]
    steps_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert max(steps_s) == pytest.approx(100.0)
    assert sum(step_s > 1.0 + 1e-6 for step_s in steps_s) == pytest.approx(1000, rel=0.15)


def test_what_can_never_fit_is_refused() -> None:
    engine = BatchEngine(EngineParameters(kv_cache_tokens=10, block_tokens=1), random.Random(0))
    with pytest.raises(ValueError, match=r"8 \+ 3 tokens do not fit in the KV cache of 10"):
        engine.submit(Sequence(8, 3), 0.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step_s": 0.0}, "must take time"),
        ({"jitter": -1.0}, "not negative"),
        ({"max_num_seqs": 0}, "at least one"),
        ({"max_num_batched_tokens": 100}, "--max-num-seqs 256"),
        ({"tail_probability": 1.5}, "in 0..1, got 1.5"),
        ({"tail_shape": 0.0}, "must be positive"),
        ({"block_tokens": 0}, "must have at least 1"),
        ({"draft_tokens": -1}, "0 tokens or more, got -1"),
        ({"draft_tokens": 9}, "--max-num-seqs 256 and --draft-tokens 9"),
        ({"draft_acceptance": 1.1}, r"in 0..1, got 1.1 \(--draft-acceptance\)"),
    ],
)
def test_impossible_engines_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineParameters(**wrong)  # type: ignore[arg-type]


@given(loads())
@settings(deadline=None, max_examples=examples(50))
def test_constant_streams_run_on_schedules_of_their_own(load: list[tuple[float, int, int]]) -> None:
    """Token k of a stream is due at arrival + ttft + k * itl exactly, and all come in order of time."""
    run = drive(ConstantEngine(0.1, 0.02), load)
    expected = {
        (arrival_s + 0.1 + k * 0.02, number)
        for number, (arrival_s, _, output) in enumerate(load)
        for k in range(output)
    }
    assert set(run.tokens) == expected
    assert len(run.tokens) == len(expected)
    times_s = [due_s for due_s, _ in run.tokens]
    # two ways to the same instant differ by rounding
    assert all(later - earlier > -1e-9 for earlier, later in pairwise(times_s))


def test_an_aborted_constant_stream_ends() -> None:
    engine = ConstantEngine(0.1, 0.02)
    gone, stays = Sequence(1, 5), Sequence(1, 5)
    engine.submit(gone, 0.0)
    engine.submit(stays, 0.0)
    assert engine.running == 2
    engine.advance(0.13)
    engine.abort(gone)
    assert [sequence for _, sequence, _ in engine.advance(10.0)] == [stays] * 3
    assert engine.next_s() is None
