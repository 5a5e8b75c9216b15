"""Replay: a recorded trace as a plan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.traces.trace import Trace, TraceOptions, open_trace


def replay_plan(
    path: str | os.PathLike[str],
    options: TraceOptions = TraceOptions(),  # noqa: B008 - a frozen value
    *,
    time_scale: float = 1.0,
    keep_fraction: float = 1.0,
    num_prompts: int | None = None,
) -> Plan:
    """The plan that sends a trace's requests at their recorded times, in this order: filter, clean, slice, spread
    within an interval, cap gaps (all by the options), scale time (above 1 is faster), keep a fraction, limit.

    Raises InputError naming the value and its flag, or the place in the file.
    """
    return trace_plan(
        open_trace(path, options), time_scale=time_scale, keep_fraction=keep_fraction, num_prompts=num_prompts
    )


def trace_plan(
    trace: Trace,
    *,
    time_scale: float = 1.0,
    keep_fraction: float = 1.0,
    num_prompts: int | None = None,
    seed: int | None = None,
) -> Plan:
    """The same for a trace that is open, whose survey the caller wants to log, or which several plans share.

    seed: of the spreading, and of what is kept; None takes that of the trace's options.
    """
    seed = trace.options.seed if seed is None else seed

    def source() -> Iterator[Block]:
        for rows in trace.blocks(seed):
            # the plan numbers its requests itself
            zeros = np.zeros(len(rows), dtype=np.int64)
            yield Block(zeros, rows.time_s, rows.input_tokens, rows.output_tokens, zeros, rows.prefix)

    plan = Plan(
        source,
        identity={"trace": trace.digest, "options": trace.options.identity() | {"seed": seed}},
        sized=trace.opening.complete and trace.size is None,
        size=trace.size,
        details=lambda: _details(trace),
    ).faster(time_scale)
    if keep_fraction != 1:
        plan = plan.thinned(keep_fraction, seed)
    return plan if num_prompts is None else plan.limited(num_prompts)


def _details(trace: Trace) -> dict[str, Any]:
    survey = trace.survey
    known: dict[str, Any] = {"timestamp_unit": trace.opening.timestamp_unit}
    if survey is not None:
        known |= {"trace_span_s": survey.span_s, **survey.counts()}
    return known
