"""Prometheus: the figures of the run that is shown, under names by its conventions. It reads what is counted anyway."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.totals import Totals
from fineserve_shapes.webui.feed import Feed, Watched

# fmt: off
_SHORT_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
            0.75, 1.0, 2.5, 5.0, 10.0)
_FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
            80.0, 160.0, 640.0, 2560.0)
_WHOLE_S = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
            480.0, 960.0, 1920.0)
# fmt: on
HISTOGRAMS = (
    ("ttft", "time from sending a request to its first token", _FIRST_S),
    ("ttft_from_due", "time from when a request was due to its first token", _FIRST_S),
    ("tpot", "time per output token after the first", _TOKEN_S),
    ("itl", "time between chunks that carry tokens", _TOKEN_S),
    ("e2e_latency", "time from sending a request to the end of its answer", _WHOLE_S),
    ("lag", "time by which a request was sent later than due", _SHORT_S),
)
"""Names under `fineserve_..._seconds`, what they are, and the bounds of their buckets: vLLM's where it has the same."""


class RunCollector(Collector):
    """Reads the run at every scrape. A new run starts every counter at 0, which Prometheus takes for a restart."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def collect(self) -> Iterator[Metric]:
        """All families; none before the first run."""
        run = self._feed.run
        if run is None:
            return
        yield from self._counts(run)
        yield from self._state(run)
        for name, what, bounds_s in HISTOGRAMS:
            family = HistogramMetricFamily(f"fineserve_{name}_seconds", f"{what}, of the run so far", labels=["stream"])
            for stream, part in run.tally.streams.items():
                histogram = part.totals.lag if name == "lag" else part.totals.latencies[name]
                family.add_metric([stream], buckets(histogram, bounds_s), histogram.sum_s)
            yield family

    def _counts(self, run: Watched) -> Iterator[Metric]:
        streams = [(name, stream.totals) for name, stream in run.tally.streams.items()]
        requests = CounterMetricFamily(
            "fineserve_requests", "requests that were sent and have ended", labels=["stream", "outcome"]
        )
        for stream, totals in streams:
            for outcome, count in totals.outcomes.items():
                if outcome not in ("unsent", "unknown"):  # those have no record: see fineserve_ledger_requests
                    requests.add_metric([stream, outcome], count)
        yield requests
        for name, what in (
            ("input_tokens", "prompt tokens of requests that ended ok"),
            ("output_tokens", "output tokens of requests that ended ok"),
            ("short", "requests that ended ok before the asked length"),
            ("no_finish_reason", "requests that ended ok without a finish_reason"),
            ("retried", "requests that were sent again on a fresh connection"),
            ("good", "requests that met every SLO"),
        ):
            if name == "good" and run.tally.slo is None:
                continue
            family = CounterMetricFamily(f"fineserve_{_NAMES.get(name, name)}", what, labels=["stream"])
            for stream, totals in streams:
                family.add_metric([stream], _count(totals, name))
            yield family

    def _state(self, run: Watched) -> Iterator[Metric]:
        info = GaugeMetricFamily("fineserve_run_info", "the run that is shown", labels=["run"])
        info.add_metric([run.id], 1)
        yield info
        ledger = GaugeMetricFamily(
            "fineserve_ledger_requests", "planned requests so far, by outcome; open ones have none", labels=["outcome"]
        )
        for outcome, count in run.book.ledger.as_dict().items():
            if outcome != "planned":
                ledger.add_metric([outcome], count)
        ledger.add_metric(["open"], run.book.ledger.open)
        yield ledger
        flight = GaugeMetricFamily("fineserve_requests_in_flight", "requests sent and not ended", labels=["stream"])
        in_flight = self._feed.in_flight()
        for stream in dict.fromkeys((*run.tally.streams, *in_flight)):
            flight.add_metric([stream], in_flight.get(stream, 0))
        yield flight
        yield from self._processes(run)
        verdict = run.fidelity()["verdict"]
        if verdict is not None:
            yield GaugeMetricFamily(
                "fineserve_fidelity_valid", "1 where the load delivered is the load asked for", value=verdict == "valid"
            )

    def _processes(self, run: Watched) -> Iterator[Metric]:
        """What could spoil the figures, by process."""
        delay = HistogramMetricFamily(
            "fineserve_read_delay_seconds", "time by which tokens were read after they came", labels=["worker"]
        )
        unsure = HistogramMetricFamily(
            "fineserve_first_token_error_seconds", "by how much late reading may put TTFT off", labels=["worker"]
        )
        shared = CounterMetricFamily(
            "fineserve_shared_reads", "reads that held several tokens of a stream", labels=["worker"]
        )
        for worker, process in sorted(run.workers.items()):
            reads = process.reads
            delay.add_metric([worker], buckets(reads.delay, _SHORT_S), reads.delay.sum_s)
            unsure.add_metric([worker], buckets(reads.first_unsure, _SHORT_S), reads.first_unsure.sum_s)
            shared.add_metric([worker], reads.shared_unsure.count)
        yield delay
        yield unsure
        yield shared


_NAMES = {
    "short": "short_requests",
    "no_finish_reason": "no_finish_reason_requests",
    "retried": "retried_requests",
    "good": "good_requests",
}


def _count(totals: Totals, name: str) -> int:
    value: int = getattr(totals, name)
    return value


def buckets(histogram: Histogram, bounds_s: tuple[float, ...]) -> list[tuple[str, float]]:
    """Cumulative counts at bounds, as Prometheus wants them: exact but for a bound's last percent."""
    up_to = [(f"{bound_s:g}", float(histogram.count - histogram.above(bound_s))) for bound_s in bounds_s]
    return [*up_to, ("+Inf", float(histogram.count))]
