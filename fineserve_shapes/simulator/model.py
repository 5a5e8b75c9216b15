"""The engine model: when a server with continuous batching emits which token. Times in, tokens out; no I/O, no clock.

Time is cut into steps, back to back while there is work. A step computes, for each running sequence in order of
admission, the tokens it still has to compute: one for a sequence that decodes, up to the rest of the step's budget of
tokens for one whose prompt is not yet done (chunked prefill). What is left of the budget admits waiting sequences,
first come first served. A step lasts

    (step_s + per_sequence_s * sequences + prefill_s_per_token * prompt_tokens + prefill_fixed_s * prompts_begun) * J

with J the jitter: log-normal of mean 1 and log deviation `jitter`, times, with probability `tail_probability`, a Pareto
factor of shape `tail_shape` (at least 1, cut at 100). At its end every sequence without anything left to compute has
one more token.

A sequence holds one KV slot per computed token. When the slots run out, the sequence admitted last is preempted: it
loses its slots, goes to the front of the queue, and later computes prompt and answer so far anew. The first of the
batch is never preempted and always fits alone, so there is always progress.
"""

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from fineserve_shapes.errors import InputError

LARGEST_TAIL_FACTOR = 100.0


class Sequence:
    """One answer as the engine sees it; compared by identity."""

    __slots__ = (
        "admitted_s",
        "answer",
        "arrived_s",
        "computed",
        "generated",
        "held",
        "live",
        "output_tokens",
        "preempted",
        "prompt_tokens",
    )

    def __init__(self, prompt_tokens: int, output_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.generated = 0
        self.computed = 0  # tokens whose KV is computed
        self.held = 0  # KV slots: those computed, and those being computed in the current step
        self.arrived_s = math.nan
        self.admitted_s: float | None = None  # first admission to the batch
        self.preempted = 0
        self.live = False  # submitted, and neither complete nor aborted
        self.answer: Any = None  # who waits for the tokens: the engine does not look at it


class Engine(Protocol):
    """What the server needs of an engine."""

    preemptions: int

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_usage(self) -> float: ...
    def submit(self, sequence: Sequence, now_s: float) -> None: ...
    def abort(self, sequence: Sequence) -> None: ...
    def next_s(self) -> float | None: ...
    def advance(self, now_s: float) -> list[tuple[float, Sequence]]: ...


@dataclass(frozen=True, slots=True)
class EngineParameters:
    """Costs and limits; the defaults look like a mid-size GPU with a model of some ten billion weights."""

    prefill_s_per_token: float = 1e-4
    prefill_fixed_s: float = 0.0
    step_s: float = 15e-3
    per_sequence_s: float = 50e-6
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_cache_tokens: int = 262_144
    jitter: float = 0.05
    tail_probability: float = 0.0
    tail_shape: float = 2.0

    def __post_init__(self) -> None:
        costs = (self.prefill_s_per_token, self.prefill_fixed_s, self.step_s, self.per_sequence_s, self.jitter)
        if not all(0.0 <= cost < math.inf for cost in costs):
            raise InputError(f"costs and jitter of the engine must be finite and not negative, got {self}")
        if not self.step_s > 0.0:
            # a step without duration would let time stand still while tokens flow
            raise InputError(f"a decode step must take time, got {1e3 * self.step_s} ms (--decode-step-ms)")
        if self.max_num_seqs < 1:
            raise InputError(f"at least one sequence must run, got {self.max_num_seqs} (--max-num-seqs)")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InputError(
                f"a step needs a token for each sequence: --max-num-batched-tokens {self.max_num_batched_tokens} "
                f"is below --max-num-seqs {self.max_num_seqs}"
            )
        if not 0.0 <= self.tail_probability <= 1.0:
            raise InputError(f"a probability lies in 0..1, got {self.tail_probability} (--tail-probability)")
        if not self.tail_shape > 0.0:
            raise InputError(f"the tail's shape must be positive, got {self.tail_shape} (--tail-shape)")


class BatchEngine:
    """Continuous batching as the module describes it.

    `submit` and `abort` are told when something happens, `advance` gives the tokens due until a time. The steps depend
    on those times and the seed alone, not on how late `advance` is called: a late caller gets past due times.
    """

    def __init__(self, parameters: EngineParameters, rng: random.Random) -> None:
        self.parameters = parameters
        self.preemptions = 0
        self._rng = rng
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._kv_used = 0
        self._step_end_s: float | None = None  # None while idle
        self._step: list[tuple[Sequence, int]] = []  # what the current step computes: sequence, tokens

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV slots held, 0 to 1."""
        return self._kv_used / self.parameters.kv_cache_tokens

    def submit(self, sequence: Sequence, now_s: float) -> None:
        """Queue a sequence; an idle engine begins a step with it at once.

        Raises
        ------
        ValueError
            If the sequence could never finish: it would need more KV slots than there are.
        """
        if sequence.prompt_tokens + sequence.output_tokens > self.parameters.kv_cache_tokens:
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
        """Forget a sequence, wherever it stands; its slots are free at once. Unknown ones are ignored."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._release(sequence)
            self._step = [(other, tokens) for other, tokens in self._step if other is not sequence]
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def next_s(self) -> float | None:
        """When the current step ends, or None while there is no work."""
        return self._step_end_s

    def advance(self, now_s: float) -> list[tuple[float, Sequence]]:
        """Tokens due until `now_s`, one tuple (due_s, sequence) each, in order of time."""
        tokens: list[tuple[float, Sequence]] = []
        while self._step_end_s is not None and self._step_end_s <= now_s:
            end_s = self._step_end_s
            finished = False
            for sequence, computed in self._step:
                sequence.computed += computed
                if sequence.computed == sequence.prompt_tokens + sequence.generated:
                    sequence.generated += 1
                    tokens.append((end_s, sequence))
                    if sequence.generated == sequence.output_tokens:
                        self._release(sequence)
                        finished = True
            if finished:
                self._running = [other for other in self._running if other.generated < other.output_tokens]
            self._begin_step(end_s)
        return tokens

    def _begin_step(self, start_s: float) -> None:
        parameters = self.parameters
        budget = parameters.max_num_batched_tokens
        prefill_tokens = prompts_begun = 0
        self._step = step = []
        running = self._running
        preempted = False
        position = 0
        while position < len(running) and budget:
            sequence = running[position]
            position += 1
            tokens = min(sequence.prompt_tokens + sequence.generated - sequence.computed, budget)
            while self._kv_used + tokens > parameters.kv_cache_tokens:
                victim = running.pop()
                self._preempt(victim)
                preempted = True
                if victim is sequence:
                    break
            else:
                self._hold(sequence, tokens)
                step.append((sequence, tokens))
                budget -= tokens
                if tokens > 1 or sequence.computed < sequence.prompt_tokens:
                    prefill_tokens += tokens
        # as in vLLM: who has just had to preempt admits no one, and a prompt is admitted only if all of it fits
        while not preempted and budget and self._waiting and len(running) < parameters.max_num_seqs:
            sequence = self._waiting[0]
            context = sequence.prompt_tokens + sequence.generated
            if self._kv_used + context > parameters.kv_cache_tokens:
                break
            self._waiting.popleft()
            running.append(sequence)
            if sequence.admitted_s is None:
                sequence.admitted_s = start_s
            tokens = min(context, budget)
            self._hold(sequence, tokens)
            step.append((sequence, tokens))
            budget -= tokens
            prefill_tokens += tokens
            prompts_begun += 1
        if not step:
            self._step_end_s = None
            return
        duration_s = (
            parameters.step_s
            + parameters.per_sequence_s * len(step)
            + parameters.prefill_s_per_token * prefill_tokens
            + parameters.prefill_fixed_s * prompts_begun
        )
        self._step_end_s = start_s + duration_s * self._jitter_factor()

    def _hold(self, sequence: Sequence, tokens: int) -> None:
        sequence.held += tokens
        self._kv_used += tokens

    def _release(self, sequence: Sequence) -> None:
        self._kv_used -= sequence.held
        sequence.held = 0

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.computed = 0
        sequence.preempted += 1
        self.preemptions += 1
        self._waiting.appendleft(sequence)

    def _jitter_factor(self) -> float:
        parameters = self.parameters
        factor = 1.0
        if parameters.jitter:
            factor = self._rng.lognormvariate(-0.5 * parameters.jitter**2, parameters.jitter)
        if parameters.tail_probability and self._rng.random() < parameters.tail_probability:
            factor *= min(self._rng.paretovariate(parameters.tail_shape), LARGEST_TAIL_FACTOR)
        return factor


class ConstantEngine:
    """Every stream on a schedule of its own: token k (from 0) at arrival + ttft_s + k * itl_s, whatever else runs.

    The ground truth of measurements: what is due when is known beforehand. Two queues suffice instead of a heap, since
    all first tokens have one delay and all later ones another, so both queues stay in order of time.
    """

    def __init__(self, ttft_s: float, itl_s: float) -> None:
        self.preemptions = 0
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        self._ttft_s = ttft_s
        self._itl_s = itl_s
        self._first: deque[tuple[float, Sequence]] = deque()
        self._later: deque[tuple[float, Sequence]] = deque()

    def submit(self, sequence: Sequence, now_s: float) -> None:
        sequence.arrived_s = sequence.admitted_s = now_s
        sequence.live = True
        self.running += 1
        self._first.append((now_s + self._ttft_s, sequence))

    def abort(self, sequence: Sequence) -> None:
        if sequence.live:
            sequence.live = False  # its entry stays queued and is dropped when due
            self.running -= 1

    def next_s(self) -> float | None:
        queue = self._next_queue()
        return queue[0][0] if queue else None

    def advance(self, now_s: float) -> list[tuple[float, Sequence]]:
        tokens: list[tuple[float, Sequence]] = []
        ttft_s, itl_s, later = self._ttft_s, self._itl_s, self._later
        while (queue := self._next_queue()) and queue[0][0] <= now_s:
            token = queue.popleft()
            sequence = token[1]
            if not sequence.live:
                continue
            tokens.append(token)
            generated = sequence.generated = sequence.generated + 1
            if generated == sequence.output_tokens:
                sequence.live = False
                self.running -= 1
            else:
                # from the arrival, not from the last token: rounding does not add up
                later.append((sequence.arrived_s + ttft_s + generated * itl_s, sequence))
        return tokens

    def _next_queue(self) -> deque[tuple[float, Sequence]]:
        first, later = self._first, self._later
        return later if not first or (later and later[0][0] < first[0][0]) else first
