"""Comparing: one run for each kind of arrivals, and what they take of the goodput."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from fineserve_shapes.arrays import FloatArray, IntArray
from fineserve_shapes.engine.run import Run
from fineserve_shapes.measure import records
from fineserve_shapes.measure.comparison import compare
from fineserve_shapes.measure.measurements import Measurements
from fineserve_shapes.measure.slo import Slo
from fineserve_shapes.runner.step import Step
from fineserve_shapes.workload.plan import Plan

logger = logging.getLogger(__name__)

DISPERSION_S = "1"
PATIENCE = 0.25
"""A run waits for its last answers for so long, as a share of its time."""
_LATENCIES = tuple(
    f"{statistic}_{name}_ms" if statistic != "bound" else f"p99_{name}_bound_ms"
    for name in ("ttft", "tpot") for statistic in ("median", "p99", "bound")
)  # fmt: skip


class Comparing:
    """Runs of plans that differ in their arrivals alone; the first is what others are set against.

    settle_s: of each run. slo: what is good.
    """

    def __init__(self, plans: Mapping[str, Plan], slo: Slo, settle_s: float) -> None:
        self.slo = slo
        self.runs_so_far: list[dict[str, Any]] = []
        self.first: records.Records | None = None
        self._plans = plans
        self._settle_s = settle_s

    def runs(self) -> Generator[Step, dict[str, Any], None]:
        """For `PlanShape.runs`. Each run has prompts of its own."""
        numbered = 0
        for number, (name, plan) in enumerate(self._plans.items(), 1):
            yield ArrivalsStep(
                self, name, plan.numbered_from(numbered), self._settle_s, last=number == len(self._plans)
            )
            numbered += plan.requests or 0

    def figures(self) -> dict[str, Any]:
        """`slo`, and `runs`, one for each kind of arrivals (see `ArrivalsStep.figures`)."""
        return {"slo": self.slo.as_dict(), "runs": list(self.runs_so_far)}


class ArrivalsStep(Step):
    """The run of one kind."""

    probe = True

    def __init__(self, comparing: Comparing, name: str, plan: Plan, settle_s: float, *, last: bool) -> None:
        super().__init__(plan, settle_s)
        self.follows = bool(comparing.runs_so_far)
        self.final = last
        self.extra = {"burstiness": comparing.figures()}
        self._comparing = comparing
        self._name = name
        self._kept = KeptRecords()

    def begin(self, run: Run) -> None:
        """Keep its records: a difference is sure or not by them."""
        run.tally.followers.append(self._kept)

    def enough(self, run: Run) -> bool:
        """Where the server cannot keep up the last answers are not waited for."""
        span_s = self.plan.span_s or 0.0
        return run.now_s > (1 + PATIENCE) * span_s

    def conclude(self, run: Run, summary: dict[str, Any]) -> None:  # noqa: ARG002
        """Set it against the first."""
        rows = self._kept.records
        rows = rows[rows["due_s"] >= (self.warmup_s or 0.0)]
        self._comparing.runs_so_far.append(self.figures(summary, rows))
        if self._comparing.first is None:
            self._comparing.first = rows
        summary["burstiness"] = self._comparing.figures()

    def figures(self, summary: Mapping[str, Any], rows: records.Records) -> dict[str, Any]:
        """What the summary has of it.

        `arrivals`, `run`, `requests`; `rate_rps`, `gap_cv` and `dispersion` (at 1 s) as asked for; `verdict`, `reasons`;
        TTFT and TPOT; `good_share`, `goodput_rps`; `taken_rps` with `taken_low_rps` and `taken_high_rps`: how much less
        goodput it had than the first, with its interval (None for the first).
        """
        fidelity, goodput = summary["fidelity"], summary["goodput"]
        asked = fidelity["asked"]
        taken: tuple[float | None, float | None, float | None] = None, None, None
        if self._comparing.first is not None:
            for one in compare(self._comparing.first, rows, self._comparing.slo):
                if one.name == "goodput.rps":
                    taken = -one.change, None if one.high is None else -one.high, None if one.low is None else -one.low
        return {
            "arrivals": self._name,
            "run": summary["run"],
            "requests": summary["ledger"]["planned"] - summary["ledger"]["unsent"],
            "rate_rps": asked["rate_rps"],
            "gap_cv": asked["gap_cv"],
            "dispersion": asked["dispersion"].get(DISPERSION_S),
            "verdict": fidelity["verdict"],
            "reasons": list(fidelity["reasons"]),
            **{name: summary.get(name) for name in _LATENCIES},
            "good_share": goodput["share"],
            "goodput_rps": goodput["rps"],
            "taken_rps": taken[0],
            "taken_low_rps": taken[1],
            "taken_high_rps": taken[2],
        }

    def line(self) -> str | None:
        """What came of it."""
        run = self._comparing.runs_so_far[-1]
        share = "-" if run["good_share"] is None else f"{run['good_share']:.2%}"
        return f"{self._name}: {run['verdict']}; {share} of {run['requests']:,} requests met the SLO"


class KeptRecords:
    """Keeps the records of a run: for one that is short, since it holds all of them. It follows a `Tally`."""

    def __init__(self) -> None:
        self._batches: list[records.Records] = []

    def plan(self, streams: IntArray, due_s: FloatArray) -> None:
        """Nothing is kept of it."""

    def add(self, measured: Measurements) -> None:
        """What a worker measured."""
        self._batches.append(measured.records)

    @property
    def records(self) -> records.Records:
        """All of them."""
        return np.concatenate([np.empty(0, dtype=records.RECORD), *self._batches])
