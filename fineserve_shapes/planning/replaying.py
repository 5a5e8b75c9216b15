"""Replaying: from the options of replays to the plan of a recorded trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fineserve_shapes import options
from fineserve_shapes.errors import InputError
from fineserve_shapes.planning.madeplan import MadePlan, Unsurveyed
from fineserve_shapes.values import Values
from fineserve_shapes.workload.replay import trace_plan
from fineserve_shapes.workload.traces.trace import Trace, TraceOptions, open_trace

Opening = Callable[[Path, TraceOptions], Trace]


def replay(values: Values, trace: str | Path | None = None, opened: Opening = open_trace) -> MadePlan:
    """What `options.TRACE` ask for. trace: where --request-trace-csv names none. opened: opens it, or knows it already.
    Raises InputError."""
    path = values.path("--request-trace-csv") or trace
    if path is None:
        raise InputError("no trace to replay (--request-trace-csv)")
    asked = options.trace_options(values)
    found = opened(Path(path), replace(asked, seed=0))  # what is read of a file is the same with any seed
    plan = trace_plan(
        found,
        time_scale=values.number_or("--time-scale", 1.0),
        keep_fraction=values.number_or("--keep-fraction", 1.0),
        num_prompts=values.count("--num-prompts"),
        seed=asked.seed,
    )
    return MadePlan(
        plan,
        (found.opening.line(),),
        found.opening.warnings,
        () if found.opening.complete else (Unsurveyed(Path(path), found),),
        plan.rate_rps,
    )
