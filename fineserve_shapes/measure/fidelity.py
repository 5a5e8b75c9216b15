"""Fidelity: whether the load that was delivered is the load that was asked for, and whether the clocks can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.delivery import Delivery
from fineserve_shapes.measure.histogram import Histogram
from fineserve_shapes.measure.totals import Totals, distribution, ms


@dataclass(frozen=True, slots=True)
class Limits:
    """What a valid run keeps within.

    lag_s, lag_share: lag p99 is at most the larger of lag_s and lag_share of the median TTFT. uncertainty_s: of each
    worker's clock.
    """

    lag_s: float = 0.010
    lag_share: float = 0.05
    uncertainty_s: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.lag_share <= 1:
            raise InputError(
                f"the share of the TTFT must lie between 0 and 1, got {self.lag_share:g} (--max-lag-share)"
            )


@dataclass(slots=True)
class Process:
    """A process as the master knows it: requests in flight, its clock and its loop's delay.

    offset_s: the master's clock less this process's. uncertainty_s: how far off that was at most, the worst of the run.
    tokens_come: output tokens that have come to it by stream, of answers that have not ended as well, if it can tell.
    """

    in_flight: dict[int, int] = field(default_factory=dict)  # by stream
    tokens_come: dict[int, int] = field(default_factory=dict)
    offset_s: float | None = None
    uncertainty_s: float | None = None
    loop_delay: Histogram = field(default_factory=Histogram)
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
) -> dict[str, Any]:
    """The fidelity of a run, final or so far, as plain values.

    `verdict`: "valid", "invalid", or None where nothing was due; `reasons`: a line for each rule that is broken.
    `limits`: `max_lag_ms` (the bound in force for this run), `max_uncertainty_ms`.
    `span_s`, `asked`, `delivered`, `told_late`: see `Delivery.result`.
    `due`: rows due so far; `due_unsent`, `due_unknown`: those of them that did not leave, or may not have.
    `lag_p50_ms`, `lag_p99_ms`, `lag_max_ms`, `lag_mean_ms`; `lag_p99_of_ttft`: lag p99 over the median TTFT.
    `sent`, `sent_rate_rps`: of requests that ended, the warm-up's left out.
    `held`: requests that waited for others in flight to end (--max-concurrency), which is no lag; `held_p50_ms`,
    `held_p99_ms`, `held_max_ms`: for how long.
    `workers`: by name `in_flight`, `offset_s` (the master's clock less the worker's), `uncertainty_s` (the worst of the
    run), `sent`, and the delay of the event loop: `loop_delay_mean_ms`, `loop_delay_p50_ms`, `loop_delay_p99_ms`,
    `loop_delay_max_ms`; `master`: the same.
    """
    lag_p99_s, ttft_s = totals.lag.quantile(0.99), totals.latencies["ttft"].quantile(0.5)
    max_lag_s = max(limits.lag_s, limits.lag_share * (ttft_s or 0.0))
    reasons = []
    if accounts.unsent:
        reasons.append(f"{accounts.unsent:,} requests were due and not sent")
    if accounts.unknown:
        reasons.append(f"{accounts.unknown:,} requests may not have been sent: their worker fell silent")
    if lag_p99_s is not None and lag_p99_s > max_lag_s:
        reasons.append(f"lag p99 is {1e3 * lag_p99_s:.3g} ms, above {1e3 * max_lag_s:.3g} ms")
    for name, process in workers.items():
        uncertainty_s = process.uncertainty_s
        if uncertainty_s is not None and not uncertainty_s <= limits.uncertainty_s:
            reasons.append(f"the clock of {name} is uncertain by {1e3 * uncertainty_s:.3g} ms,"
                           f" above {1e3 * limits.uncertainty_s:.3g} ms")  # fmt: skip
    span_s = totals.last_sent_s - totals.first_sent_s
    due = delivery.due
    return {
        "verdict": ("invalid" if reasons else "valid") if due else None,
        "reasons": reasons,
        "limits": {"max_lag_ms": 1e3 * max_lag_s, "max_uncertainty_ms": 1e3 * limits.uncertainty_s},
        **delivery.result(),
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
        "workers": {name: process.as_dict() for name, process in workers.items()},
        "master": None if master is None else master.as_dict(),
    }
