"""Counters and histograms under vLLM's names, in Prometheus' text form."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import sub

from fineserve_shapes.simulator.model import Engine

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
# fmt: off
_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
           160.0, 640.0, 2560.0)
_ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_REQUEST_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
              960.0, 1920.0, 7680.0)
# fmt: on
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
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
            upto = bisect_right(gaps, bound)
            self.counts[bucket] += upto - below
            below = upto
        self.counts[-1] += len(gaps) - below
        self.total += sum(gaps)

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
    """What the server counts while it runs."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(FINISHED_REASONS, 0)
        self.ttft = Histogram(_TTFT_S)
        self.itl = Histogram(_ITL_S)
        self.e2e = Histogram(_REQUEST_S)
        self.queue = Histogram(_REQUEST_S)

    def render(self, engine: Engine, model: str) -> str:
        """The body of `/metrics`."""
        escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        labels = f'model_name="{escaped}"'
        lines: list[str] = []

        def family(name: str, kind: str, description: str) -> None:
            lines.extend((f"# HELP vllm:{name} {description}", f"# TYPE vllm:{name} {kind}"))

        def value(name: str, kind: str, description: str, number: float) -> None:
            family(name, kind, description)
            lines.append(f'vllm:{name}{{engine="0",{labels}}} {float(number)}')

        value("num_requests_running", "gauge", "Number of requests in model execution batches.", engine.running)
        value("num_requests_waiting", "gauge", "Number of requests waiting to be processed.", engine.waiting)
        value("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", engine.kv_usage)
        preemptions = "Cumulative number of preemption from the engine."
        value("num_preemptions_total", "counter", preemptions, engine.preemptions)
        value("prompt_tokens_total", "counter", "Number of prefill tokens processed.", self.prompt_tokens)
        generation = "Number of generation tokens processed."
        value("generation_tokens_total", "counter", generation, self.generation_tokens)
        family("request_success_total", "counter", "Count of successfully processed requests.")
        for reason, count in self.finished.items():
            lines.append(f'vllm:request_success_total{{engine="0",finished_reason="{reason}",{labels}}} {float(count)}')
        for name, histogram, what in (
            ("time_to_first_token_seconds", self.ttft, "time to first token"),
            ("inter_token_latency_seconds", self.itl, "inter-token latency"),
            ("e2e_request_latency_seconds", self.e2e, "e2e request latency"),
            ("request_queue_time_seconds", self.queue, "time spent in WAITING phase for request"),
        ):
            family(name, "histogram", f"Histogram of {what} in seconds.")
            lines.extend(histogram.lines(f"vllm:{name}", labels))
        return "\n".join(lines) + "\n"
