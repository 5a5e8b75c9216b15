"""Totals: what became of many requests, folded batch by batch in constant memory."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from fineserve_shapes.measure import records
from fineserve_shapes.measure.errorkinds import ErrorKinds
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.outcome import FAILURES, OK, OUTCOMES, Outcome

MAX_LISTED = 1000
LATENCIES = ("e2e_latency", "ttft", "visible_ttft", "ttft_from_due", "tpot", "itl")
"""visible_ttft: to the first content that is no reasoning; the same as ttft where a model does not reason."""

Errors = Counter[tuple[str, str]]


class Totals:
    """Counts and distributions of requests that ended.

    Latencies and tokens are those of requests that ended `ok`; lag is that of every request that was sent. Two Totals
    add up to that of all their requests.
    """

    def __init__(self) -> None:
        self.latencies = {name: Histogram() for name in LATENCIES}
        self.lag = Histogram()
        self.held = Histogram()  # requests that were held back, by how long
        self.retried_requests: list[int] = []  # the first MAX_LISTED of them
        self.errors: Errors = Counter()
        self._kinds = ErrorKinds()
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.input_tokens = 0
        self.output_tokens = 0
        self.asked_output_tokens = 0
        self.told_input = self.told_input_tokens = self.asked_input_tokens = 0  # of answers whose usage says the input
        self.short = self.no_finish_reason = self.retried = self.counted_by_chunks = 0
        self.input_mismatch = 0
        self.good = self.good_output_tokens = 0
        self.first_sent_s = math.inf
        self.last_sent_s = -math.inf
        self.last_end_s = -math.inf
        self.sent = 0

    @property
    def completed(self) -> int:
        """How many ended `ok`."""
        return self.outcomes[Outcome.OK]

    def add(self, rows: records.Records, itl: Histogram | None = None, slo: Slo | None = None) -> None:
        """Fold in records, and the gaps between their chunks."""
        if itl is not None:
            self.latencies["itl"].merge(itl)
        if not len(rows):
            return
        for code, count in enumerate(np.bincount(rows["outcome"], minlength=len(OUTCOMES)).tolist()):
            self.outcomes[OUTCOMES[code]] += count
        self.lag.record(records.lag_s(rows))
        self.held.record(rows["held_s"][rows["held_s"] > 0])
        self.retried += int(rows["retried"].sum())
        self.retried_requests += rows["index"][rows["retried"]].tolist()
        del self.retried_requests[MAX_LISTED:]
        self.sent += len(rows)
        self.first_sent_s = min(self.first_sent_s, float(rows["sent_s"].min()))
        self.last_sent_s = max(self.last_sent_s, float(rows["sent_s"].max()))
        self.last_end_s = max(self.last_end_s, float(rows["end_s"].max()))
        if slo is not None:
            met = slo.met(rows)
            self.good += int(met.sum())
            self.good_output_tokens += int(np.maximum(rows["output_tokens"][met], 0).sum())
        ok = rows[rows["outcome"] == OK]
        self.latencies["e2e_latency"].record(records.e2e_s(ok))
        self.latencies["ttft"].record(records.ttft_s(ok))
        self.latencies["visible_ttft"].record(ok["first_visible_s"] - ok["sent_s"])
        self.latencies["ttft_from_due"].record(records.ttft_from_due_s(ok))
        self.latencies["tpot"].record(records.tpot_s(ok))
        self.short += int(ok["short"].sum())
        self.no_finish_reason += int(ok["no_finish_reason"].sum())
        self.counted_by_chunks += int((~ok["from_usage"]).sum())
        self.input_tokens += int(records.input_tokens(ok).sum())
        self.input_mismatch += int((records.input_tokens(ok) != ok["asked_input"]).sum())
        self.output_tokens += int(np.maximum(ok["output_tokens"], 0).sum())
        self.asked_output_tokens += int(ok["asked_output"].sum())
        told = ok[ok["input_tokens"] >= 0]
        self.told_input += len(told)
        self.told_input_tokens += int(told["input_tokens"].sum())
        self.asked_input_tokens += int(told["asked_input"].sum())

    def add_errors(self, errors: Errors) -> None:
        """Fold in counts by (outcome, text), those of failures, by the kinds that `ErrorKinds` tells apart."""
        for (outcome, text), count in errors.items():
            if outcome in FAILURES:
                self.errors[outcome, self._kinds.name(outcome, text)] += count

    def merge(self, other: Totals) -> None:
        """Add another's requests."""
        for name, histogram in other.latencies.items():
            self.latencies[name].merge(histogram)
        self.lag.merge(other.lag)
        self.held.merge(other.held)
        self.retried_requests = (self.retried_requests + other.retried_requests)[:MAX_LISTED]
        self.add_errors(other.errors)
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
        for name in ("input_tokens", "output_tokens", "asked_output_tokens", "short", "no_finish_reason", "told_input",
                     "told_input_tokens", "asked_input_tokens", "retried", "counted_by_chunks",
                     "input_mismatch", "good", "good_output_tokens", "sent"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_sent_s = min(self.first_sent_s, other.first_sent_s)
        self.last_sent_s = max(self.last_sent_s, other.last_sent_s)
        self.last_end_s = max(self.last_end_s, other.last_end_s)

    def figures(self) -> dict[str, dict[str, Any]]:
        """The distributions by name (those in LATENCIES, and `lag`), each as `distribution` has it."""
        return {name: distribution(histogram) for name, histogram in {**self.latencies, "lag": self.lag}.items()}


def distribution(histogram: Histogram) -> dict[str, Any]:
    """Plain values: `count`, and in milliseconds `mean_ms`, `std_ms`, `min_ms`, `p50_ms`, `p90_ms`, `p95_ms`, `p99_ms`,
    `p99.9_ms`, `max_ms`; None where there is nothing."""
    there = bool(histogram.count)
    return {
        "count": histogram.count,
        "mean_ms": ms(histogram.mean_s),
        "std_ms": ms(histogram.std_s),
        "min_ms": ms(histogram.minimum_s if there else None),
        **{f"p{q:g}_ms": ms(histogram.quantile(q / 100)) for q in (50, 90, 95, 99, 99.9)},
        "max_ms": ms(histogram.maximum_s if there else None),
    }


def ms(value_s: float | None) -> float | None:
    """Milliseconds, None for None."""
    return None if value_s is None else 1e3 * value_s
