"""Burstiness: the same requests at the same mean rate, with arrivals of several kinds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fineserve_shapes import options
from fineserve_shapes.arrays import FloatArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.planning.synthesis import parametric_options
from fineserve_shapes.values import Values
from fineserve_shapes.workload.arrivals import Arrivals, Constant, Poisson
from fineserve_shapes.workload.block import Block
from fineserve_shapes.workload.parametric import open_parametric
from fineserve_shapes.workload.parametricoptions import BURSTY_CLASS
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.traces.trace import open_trace

logger = logging.getLogger(__name__)

POISSON = "poisson"


def kinds(plan: Plan, values: Values, datasets: Path, trace: Path) -> dict[str, Plan]:
    """A plan by kind of arrivals, Poisson first; each has the rows of this one, and ends when it does.

    even: equal gaps. windows: gamma gaps over the windows of --model-class, without bursts. bursts: those of the class
    that comes in bursts. replay: the times of --request-trace-csv, or else of `trace`. Of each the first times are taken,
    as many as there are rows, and stretched to the plan's span: that keeps gaps in proportion, and the mean rate.

    datasets: with the folder `Parametric`. Raises InputError where the plan has no end, or parameters cannot be read.
    """
    requests, span_s = plan.requests, plan.span_s
    if not requests or not span_s:
        raise InputError("arrivals can be compared over a time only that is known and not 0 (--step-requests)")
    rate_rps = requests / span_s
    asked = parametric_options(values, datasets)
    windows = open_parametric(replace(asked, nb_json=None, disable_nb_lt10b=True)).arrivals
    bursts = open_parametric(
        replace(asked, model_class=BURSTY_CLASS, gamma_params_csv=None, disable_nb_lt10b=False)
    ).arrivals
    synthetic: dict[str, Arrivals] = {
        POISSON: Poisson(rate_rps), "even": Constant(rate_rps), "windows": windows, "bursts": bursts
    }  # fmt: skip
    seed = options.seed(values)
    found = {
        name: _first(arrivals.blocks(np.random.default_rng([seed, number])), requests)
        for number, (name, arrivals) in enumerate(synthetic.items())
    }
    recorded = open_trace(values.path("--request-trace-csv") or trace, options.trace_options(values))
    times_s = _first((rows.time_s for rows in recorded.blocks()), requests)
    if len(times_s) == requests:
        found["replay"] = times_s
    else:
        logger.warning(
            "no replay: the trace has %d requests, and a run %d (--request-trace-csv)", len(times_s), requests
        )
    return {name: retimed(plan, name, times_s) for name, times_s in found.items()}


def retimed(plan: Plan, name: str, times_s: FloatArray) -> Plan:
    """The rows of a plan at other times, one for each row, stretched to the plan's span. Raises InputError where they are
    all the same."""
    span_s, last_s = plan.span_s, float(times_s[-1])
    if not span_s or last_s <= 0:
        raise InputError(f"the first {len(times_s):,} arrivals of {name} are all at once: take more (--step-requests)")
    due_s = times_s * (span_s / last_s)

    def source() -> Iterator[Block]:
        start = 0
        for block in plan:
            yield replace(block, due_s=due_s[start : start + len(block)])
            start += len(block)

    identity = {"of": plan.fingerprint, "arrivals": name, "last_s": last_s}
    return Plan(source, identity=identity, size=(len(times_s), span_s))


def _first(blocks: Iterable[FloatArray], wanted: int) -> FloatArray:
    """The first times, so many or as many as there are."""
    found: list[FloatArray] = []
    for times_s in blocks:
        found.append(times_s[:wanted])
        wanted -= len(found[-1])
        if not wanted:
            break
    return np.concatenate(found) if found else np.empty(0)
