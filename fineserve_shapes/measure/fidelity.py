"""Fidelity: whether the load that was delivered is the load that was asked for, and what was measured the server's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.delivery import Delivery
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.measure.totals import Totals, distribution, ms
from fineserve_shapes.rounding import rounded

SPREAD = (
    "send fewer requests from each process, start more workers (--processes), or keep other programs off their cores"
)
STRAGGLERS = 1
"""So many values above a bound on p99 are passed over, however few there are: in a short run one is no p99."""
SHARED_READS = 3
"""Likewise of reads that held several tokens."""
MEDIAN_SHARE = 0.2
"""The bound on the median of an error, as a share of the bound on its p99."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a valid run keeps within.

    lag_s, lag_share: lag p99 is at most the larger of lag_s and lag_share of the mean gap between requests.
    rate, gap_cv, dispersion: how far these may be from what was asked, as shares of it. A dispersion below 1 counts as 1
    there; a CV too, and the bound is on its square, by which queues go. uncertainty_s: of each worker's clock.
    ttft_s: by how much the time of a first token may be off at p99; at the median MEDIAN_SHARE of it. shared: the share
    of reads that may hold several tokens of a stream which had waited. lengths: how far the mean input and output
    lengths may be from the plan's, as shares of them.
    """

    lag_s: float = 0.010
    lag_share: float = 0.05
    rate: float = 0.05
    gap_cv: float = 0.05
    dispersion: float = 0.10
    uncertainty_s: float = 0.001
    ttft_s: float = 0.005
    shared: float = 0.01
    lengths: float = 0.10

    def __post_init__(self) -> None:
        for flag, share in (
            ("--max-lag-share", self.lag_share),
            ("--max-rate-error", self.rate),
            ("--max-cv-error", self.gap_cv),
            ("--max-dispersion-error", self.dispersion),
            ("--max-length-error", self.lengths),
        ):
            if not 0 <= share <= 1:
                raise InputError(f"{flag} must lie between 0 and 1 (0 % and 100 %), got {share:g}")

    @classmethod
    def widest(cls, limits: Sequence[Limits]) -> Limits:
        """What several streams keep within together: the widest of each of their bounds."""
        return cls(**{bound.name: max(getattr(one, bound.name) for one in limits) for bound in fields(cls)})


@dataclass(slots=True)
class Process:
    """A process as the master knows it: requests in flight, its clock, its loop's delay and its reads.

    offset_s: the master's clock less this process's. uncertainty_s: how far off that was at most, the worst of the run.
    tokens_come: output tokens that have come to it by stream, of answers that have not ended as well, if it can tell.
    stamped: whether its times of tokens are the kernel's; else they are those at which it came to read.
    """

    in_flight: Mapping[int, int] = field(default_factory=dict)  # by stream
    tokens_come: Mapping[int, int] = field(default_factory=dict)
    offset_s: float | None = None
    uncertainty_s: float | None = None
    loop_delay: Histogram = field(default_factory=Histogram)
    reads: Reads = field(default_factory=Reads)
    stamped: bool = False
    sent: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        delay = distribution(self.loop_delay)
        known = self.uncertainty_s if self.uncertainty_s is not None and math.isfinite(self.uncertainty_s) else None
        return {
            "in_flight": sum(self.in_flight.values()),
            "offset_s": self.offset_s,
            "uncertainty_s": known,
            "sent": self.sent,
            **{f"loop_delay_{name}": delay[name] for name in ("mean_ms", "p50_ms", "p99_ms", "max_ms")},
            "reads": self.reads.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Accounts:
    """How many rows were due without being known to have left.

    unsent: no worker sent them. unknown: their worker fell silent before it said what became of them.
    """

    unsent: int = 0
    unknown: int = 0


def judge(
    delivery: Delivery,
    totals: Totals,
    accounts: Accounts,
    workers: Mapping[str, Process],
    limits: Limits,
    master: Process | None = None,
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """The fidelity of a run, or of one of its streams, final or so far, as plain values.

    also: further reasons against it: those of its streams or, for a stream, those of the run's processes.

    `verdict`: "valid", "invalid", or None where nothing was due; `reasons`: a line for each rule that is broken, with
    what to do. Rate, gap CV and dispersion are judged once the run has ended, and not where --max-concurrency held
    requests back, for then another load was asked for.
    `limits`: `max_lag_ms` (the bound in force for this run), `max_uncertainty_ms`, `max_ttft_error_ms`, and the shares
    `max_rate_error`, `max_cv_error`, `max_dispersion_error`, `max_length_error`.
    `span_s`, `asked`, `delivered`, `told_late`: see `Delivery.result`.
    `due`: rows due so far; `due_unsent`, `due_unknown`: those of them that did not leave, or may not have.
    `lag_p50_ms`, `lag_p99_ms`, `lag_max_ms`, `lag_mean_ms`; `lag_p99_of_ttft`: lag p99 over the median TTFT.
    `sent`, `sent_rate_rps`: of requests that ended, the warm-up's left out.
    `held`: requests that waited for others in flight to end (--max-concurrency), which is no lag; `held_p50_ms`,
    `held_p99_ms`, `held_max_ms`: for how long.
    `reads`: how late tokens were read, and how far their times can be off (see `Reads.as_dict`), over all workers.
    `workers`: by name `in_flight`, `offset_s` (the master's clock less the worker's), `uncertainty_s` (the worst of the
    run), `sent`, `reads`, and the delay of the event loop: `loop_delay_mean_ms`, `loop_delay_p50_ms`,
    `loop_delay_p99_ms`, `loop_delay_max_ms`; `master`: the same.
    """
    lag_p99_s, ttft_s = totals.lag.quantile(0.99), totals.latencies["ttft"].quantile(0.5)
    load = delivery.result()
    rate_rps = load["asked"]["rate_rps"]
    max_lag_s = max(limits.lag_s, limits.lag_share / rate_rps if rate_rps else 0.0)
    reasons = [
        *_unsent(accounts),
        *([f"lag p99 is {_ms(lag_p99_s)}, above {_ms(max_lag_s)}: {SPREAD}"]
          if lag_p99_s is not None and _exceeds(totals.lag, 0.99, max_lag_s) else []),
        *(_other_load(load, limits) if delivery.finished and not totals.held.count else []),
        *of_processes(workers, totals, limits),
        *_lengths(totals, limits),
        *also,
    ]  # fmt: skip
    span_s = totals.last_sent_s - totals.first_sent_s
    due = delivery.due
    return {
        "verdict": ("invalid" if reasons else "valid") if due else None,
        "reasons": reasons,
        "limits": {
            "max_lag_ms": 1e3 * max_lag_s,
            "max_uncertainty_ms": 1e3 * limits.uncertainty_s,
            "max_ttft_error_ms": 1e3 * limits.ttft_s,
            "max_rate_error": limits.rate,
            "max_cv_error": limits.gap_cv,
            "max_dispersion_error": limits.dispersion,
            "max_length_error": limits.lengths,
        },
        **load,
        "due": due,
        "due_unsent": accounts.unsent,
        "due_unknown": accounts.unknown,
        "lag_p50_ms": ms(totals.lag.quantile(0.5)),
        "lag_p99_ms": ms(lag_p99_s),
        "lag_max_ms": ms(totals.lag.maximum_s if totals.lag.count else None),
        "lag_mean_ms": ms(totals.lag.mean_s),
        "lag_p99_of_ttft": lag_p99_s / ttft_s if lag_p99_s is not None and ttft_s else None,
        "held": totals.held.count,
        "held_p50_ms": ms(totals.held.quantile(0.5)),
        "held_p99_ms": ms(totals.held.quantile(0.99)),
        "held_max_ms": ms(totals.held.maximum_s if totals.held.count else None),
        "sent": totals.sent,
        "sent_rate_rps": (totals.sent - 1) / span_s if span_s > 0 else None,
        "reads": _reads(workers).as_dict(),
        "workers": {name: process.as_dict() for name, process in workers.items()},
        "master": None if master is None else master.as_dict(),
    }


def of_processes(workers: Mapping[str, Process], totals: Totals, limits: Limits) -> list[str]:
    """What is wrong with the times that the processes measured, whatever the stream."""
    return [*_late_reads(_reads(workers), totals, limits), *_unstamped(workers, limits), *_clocks(workers, limits)]


def _reads(workers: Mapping[str, Process]) -> Reads:
    reads = Reads()
    for process in workers.values():
        reads.merge(process.reads)
    return reads


def _unsent(accounts: Accounts) -> Iterator[str]:
    if accounts.unsent:
        yield f"{accounts.unsent:,} requests were due and not sent: let the run go on to its end, or keep its workers up"
    if accounts.unknown:
        yield f"{accounts.unknown:,} requests may not have been sent: their worker fell silent (see its log)"


def _other_load(load: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    """Where the load that left is not that of the plan, by its rate or its burstiness."""
    asked, delivered = load["asked"], load["delivered"]
    rate_rps, sent_rps = asked["rate_rps"], delivered["rate_rps"]
    if rate_rps and abs(sent_rps / rate_rps - 1) > limits.rate:
        yield _differs("rate", rate_rps, sent_rps)
    cv, sent_cv = asked["gap_cv"], delivered["gap_cv"]
    # queues go by its square; in that an even load with some jitter is close to an even one
    if cv is not None and sent_cv is not None:
        allowed = ((1 + limits.gap_cv) ** 2 - 1) * max(cv**2, 1.0)
        if abs(sent_cv**2 - cv**2) > allowed:
            yield _differs("gap CV", cv, sent_cv)
    for width, wanted in asked["dispersion"].items():
        sent = delivered["dispersion"][width]
        if wanted is not None and sent is not None and abs(sent - wanted) > limits.dispersion * max(wanted, 1.0):
            yield _differs(f"dispersion at {width} s", wanted, sent)


def _differs(name: str, asked: float, sent: float) -> str:
    return f"the {name} of the load is {rounded(sent)} where {rounded(asked)} was asked for: {SPREAD}"


def _late_reads(reads: Reads, totals: Totals, limits: Limits) -> Iterator[str]:
    """Where tokens waited so long to be read that their times are not their own."""
    for q, name, limit_s in ((0.5, "median", MEDIAN_SHARE * limits.ttft_s), (0.99, "p99", limits.ttft_s)):
        if _exceeds(reads.first_unsure, q, limit_s):
            unsure_s = reads.first_unsure.quantile(q)
            yield (f"first tokens were read late, together with later ones: their times can be off by {_ms(unsure_s)}"
                   f" ({name}), above {_ms(limit_s)}: {SPREAD}")  # fmt: skip
            return
    gap_s = totals.latencies["tpot"].quantile(0.1)  # a usual short one; gaps between tokens read together are no guide
    share = None if gap_s is None else reads.unsure_share(gap_s / 2)
    if share is not None and share > limits.shared and share * reads.delay.count > SHARED_READS:
        yield (f"{share:.1%} of the reads held several tokens of a stream that may have waited for more than half a token"
               f" gap ({_ms(gap_s)}), above {limits.shared:.0%}, so that ITL is not the server's: {SPREAD}")  # fmt: skip


def _exceeds(values: Histogram, q: float, limit_s: float) -> bool:
    """Whether a quantile lies above a bound, and by more than a straggler."""
    return values.above(limit_s) > max(STRAGGLERS, (1 - q) * values.count)


def _unstamped(workers: Mapping[str, Process], limits: Limits) -> Iterator[str]:
    """Where times are those of reads, what delays the reader is in them."""
    for name, process in workers.items():
        late_s = process.loop_delay.quantile(0.99)
        if not process.stamped and late_s is not None and late_s > limits.ttft_s:
            yield (f"the event loop of {name} was late by {_ms(late_s)} at p99, above {_ms(limits.ttft_s)}, and its times"
                   f" of tokens are not the kernel's: {SPREAD}")  # fmt: skip


def _clocks(workers: Mapping[str, Process], limits: Limits) -> Iterator[str]:
    for name, process in workers.items():
        uncertainty_s = process.uncertainty_s
        if uncertainty_s is not None and not uncertainty_s <= limits.uncertainty_s:
            yield (f"the clock of {name} is uncertain by {_ms(uncertainty_s)}, above {_ms(limits.uncertainty_s)}:"
                   " bring it closer to the master, or say what will do (--max-clock-uncertainty)")  # fmt: skip


def _lengths(totals: Totals, limits: Limits) -> Iterator[str]:
    """Where prompts or answers had other lengths than those of the plan."""
    for what, tokens, asked, requests, advice in (
        ("input", totals.told_input_tokens, totals.asked_input_tokens, totals.told_input,
         "a tokenizer makes lengths exact (--tokenizer)"),
        ("output", totals.output_tokens, totals.asked_output_tokens, totals.completed,
         "answers end early unless the server ignores the end of sequence (--backend vllm)"),
    ):  # fmt: skip
        if asked and abs(tokens / asked - 1) > limits.lengths:
            got, wanted = (rounded(each / requests, 4) for each in (tokens, asked))
            yield f"the mean {what} length is {got} tokens where {wanted} were asked for: {advice}"


def _ms(value_s: float | None) -> str:
    return "?" if value_s is None else f"{rounded(1e3 * value_s)} ms"
