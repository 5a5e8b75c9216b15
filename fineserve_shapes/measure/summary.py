"""Summary: what a run amounts to, from records that came in while it went on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from fineserve_shapes.measure import records
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.ledger import OUTCOMES, Ledger, failed
from fineserve_shapes.measure.outbox import MAX_ERROR_KINDS, OTHER_ERRORS, Measurements

OK = OUTCOMES.index("ok")
MAX_LISTED = 1000
LATENCIES = ("e2e_latency", "ttft", "ttft_from_due", "tpot", "itl")


class Totals:
    """Everything that a summary needs, folded batch by batch in constant memory.

    Latencies are those of requests that ended `ok`; lag is that of every request that was sent.
    """

    def __init__(self) -> None:
        self.latencies = {name: Histogram() for name in LATENCIES}
        self.lag = Histogram()
        self.held = Histogram()  # requests that were held back, by how long
        self.server_ttft_difference = Histogram()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.input_tokens = 0
        self.output_tokens = 0
        self.asked_output_tokens = 0
        self.retried_requests: list[int] = []  # the first MAX_LISTED of them
        self.completed = self.short = self.retried = self.counted_by_chunks = 0
        self.input_mismatch = 0
        self.last_end_s = 0.0
        self.first_sent_s = math.inf
        self.last_sent_s = -math.inf
        self.sent = 0

    def add(self, measured: Measurements) -> None:
        """Fold in what a worker measured."""
        rows = measured.records
        ok = rows[rows["outcome"] == OK]
        self.latencies["e2e_latency"].record(records.e2e_s(ok))
        self.latencies["ttft"].record(records.ttft_s(ok))
        self.latencies["ttft_from_due"].record(records.ttft_from_due_s(ok))
        self.latencies["tpot"].record(records.tpot_s(ok))
        self.latencies["itl"].merge(measured.itl)
        self.lag.record(records.lag_s(rows))
        self.held.record(rows["held_s"][rows["held_s"] > 0])
        self.completed += len(ok)
        self.short += int(ok["short"].sum())
        self.retried += int(rows["retried"].sum())
        self.retried_requests += rows["index"][rows["retried"]].tolist()
        del self.retried_requests[MAX_LISTED:]
        self.counted_by_chunks += int((~ok["from_usage"]).sum())
        told = ok["input_tokens"] >= 0
        self.input_tokens += int(np.where(told, ok["input_tokens"], ok["asked_input"]).sum())
        self.input_mismatch += int((told & (ok["input_tokens"] != ok["asked_input"])).sum())
        self.output_tokens += int(np.maximum(ok["output_tokens"], 0).sum())
        self.asked_output_tokens += int(ok["asked_output"].sum())
        if len(rows):
            self.sent += len(rows)
            self.last_end_s = max(self.last_end_s, float(rows["end_s"].max()))
            self.first_sent_s = min(self.first_sent_s, float(rows["sent_s"].min()))
            self.last_sent_s = max(self.last_sent_s, float(rows["sent_s"].max()))
        for error, count in measured.errors.items():
            known = error in self.errors or len(self.errors) < MAX_ERROR_KINDS
            self.errors[error if known else (error[0], OTHER_ERRORS)] += count


def summarise(
    totals: Totals, ledger: Ledger, plan: Mapping[str, Any], run: Mapping[str, Any], workers: Mapping[str, Any]
) -> dict[str, Any]:
    """The summary as one JSON object.

    The names of the FineServe generator come first (`duration`, `completed`, `request_throughput`, `mean_ttft_ms`, ...),
    then `plan`, `ledger` and `fidelity`. Durations under those names are in milliseconds as the names say; `duration` is
    in seconds, from the start of the run to the end of its last request. None stands for what was not measured.
    """
    duration_s = totals.last_end_s
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    summary: dict[str, Any] = {
        **run,
        "duration": duration_s,
        "completed": totals.completed,
        "failed": failed(ledger),
        "short": totals.short,
        "retried": totals.retried,
        "retried_requests": sorted(totals.retried_requests),
        "total_input_tokens": totals.input_tokens,
        "total_output_tokens": totals.output_tokens,
        "request_throughput": totals.completed * per_s,
        "input_throughput": totals.input_tokens * per_s,
        "output_throughput": totals.output_tokens * per_s,
        "concurrency": totals.latencies["e2e_latency"].sum_s * per_s,
    }
    for name, histogram in totals.latencies.items():
        summary |= {
            f"mean_{name}_ms": _ms(histogram.mean_s),
            f"median_{name}_ms": _ms(histogram.quantile(0.5)),
            f"std_{name}_ms": _ms(histogram.std_s),
            **{f"p{q}_{name}_ms": _ms(histogram.quantile(q / 100)) for q in (90, 95, 99)},
        }
    summary["tokens"] = {
        "asked_output": totals.asked_output_tokens,
        "counted_by_chunks": totals.counted_by_chunks,
        "input_differs_from_plan": totals.input_mismatch,
    }
    summary["plan"] = dict(plan)
    summary["ledger"] = ledger.as_dict()
    span_s = totals.last_sent_s - totals.first_sent_s
    summary["fidelity"] = {
        "lag_p50_ms": _ms(totals.lag.quantile(0.5)),
        "lag_p99_ms": _ms(totals.lag.quantile(0.99)),
        "lag_max_ms": _ms(totals.lag.maximum_s if totals.lag.count else None),
        "lag_mean_ms": _ms(totals.lag.mean_s),
        "held": totals.held.count,
        "held_p50_ms": _ms(totals.held.quantile(0.5)),
        "held_p99_ms": _ms(totals.held.quantile(0.99)),
        "held_max_ms": _ms(totals.held.maximum_s if totals.held.count else None),
        "sent": totals.sent,
        "sent_rate_rps": (totals.sent - 1) / span_s if span_s > 0 else None,
        "workers": dict(workers),
    }
    summary["errors"] = [
        {"outcome": outcome, "error": text, "requests": count} for (outcome, text), count in totals.errors.most_common()
    ]
    return summary


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else 1e3 * value_s
