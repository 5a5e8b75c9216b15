"""Certified tails: a latency below which a quantile lies with 99 % confidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.measure import records
from fineserve_shapes.measure.blocks import Blocks
from fineserve_shapes.measure.dependence import FALSE_ALARMS, dependent, effective
from fineserve_shapes.measure.histogram import edges_s
from fineserve_shapes.measure.quantiles import binomial_quantile
from fineserve_shapes.measure.shares import upper
from fineserve_shapes.outcome import OK

CONFIDENCE = 0.99
QUANTILES = {"p90": 0.9, "p99": 0.99, "p99.9": 0.999}

Method = Literal["binomial", "blocks"]

_LATENCIES: dict[str, Callable[[records.Records], FloatArray]] = {
    "ttft": records.ttft_s,
    "ttft_from_due": records.ttft_from_due_s,
    "tpot": records.tpot_s,
    "e2e_latency": records.e2e_s,
}
_LOOKED_AT = (1, 2, 5, 10)
"""Dependence is looked for at the quantile itself and where so many times as many requests exceed."""
_MOST_ABOVE = 0.5


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on a quantile.

    value_s: in seconds, rounded up to the border of a bucket of the histogram (1 % wide) or to the largest duration that
    there was; None: too few requests. method: `binomial` where requests were taken as independent, else `blocks`.
    effective: how many independent requests they are worth.
    """

    value_s: float | None
    method: Method
    effective: float


def bound(blocks: Blocks, q: float, confidence: float = CONFIDENCE) -> Bound:
    """The smallest duration of which the requests show, with this confidence, that a share of q does not exceed it.

    Notes
    -----
    Independent requests: with X of n above u, the share above u is, with this confidence, at most the U for which
    P(Binomial(n, U) <= X) = 1 - confidence. The bound is the smallest u with U <= 1 - q, which is an order statistic and
    exact for any distribution (David and Nagaraja, Order Statistics, 2003, section 7.1). The smallest sample for which
    there is one has q^n <= 1 - confidence: 44, 459 and 4,603 requests for p90, p99 and p99.9 at 99 %.

    Where requests that exceed come in heaps (`dependence.dependent`, at most 10 % false alarms), n and X are scaled down
    to the effective sample size (`dependence.effective`) first. Both are looked at where 1, 2, 5 and 10 times the share
    1 - q exceeds, since in the tail itself there are few to look at.
    """
    buckets = blocks.buckets
    n = int(buckets.sum())
    above = n - np.cumsum(buckets)
    totals = blocks.totals
    method: Method = "binomial"
    worth = float(n)
    marks = [blocks.above(bucket) for bucket in _looked_at(above, n, q)]
    if any(dependent(marked, totals, FALSE_ALARMS / len(marks)) for marked in marks):
        method, worth = "blocks", min(effective(marked, totals, confidence) for marked in marks)
    if not n:
        return Bound(None, method, 0.0)
    certain = upper(above * (worth / n), worth, confidence) <= 1 - q
    if not certain.any():
        return Bound(None, method, worth)
    found = int(np.argmax(certain))
    value_s = blocks.maximum_s if not above[found] else float(edges_s(np.array([found]))[0])
    return Bound(value_s, method, worth)


def order_statistic(requests: int, q: float, confidence: float = CONFIDENCE) -> int | None:
    """Which of so many independent durations, in ascending order from 1, bounds the quantile; None: too few.

    The smallest k with P(Binomial(n, q) <= k - 1) >= confidence.
    """
    rank = binomial_quantile(confidence, requests, q) + 1
    return rank if rank <= requests else None


def _looked_at(above: IntArray, n: int, q: float) -> list[int]:
    """The buckets at whose upper border about those shares exceed, without those that tell nothing."""
    telling = np.flatnonzero((above > 0) & (above < n))
    wanted = [share for times in _LOOKED_AT if (share := times * (1 - q)) <= _MOST_ABOVE + 1e-9]
    if not len(telling):
        return []
    return sorted({int(telling[np.argmin(np.abs(above[telling] - share * n))]) for share in wanted})


class Tails:
    """What is kept of a run's requests for bounds on its tails: blocks of each latency, by the time of due.

    Batches may come in any order, and two Tails add up to that of all their requests. Memory: at most 4.2 MB.
    """

    def __init__(self) -> None:
        self._blocks = {name: Blocks() for name in _LATENCIES}

    def add(self, rows: records.Records) -> None:
        """Fold in records; those that ended `ok` count."""
        ok = rows[rows["outcome"] == OK]
        for name, latency_s in _LATENCIES.items():
            self._blocks[name].record(ok["due_s"], latency_s(ok))

    def merge(self, other: Tails) -> None:
        """Add another's requests."""
        for name, blocks in other._blocks.items():
            self._blocks[name].merge(blocks)

    def bounds(self) -> dict[str, dict[str, Bound]]:
        """By latency (`ttft`, `ttft_from_due`, `tpot`, `e2e_latency`) and quantile (`p90`, `p99`, `p99.9`)."""
        return {
            name: {title: bound(blocks, q) for title, q in QUANTILES.items()} for name, blocks in self._blocks.items()
        }

    def figures(self) -> dict[str, Any]:
        """The bounds as plain values, for a summary: `p99_ttft_bound_ms` and so on (None: too few requests), and `bounds`:
        the confidence, and by latency and quantile the method and how many independent requests there were."""
        found = self.bounds()
        return {
            **{
                f"{title}_{name}_bound_ms": None if one.value_s is None else 1e3 * one.value_s
                for name, by_quantile in found.items()
                for title, one in by_quantile.items()
            },
            "bounds": {
                "confidence": CONFIDENCE,
                **{
                    name: {
                        title: {"method": one.method, "effective_requests": one.effective}
                        for title, one in by_quantile.items()
                    }
                    for name, by_quantile in found.items()
                },
            },
        }
