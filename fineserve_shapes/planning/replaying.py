"""Replaying: from the options of replays to the plan of a recorded trace."""

from __future__ import annotations

from pathlib import Path

from fineserve_shapes import options
from fineserve_shapes.errors import InputError
from fineserve_shapes.planning.madeplan import MadePlan, Unsurveyed
from fineserve_shapes.values import Values
from fineserve_shapes.workload.replay import trace_plan
from fineserve_shapes.workload.traces.trace import open_trace


def replay(values: Values, trace: str | Path | None = None) -> MadePlan:
    """What `options.TRACE` ask for. trace: where --request-trace-csv names none. Raises InputError."""
    path = values.path("--request-trace-csv") or trace
    if path is None:
        raise InputError("no trace to replay (--request-trace-csv)")
    found = open_trace(path, options.trace_options(values))
    plan = trace_plan(
        found,
        time_scale=values.number_or("--time-scale", 1.0),
        keep_fraction=values.number_or("--keep-fraction", 1.0),
        num_prompts=values.count("--num-prompts"),
    )
    return MadePlan(
        plan,
        (found.opening.line(),),
        found.opening.warnings,
        () if found.opening.complete else (Unsurveyed(Path(path), found),),
        plan.rate_rps,
    )
