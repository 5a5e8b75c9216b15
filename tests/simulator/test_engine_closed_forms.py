"""The engine against what theory says of it: within 2 %, where chance is involved; exactly, where it is not."""

import random

import numpy as np
import pytest

from fineserve_shapes.simulator.batching import BatchEngine, EngineParameters
from fineserve_shapes.simulator.engine import Sequence, Token
from fineserve_shapes.simulator.kvcache import Content

WITHIN = 0.02


def run(engine: BatchEngine, load: list[tuple[float, Sequence]]) -> list[Token]:
    """Everything the engine emits for sequences at their times, until nothing is left."""
    tokens: list[Token] = []
    for arrival_s, sequence in load:
        tokens += engine.advance(arrival_s)
        engine.submit(sequence, arrival_s)
    while (next_s := engine.next_s()) is not None:
        tokens += engine.advance(next_s)
    return tokens


def prompt(*tokens: object) -> Content:
    return Content(list(tokens), lambda token: ("answer", token))


def test_throughput_at_saturation_is_batch_over_step() -> None:
    """N sequences at once, mean context c: N / (step + N * (per_sequence + c * per_context)) tokens/s."""
    limits = EngineParameters(
        step_s=0.01, per_sequence_s=1e-4, context_s_per_token=2e-7, prefill_s_per_token=0.0, max_num_seqs=64, jitter=0.1
    )
    rng = random.Random(1)
    lengths = [rng.randint(100, 300) for _ in range(1500)]
    tokens = run(BatchEngine(limits, random.Random(2)), [(0.0, Sequence(200, length)) for length in lengths])
    # the middle, in which all 64 places are taken
    middle = tokens[len(tokens) // 4 : len(tokens) // 2]
    rate = len(middle) / (middle[-1][0] - middle[0][0])
    # a token of an answer of length L is drawn in proportion to L: the mean context is 200 + E[L^2] / (2 E[L])
    context = 200 + np.mean(np.square(lengths)) / (2 * np.mean(lengths))
    step_s = 0.01 + 64 * (1e-4 + context * 2e-7)
    assert rate == pytest.approx(64 / step_s, rel=WITHIN)


def test_ttft_at_low_load_is_prefill_and_the_rest_of_a_step() -> None:
    """The prompt's cost and a step; and half a step more for those that meet one under way, with its probability."""
    limits = EngineParameters(step_s=0.02, per_sequence_s=0.0, prefill_s_per_token=1e-4, jitter=0.0)
    rng = np.random.default_rng(3)
    rate_rps, output, count = 0.5, 10, 6000
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, count))
    sequences = [Sequence(300, output) for _ in arrivals]
    first: dict[Sequence, float] = {}
    for due_s, sequence, _ in run(BatchEngine(limits, random.Random(0)), list(zip(arrivals, sequences, strict=True))):
        first.setdefault(sequence, due_s)
    ttft_s = np.array([first[sequence] - sequence.arrived_s for sequence in sequences])
    prefill_s, step_s = 0.05, 0.02
    assert np.median(ttft_s) == pytest.approx(prefill_s, rel=WITHIN)
    # by renewal: an arrival meets a step of length d with probability rate * d, and waits d / 2 for its end
    waits_s = rate_rps * (prefill_s**2 + (output - 1) * step_s**2) / 2
    assert ttft_s.mean() == pytest.approx(prefill_s + waits_s, rel=WITHIN)


@pytest.mark.parametrize("block", [1, 16])
def test_the_hit_rate_of_a_known_mix_of_prefixes(block: int) -> None:
    """K prefixes of P tokens in turn, tails of their own: all but the first of each prefix find its P tokens."""
    limits = EngineParameters(block_tokens=block, kv_cache_tokens=160_000, jitter=0.0)
    engine = BatchEngine(limits, random.Random(0))
    kinds, prefix, tail, count = 7, 320, 80, 400
    load = []
    for number in range(count):
        tokens = [("prefix", number % kinds, n) for n in range(prefix)] + [("tail", number, n) for n in range(tail)]
        load.append((float(number), Sequence(prefix + tail, 5, prompt(*tokens))))
    run(engine, load)
    assert engine.counters.prefix_queries == count * (prefix + tail)
    assert engine.counters.prefix_hits == (count - kinds) * prefix
    assert [sequence.cached_tokens for _, sequence in load] == [0] * kinds + [prefix] * (count - kinds)


def test_a_known_prompt_costs_its_last_block_alone() -> None:
    """Of 64 tokens that are all known 48 are found, in blocks of 16: one token at least must be computed."""
    limits = EngineParameters(prefill_s_per_token=1e-3, step_s=0.01, per_sequence_s=0.0, jitter=0.0)
    engine = BatchEngine(limits, random.Random(0))
    first, again = (Sequence(64, 1, prompt(*range(64))) for _ in range(2))
    (_, _, _), (due_s, _, _) = run(engine, [(0.0, first), (1.0, again)])
    assert again.cached_tokens == 48
    assert due_s == pytest.approx(1.0 + 0.01 + 16e-3)


def test_a_conversation_finds_its_own_answers() -> None:
    """The next turn's prompt begins with the last one's prompt and answer, and finds all their full blocks."""
    engine = BatchEngine(EngineParameters(jitter=0.0), random.Random(0))
    turn = [("word", n) for n in range(20)]
    run(engine, [(0.0, Sequence(20, 45, prompt(*turn)))])
    turn += [("answer", n) for n in range(1, 46)]
    longer = Sequence(len(turn) + 10, 1, prompt(*turn, *range(10)))
    run(engine, [(10.0, longer)])
    # the last token of an answer is never computed: 64 of 65 tokens are, in 4 blocks
    assert longer.cached_tokens == 64


def test_the_least_recently_used_blocks_go_first() -> None:
    """Three prompts of 4 blocks in a cache of 12: the one used again is still there when a fourth has come."""
    limits = EngineParameters(block_tokens=4, kv_cache_tokens=48, jitter=0.0)
    engine = BatchEngine(limits, random.Random(0))

    def ask(at_s: float, kind: str) -> int:
        sequence = Sequence(16, 1, prompt(*((kind, n) for n in range(16))))
        run(engine, [(at_s, sequence)])
        return sequence.cached_tokens

    assert [ask(1.0 * n, kind) for n, kind in enumerate("abc")] == [0, 0, 0]
    assert ask(3.0, "a") == 12
    assert ask(4.0, "d") == 0
    assert ask(5.0, "a") == 12
    assert ask(6.0, "b") < 12


def test_without_prefix_caching_nothing_is_found() -> None:
    engine = BatchEngine(EngineParameters(prefix_caching=False, jitter=0.0), random.Random(0))
    run(engine, [(float(n), Sequence(64, 1, prompt(*range(64)))) for n in range(3)])
    assert engine.counters.prefix_hits == 0


@pytest.mark.parametrize(("sequences", "room"), [(15, 10), (12, 10), (20, 10), (10, 10)])
def test_preemptions_of_an_overfull_cache(sequences: int, room: int) -> None:
    """N equal sequences at once, room for M to their ends: N - M are preempted, once each, and come after (N <= 2 M)."""
    length, output = 16, 160
    limits = EngineParameters(kv_cache_tokens=room * (length + output), jitter=0.0, prefix_caching=False)
    engine = BatchEngine(limits, random.Random(0))
    load = [(0.0, Sequence(length, output)) for _ in range(sequences)]
    tokens = run(engine, load)
    assert engine.counters.preemptions == pytest.approx(sequences - room, rel=WITHIN)
    assert len(tokens) == sequences * output


@pytest.mark.parametrize(("draft", "acceptance"), [(1, 0.8), (3, 0.7), (5, 0.5), (4, 1.0), (4, 0.0)])
def test_tokens_per_step_of_speculative_decoding(draft: int, acceptance: float) -> None:
    """(1 - p^(k + 1)) / (1 - p) tokens a step with k drafted ones, each accepted with probability p after the others."""
    limits = EngineParameters(draft_tokens=draft, draft_acceptance=acceptance, jitter=0.0, max_num_seqs=8)
    engine = BatchEngine(limits, random.Random(4))
    tokens = run(engine, [(0.0, Sequence(1, 20_000))])
    expected = sum(acceptance**place for place in range(draft + 1))
    assert 20_000 / len(tokens) == pytest.approx(expected, rel=WITHIN)
    counters = engine.counters
    assert sum(count for _, _, count in tokens) == 20_000
    assert counters.accepted_tokens == 20_000 - len(tokens)
    assert counters.draft_tokens <= draft * counters.drafts
    assert counters.accepted_at == sorted(counters.accepted_at, reverse=True)
