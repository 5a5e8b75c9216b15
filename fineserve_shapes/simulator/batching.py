"""The engine model: when a server with continuous batching emits which token. Times in, tokens out; no I/O, no clock.

Time is cut into steps, back to back while there is work. A step computes, for each running sequence in order of
admission, the tokens it still has to compute: one for a sequence that decodes, up to the rest of the step's budget of
tokens for one whose prompt is not yet done (chunked prefill). What is left of the budget admits waiting sequences,
first come first served. A step lasts

    (step_s + per_sequence_s * (sequences + drafted) + context_s_per_token * context
        + prefill_s_per_token * prompt_tokens + prefill_fixed_s * prompts_begun + draft_s * drafting) * J

with `context` the tokens whose KV the step reads, of all its sequences together; `drafting` 1 if anything was drafted;
and J the jitter: log-normal of mean 1 and log deviation `jitter`, times, with probability `tail_probability`, a Pareto
factor of shape `tail_shape` (at least 1, cut at 100). At its end every sequence without anything left to compute has
one more token.

With speculative decoding a sequence that decodes computes up to `draft_tokens` drafted tokens beside its own. Each is
accepted with probability `draft_acceptance` if all before it were; the accepted ones and one more come at once.

KV lives in blocks (see `kvcache`). A prompt is admitted only if all of it fits; what the prefix cache knows of it need
not be computed. When blocks run out, the sequence admitted last is preempted: it loses its blocks, goes to the front of
the queue, and later computes prompt and answer so far anew, but for what the cache still knows. The first of the batch
is never preempted and always fits alone, so there is always progress.
"""

import math
import random
from collections import deque
from dataclasses import dataclass

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.engine import Counters, Sequence, Token
from fineserve_shapes.simulator.kvcache import KvCache

LARGEST_TAIL_FACTOR = 100.0


@dataclass(frozen=True, slots=True)
class EngineParameters:
    """Costs and limits; the defaults look like a mid-size GPU with a model of some ten billion weights."""

    prefill_s_per_token: float = 1e-4
    prefill_fixed_s: float = 0.0
    step_s: float = 15e-3
    per_sequence_s: float = 50e-6
    context_s_per_token: float = 0.0
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_cache_tokens: int = 262_144
    block_tokens: int = 16
    prefix_caching: bool = True
    draft_tokens: int = 0
    draft_acceptance: float = 0.7
    draft_s: float = 0.0
    jitter: float = 0.05
    tail_probability: float = 0.0
    tail_shape: float = 2.0

    def __post_init__(self) -> None:
        costs = (
            self.prefill_s_per_token, self.prefill_fixed_s, self.step_s, self.per_sequence_s, self.context_s_per_token,
            self.draft_s, self.jitter,
        )  # fmt: skip
        if not all(0.0 <= cost < math.inf for cost in costs):
            raise InputError(f"costs and jitter of the engine must be finite and not negative, got {self}")
        if not self.step_s > 0.0:
            # a step without duration would let time stand still while tokens flow
            raise InputError(f"a decode step must take time, got {1e3 * self.step_s} ms (--decode-step-ms)")
        if self.max_num_seqs < 1:
            raise InputError(f"at least one sequence must run, got {self.max_num_seqs} (--max-num-seqs)")
        if self.draft_tokens < 0:
            raise InputError(f"drafts have 0 tokens or more, got {self.draft_tokens} (--draft-tokens)")
        if self.max_num_batched_tokens < self.max_num_seqs * (1 + self.draft_tokens):
            drafts = f" and --draft-tokens {self.draft_tokens}" if self.draft_tokens else ""
            raise InputError(
                f"a step needs a token for each sequence: --max-num-batched-tokens {self.max_num_batched_tokens} "
                f"is below --max-num-seqs {self.max_num_seqs}{drafts}"
            )
        if not 1 <= self.block_tokens <= self.kv_cache_tokens:
            raise InputError(
                f"a block must have at least 1 and at most --kv-cache-tokens {self.kv_cache_tokens} tokens, "
                f"got {self.block_tokens} (--block-size)"
            )
        for flag, probability in (
            ("--tail-probability", self.tail_probability),
            ("--draft-acceptance", self.draft_acceptance),
        ):
            if not 0.0 <= probability <= 1.0:
                raise InputError(f"a probability lies in 0..1, got {probability} ({flag})")
        if not self.tail_shape > 0.0:
            raise InputError(f"the tail's shape must be positive, got {self.tail_shape} (--tail-shape)")


@dataclass(slots=True)
class _Step:
    """What a step computes: sequence, tokens of its own, drafted ones; and what its duration depends on."""

    work: list[tuple[Sequence, int, int]]
    budget: int
    prefill_tokens: int = 0
    prompts_begun: int = 0
    drafted: int = 0
    context: int = 0

    def add(self, sequence: Sequence, tokens: int, drafted: int) -> None:
        self.work.append((sequence, tokens, drafted))
        self.budget -= tokens + drafted
        self.drafted += drafted
        self.context += sequence.computed


class BatchEngine:
    """Continuous batching as the module describes it.

    `submit` and `abort` are told when something happens, `advance` gives the tokens due until a time. The steps depend
    on those times and the seed alone, not on how late `advance` is called: a late caller gets past due times.
    """

    def __init__(self, parameters: EngineParameters, rng: random.Random) -> None:
        self.parameters = parameters
        self.tokens_at_once = 1 + parameters.draft_tokens
        self.counters = Counters()
        self.counters.accepted_at = [0] * parameters.draft_tokens
        self._rng = rng
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        blocks = parameters.kv_cache_tokens // parameters.block_tokens
        self._cache = KvCache(blocks, parameters.block_tokens, sharing=parameters.prefix_caching)
        self._step_end_s: float | None = None  # None while idle
        self._work: list[tuple[Sequence, int, int]] = []  # what the current step computes

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        return self._cache.usage

    def submit(self, sequence: Sequence, now_s: float) -> None:
        tokens = sequence.prompt_tokens + sequence.output_tokens
        if self._cache.blocks_for(tokens) > self._cache.blocks:
            raise ValueError(
                f"{sequence.prompt_tokens} + {sequence.output_tokens} tokens do not fit in the KV cache "
                f"of {self.parameters.kv_cache_tokens} (--kv-cache-tokens)"
            )
        sequence.arrived_s = now_s
        sequence.live = True
        self._waiting.append(sequence)
        if self._step_end_s is None:
            self._begin_step(now_s)

    def abort(self, sequence: Sequence) -> None:
        if not sequence.live:
            return
        sequence.live = False
        if sequence.running:
            sequence.running = False
            self._running.remove(sequence)
            self._cache.release(sequence.held)
            self._work = [part for part in self._work if part[0] is not sequence]
        else:
            self._waiting.remove(sequence)

    def forget(self) -> None:
        self._cache.forget()

    def next_s(self) -> float | None:
        """When the current step ends, or None while there is no work."""
        return self._step_end_s

    def advance(self, now_s: float) -> list[Token]:
        tokens: list[Token] = []
        while self._step_end_s is not None and self._step_end_s <= now_s:
            end_s = self._step_end_s
            finished = False
            for sequence, computed, drafted in self._work:
                sequence.computed += computed
                if sequence.computed == sequence.prompt_tokens + sequence.generated:
                    accepted = self._accepted(drafted) if drafted else 0
                    sequence.computed += accepted
                    sequence.generated += 1 + accepted
                    tokens.append((end_s, sequence, 1 + accepted))
                    if sequence.generated == sequence.output_tokens:
                        sequence.live = sequence.running = False
                        finished = True
                self._cache.computed(sequence.held, sequence.computed)
                if not sequence.live:
                    self._cache.release(sequence.held)
            if finished:
                self._running = [other for other in self._running if other.live]
            self._begin_step(end_s)
        return tokens

    def _begin_step(self, start_s: float) -> None:
        step = _Step([], self.parameters.max_num_batched_tokens)
        preempted = self._continue_running(step)
        # as in vLLM: a step that has preempted admits no request
        if not preempted:
            self._admit_waiting(step, start_s)
        self._work = step.work
        self._step_end_s = start_s + self._duration_s(step) if step.work else None

    def _continue_running(self, step: _Step) -> bool:
        """Let running sequences compute what the budget allows; whether one of them was preempted for it."""
        running, cache, draft_tokens = self._running, self._cache, self.parameters.draft_tokens
        preempted = False
        position = 0
        while position < len(running) and step.budget:
            sequence = running[position]
            position += 1
            tokens = min(sequence.prompt_tokens + sequence.generated - sequence.computed, step.budget)
            decodes = sequence.generated > 0 and tokens == 1
            drafted = 0
            if draft_tokens and decodes:
                drafted = min(draft_tokens, sequence.output_tokens - sequence.generated - 1, step.budget - 1)
            while not cache.extend(sequence.held, sequence.computed + tokens + drafted):
                victim = running.pop()
                self._preempt(victim)
                preempted = True
                if victim is sequence:
                    break
            else:
                step.add(sequence, tokens, drafted)
                if not decodes:
                    step.prefill_tokens += tokens
        return preempted

    def _admit_waiting(self, step: _Step, start_s: float) -> None:
        running, cache = self._running, self._cache
        while step.budget and self._waiting and len(running) < self.parameters.max_num_seqs:
            sequence = self._waiting[0]
            context = sequence.prompt_tokens + sequence.generated
            found = cache.admit(sequence.held, context)
            if found is None:
                break
            self._waiting.popleft()
            running.append(sequence)
            sequence.running = True
            sequence.computed = found
            if sequence.admitted_s is None:
                sequence.admitted_s = start_s
                sequence.cached_tokens = found
                self.counters.prefix_queries += context
                self.counters.prefix_hits += found
            # all of it is held from now on: a later request must not take what this one was promised
            cache.extend(sequence.held, context)
            tokens = min(context - found, step.budget)
            step.add(sequence, tokens, 0)
            step.prefill_tokens += tokens
            step.prompts_begun += 1

    def _duration_s(self, step: _Step) -> float:
        parameters = self.parameters
        duration_s = (
            parameters.step_s
            + parameters.per_sequence_s * (len(step.work) + step.drafted)
            + parameters.context_s_per_token * step.context
            + parameters.prefill_s_per_token * step.prefill_tokens
            + parameters.prefill_fixed_s * step.prompts_begun
            + parameters.draft_s * (step.drafted > 0)
        )
        return duration_s * self._jitter_factor()

    def _accepted(self, drafted: int) -> int:
        """How many of the drafted tokens are accepted: all until the first that is not."""
        accepted = 0
        while accepted < drafted and self._rng.random() < self.parameters.draft_acceptance:
            self.counters.accepted_at[accepted] += 1
            accepted += 1
        self.counters.drafts += 1
        self.counters.draft_tokens += drafted
        return accepted

    def _preempt(self, sequence: Sequence) -> None:
        self._cache.release(sequence.held)
        sequence.running = False
        sequence.computed = 0
        sequence.preempted += 1
        self.counters.preemptions += 1
        self._waiting.appendleft(sequence)

    def _jitter_factor(self) -> float:
        parameters = self.parameters
        factor = 1.0
        if parameters.jitter:
            factor = self._rng.lognormvariate(-0.5 * parameters.jitter**2, parameters.jitter)
        if parameters.tail_probability and self._rng.random() < parameters.tail_probability:
            factor *= min(self._rng.paretovariate(parameters.tail_shape), LARGEST_TAIL_FACTOR)
        return factor
