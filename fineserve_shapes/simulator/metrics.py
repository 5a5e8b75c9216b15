"""Counters and histograms under vLLM's names, in Prometheus' text form."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import sub

from fineserve_shapes.simulator.engine import Counters

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
# fmt: off
_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
           160.0, 640.0, 2560.0)
_ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_REQUEST_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
              960.0, 1920.0, 7680.0)
# fmt: on
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


class ExposedHistogram:
    """Counts per bucket; bounds are inclusive, as Prometheus' `le`."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_gaps(self, times: Sequence[float]) -> None:
        """Observe the differences of neighbours, all at once."""
        gaps = sorted(map(sub, times[1:], times))
        below = 0
        for bucket, bound in enumerate(self.bounds):
            if below == len(gaps):
                break
            upto = bisect_right(gaps, bound, below)
            self.counts[bucket] += upto - below
            below = upto
        self.counts[-1] += len(gaps) - below
        self.total += times[-1] - times[0]

    def lines(self, name: str, labels: str) -> list[str]:
        cumulative = 0
        lines = []
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            cumulative += count
            lines.append(f'{name}_bucket{{engine="0",le="{bound}",{labels}}} {float(cumulative)}')
        lines.append(f'{name}_count{{engine="0",{labels}}} {float(cumulative)}')
        lines.append(f'{name}_sum{{engine="0",{labels}}} {self.total}')
        return lines


class Metrics:
    """What is counted of one model's answers while the server runs."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(FINISHED_REASONS, 0)
        self.ttft = ExposedHistogram(_TTFT_S)
        self.itl = ExposedHistogram(_ITL_S)
        self.tpot = ExposedHistogram(_ITL_S)
        self.e2e = ExposedHistogram(_REQUEST_S)
        self.queue = ExposedHistogram(_REQUEST_S)
        self.prefill = ExposedHistogram(_REQUEST_S)
        self.decode = ExposedHistogram(_REQUEST_S)


@dataclass(frozen=True, slots=True)
class Gauged:
    """One model at the moment of a scrape."""

    model: str
    metrics: Metrics
    counters: Counters
    running: int
    waiting: int
    kv_usage: float


_HISTOGRAMS: tuple[tuple[str, Callable[[Metrics], ExposedHistogram], str], ...] = (
    ("time_to_first_token_seconds", lambda metrics: metrics.ttft, "time to first token"),
    ("inter_token_latency_seconds", lambda metrics: metrics.itl, "inter-token latency"),
    (
        "request_time_per_output_token_seconds",
        lambda metrics: metrics.tpot,
        "time_per_output_token_seconds per request",
    ),
    ("e2e_request_latency_seconds", lambda metrics: metrics.e2e, "e2e request latency"),
    ("request_queue_time_seconds", lambda metrics: metrics.queue, "time spent in WAITING phase for request"),
    ("request_prefill_time_seconds", lambda metrics: metrics.prefill, "time spent in PREFILL phase for request"),
    ("request_decode_time_seconds", lambda metrics: metrics.decode, "time spent in DECODE phase for request"),
)
_VALUES: tuple[tuple[str, str, Callable[[Gauged], float], str], ...] = (
    ("num_requests_running", "gauge", lambda now: now.running, "Number of requests in model execution batches."),
    ("num_requests_waiting", "gauge", lambda now: now.waiting, "Number of requests waiting to be processed."),
    ("kv_cache_usage_perc", "gauge", lambda now: now.kv_usage, "KV-cache usage. 1 means 100 percent usage."),
    ("prefix_cache_queries_total", "counter", lambda now: now.counters.prefix_queries,
     "Prefix cache queries, in terms of number of queried tokens."),
    ("prefix_cache_hits_total", "counter", lambda now: now.counters.prefix_hits,
     "Prefix cache hits, in terms of number of cached tokens."),
    ("num_preemptions_total", "counter", lambda now: now.counters.preemptions,
     "Cumulative number of preemption from the engine."),
    ("prompt_tokens_total", "counter", lambda now: now.metrics.prompt_tokens, "Number of prefill tokens processed."),
    ("prompt_tokens_cached_total", "counter", lambda now: now.metrics.cached_tokens,
     "Number of cached prompt tokens (local + external)."),
    ("generation_tokens_total", "counter", lambda now: now.metrics.generation_tokens,
     "Number of generation tokens processed."),
)  # fmt: skip
_DRAFTS: tuple[tuple[str, Callable[[Counters], float], str], ...] = (
    ("spec_decode_num_drafts_total", lambda counters: counters.drafts, "Number of spec decoding drafts."),
    ("spec_decode_num_draft_tokens_total", lambda counters: counters.draft_tokens, "Number of draft tokens."),
    ("spec_decode_num_accepted_tokens_total", lambda counters: counters.accepted_tokens, "Number of accepted tokens."),
)


def render(models: Sequence[Gauged]) -> str:
    """The body of `/metrics`."""
    lines: list[str] = []
    labelled = [(now, f'model_name="{_escaped(now.model)}"') for now in models]

    def family(name: str, kind: str, description: str) -> None:
        lines.extend((f"# HELP vllm:{name} {description}", f"# TYPE vllm:{name} {kind}"))

    for name, kind, value, description in _VALUES:
        family(name, kind, description)
        lines += [f'vllm:{name}{{engine="0",{labels}}} {float(value(now))}' for now, labels in labelled]
    family("request_success_total", "counter", "Count of successfully processed requests.")
    for now, labels in labelled:
        for reason, count in now.metrics.finished.items():
            lines.append(f'vllm:request_success_total{{engine="0",finished_reason="{reason}",{labels}}} {float(count)}')
    drafting = [(now.counters, labels) for now, labels in labelled if now.counters.accepted_at]
    if drafting:
        for name, count_of, description in _DRAFTS:
            family(name, "counter", description)
            lines += [
                f'vllm:{name}{{engine="0",{labels}}} {float(count_of(counters))}' for counters, labels in drafting
            ]
        name = "spec_decode_num_accepted_tokens_per_pos_total"
        family(name, "counter", "Accepted tokens per draft position.")
        for counters, labels in drafting:
            for place, count in enumerate(counters.accepted_at):
                lines.append(f'vllm:{name}{{engine="0",{labels},position="{place}"}} {float(count)}')
    for name, histogram, what in _HISTOGRAMS:
        family(name, "histogram", f"Histogram of {what} in seconds.")
        for now, labels in labelled:
            lines += histogram(now.metrics).lines(f"vllm:{name}", labels)
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
