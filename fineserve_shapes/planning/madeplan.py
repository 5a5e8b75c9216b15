"""Made plan: a plan, what is to be said of it, and what of its source is still to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fineserve_shapes.workload.plan import Plan

if TYPE_CHECKING:
    from fineserve_shapes.workload.traces.trace import Trace


@dataclass(frozen=True, slots=True)
class Unsurveyed:
    """A trace that is too long to be counted before its replay begins."""

    path: Path
    trace: Trace


@dataclass(frozen=True, slots=True)
class MadePlan:
    """A plan. lines, warnings: for the log. unsurveyed: traces to be counted beside the run. rate_rps: the mean rate, where
    it is known."""

    plan: Plan
    lines: Sequence[str] = ()
    warnings: Sequence[str] = ()
    unsurveyed: Sequence[Unsurveyed] = ()
    rate_rps: float | None = None
