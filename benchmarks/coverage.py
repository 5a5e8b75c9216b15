"""Certified bounds against known quantiles: how often a bound lies below the truth, of 10,000 runs of each workload.

`make coverage` (RUNS=10000). A bound at 99 % may be wrong in 1 of 100 runs. `classic` is the binomial bound, which takes
requests as independent. The last workload shows where certainty ends: its bad state comes five times in a run on average,
and a run that met it once or never cannot know of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from benchmarks.workloads import Workload, autoregressive, queue, regimes
from fineserve_shapes.measure.blocks import Blocks
from fineserve_shapes.measure.certified import CONFIDENCE, bound, order_statistic

RUNS = 10_000
CASES = (
    ("independent", autoregressive(0.0), 5_000, 0.99),
    ("independent, p90", autoregressive(0.0), 500, 0.9),
    ("independent, p99.9", autoregressive(0.0), 20_000, 0.999),
    ("AR(1), 0.15", autoregressive(0.15), 5_000, 0.99),
    ("AR(1), 0.5", autoregressive(0.5), 5_000, 0.99),
    ("AR(1), 0.9", autoregressive(0.9), 20_000, 0.99),
    ("queue, load 0.5", queue(0.5), 10_000, 0.99),
    ("queue, load 0.7", queue(0.7), 20_000, 0.99),
    ("queue, load 0.7, p90", queue(0.7), 5_000, 0.9),
    ("bursty queue, load 0.6, CV 2", queue(0.6, 2.0), 40_000, 0.99),
    ("bad state, 2 %, 20 requests", regimes(0.02, 20), 20_000, 0.99),
    ("bad state, met five times", regimes(0.02, 20), 5_000, 0.99),
)


@dataclass(frozen=True)
class Coverage:
    """Shares of runs. wrong, classic_wrong: the bound lay below the truth. none: there was no bound. blocks: the method.

    above: the median of bound / truth.
    """

    wrong: float
    classic_wrong: float
    none: float
    blocks: float
    above: float


def coverage(workload: Workload, requests: int, q: float, runs: int, seed: int) -> Coverage:
    """Draw runs, bound each, and compare with the truth."""
    rng = np.random.default_rng(seed)
    truth_s = workload.quantile(q)
    rank = order_statistic(requests, q, CONFIDENCE)
    found, classic = [], 0
    for _ in range(runs):
        at_s, values_s = workload.draw(rng, requests)
        blocks = Blocks()
        blocks.record(at_s, values_s)
        found.append(bound(blocks, q))
        classic += rank is not None and bool(np.sort(values_s)[rank - 1] < truth_s)
    told_s = np.array([one.value_s for one in found if one.value_s is not None])
    return Coverage(
        wrong=int((told_s < truth_s).sum()) / runs,
        classic_wrong=classic / runs,
        none=1 - len(told_s) / runs,
        blocks=sum(one.method == "blocks" for one in found) / runs,
        above=float(np.median(told_s)) / truth_s if len(told_s) else float("nan"),
    )


def main() -> None:
    """Print the table."""
    runs = int(os.environ.get("RUNS", RUNS))
    print(
        f"{'workload':<30}{'requests':>9}{'':>7}{'wrong':>9}{'classic':>9}{'none':>8}{'blocks':>8}{'bound/truth':>13}"
    )
    for title, workload, requests, q in CASES:
        seen = coverage(workload, requests, q, runs, seed=1)
        print(f"{title:<30}{requests:>9,}{f'p{100 * q:g}':>7}{seen.wrong:>9.2%}{seen.classic_wrong:>9.2%}"
              f"{seen.none:>8.1%}{seen.blocks:>8.1%}{seen.above:>13.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
